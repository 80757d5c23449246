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
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import av
    import av.container

# the containers whose demuxer knows where every frame is; the others must be decoded from the start to be counted
INDEXED = ("mov", "matroska")


class DecodeError(RuntimeError):
    """A video could not be opened, or a frame of it could not be read.

    Args:
        path: The file.
        reason: What is wrong with it, and what to try. Without one, ``path`` is the whole text: torch raises an error
            of a loader's worker again in the main process, with its traceback as the only argument.
    """

    def __init__(self, path: str | Path, reason: str = "") -> None:
        super().__init__(str(path), reason)
        self.path = Path(path) if reason else None
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else str(self.args[0])


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video file, as its packets tell them; nothing is decoded for it.

    Attributes:
        container: FFmpeg's name of the container's demuxer.
        times: Time of every frame that a sequential decode gives, in seconds after the stream's start, ascending.
        tick: The unit of the file's times, in seconds.
        fps: Average frames per second; 0 where the file does not say.
        stream: Place of the file's first video, which is the one that is read, among all of its streams.
        trouble: Why seeking to a frame of this file may give another one; empty where it does not.
    """

    container: str
    times: tuple[Fraction, ...]
    tick: Fraction
    fps: float
    stream: int
    trouble: str = ""


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
    """List the frames of a file.

    Args:
        path: The file.

    Returns:
        The index. Containers that do not tell a frame from a packet are decoded once, from start to end, to make it.

    Raises:
        DecodeError: Not a readable video, or the file ends before its last frame.
    """
    from av.stream import Disposition

    container = identify(path)
    with open_container(path, container) as opened:
        stream = opened.streams.video[0]
        place = stream.index
        fps, tick, start = float(stream.average_rate or 0), stream.time_base or Fraction(0), stream.start_time or 0
        if container not in INDEXED:
            # evenly spaced where the file has no times, as raw MPEG-4 in AVI; nobody seeks by them
            times = tuple(i * tick for i, _ in enumerate(opened.decode(stream)))
            return FrameIndex(container, times, tick, fps, place, f"{container} files have no exact index")
        packets = [_Packet.of(packet) for packet in opened.demux(stream) if packet.size]
        announced, duration = stream.frames, stream.duration or 0
        # cover art is a video stream of its own in mp4 and mov
        videos = sum(not video.disposition & Disposition.attached_pic for video in opened.streams.video)
    shown = sorted(packet.time for packet in packets if not packet.hidden)
    if not shown:
        raise DecodeError(path, "holds no frame; copy it again")
    # A file that is cut off still has the header of the whole. So has one whose edit list leaves out frames, but that
    # one's duration counts only what is shown. Half a frame of slack: the last one's duration is often a guess.
    end = max(packet.time + 1.5 * packet.duration for packet in packets) - start
    if len(packets) < announced and end < duration:
        raise DecodeError(path, f"is cut off after {len(packets)} of {announced} frames; copy it again")
    trouble = ""
    if len(shown) < max(len(packets), announced):
        trouble = "an edit list hides frames"
    elif videos > 1:
        trouble = f"of its {videos} videos, the first is not always taken for the main one"
    elif _has_open_groups(packets):
        trouble = "some frames depend on a key frame that comes after them (open GOP)"
    return FrameIndex(container, tuple((time - start) * tick for time in shown), tick, fps, place, trouble)


class _Packet(NamedTuple):
    time: int
    duration: int
    key: bool
    hidden: bool

    @classmethod
    def of(cls, packet: av.Packet[av.VideoStream]) -> _Packet:
        # without a presentation time the frame is presented when it is decoded
        time = packet.pts if packet.pts is not None else packet.dts or 0
        return cls(time, packet.duration or 0, packet.is_keyframe, packet.is_discard)


def _has_open_groups(packets: list[_Packet]) -> bool:
    """Whether a key frame, other than the first, is followed by a frame shown before it."""
    last_key = packets[0].time
    for packet in packets[1:]:
        if packet.key:
            last_key = packet.time
        elif packet.time < last_key != packets[0].time:
            return True
    return False
