"""The helper process of a sandbox: forks workers, hands them calls, and tells how each call went.

It is run as a script, and imports nothing of this package but the function that it is to call.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

Notes = dict[str, Any]
# what a call says is read in pieces of this many bytes
_PIECE = 1 << 16
# a function that says more than this, in bytes, has lost its way
_MAX_SAID = 1 << 20
# calls that a worker takes at most: what a library loses in each of them must not add up
_MAX_CALLS = 100
# seconds that a killed process has to go
_GRACE = 5.0


@dataclass
class _Worker:
    """A child, seen from the helper: the pipe to it, the pipe from it, and the call that it is at."""

    pid: int
    orders: int
    reports: int
    calls: int = 0
    call: Notes | None = None
    start: float = 0.0
    deadline: float = math.inf
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
    def __init__(self, function: Callable[..., object], plan: Notes, answers: BinaryIO) -> None:
        self.function, self.plan, self.answers = function, plan, answers
        self.waiting: deque[Notes] = deque()
        self.workers: dict[int, _Worker] = {}  # by the pipe from them
        self.unread = b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ)

    def turn(self) -> bool:
        """Hand out what there is, wait for the next thing to happen, and say whether there can be more."""
        while self.waiting and (worker := self._worker_for(self.waiting[0])) is not None:
            self._hand(worker, self.waiting.popleft())
        deadline = min((worker.deadline for worker in self.workers.values()), default=math.inf)
        for ready, _ in self.selector.select(None if deadline == math.inf else max(0, deadline - _now())):
            piece = os.read(ready.fd, _PIECE)
            if ready.fd != 0:
                self._hear(self.workers[ready.fd], piece)
            elif piece:
                *lines, self.unread = (self.unread + piece).split(b"\n")
                self.waiting.extend(map(json.loads, lines))
            else:
                return False
        for worker in list(self.workers.values()):
            if _now() >= worker.deadline:
                os.kill(worker.pid, signal.SIGKILL)  # which closes its end of the pipe
                if worker.is_late:  # even that did not help: it waits for a disk or a network that does not answer
                    self._finish(worker, None)
                worker.is_late, worker.deadline = True, _now() + _GRACE
        return True

    def kill(self) -> None:
        """End all children."""
        for worker in self.workers.values():
            os.kill(worker.pid, signal.SIGKILL)

    def _worker_for(self, call: Notes) -> _Worker | None:
        """Who takes a call: one that has nothing to do, or a new one if there is room; ``None`` if all are at work."""
        idle = [worker for worker in self.workers.values() if worker.call is None]
        if idle and not call.get("again"):
            return idle[0]
        if idle and len(self.workers) == self.plan["jobs"]:
            self._dismiss(idle[0])
        if len(self.workers) == self.plan["jobs"]:
            return None
        inherited = [self.answers.fileno(), *(fd for w in self.workers.values() for fd in (w.orders, w.reports))]
        worker = _fork(self.function, self.plan, inherited)
        self.workers[worker.reports] = worker
        self.selector.register(worker.reports, selectors.EVENT_READ)
        return worker

    def _hand(self, worker: _Worker, call: Notes) -> None:
        worker.call, worker.said, worker.start = call, bytearray(), _now()
        worker.deadline = worker.start + self.plan["max_seconds"]
        # one that died in between is found out when nothing comes from it
        with contextlib.suppress(BrokenPipeError):
            os.write(worker.orders, json.dumps(call["arguments"]).encode() + b"\n")

    def _hear(self, worker: _Worker, piece: bytes) -> None:
        worker.said += piece
        if not piece or len(worker.said) > _MAX_SAID:
            self._finish(worker, None)
        elif worker.said.endswith(b"\n"):
            last = json.loads(worker.said[worker.said.rfind(b"\n", 0, -1) + 1 :])
            if "status" in last:
                self._finish(worker, last)

    def _finish(self, worker: _Worker, end: Notes | None) -> None:
        """Answer a call, or make it again; ``end`` is what the worker says of it, ``None`` if that is nothing."""
        call, is_first = worker.call, worker.calls == 0
        worker.calls += 1
        is_well = end is not None and end.pop("is_well", False)
        if end is None or not is_well or worker.calls >= _MAX_CALLS:
            death = self._dismiss(worker)
            end = end or death
        if call is not None and (is_well or is_first):
            notes: Notes = {}
            for line in worker.said.split(b"\n")[:-1]:
                notes |= json.loads(line).get("notes", {})
            outcome = {"key": call["key"], **end, "notes": notes, "seconds": _now() - worker.start}
            self.answers.write(json.dumps(outcome).encode() + b"\n")
            self.answers.flush()
        elif call is not None:
            self.waiting.appendleft(call | {"again": True})
        worker.call, worker.deadline = None, math.inf

    def _dismiss(self, worker: _Worker) -> Notes:
        """Take a worker's leave, and tell what it died of, if it was not this."""
        self.selector.unregister(worker.reports)
        del self.workers[worker.reports]
        os.close(worker.orders)
        os.close(worker.reports)
        os.kill(worker.pid, signal.SIGKILL)  # does not change what one that is dead already has died of
        # one that was killed before and lives is not waited for
        has_given_up = worker.is_late and _now() >= worker.deadline
        status = os.waitpid(worker.pid, os.WNOHANG if has_given_up else 0)[1]
        return _death(worker.is_late, status, self.plan)


