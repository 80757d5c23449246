"""No process of a run waits for ever: one that makes no progress ends, and all name the one that failed first."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import torch.distributed as dist
from accelerate import PartialState

from timesformer_plus.engine.interrupt import Interrupt
from timesformer_plus.engine.reports import CONNECTING, Report, Reports

# clips that a message names
NAMED = 8
# Seconds between two looks, and seconds that a process is given to say itself what has happened to it
PERIOD, GRACE = 1.0, 5.0
# reports a second that the store is asked to take from all processes together, besides those of every PERIOD
REPORTS = 5000
# how gloo, NCCL and torch's store say that another process is gone or does not answer; they raise plain RuntimeErrors
PEER_GONE = re.compile(
    r"gloo|nccl|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|process group|TCPStore|collective",
    re.IGNORECASE,
)
_COUNT = itertools.count()


class PeerFailedError(RuntimeError):
    """This process could not go on because another one has failed; the message is about that one."""


class _Mark(NamedTuple):
    what: str
    step: int
    phase: int
    clips: Callable[[], Sequence[str]] | Sequence[str]
    waits: bool
    number: int


class Watch:
    """Ends this process when it makes no progress, and finds out who failed first when others are the reason.

    The thread of a watch looks every second at what its process is doing and shows it to the other processes. A process
    whose last mark is older than ``timeout`` compares: if none is behind it, it is hung itself, says where, and ends;
    if the one that is behind hangs as well, it is named, and this one ends. Those that still run learn of it from
    their next exchange, which fails, or from their watch, which also sees processes that were killed.

    A process that was suspended for ``timeout`` (Ctrl-Z, fg) counts as hung.

    Args:
        timeout: Seconds without a mark after which a process is hung.
        interrupt: Asked to stop when the launcher, torchrun, has ended and left its processes behind.
        expected: Exceptions that leave the block and are no failure.
        on_end: Called with the reason, before the watch ends this process from its thread.

    Attributes:
        timeout: As given.
        reading_timeout: What a wait for workers may take: less, so that the clip is named and not only the process.
    """

    def __init__(
        self,
        timeout: float,
        *,
        interrupt: Interrupt | None = None,
        expected: tuple[type[BaseException], ...] = (),
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        state = PartialState()
        self.timeout = timeout
        self.reading_timeout = 0.8 * timeout
        self.rank, self.world_size = state.process_index, state.num_processes
        self._interrupt = interrupt
        self._expected = expected
        self._on_end = on_end
        self._period = min(PERIOD, timeout / 10)
        self._grace = min(GRACE, max(timeout, 1.0))
        self._mark = _Mark("starting", -1, 0, (), False, 0)
        self._seen, self._idle, self._looked, self._said, self._beat = 0, 0.0, 0.0, 0.0, 0
        # processes that have not reported yet, and those of this machine
        self._unknown = set(range(self.world_size)) - {self.rank}
        self._local: dict[int, Report] = {}
        self._peer_gone_since: float | None = None
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_until_over, name="watch", daemon=True)
        self._main_thread = threading.get_ident()

    def __enter__(self) -> Watch:
        # a restart by torchrun, or a second run of the same process, has other reports on the same store
        name = f"watch {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}.{next(_COUNT)}"
        self._reports = Reports(name, rank=self.rank, world_size=self.world_size)
        self._looked = time.monotonic()
        self._say()
        self._thread.start()
        return self

    def at(
        self,
        what: str,
        *,
        step: int | None = None,
        clips: Callable[[], Sequence[str]] | Sequence[str] = (),
        waits: bool = False,
    ) -> None:
        """Mark what this process begins or goes on with; costs up to 0.25 ms, for telling the others.

        All processes have to mark the same things in the same order within an update; how often they repeat a mark (a
        batch of an evaluation) is theirs.

        Args:
            what: Such as ``"reading clips"``, to be followed by "after 12 updates".
            step: Updates done so far; ``None`` for the same as before.
            clips: Names of the clips that it is about, or how to find them out when they are needed.
            waits: Whether this is nothing but waiting for other processes, which a message then says.
        """
        last = self._mark
        step = last.step if step is None else step
        phase = 0 if step != last.step else last.phase + (what != last.what)
        self._mark = _Mark(what, step, phase, clips, waits, last.number + 1)
        if time.monotonic() - self._said > self.world_size / REPORTS:
            self._say()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if error is None or isinstance(error, self._expected):
            self._say(left=True)
        elif self.world_size > 1 and is_about_a_peer(error):
            raise PeerFailedError(self._find_first_failure(error)) from error
        else:
            said = str(error).strip() or "no message"
            if isinstance(error, KeyboardInterrupt):
                said = "stopped at once by a second signal"
            self._reports.claim(self.rank, f"{type(error).__name__}: {' '.join(said.split())}")

    # the thread

    def _look_until_over(self) -> None:
        while not self._over.wait(self._period):
            # for what keeps this thread from running as well: C code that does not let go of Python's lock
            faulthandler.dump_traceback_later(self.timeout + 2 * self._grace, exit=True, file=2)
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        mark = self._mark
        # no more than is seen: a machine that slept has not hung
        self._idle = 0.0 if mark.number != self._seen else self._idle + min(now - self._looked, 2 * self._period)
        self._seen, self._looked = mark.number, now
        self._say()
        if self._parent is not None and os.getppid() != self._parent and self._interrupt is not None:
            self._interrupt.request(signal.SIGTERM, "the launcher has ended")
        self._look_for_dead_peers(now)
        if self._idle > self.timeout:
            self._judge()

    def _look_for_dead_peers(self, now: float) -> None:
        # whoever waits for a dead one in an exchange on GPUs does not notice
        if not self._reports.reachable:
            return
        first = self._reports.first()
        if first is None and not self._dead_peers():
            self._peer_gone_since = None
        elif self._peer_gone_since is None:
            self._peer_gone_since = now
        elif now - self._peer_gone_since > self._grace:
            self._end(self._find_first_failure(None))

    def _dead_peers(self) -> list[Report]:
        """Those of this machine; the launcher sees to the others."""
        for rank in self._unknown.copy():
            report = self._reports.of(rank)
            if report is not None:
                self._unknown.discard(rank)
                if report.is_local:
                    self._local[rank] = report
        ended = [self._reports.of(rank) for rank, report in self._local.items() if report.state() == "ended"]
        return [report for report in ended if report is not None and not report.left]

    def _judge(self) -> None:
        """This process has made no progress: whose fault is it?"""
        own = self._report()
        before = {report.rank: report for report in self._reports.all()}
        unheard = sorted(set(range(self.world_size)) - before.keys()) if self._reports.reachable else []
        if unheard and self._idle < self.timeout + CONNECTING:
            return  # it may still be connecting to the store
        if unheard:
            text = f"process {unheard[0]} has not begun; process {self.rank} waits for it: {_doing(own)}"
            self._end(self._told(self._reports.claim(unheard[0], text)))
        if (before or self.world_size == 1) and all(
            _is_behind(own, report) for report in before.values() if report.rank != self.rank
        ):
            self._end_as_hung(own, [])
        # somebody else is behind, or at the same place: give them the time to say so themselves, or to keep silent
        if self._goes_on_within(max(self._grace, 3 * self._period)):
            return
        reports = self._reports.all()
        others = [report for report in reports if report.rank != self.rank and not report.left]
        silent = {report.rank for report in others if report.beat == before.get(report.rank, report).beat}
        behind = [report for report in others if report.rank in silent or _is_behind(report, own)]
        # one that works slowly, or has come to the same place only now
        not_ahead = [report for report in others if not _is_behind(own, report)]
        if any(report.rank not in silent and report.idle < self.timeout for report in not_ahead):
            return
        first = self._reports.first()
        if first is not None:
            self._end(self._told(first))
        if not behind:
            self._end_as_hung(own, [r.rank for r in others if r.place == own.place and r.idle > self.timeout])
        guilty = min(behind, key=lambda report: (report.rank not in silent, report.place))
        state = {"stopped": "it is stopped, by SIGSTOP or a debugger", "ended": "it has ended"}.get(guilty.state(), "")
        if not state and guilty.rank in silent:
            state = "it does not answer"
        text = (
            f"process {guilty.rank} (pid {guilty.pid} on {guilty.host}) has made no progress for "
            f"{max(guilty.idle, self.timeout):.0f} s: {_doing(guilty)}{f'; {state}' if state else ''}"
        )
        self._end(self._told(self._reports.claim(guilty.rank, text)))

    def _goes_on_within(self, seconds: float) -> bool:
        """Whether this process makes progress after all; meanwhile it goes on reporting, which shows that it lives."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._over.wait(self._period):
            self._say()
        return self._over.is_set() or self._mark.number != self._seen

    def _end_as_hung(self, own: Report, alike: Sequence[int]) -> NoReturn:
        text = f"process {self.rank} has made no progress for {own.idle:.0f} s: {_doing(own)}"
        if alike:
            text += f" (nor have processes {', '.join(map(str, alike))}, at the same place)"
        self._end(self._told(self._reports.claim(self.rank, text)), with_stack=True)

    def _end(self, text: str, *, with_stack: bool = False) -> NoReturn:
        lines = [f"error: {text}\n"]
        frame = sys._current_frames().get(self._main_thread)
        if with_stack and frame is not None:
            lines = ["".join(traceback.format_stack(frame)), *lines]
        # one write, past buffers that the main thread may hold
        with contextlib.suppress(OSError):
            os.write(2, "".join(lines).encode())
        if self._on_end is not None:
            with contextlib.suppress(Exception):  # this process ends, whatever else is wrong
                self._on_end(text)
        # workers that hang or are stopped would stay
        for worker in multiprocessing.active_children():
            worker.kill()
        os._exit(1)

    # what is said

    def _report(self, *, left: bool = False) -> Report:
        mark = self._mark
        clips: Sequence[str] = ()
        with contextlib.suppress(Exception):  # a name that cannot be made out is no reason to end
            clips = mark.clips() if callable(mark.clips) else mark.clips
        some = tuple(clips[:NAMED]) + ((f"and {len(clips) - NAMED} more",) if len(clips) > NAMED else ())
        done = f" after {mark.step} update{'' if mark.step == 1 else 's'}" if mark.step >= 0 else ""
        place = (mark.step, mark.phase)
        host = socket.gethostname()
        return Report(
            self.rank, os.getpid(), host, mark.what + done, place, mark.waits, some, self._idle, self._beat, left
        )

    def _say(self, *, left: bool = False) -> None:
        if self._reports.reachable:
            self._beat += 1
            self._said = time.monotonic()
            self._reports.say(self._report(left=left))

    def _told(self, first: Mapping[str, Any]) -> str:
        text = str(first["text"])
        return text if text.startswith("process ") else f"process {first['rank']} failed first: {text}"

    def _find_first_failure(self, error: BaseException | None) -> str:
        """Who was it? Waits a little for those who know."""
        until = time.monotonic() + self._grace
        while True:
            first = self._reports.first()
            if first is not None:
                return self._told(first)
            dead = self._dead_peers()
            if dead:
                text = (
                    f"process {dead[0].rank} (pid {dead[0].pid} on {dead[0].host}) has ended without an error of its "
                    "own, as one does that is killed, by the system when memory runs out for example; last seen "
                    f"{_doing(dead[0])}"
                )
                return self._told(self._reports.claim(dead[0].rank, text))
            if time.monotonic() > until:
                said = "" if error is None else f": {' '.join(str(error).split())}"
                return f"process {self.rank} lost the others while {_doing(self._report())}{said}"
            time.sleep(0.1)


def is_about_a_peer(error: BaseException) -> bool:
    """Whether an error says that another process is gone or does not answer."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and type(error) is RuntimeError and PEER_GONE.search(str(error)) is not None
    )


def _is_behind(report: Report, own: Report) -> bool:
    return report.place < own.place


def _doing(report: Report) -> str:
    clips = f" ({', '.join(report.clips)})" if report.clips else ""
    return f"{report.what}{', which waits for the others' if report.waits else ''}{clips}"
