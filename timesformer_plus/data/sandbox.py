"""Run a function on one file after another, each in a process of its own that may hang, crash or eat memory.

A video decoder is C code that reads what strangers wrote. One file that makes it spin, fall over or ask for 40 GB must
cost one answer, not the scan. Importing torch takes seconds, so processes are not started anew: a helper process
imports what is needed once, stays single-threaded, and forks one cheap child for every call.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple, cast

Notes = dict[str, Any]
Status = Literal["done", "hang", "crash", "memory", "error"]
# what a call says is read in pieces of this many bytes
_PIECE = 1 << 16
# a function that says more than this, in bytes, has lost its way
_MAX_SAID = 1 << 20
# seconds that a killed process has to go
_GRACE = 5.0


class Outcome(NamedTuple):
    """How a call went.

    Attributes:
        key: The call's key, as it was given.
        status: ``done``; ``hang`` (took longer than allowed, by the clock or in computing time), ``crash`` (its process
            died), ``memory`` (asked for more than allowed) or ``error`` (raised what it should not).
        detail: What happened, where ``status`` is not ``done``.
        notes: All that the function noted, up to its end.
        seconds: How long it took, by the clock.
    """

    key: int
    status: Status
    detail: str
    notes: Notes
    seconds: float


class Sandbox:
    """A helper process that calls one function, every call in a fork of its own; use it as a context manager.

    Args:
        function: Called as ``function(note, *arguments)``. Whatever it passes to ``note`` (a dictionary that JSON can
            hold) is kept even if it dies later; what it returns is not. Found by its module and name, so it must be
            defined at the top of an importable module.
        jobs: Calls at the same time.
        max_seconds: Longest time of a call, by the clock and in computing time, in seconds.
        max_memory_mb: Memory that a call may ask for beyond what its process starts with, in MB (10^6 bytes). Enforced
            on Linux only.
        preload: Modules that the helper imports beforehand where they can be, for all calls.

    Raises:
        ValueError: A count is not positive, or this system cannot fork.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *,
        jobs: int,
        max_seconds: float,
        max_memory_mb: float,
        preload: Sequence[str] = (),
    ) -> None:
        if jobs < 1 or max_seconds <= 0 or max_memory_mb <= 0:
            raise ValueError(f"{jobs=}, {max_seconds=}, {max_memory_mb=}: each must be positive")
        if not hasattr(os, "fork"):
            raise ValueError("this system cannot fork processes; run it on Linux or macOS, or in WSL on Windows")
        self.jobs = jobs
        self._plan: Notes = {
            "jobs": jobs,
            "function": [function.__module__, function.__qualname__],
            "preload": list(preload),
            "max_seconds": max_seconds,
            "max_memory": int(max_memory_mb * 1e6),
        }
        self._helper: subprocess.Popen[bytes] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  closed on exit; what the helper says on stderr

    def __enter__(self) -> Sandbox:
        # OpenBLAS starts its threads on import, and a process with threads must not fork
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._helper = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, **threads, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for the caller alone
        )
        with contextlib.suppress(BrokenPipeError):  # it is gone: told by the first call
            self._send(self._plan)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (helper := self._helper) is None:
            return
        self._helper = None
        with contextlib.suppress(BrokenPipeError):
            cast(Any, helper.stdin).close()  # tells the helper to end its children and itself
        try:
            helper.wait(10)
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
        cast(Any, helper.stdout).close()
        self._complaints.close()

    def run(self, calls: Iterable[tuple[int, Sequence[Any]]]) -> Iterator[Outcome]:
        """Make calls, and yield their outcomes as they come in.

        Args:
            calls: ``(key, arguments)`` of each, with arguments that JSON can hold.

        Yields:
            One outcome a call, in the order in which they end.

        Raises:
            RuntimeError: The helper itself has died.
        """
        waiting = iter(calls)
        under_way = 0
        try:
            while True:
                # a bounded number at a time: both sides write into pipes, and neither may wait for the other
                while under_way < 2 * self.jobs and (call := next(waiting, None)) is not None:
                    self._send({"key": call[0], "arguments": list(call[1])})
                    under_way += 1
                if not under_way:
                    return
                line = cast(Any, self._helper).stdout.readline()
                if not line.endswith(b"\n"):
                    raise BrokenPipeError
                yield Outcome(**json.loads(line))
                under_way -= 1
        except BrokenPipeError as error:
            code = cast(Any, self._helper).wait()
            self._complaints.seek(0)
            said = self._complaints.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"the process that checks files has died (exit code {code}; {said[-1] if said else 'without a word'}); "
                "is the machine out of memory? Run again: what is done is kept"
            ) from error

    def _send(self, message: Notes) -> None:
        pipe = cast(Any, self._helper).stdin
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()


@dataclass
class _Call:
    """A child at work, seen from the helper."""

    key: int
    pid: int
    pipe: int
    start: float
    deadline: float
    said: bytearray = field(default_factory=bytearray)
    is_late: bool = False


