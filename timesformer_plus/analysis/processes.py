"""What keeps child processes from colliding and from outliving the sweep that started them: locks and signals."""

from __future__ import annotations

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


class FolderBusyError(RuntimeError):
    """Another runner, or a training that outlived one, works in the folder."""


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a child that leads its own session, and to all that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # gone in the meantime


def group_is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether anything lives that a child which leads its own session has started, the child included."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


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
def signals_ignored() -> Iterator[None]:
    """Ignore requests to stop while stopping."""
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if main_thread else []
    before: dict[signal.Signals, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
