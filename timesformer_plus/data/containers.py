"""What a video file is before any decoder sees it: its container, by its first bytes, and the times of its frames.

Only regular files that begin like a known container are let through, and FFmpeg is then told which demuxer to use: left
to guess, it follows a text file named ``.mp4`` to other files, and hangs on a pipe.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av.container

# the containers whose demuxer knows where every frame is; the others must be decoded from the start to be counted
INDEXED = ("mov", "matroska")


class DecodeError(RuntimeError):
    """A video could not be opened, or a frame of it could not be read.

    Args:
        path: The file.
        reason: What is wrong with it, and what to try.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video file.

    Attributes:
        container: FFmpeg's name of the container's demuxer.
        times: Presentation time of every frame, in seconds after the first tick of the stream, ascending; ``None``
            where the container cannot tell without decoding.
        num_frames: How many frames a sequential decode gives.
        fps: Average frames per second; 0 where the file does not say.
        size: (height, width) of the upright frames, in pixels.
        rotation: Counter-clockwise quarter turns that bring a decoded frame upright, 0 to 3.
        tick: The unit of the file's times, in seconds.
    """

    container: str
    times: tuple[Fraction, ...] | None
    num_frames: int
    fps: float
    size: tuple[int, int]
    rotation: int
    tick: Fraction


def identify(path: Path) -> str:
    """Tell the container of a file from its first bytes.

    Args:
        path: The file.

    Returns:
        FFmpeg's name of the demuxer: ``mov`` (mp4, m4v, 3gp too), ``matroska`` (webm too), ``avi``, ``mpegts``,
        ``mpeg``, ``flv`` or ``asf``.

    Raises:
        DecodeError: Not a regular file, empty, or not the beginning of a video container.
    """
    try:
        mode = path.stat().st_mode
        # a FIFO would block the open below for ever
        if not stat.S_ISREG(mode):
            raise DecodeError(path, "is not a regular file; give the path of a video file")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError as error:
        raise DecodeError(path, "there is no such file; check the manifest's root") from error
    except OSError as error:
        raise DecodeError(path, f"cannot be read ({error.strerror})") from error
    if not head:
        raise DecodeError(path, "the file is empty; copy it again")
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 376 and all(head[i] == 0x47 for i in (0, 188, 376)):
        return "mpegts"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    raise DecodeError(
        path, f"is no video: it begins with {head[:12]!r}; known are mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv"
    )


_MAGIC = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"\x00\x00\x01\xba": "mpeg",
    b"FLV\x01": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}


@contextmanager
def open_container(path: Path, container: str) -> Iterator[av.container.InputContainer]:
    """Open a file with PyAV, with a demuxer named beforehand and local files only.

    Args:
        path: The file.
        container: Name of the demuxer, see ``identify``.

    Yields:
        The open container.

    Raises:
        DecodeError: It cannot be opened, holds no video, or an FFmpeg error comes up while it is used.
    """
    import av

    try:
        with av.open(str(path), format=container, options={"protocol_whitelist": "file"}) as opened:
            if not opened.streams.video:
                raise DecodeError(path, "holds no video stream; remove it from the manifest")
            opened.streams.video[0].codec_context.thread_count = 1
            yield opened
    except (av.FFmpegError, EOFError, ValueError) as error:
        raise DecodeError(path, f"is damaged ({type(error).__name__}: {error})") from error


def index_frames(path: Path) -> FrameIndex:
    """List the frames of a file without decoding more than the first, where the container allows.

    Args:
        path: The file.

    Returns:
        The index; ``times`` is ``None`` for containers that had to be decoded whole to be counted.

    Raises:
        DecodeError: Not a readable video, or the file ends before its last frame.
    """
    container = identify(path)
    with open_container(path, container) as opened:
        stream = opened.streams.video[0]
        first = next(opened.decode(stream), None)
        if first is None:
            raise DecodeError(path, "holds no frame that can be decoded; copy it again")
        turns = first.rotation // 90 % 4
        size = (first.width, first.height) if turns % 2 else (first.height, first.width)
        fps = float(stream.average_rate or 0)
        tick = stream.time_base or Fraction(0)
        start = stream.start_time or 0
        announced = stream.frames
    if container not in INDEXED:
        with open_container(path, container) as opened:
            count = sum(1 for _ in opened.decode(video=0))
        return FrameIndex(container, None, count, fps, size, turns, tick)

    with open_container(path, container) as opened:
        packets = [packet for packet in opened.demux(video=0) if packet.size]
        # the file's index still lists the frames of a part that is cut off
        if len(packets) < announced:
            raise DecodeError(path, f"is cut off after {len(packets)} of {announced} frames; copy it again")
        # an edit list hides frames that others need for decoding: those are read and discarded
        ticks = [packet.pts for packet in packets if packet.pts is not None and not packet.is_discard]
    times = tuple((at - start) * tick for at in sorted(ticks))
    return FrameIndex(container, times, len(times), fps, size, turns, tick)