def serve() -> None:
    """Be the helper: read calls from stdin, answer on stdout. Ends, with all its children, when stdin does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the answers
    plan = json.loads(os.fdopen(os.dup(0), "rb", buffering=0).readline())  # unbuffered: the rest is for select
    for name in plan["preload"]:
        # which libraries are missing or broken here is for the function to find out
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    module, name = plan["function"]
    helper = _Helper(getattr(importlib.import_module(module), name), plan, answers)
    try:
        while helper.turn():
            pass
    finally:
        helper.kill()


class _Helper:
    def __init__(self, function: Callable[..., None], plan: Notes, answers: BinaryIO) -> None:
        self.function, self.plan, self.answers = function, plan, answers
        self.waiting: list[Notes] = []
        self.running: dict[int, _Call] = {}  # by the pipe that they speak into
        self.unread = b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ)

    def turn(self) -> bool:
        """Start what may start, wait for the next thing to happen, and say whether there can be more."""
        while self.waiting and len(self.running) < self.plan["jobs"]:
            call = _fork(self.waiting.pop(0), self.function, self.plan)
            self.running[call.pipe] = call
            self.selector.register(call.pipe, selectors.EVENT_READ)
        next_deadline = min((call.deadline for call in self.running.values()), default=None)
        for ready, _ in self.selector.select(None if next_deadline is None else max(0, next_deadline - _now())):
            piece = os.read(ready.fd, _PIECE)
            if ready.fd != 0:
                call = self.running[ready.fd]
                call.said += piece
                if not piece or len(call.said) > _MAX_SAID:
                    self._answer(call)
            elif piece:
                *lines, self.unread = (self.unread + piece).split(b"\n")
                self.waiting += map(json.loads, lines)
            else:
                return False
        for call in list(self.running.values()):
            if _now() >= call.deadline:
                os.kill(call.pid, signal.SIGKILL)  # which closes its end of the pipe
                if call.is_late:  # even that did not help: it waits for a disk or a network that does not answer
                    self._answer(call)
                call.is_late, call.deadline = True, _now() + _GRACE
        return True

    def kill(self) -> None:
        """End all children."""
        for call in self.running.values():
            os.kill(call.pid, signal.SIGKILL)

    def _answer(self, call: _Call) -> None:
        self.selector.unregister(call.pipe)
        del self.running[call.pipe]
        os.close(call.pipe)
        self.answers.write(json.dumps(_outcome(call, self.plan)._asdict()).encode() + b"\n")
        self.answers.flush()


_now = time.monotonic


def _fork(message: Notes, function: Callable[..., None], plan: Notes) -> _Call:
    read_end, write_end = os.pipe()
    start = _now()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return _Call(message["key"], pid, read_end, start, start + plan["max_seconds"])
    code = 1
    try:
        os.close(read_end)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # libraries complain at length
            os.dup2(nothing, stream)
        _limit(plan)
        code = _call(function, message["arguments"], write_end)
    finally:
        os._exit(code)  # nothing of the helper's is cleaned up twice


def _limit(plan: Notes) -> None:
    """Set the child's limits, for the case that the helper cannot, or is gone."""
    import resource  # Windows has none

    seconds = int(plan["max_seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds + 5)
    if sys.platform == "linux":
        # data and not address space: a mapped file is none of it
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + plan["max_memory"],) * 2)


def _call(function: Callable[..., None], arguments: Sequence[Any], pipe: int) -> int:
    def say(what: Notes) -> None:
        unsent = json.dumps(what).encode() + b"\n"
        while unsent:
            unsent = unsent[os.write(pipe, unsent) :]

    try:
        function(lambda notes: say({"notes": notes}), *arguments)
        say({"status": "done", "detail": ""})
    except MemoryError:
        say({"status": "memory", "detail": ""})
    except Exception as error:
        text = " ".join(str(error).split())
        say({"status": "error", "detail": f"{type(error).__name__}: {text}"[:300]})
    return 0


def _outcome(call: _Call, plan: Notes) -> Outcome:
    """Take the child's leave; its last words and the way that it died tell how the call went."""
    if len(call.said) > _MAX_SAID:
        os.kill(call.pid, signal.SIGKILL)
    # one that was killed and lives is not waited for
    status = os.waitpid(call.pid, os.WNOHANG if call.is_late and _now() >= call.deadline else 0)[1]
    notes: Notes = {}
    end: Any = None
    for line in call.said.split(b"\n")[:-1]:
        said = json.loads(line)
        notes |= said.pop("notes", {})
        end = said or end
    if end is None:
        end = _death(call, status, plan)
    elif end["status"] == "memory":
        end["detail"] = f"asks for more than {plan['max_memory'] / 1e6:g} MB of memory"
    return Outcome(call.key, end["status"], end["detail"], notes, _now() - call.start)


def _death(call: _Call, status: int, plan: Notes) -> dict[str, str]:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if call.is_late or number in (signal.SIGXCPU, signal.SIGALRM):
        return {"status": "hang", "detail": f"takes longer than {plan['max_seconds']:g} s"}
    if number == signal.SIGKILL:
        return {"status": "memory", "detail": "was killed by the system, most likely for want of memory"}
    what = signal.Signals(number).name if number else f"exit code {os.WEXITSTATUS(status)}"
    return {"status": "crash", "detail": f"its process died ({what})"}
