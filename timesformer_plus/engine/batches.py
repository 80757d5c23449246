"""Which clips an update sees: a function of (seed, epoch, step) alone, without any state of a loader.

Every process cuts its share out of the same global batch, so the numbers do not depend on how many processes there are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

Key = tuple[int, int, int]  # (epoch, index of the video, view)


def mix_seed(*parts: int | str) -> int:
    """Hash seeds, counters and names into one seed, the same on every machine (Python's ``hash`` of a ``str`` is not).

    Args:
        parts: What the randomness is a function of, such as ``(seed, "dropout", step, rank)``.

    Returns:
        A number in ``[0, 2**63)``.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class GlobalBatches(Sampler[list[Key]]):
    """This process's share of every global batch, for the whole run.

    With 7 videos, ``batch_size=4`` and two processes, an epoch is one update: if its order begins ``5 2 0 6``, process
    0 reads ``5 2`` and process 1 ``0 6``; the other three videos wait for the next epoch's shuffle. With
    ``drop_last=False`` they are a second update, of which process 0 gets two and process 1 one.

    A global batch is cut into ``accumulate`` times ``world_size`` shares, contiguous pieces of it: first the first
    micro-batches of all processes, then the second ones. Those of a full batch are equally long, those of a smaller one
    differ by at most one clip (or pair). A share without clips still yields one key, the batch's first, for every
    process has to take part in every micro-batch; ``count`` says that none of its clips counts.

    Args:
        num_samples: Videos in the training split.
        batch_size: Clips an update, over all processes and micro-batches.
        epochs: Passes over the split.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.
        accumulate: Micro-batches an update.
        shards: Shard that each video lies in, for videos in tar shards.
        shards_at_once: Shards that an epoch works through together: their order is random, as is that of the videos of
            those that are open, and each is read once and then done with. 0 shuffles all videos of all shards.
        repeats: Clips of every video in a batch (repeated augmentation, arXiv 1901.09335), which are its views 0, 1, …:
            ``batch_size / repeats`` videos as view 0, then the same ones as view 1, and so on. An epoch then has
            ``repeats`` times more updates.
        drop_last: Whether the last videos of an epoch that do not fill a batch wait for the next epoch's shuffle;
            otherwise they are a smaller batch.
        pairs: Keep clips 0 and 1, 2 and 3, … of a global batch in one share, for ``ClipMixer.mix_pairs``.
        start: Updates done already: iteration begins with the first micro-batch of the next one. May be set later.

    Attributes:
        micro_size: Clips of a share of a full batch.
        steps_per_epoch: Updates an epoch.

    Raises:
        ValueError: The batch cannot be shared out evenly (or not in pairs), nor made of whole repeats, the split does
            not fill one batch, or ``start`` lies outside the run.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        shards: Sequence[int] | None = None,
        shards_at_once: int = 0,
        repeats: int = 1,
        drop_last: bool = True,
        pairs: bool = False,
        start: int = 0,
    ) -> None:
        check_shares(batch_size, world_size=world_size, accumulate=accumulate, pairs=pairs)
        if repeats < 1 or batch_size % repeats:
            raise ValueError(
                f"{batch_size=} counts every clip, so it cannot be made of videos that come {repeats} times each; "
                "choose repeats among its divisors"
            )
        num_videos = batch_size // repeats
        if num_samples < 1:
            raise ValueError("the training split has no videos")
        if drop_last and num_samples < num_videos:
            times = f" {repeats} times each" if repeats > 1 else ""
            raise ValueError(
                f"the training split has {num_samples} videos{times}, fewer than {batch_size=}; lower batch_size, or "
                "set drop_last to false"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.repeats = repeats
        self.pairs = pairs
        self.micro_size = batch_size // (world_size * accumulate)
        self.steps_per_epoch = num_samples // num_videos if drop_last else math.ceil(num_samples / num_videos)
        if not 0 <= start <= epochs * self.steps_per_epoch:
            raise ValueError(f"{start=} lies outside the run, which has {epochs * self.steps_per_epoch} updates")
        self.start = start
        self._orders: dict[int, list[int]] = {}
        self._shards: dict[int, list[int]] = {}
        self._at_once = shards_at_once
        if shards is not None and shards_at_once:
            for index, shard in enumerate(shards):
                self._shards.setdefault(shard, []).append(index)

    def order(self, epoch: int) -> list[int]:
        """The order of an epoch: a permutation of all videos."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, "order", epoch))

        def shuffled(items: Sequence[int]) -> list[int]:
            return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]

        if not self._shards:
            return shuffled(range(self.num_samples))
        shards = shuffled(list(self._shards))
        groups = [shards[i : i + self._at_once] for i in range(0, len(shards), self._at_once)]
        return [index for group in groups for index in shuffled([i for shard in group for i in self._shards[shard]])]

    def keys(self, step: int) -> list[Key]:
        """The global batch of an update: the clips of all processes and micro-batches, each once.

        Args:
            step: Number of the update, from 0 over the whole run.

        Raises:
            IndexError: The run has no such update.
        """
        epoch, videos = self._videos(step)
        order = self._order(epoch)
        return [(epoch, order[place], view) for view in range(self.repeats) for place in videos]

    def share(self, step: int, micro: int) -> list[Key]:
        """What iteration yields for a micro-batch of an update: this process's clips, or one that does not count.

        Raises:
            IndexError: The run has no such update, or an update no such micro-batch.
        """
        begin, end = self._piece(step, micro)
        keys = self.keys(step)
        return keys[begin:end] or keys[:1]

    def update_size(self, step: int) -> int:
        """Clips in the global batch of an update.

        Raises:
            IndexError: The run has no such update.
        """
        return len(self._videos(step)[1]) * self.repeats

    def count(self, step: int, micro: int) -> int:
        """Clips of a micro-batch of this process that count: 0 where its one clip is there for company.

        Raises:
            IndexError: The run has no such update, or an update no such micro-batch.
        """
        begin, end = self._piece(step, micro)
        return end - begin

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield ``accumulate`` micro-batches of this process for every update from ``start`` on."""
        for step in range(self.start, self.epochs * self.steps_per_epoch):
            for micro in range(self.accumulate):
                yield self.share(step, micro)

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start) * self.accumulate

    def _videos(self, step: int) -> tuple[int, range]:
        """An update's epoch, and the places of its videos in the order of that epoch."""
        if not 0 <= step < self.epochs * self.steps_per_epoch:
            raise IndexError(f"update {step} is none of the {self.epochs * self.steps_per_epoch} of this run")
        epoch, of_epoch = divmod(step, self.steps_per_epoch)
        num_videos = self.batch_size // self.repeats
        begin = of_epoch * num_videos
        return epoch, range(begin, min(begin + num_videos, self.num_samples))

    def _piece(self, step: int, micro: int) -> tuple[int, int]:
        """Where this process's share of an update begins and ends in the global batch."""
        if not 0 <= micro < self.accumulate:
            raise IndexError(f"micro-batch {micro} is none of the {self.accumulate} of an update")
        size, unit = self.update_size(step), 2 if self.pairs else 1
        # the first shares get one unit more where they cannot be equal; of an odd number of clips the last is alone
        least, more = divmod(math.ceil(size / unit), self.world_size * self.accumulate)
        share = micro * self.world_size + self.rank
        begin, end = (i * least + min(i, more) for i in (share, share + 1))
        return min(begin * unit, size), min(end * unit, size)

    def _order(self, epoch: int) -> list[int]:
        # two epochs are in use at once where the loader reads ahead into the next one
        if epoch not in self._orders:
            self._orders[epoch] = self.order(epoch)
            if len(self._orders) > 2:
                del self._orders[next(iter(self._orders))]
        return self._orders[epoch]


def check_shares(batch_size: int, *, world_size: int, accumulate: int, pairs: bool) -> None:
    """Refuse a global batch that cannot be shared out evenly.

    Args:
        batch_size: Clips an update, over all processes and micro-batches.
        world_size: Number of processes.
        accumulate: Micro-batches an update.
        pairs: Whether a share is made of pairs of clips.

    Raises:
        ValueError: It cannot; the text names one that can.
    """
    shares = world_size * accumulate
    if batch_size % shares:
        near = max(batch_size // shares, 1) * shares
        raise ValueError(
            f"{batch_size=} is the number of clips over all processes; it cannot be shared out evenly among "
            f"{world_size} processes x {accumulate} micro-batches; {near} can"
        )
    if pairs and batch_size // shares % 2:
        near = max(batch_size // (2 * shares), 1) * 2 * shares
        raise ValueError(
            f"{batch_size=} makes {batch_size // shares} clips for each of {world_size} processes x {accumulate} "
            f"micro-batches, but clips are mixed in pairs: choose an even number for each, such as batch_size={near}, "
            "or lower accumulate, or turn mixup and cutmix off"
        )
