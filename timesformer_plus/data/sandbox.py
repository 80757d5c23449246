"""Run a function on one file after another, in processes that may hang, crash or eat memory.

A video decoder is C code that reads what strangers wrote. One file that makes it spin, fall over or ask for 40 GB must
cost one answer, not the scan. Importing torch takes seconds, so processes are not started anew: a helper process
imports what is needed once, stays single-threaded, and forks its workers. A worker takes one call after another for as
long as all is well; a call of which anything else comes is made again in a worker of its own, so that no file is blamed
for what the one before it has left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, cast

Notes = dict[str, Any]
Status = Literal["done", "hang", "crash", "memory", "error"]
_HELPER = str(Path(__file__).with_name("sandbox_helper.py"))


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
    """A helper process that calls one function in forks of itself; use it as a context manager.

    Args:
        function: Called as ``function(note, *arguments)``. Whatever it passes to ``note`` (a dictionary that JSON can
            hold) is kept even if it dies later. It returns whether all is well; if not, and if it was not the first
            call of its process, it is made again in a new one. Found by its module and name, so it must be defined at
            the top of an importable module.
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
        function: Callable[..., object],
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

    def __enter__(self) -> Sandbox:
        # OpenBLAS starts its threads on import, and a process with threads must not fork
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # what the helper has to say at its end; closed on exit
        self._complaints = tempfile.TemporaryFile()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._helper = subprocess.Popen(
            # not by its name: that would import this package, and so torch, which the function may not need
            [sys.executable, "-c", f"import runpy; runpy.run_path({_HELPER!r}, run_name='__main__')"],
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
