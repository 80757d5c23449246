"""Clips in batches, read ahead by workers, whose errors arrive as they were raised.

torch passes on of an error in a worker only its class and the text of its traceback. So here a video that cannot be
read comes out of the worker as data, like the clips; and it does not end the reading of the others.
"""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import Manifest
from timesformer_plus.engine.batches import Key
from timesformer_plus.engine.reading_workers import NowReading, WorkerError, describe_end, mind_parent, start_workers

# files that an error names
NAMED = 10
# seconds between two looks at whether the workers are there
PERIOD = 1.0
# seconds between the last word from a worker that was killed and its end, at most
DYING = 2.0


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

    def __init__(self, dataset: Dataset[Clip], now: NowReading) -> None:
        self._dataset = dataset
        self._now = now

    def __getitem__(self, key: Key) -> Clip | Unread:
        with self._now.of(key):
            try:
                return self._dataset[key]
            except (DecodeError, OSError) as error:
                return Unread(key, error)


def _collate(outcomes: Sequence[Clip | Unread]) -> Batch:
    clips = [outcome for outcome in outcomes if isinstance(outcome, Clip)]
    unread = tuple(outcome for outcome in outcomes if isinstance(outcome, Unread))
    return Batch(default_collate(clips) if clips else None, unread)


# what a collated clip has beside its pixels: a few numbers each
_SMALL = ("target", "index", "view", "wanted", "short")


def _collate_for_parent(outcomes: Sequence[Clip | Unread]) -> Batch:
    """``_collate``, with arrays where small tensors would be, which each take a file and a connection to arrive by."""
    batch = _collate(outcomes)
    if batch.clips is None:
        return batch
    small = {name: getattr(batch.clips, name).numpy() for name in _SMALL}
    return batch._replace(clips=batch.clips._replace(**small))


def _arrived(batch: Batch) -> Batch:
    if batch.clips is None:
        return batch
    small: dict[str, Any] = {name: torch.from_numpy(getattr(batch.clips, name)) for name in _SMALL}
    return batch._replace(clips=batch.clips._replace(**small))


def read_batches(
    dataset: Dataset[Clip],
    batches: Sampler[list[Key]],
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 0.0,
) -> Iterator[Batch]:
    """Read batches of clips, with those that cannot be read beside them.

    Args:
        dataset: Looked up by key.
        batches: The keys of every batch.
        num_workers: Processes that read ahead; 0 reads in this one.
        pin_memory: Put the clips where a GPU fetches them from faster.
        timeout: Seconds that workers may take until the next batch is there; 0 waits for ever, as does reading in this
            process.

    Yields:
        A batch for every item of ``batches``, in their order.

    Raises:
        WorkerError: A worker was killed, or hangs.
    """
    if num_workers:
        yield from _ReadingAhead(dataset, batches, num_workers, pin_memory, timeout)
    else:
        outcomes = _Outcomes(dataset, NowReading(0))
        yield from DataLoader(outcomes, batch_sampler=batches, collate_fn=_collate, pin_memory=pin_memory)


class _ReadingAhead:
    """Batches that workers read, with an eye on the workers."""

    def __init__(
        self, dataset: Dataset[Clip], batches: Sampler[list[Key]], num_workers: int, pin_memory: bool, timeout: float
    ) -> None:
        self._dataset = dataset
        self._batches = batches
        self._timeout = timeout
        self._given: deque[list[Key]] = deque()
        self._now = NowReading(num_workers)
        self._loader: DataLoader[Clip | Unread] = DataLoader(
            _Outcomes(dataset, self._now),
            batch_sampler=_Calls(self._give),
            collate_fn=_collate_for_parent,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout=PERIOD,
            worker_init_fn=functools.partial(mind_parent, parent=os.getpid()),
        )

    def __iter__(self) -> Iterator[Batch]:
        arriving, workers = start_workers(self._loader)
        while (batch := self._next(arriving, workers)) is not None:
            self._given.popleft()
            yield _arrived(batch)

    def _give(self) -> Iterator[list[Key]]:
        for keys in self._batches:
            self._given.append(keys)
            yield keys

    def _next(self, arriving: Iterator[Batch], workers: Sequence[BaseProcess]) -> Batch | None:
        """The next batch; ``None`` after the last."""
        since = time.monotonic()
        while True:
            try:
                return next(arriving, None)
            except (RuntimeError, OSError, EOFError) as error:
                # clips lie in memory that has to be fetched from their worker: that fails when it has just died, or is
                # about to
                is_lost = isinstance(error, (OSError, EOFError))
                dead = _ended(workers, within=DYING if is_lost else 0.0)
                if dead and (is_lost or "exited unexpectedly" in str(error)):
                    raise self._has_ended(dead[0]) from None
                # torch has looked for the batch for one PERIOD; it can be asked again
                if not str(error).startswith("DataLoader timed out"):
                    raise
            if self._timeout and time.monotonic() - since > self._timeout:
                hung = self._hangs(workers)
                for worker in workers:
                    worker.kill()  # one that hangs would not hear anything else
                raise hung

    def _has_ended(self, worker: BaseProcess) -> WorkerError:
        how, advice = describe_end(worker)
        at = self._now.clip(worker.pid)
        when = "while it read" if at is not None else "between two clips; waited for are"
        return WorkerError(f"a process that reads ahead (pid {worker.pid}) {how} {when} {self._names([at])}; {advice}")

    def _hangs(self, workers: Sequence[BaseProcess]) -> WorkerError:
        clips = self._names([self._now.clip(worker.pid) for worker in workers])
        return WorkerError(
            f"the processes that read ahead have delivered nothing for {self._timeout:g} s and are still reading "
            f"{clips}; name the video in data.exclude if it is to blame, or raise timeout if the disk is that slow"
        )

    def _names(self, at: Sequence[Key | None]) -> str:
        """The clips that workers are at; those of the batch that is waited for, where nobody knows."""
        keys = [key for key in at if key is not None] or (self._given[0] if self._given else [])
        samples = self._dataset.manifest.samples if isinstance(self._dataset, _HasManifest) else None
        names = [str(key) if samples is None else samples[key[1]].id for key in keys]
        return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _ended(workers: Sequence[BaseProcess], *, within: float) -> list[BaseProcess]:
    # a process closes its files, sentinel included, some time before its exit code can be had
    until = time.monotonic() + within
    while not (dead := [worker for worker in workers if worker.exitcode is not None]) and time.monotonic() < until:
        time.sleep(0.01)
    return dead


class _Calls(Iterable[list[Key]]):
    """What a function makes, made anew for every iteration."""

    def __init__(self, make: Callable[[], Iterator[list[Key]]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[list[Key]]:
        return self._make()


@runtime_checkable
class _HasManifest(Protocol):
    manifest: Manifest


def read_clips(
    dataset: Dataset[Clip],
    batches: Sampler[list[Key]],
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    timeout: float = 0.0,
) -> Iterator[Clip]:
    """Read batches of clips of which every one has to be readable; see ``read_batches`` for the arguments.

    Yields:
        The clips of every batch, collated.

    Raises:
        DecodeError: A clip that could not be read: the error as it was raised, also in a worker.
        OSError: The same, where it is the system's.
        WorkerError: A worker was killed, or hangs.
    """
    for batch in read_batches(dataset, batches, num_workers=num_workers, pin_memory=pin_memory, timeout=timeout):
        if batch.unread:
            raise batch.unread[0].error
        assert batch.clips is not None  # no batch of keys is empty
        yield batch.clips
