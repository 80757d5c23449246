"""Videos whose frames carry their own number, so that a test can tell frame 7 from frame 6, whatever the codec did."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8
# frames to hide so that the first one shown lies inside a group of 12 and needs hidden ones
MID_GOP = 15


def numbered_frame(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """The number in binary, one black or white stripe a bit, most significant first; the upper third is grey."""
    frame = np.full((height, width, 3), 100, np.uint8)
    for bit in range(BITS):
        stripe = slice(bit * width // BITS, (bit + 1) * width // BITS)
        frame[height // 3 :, stripe] = 255 * (number >> (BITS - 1 - bit) & 1)
    return frame


def number_of(frame: NDArray[np.uint8]) -> int:
    """Read the number back."""
    height, width, _ = frame.shape
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bits = frame[height // 3 + 4 : -4, centres].mean(axis=(0, 2)) > 127
    return int(sum(int(on) << (BITS - 1 - bit) for bit, on in enumerate(bits)))


def write_numbered(
    path: Path,
    count: int = 40,
    *,
    codec: str = "libx264",
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
    times: Sequence[int] | None = None,
    hide: int = 0,
) -> Path:
    """Write a video of ``count`` numbered frames.

    ``times`` gives the frames' times in ticks of 1/1000 s instead of a constant rate. ``hide`` first frames are put
    before time 0, which mp4 expresses by an edit list: they are decoded but not shown.
    """
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(i, *size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = i - hide, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sequential_numbers(path: Path) -> list[int]:
    """What a plain decode from start to end shows: the truth that every decoder is held against."""
    with av.open(str(path)) as container:
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def rotate_by_matrix(path: Path, turned: Path) -> Path:
    """Copy an mp4 with a display matrix that asks players to turn the picture by a quarter, clockwise."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    matrix = (
        header + 40
    )  # version 0: flags, two dates, id, reserved, duration, reserved, layer, group, volume, reserved
    one = 1 << 16
    rows = (0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in rows)
    turned.write_bytes(content)
    return turned