_now = time.monotonic


def _fork(function: Callable[..., object], plan: Notes, inherited: Sequence[int]) -> _Worker:
    """Start a worker; ``inherited`` are the helper's pipes to others, which it must not hold open."""
    orders, to_worker = os.pipe()
    from_worker, reports = os.pipe()
    pid = os.fork()
    if pid:
        os.close(orders)
        os.close(reports)
        return _Worker(pid, to_worker, from_worker)
    code = 1
    try:
        for fd in (*inherited, to_worker, from_worker):
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # libraries complain at length
            os.dup2(nothing, stream)
        _limit_memory(plan)
        with os.fdopen(orders, "rb") as lines:
            for line in lines:
                _limit_time(plan)
                _call(function, json.loads(line), reports, plan)
        code = 0
    finally:
        os._exit(code)  # nothing of the helper's is cleaned up twice


def _limit_memory(plan: Notes) -> None:
    import resource  # Windows has none

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # data and not address space: a mapped file is none of it
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + plan["max_memory"],) * 2)


def _limit_time(plan: Notes) -> None:
    """Set limits for one call, for the case that the helper's clock is not enough, or the helper is gone."""
    import resource

    seconds = int(plan["max_seconds"]) + 1
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + seconds, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds + 5)


def _call(function: Callable[..., object], arguments: Sequence[Any], reports: int, plan: Notes) -> None:
    def say(what: Notes) -> None:
        unsent = json.dumps(what).encode() + b"\n"
        while unsent:
            unsent = unsent[os.write(reports, unsent) :]

    try:
        is_well = function(lambda notes: say({"notes": notes}), *arguments)
        end = {"status": "done", "detail": "", "is_well": bool(is_well)}
    except MemoryError:
        end = {"status": "memory", "detail": f"asks for more than {plan['max_memory'] / 1e6:g} MB of memory"}
    except Exception as error:
        text = " ".join(str(error).split())
        end = {"status": "error", "detail": f"{type(error).__name__}: {text}"[:300]}
    signal.alarm(0)
    say(end)


def _death(is_late: bool, status: int, plan: Notes) -> Notes:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if is_late or number in (signal.SIGXCPU, signal.SIGALRM):
        return {"status": "hang", "detail": f"takes longer than {plan['max_seconds']:g} s"}
    if number == signal.SIGKILL:
        return {"status": "memory", "detail": "was killed by the system, most likely for want of memory"}
    what = signal.Signals(number).name if number else f"exit code {os.WEXITSTATUS(status)}"
    return {"status": "crash", "detail": f"its process died ({what})"}


if __name__ == "__main__":
    serve()
