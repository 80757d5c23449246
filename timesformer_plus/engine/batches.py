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
    0 reads ``5 2`` and process 1 ``0 6``; the other three videos wait for the next epoch's shuffle.

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

    Raises:
        ValueError: The batch cannot be shared out evenly, or the split does not fill one batch.
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
    ) -> None:
        shares = world_size * accumulate
        if batch_size % shares:
            near = max(batch_size // shares, 1) * shares
            raise ValueError(
                f"{batch_size=} is the number of clips over all processes; it cannot be shared out evenly among "
                f"{world_size} processes x {accumulate} micro-batches; {near} can"
            )
        if num_samples < batch_size:
            raise ValueError(f"the training split has {num_samples} videos, fewer than {batch_size=}; lower batch_size")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.micro_size = batch_size // shares
        self.steps_per_epoch = num_samples // batch_size
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

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield ``accumulate`` micro-batches of this process for every update, epoch after epoch."""
        for epoch in range(self.epochs):
            order = self.order(epoch)
            for step in range(self.steps_per_epoch):
                for micro in range(self.accumulate):
                    start = step * self.batch_size + (micro * self.world_size + self.rank) * self.micro_size
                    yield [(epoch, index, 0) for index in order[start : start + self.micro_size]]

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch * self.accumulate


class EvaluationBatches(Sampler[list[Key]]):
    """All views of every ``world_size``-th video from ``rank`` on, in batches.

    Shares may differ by one video and the last batch may be smaller: nothing is padded. The views of a video follow
    each other, in one process.

    Args:
        num_samples: Videos of the split.
        num_views: Views of each.
        batch_size: Clips a batch.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: ``batch_size`` is below one.
    """

    def __init__(
        self, num_samples: int, num_views: int, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"{batch_size=}: give at least 1 clip")
        self.videos = range(rank, num_samples, world_size)
        self.num_views = num_views
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        clips = len(self.videos) * self.num_views
        for start in range(0, clips, self.batch_size):
            numbers = range(start, min(start + self.batch_size, clips))
            yield [(0, self.videos[i // self.num_views], i % self.num_views) for i in numbers]

    def __len__(self) -> int:
        return math.ceil(len(self.videos) * self.num_views / self.batch_size)
