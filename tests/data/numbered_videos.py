"""Videos whose frames carry their own number, so that a test can tell frame 7 from frame 6, whatever the codec did."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from timesformer_plus.data.encodings import (
    BITS,
    Encoding,
    number_of,
    numbered_frame,
    sequential_numbers,
    write_encoding,
)

__all__ = ["BITS", "copy_packets", "number_of", "numbered_frame", "sequential_numbers", "write_numbered"]


def write_numbered(path: Path, count: int = 40, *, rate: int = 25, **how: Any) -> Path:
    """Write a video of ``count`` numbered frames; see ``Encoding`` for what else can be said."""
    return write_encoding(path, Encoding("", path.name, count=count, rate=Fraction(rate), **how))


def copy_packets(source: Path, target: Path, keep: Any = None, change: Any = None) -> Path:
    """Copy the coded frames of a video for which ``keep(i)`` holds, each through ``change(i, packet)`` if given."""
    with av.open(str(source)) as opened, av.open(str(target), "w") as written:
        stream = opened.streams.video[0]
        copied = written.add_stream_from_template(stream)
        for i, packet in enumerate(opened.demux(stream)):
            if packet.size and (keep is None or keep(i)):
                packet = packet if change is None else change(i, packet)
                packet.stream = copied
                written.mux(packet)
    return target
