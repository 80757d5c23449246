"""Signals as requests that are granted between two updates, by all processes at the same one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

MESSAGE = "\n{}: stopping after this update{}\n"
# what a user's Ctrl-C, a cluster that wants its machine back, and Slurm's --signal=USR1@90 send; Windows has fewer
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupt:
    """Whether someone has asked this process to stop.

    A ``KeyboardInterrupt`` that Python raises wherever it happens to be is lost when that is a destructor or a callback
    from C (decoders have both): Python prints "Exception ignored" and goes on.

    A request is no leave to save: torchrun sends SIGTERM also to the processes that are left when one has died. What
    tells the two apart is whether all processes can still agree: add ``requested`` to what they exchange in an update,
    and save only after that exchange has succeeded.

    Attributes:
        requested: Whether it has been asked.
        signal: Number of the signal that asked first; 0 for none.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal = 0
        self._since = 0.0
        self._finishing = 0

    def request(self, number: int, why: str, hint: str = "") -> None:
        """Ask, from any thread; said on stderr with the reason, once."""
        if self.requested:
            return
        self.requested, self.signal, self._since = True, int(number), time.monotonic()
        # print is not for signal handlers: its buffer may be in use. The terminal may be gone.
        with contextlib.suppress(OSError):
            os.write(2, MESSAGE.format(why, hint).encode())

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """For the last acts of a run that stops: no second signal cuts them short."""
        self._finishing += 1
        try:
            yield
        finally:
            self._finishing -= 1

    def _handle(self, number: int, _: FrameType | None) -> None:
        # a terminal signals the launcher and its processes, and the launcher signals them again: one request
        is_again = self.requested and time.monotonic() - self._since > 1
        # only a person is impatient: SIGTERM comes again because SIGUSR1 had announced it, or from torchrun because
        # another process has come to its end sooner, and what insists sends SIGKILL
        if is_again and number == signal.SIGINT and not self._finishing:
            raise KeyboardInterrupt(number)
        hint = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        self.request(number, f"interrupted by {signal.Signals(number).name}", hint)


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into ``Interrupt.requested`` for the block; only the main thread can.

    Yields:
        What tells whether one has come. A SIGINT more than a second after it raises ``KeyboardInterrupt``.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt._handle) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a process that was stopped exits with: 128 + the number of the signal, as a shell reports it."""
    number = stop.args[0] if stop.args and isinstance(stop.args[0], int) else signal.SIGINT
    return 128 + (number or signal.SIGTERM)
