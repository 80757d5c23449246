"""Clips in batches, read ahead by workers, whose errors arrive as they were raised.

torch passes on of an error in a worker only its class and the text of its traceback. So here a video that cannot be
read comes out of the worker as data, like the clips; and it does not end the reading of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.engine.batches import Key

# files that an error names
NAMED = 10


class UnreadableVideosError(DecodeError):
    """Videos that were to be scored cannot be read; none is skipped or replaced.

    Args:
        errors: Name of each of them -> why.
        total: How many videos there were to read.
    """

    def __init__(self, errors: Mapping[str, DecodeError | OSError], total: int) -> None:
        why = {name: getattr(error, "reason", "") or str(error) for name, error in errors.items()}
        # FFmpeg's texts and names of files may have several lines
        some = [" ".join(f"{name} ({reason})".splitlines()) for name, reason in list(why.items())[:NAMED]]
        more = [f"and {len(why) - NAMED} more"] if len(why) > NAMED else []
        super().__init__(
            f"{len(why)} of {total} videos cannot be read: {'; '.join(some + more)}; evaluation replaces none: get "
            "them again, or name them in a list to exclude"
        )
        self.errors = dict(errors)
        self.total = total

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors, self.total)


class Unread(NamedTuple):
    """A clip that could not be read.

    Attributes:
        key: Which one, as the data set was asked for it.
        error: Why: a ``DecodeError``, or what the system says about the disk or its files.
    """

    key: Key
    error: DecodeError | OSError


class Batch(NamedTuple):
    """What became of a batch of keys.

    Attributes:
        clips: Those that could be read, collated; ``None`` where none could.
        unread: The others.
    """

    clips: Clip | None
    unread: tuple[Unread, ...]


class _Outcomes(Dataset[Clip | Unread]):
    """A data set that returns what the one it stands for raises."""

    def __init__(self, dataset: Dataset[Clip]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Key) -> Clip | Unread:
        try:
            return self._dataset[key]
        except (DecodeError, OSError) as error:
            return Unread(key, error)


def _collate(outcomes: Sequence[Clip | Unread]) -> Batch:
    clips = [outcome for outcome in outcomes if isinstance(outcome, Clip)]
    unread = tuple(outcome for outcome in outcomes if isinstance(outcome, Unread))
    return Batch(default_collate(clips) if clips else None, unread)


def read_batches(
    dataset: Dataset[Clip], batches: Sampler[list[Key]], *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """Read batches of clips, with those that cannot be read beside them.

    Args:
        dataset: Looked up by key.
        batches: The keys of every batch.
        num_workers: Processes that read ahead; 0 reads in this one.
        pin_memory: Put the clips where a GPU fetches them from faster.

    Yields:
        A batch for every item of ``batches``, in their order.
    """
    loader: DataLoader[Clip | Unread] = DataLoader(
        _Outcomes(dataset),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
    yield from loader


def read_clips(
    dataset: Dataset[Clip], batches: Sampler[list[Key]], *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Clip]:
    """Read batches of clips of which every one has to be readable; see ``read_batches`` for the arguments.

    Yields:
        The clips of every batch, collated.

    Raises:
        DecodeError: A clip that could not be read: the error as it was raised, also in a worker.
        OSError: The same, where it is the system's.
    """
    for batch in read_batches(dataset, batches, num_workers=num_workers, pin_memory=pin_memory):
        if batch.unread:
            raise batch.unread[0].error
        assert batch.clips is not None  # no batch of keys is empty
        yield batch.clips
