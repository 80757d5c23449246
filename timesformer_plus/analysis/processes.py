"""What keeps child processes from colliding and from outliving the sweep that started them: locks and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil  # type: ignore[import-untyped]

MARK = "TIMESFORMER_PLUS_TRAINING"  # the variable of the environment that says whose child a process is


class FolderBusyError(RuntimeError):
    """Another runner, or a training that outlived one, works in the folder."""


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a child that leads its own session, and to all that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # gone in the meantime


def marked_processes(mark: str) -> list[psutil.Process]:
    """Living processes that were started with a value of ``MARK`` in their environment, or by one that was.

    Neither a session of its own nor the death of its parent hides a process from this.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # somebody else's, or gone in the meantime
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def signal_marked(mark: str, number: signal.Signals) -> None:
    """Send a signal to all ``marked_processes``."""
    for process in marked_processes(mark):
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


@contextmanager
def folder_lock(folder: Path) -> Iterator[int]:
    """Hold a folder, creating it, so that nobody else does.

    The lock belongs to the open file, not to the process: children that inherit the descriptor keep it until the last
    of them has ended, whatever became of their parent.

    Args:
        folder: What to hold.

    Yields:
        The descriptor of the lock, for ``subprocess``'s ``pass_fds``.

    Raises:
        FolderBusyError: Somebody holds it.
    """
    try:
        import fcntl
    except ImportError:
        raise FolderBusyError("ablations need a system with file locks (Linux, macOS, WSL)") from None
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "an unknown process"
            raise FolderBusyError(
                f"{folder} is in use by {holder}, or a training it left behind; wait for it, or give another --output"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the sweep as Ctrl-C does, instead of leaving its trainings behind."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    numbers = [signal.SIGTERM, signal.SIGHUP] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let requests to stop wait until the block is over: a training is begun and known, or it is not begun.

    Signals that nobody here handles are left as they are.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2] if main_thread else []
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
    came: list[int] = []
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])  # one is enough to stop everything


@contextmanager
def inherited_as_blocked(number: signal.Signals) -> Iterator[None]:
    """Keep a signal for good from the processes that are started in the block, and from this thread until its end.

    A handler would not do: programs that are started have none. Ignoring it would lose one that comes just now.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore requests to stop while stopping."""
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2] if main_thread else []
    before: dict[signal.Signals, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
