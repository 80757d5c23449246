"""Run a function on many things in forks of one process, so that a crash costs one answer and imports are paid once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def answers(script: str, groups: dict[str, list[list[Any]]], seconds: int) -> dict[str, list[Any]]:
    """Have a script, whose main program calls ``serve``, deal with all items.

    Args:
        script: A Python file.
        groups: Lists of arguments; a group shares a process as long as that lives.
        seconds: Longest time an item may take; then its process is killed.

    Returns:
        For every group what came of its items: what the function returned, or ``{"died": signal or status}``.
    """
    work = json.dumps({"groups": groups, "seconds": seconds})
    done = subprocess.run([sys.executable, script], input=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def serve(function: Callable[..., Any]) -> None:
    """Read the work from the standard input and print the answers."""
    work = json.load(sys.stdin)
    print(json.dumps({name: _group(function, items, work["seconds"]) for name, items in work["groups"].items()}))


def _group(function: Callable[..., Any], items: list[list[Any]], seconds: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < len(items):
        reading, writing = os.pipe()
        # what libraries print on their own must not come between the answers
        child = os.fork()
        if not child:
            os.close(reading)
            with open(os.devnull, "w") as nowhere, os.fdopen(writing, "w") as answers:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
                for item in items[len(found) :]:
                    # the system's way: a hang inside of a library takes no notice of Python
                    signal.alarm(seconds)
                    print(json.dumps(function(*item)), file=answers, flush=True)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as lines:
            found += [json.loads(line) for line in lines]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status or len(found) < len(items):
            found.append({"died": status})
    return found


def behave(how: str) -> str:
    """For the test of this file."""
    if how == "crash":
        os.abort()
    if how == "hang":
        signal.pause()
    if how == "chatter":
        os.write(1, b"something else\n")
    return how


if __name__ == "__main__":
    serve(behave)
