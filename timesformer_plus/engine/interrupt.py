"""Ctrl-C as a request that is granted between two updates, by all processes at the same one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

MESSAGE = b"\ninterrupted: stopping after this update; press Ctrl-C again to stop at once\n"


class Interrupt:
    """Whether someone has asked this process to stop.

    A ``KeyboardInterrupt`` that Python raises wherever it happens to be is lost when that is a destructor or a callback
    from C (decoders have both): Python prints "Exception ignored" and goes on.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # a terminal signals the launcher and its processes, and the launcher signals them again: one request
        if self.requested and time.monotonic() - self._since > 1:
            signal.default_int_handler(number, frame)
        elif not self.requested:
            self.requested, self._since = True, time.monotonic()
            os.write(2, MESSAGE)  # print is not for signal handlers: its buffer may be in use


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turn SIGINT into ``Interrupt.requested`` for the length of the block; only the main thread can."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt._handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
