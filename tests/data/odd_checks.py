"""Checks that do what videos do to decoders, told by the name of the file; the sandbox finds them by theirs."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

BEHAVIOURS = ("hang", "spin", "segv", "abort", "exit", "memory", "killed", "raise", "chatter", "mute")
left_behind: list[str] = []


def check(note, path, *_):
    """Behave as the file's name says, after some notes; good files are `ok`."""
    note({"codec": "odd", "stage": "looking at its name"})
    behaviour = Path(path).stem.rstrip("0123456789")
    if behaviour == "hang":
        threading.Event().wait()
    elif behaviour == "spin":
        while True:
            pass
    elif behaviour == "segv":
        ctypes.string_at(0)
    elif behaviour == "abort":
        os.abort()
    elif behaviour == "exit":
        os._exit(3)
    elif behaviour == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(5 * 10**7))
    elif behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "raise":
        raise KeyError("what\nnobody thought of")
    elif behaviour == "chatter":
        print("a library says something" * 100_000)
        os.write(2, b"and another one" * 100_000)
    elif behaviour == "mute":
        note({"kind": "damaged", "reason": "bad without a sound"})
        return False
    note({"verdict": "ok"})
    return True


def slow_check(note, path, *_):
    """Take a moment, and leave this process's and its parent's number beside the file, and a mark that it was here."""
    time.sleep(0.1)
    with Path(path).with_suffix(".log").open("a") as file:
        file.write(f"{os.getpid()} {os.getppid()}\n")
    note({"verdict": "ok"})
    return True


def forgetful(note, how):
    """Leave something behind that spoils the next call of the same process; says which calls this process has had."""
    left_behind.append(how)
    note({"before": left_behind[:-1], "pid": os.getpid()})
    if how == "fails after others" and len(left_behind) > 1:
        os.abort()
    if how == "always fails":
        os.abort()
    return how != "is not well"
