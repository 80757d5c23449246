"""The processes that read clips ahead: what each is at, how one has ended, and that no signal but its parent's ends it.

A launcher and a terminal signal a whole group of processes: workers would be gone before the update is done that a
request to stop still waits for. And a worker that hangs while its parent is killed would stay for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, get_worker_info

from timesformer_plus.engine.batches import Key
from timesformer_plus.engine.interrupt import SIGNALS

# seconds between two looks of a worker at whether its parent is there
PERIOD = 2.0
# what is probably wrong when a process was killed by a signal
ADVICE = {
    "SIGKILL": "the system does so when memory runs out: lower data.num_workers or data.cache_mb",
    "SIGBUS": "shared memory (/dev/shm) is full, perhaps: lower data.num_workers, or give a container more of it",
    "SIGSEGV": "its decoder has crashed: try another data.decoder, or name the video in data.exclude",
    "SIGABRT": "its decoder has given up: try another data.decoder, or name the video in data.exclude",
}
_started: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


class WorkerError(RuntimeError):
    """A process that reads clips ahead has ended or hangs; the message names the clip."""


class NowReading:
    """Which clip each worker is at, in memory that they share with their parent.

    Args:
        num_workers: Number of workers.
    """

    def __init__(self, num_workers: int) -> None:
        # of each: process number, whether it reads, epoch, index, view. Written in under a microsecond, by one process
        self._cells = multiprocessing.Array("q", 5 * max(num_workers, 1), lock=False)
        self._num_workers = num_workers

    @contextlib.contextmanager
    def of(self, key: Key) -> Iterator[None]:
        """Say in a worker that it reads this clip during the block; does nothing elsewhere."""
        info = get_worker_info()
        if info is None:
            yield
            return
        at = 5 * info.id
        self._cells[at : at + 5] = [os.getpid(), 1, *key]
        try:
            yield
        finally:
            self._cells[at + 1] = 0

    def clip(self, pid: int | None) -> Key | None:
        """The clip that a worker is at, or was at when it ended."""
        for worker in range(self._num_workers):
            number, is_reading, epoch, index, view = self._cells[5 * worker : 5 * worker + 5]
            if number == pid and is_reading:
                return epoch, index, view
        return None


def mind_parent(_: int, *, parent: int) -> None:
    """Let this worker end by its parent's SIGTERM, or its parent's death, and by no other request to stop.

    Args:
        _: Number of the worker; torch gives it.
        parent: Process number of the parent.
    """
    if not hasattr(signal, "sigtimedwait"):  # macOS, Windows: workers are started afresh there
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent, args=(parent,), name="parent", daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        told = signal.sigtimedwait(SIGNALS, PERIOD)
        if told is not None and told.si_signo == signal.SIGTERM and told.si_pid == parent:
            break
    os._exit(0)


def start_workers(loader: DataLoader[Any]) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Start the workers of a loader, without torch's handler of SIGCHLD.

    That one raises wherever the main thread happens to be when a worker dies: while a checkpoint is written, or in a
    callback from C, where the error is lost. Here the worker is missed when the next batch does not come.

    Args:
        loader: With ``num_workers`` above 0.

    Returns:
        Its iterator, and the workers. They are killed at the exit of this process, which Python would wait for.
    """
    others = set(multiprocessing.active_children())
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    arriving = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        is_torchs = getattr(before, "__module__", "") == "torch.utils.data._utils.signal_handling"
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if is_torchs else before)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    _started.update(workers)
    return arriving, workers


@atexit.register
def _kill_what_is_left() -> None:
    # runs before multiprocessing's own, which terminates and then waits without a limit
    for worker in list(_started):
        if worker.is_alive():
            worker.kill()


def describe_end(worker: BaseProcess) -> tuple[str, str]:
    """How a worker that is gone has ended, and what to do about it."""
    code = worker.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"was killed ({name})", ADVICE.get(name, "somebody has sent it that signal")
    return f"has ended with exit code {code}", "what it has printed says why"
