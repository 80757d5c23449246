"""How often a file is opened, by Python or by a C library: the system tells (inotify), so Linux only."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_ACCESS, _IN_CLOSE, _IN_OPEN = 0x01, 0x18, 0x20
_HEADER = struct.calcsize("iIII")


@contextmanager
def counted_opens(path: Path) -> Iterator[list[int]]:
    """Fill a list of one number with how often ``path`` was opened during the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    count = [0]
    try:
        assert watch >= 0
        # the system merges equal events in a row: reads and closings stand between two openings
        assert libc.inotify_add_watch(watch, os.fsencode(path), _IN_OPEN | _IN_ACCESS | _IN_CLOSE) >= 0
        yield count
        count[0] = _openings(watch)
    finally:
        os.close(watch)


def _openings(watch: int) -> int:
    found = 0
    while True:
        try:
            content = os.read(watch, 1 << 16)
        except BlockingIOError:
            return found
        place = 0
        while place < len(content):
            _, mask, _, length = struct.unpack_from("iIII", content, place)
            place += _HEADER + length
            found += bool(mask & _IN_OPEN)
