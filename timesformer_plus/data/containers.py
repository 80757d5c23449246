"""What a video file says about its frames before any of them is asked for: container, codec, size and times.

Which files are looked at in the first place is the guard's matter; its names can be had from here too.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from timesformer_plus.data.guard import DecodeError, Limits, Source, admit, identify, identify_opened
from timesformer_plus.data.packets import Packets, is_cover, main_video, open_container, packets_of, read_packets
from timesformer_plus.data.truncation import missing_bytes

if TYPE_CHECKING:
    import av
    import av.container

__all__ = [
    "INDEXED",
    "DecodeError",
    "FrameIndex",
    "FrameTimes",
    "Limits",
    "Source",
    "admit",
    "identify",
    "index_frames",
    "index_source",
    "main_video",
    "open_container",
    "packets_of",
]

# the containers whose demuxer knows where every frame is; the others must be decoded from the start to be counted
INDEXED = ("mov", "matroska")


class FrameTimes(Sequence[float]):
    """Times of frames in seconds, kept as whole ticks: eight bytes a frame, and exact.

    Args:
        ticks: Times in ticks, int64, (N,), ascending.
        tick: Seconds of a tick.
    """

    def __init__(self, ticks: NDArray[np.int64], tick: Fraction) -> None:
        self.ticks = ticks
        self.tick = tick

    def __len__(self) -> int:
        return len(self.ticks)

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> FrameTimes: ...
    def __getitem__(self, place: int | slice) -> float | FrameTimes:
        if isinstance(place, slice):
            return FrameTimes(self.ticks[place], self.tick)
        return float(self.exact(place))

    def exact(self, place: int) -> Fraction:
        """Time of one frame in seconds, not rounded."""
        return int(self.ticks[place]) * self.tick

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # numerator first: a product of whole numbers and one division, as float(Fraction) rounds
        times = self.ticks * self.tick.numerator / self.tick.denominator
        return times if dtype is None else times.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} frames, ticks of {self.tick} s)"


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video file, as its packets tell them; only the first is decoded for it.

    Attributes:
        container: FFmpeg's name of the container's demuxer.
        codec: FFmpeg's name of the codec.
        size: (height, width) in pixels of the upright frames.
        turns: Counter-clockwise quarter turns that bring the frames upright.
        times: Time of every frame that a sequential decode gives, in seconds after the first one, ascending.
        start: The time, in ticks, that the file gives to the first frame.
        keys: Time of each key frame's picture in the file's ticks, (K,), ascending; empty where nobody can seek.
        fps: Average frames per second; 0 where the file does not say.
        announced: Frames that the header announces; 0 where it does not say.
        seconds: Duration by the header; where it does not say, from the first frame to the end of the last.
        stream: Place of the video that is read, the first that is no cover picture, among all streams of the file.
        seekable: Whether seeking by time finds every frame.
        trouble: Why seeking, by time or by number, may give another frame than the one wanted; empty where it does not.
    """

    container: str
    codec: str
    size: tuple[int, int]
    turns: int
    times: FrameTimes
    start: int
    keys: NDArray[np.int64]
    fps: float
    announced: int
    seconds: float
    stream: int
    seekable: bool
    trouble: str

    def __len__(self) -> int:
        return len(self.times)


class _Remembered(OrderedDict[Source, FrameIndex]):
    """Indices of the files read last: every clip that is read asks for one, and making it goes through the whole file.

    Args:
        max_frames: Frames that they may have together, 8 bytes each; the last one is kept however many it has.
    """

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        self.max_frames = max_frames
        self._frames = 0

    def keep(self, source: Source, index: FrameIndex) -> None:
        self[source] = index
        self._frames += len(index)
        while len(self) > 1 and self._frames > self.max_frames:
            self._frames -= len(self.popitem(last=False)[1])


_INDICES = _Remembered(max_frames=4_000_000)


def index_frames(
    path: str | Path, *, member: tuple[int, int] | None = None, limits: Limits | None = None
) -> FrameIndex:
    """List the frames of a file.

    The process remembers the last files by path, size, date and member, four million frames in all.

    Args:
        path: The file.
        member: Offset and length in bytes of the part to read, for a member of a tar archive.
        limits: How large a video may be; the usual limits if not given.

    Returns:
        The index. Containers that do not tell a frame from a packet are decoded once, from start to end, to make it.

    Raises:
        DecodeError: Not a readable video, too large, or the file ends before its last frame.
    """
    limits = limits or Limits()
    return index_source(admit(path, member=member, limits=limits), limits)


def index_source(source: Source, limits: Limits) -> FrameIndex:
    """``index_frames`` for a file that was let in already."""
    index = _INDICES.get(source)
    if index is None:
        index = _read_index(source, limits)
        _INDICES.keep(source, index)
    else:
        _INDICES.move_to_end(source)
        # it may have been made under other limits
        limits.check_video(source.path, size=index.size, frames=len(index), seconds=index.seconds)
    return index


def _read_index(source: Source, limits: Limits) -> FrameIndex:
    try:
        with source.open() as file:
            container = identify_opened(source, file)
            missing = missing_bytes(file, source.size, container)
    except OSError as error:
        raise source.error(f"cannot be read ({error.strerror})", "no access") from error
    if missing:
        reason = f"is cut off: {missing:,} of {source.size + missing:,} bytes are missing; copy it again"
        raise source.error(reason, "cut off")
    with open_container(source, container, limits) as opened:
        if container in INDEXED:
            return _index_packets(source, container, opened, limits)
        return _index_by_decoding(source, container, opened, limits)


def _index_packets(source: Source, container: str, opened: av.container.InputContainer, limits: Limits) -> FrameIndex:
    stream = main_video(source, opened)
    packets, first = read_packets(source, opened, stream, limits)
    shown = np.sort(packets.time[~packets.hidden])
    if first is None or first.pts is None or not len(shown):
        raise source.error("holds no frame that can be decoded; copy it again", "damaged")
    # A file that is cut off still has the header of the whole. So has one whose edit list leaves out frames, but that
    # one's duration counts only what is shown. Half a frame of slack: the last one's duration is often a guess.
    end = (packets.time + 1.5 * packets.duration).max() - (stream.start_time or 0)
    if len(packets.time) < stream.frames and end < (stream.duration or 0):
        raise source.error(f"is cut off after {len(packets.time)} of {stream.frames} frames; copy it again", "cut off")
    seekable, trouble = _trouble(opened, stream, packets, shown, first.pts)
    # what comes before the first frame that can be decoded is no frame of a sequential decode
    shown = shown[np.searchsorted(shown, first.pts) :]
    if not len(shown):
        raise source.error("shows a frame that it does not list; copy it again", "damaged")
    keys = np.empty(0, np.int64)
    if (np.diff(shown) > 0).all() and not packets.untimed:
        keys = np.sort(packets.time[packets.key & (packets.time >= first.pts)])
    times = FrameTimes(shown - shown[0], stream.time_base or Fraction(0))
    return _checked_index(
        source, container, stream, first, times, limits, start=shown[0], keys=keys, seekable=seekable, trouble=trouble
    )


def _trouble(
    opened: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    shown: NDArray[np.int64],
    first: int,
) -> tuple[bool, str]:
    """Whether seeking by time finds every frame, and what makes seeking by number, or by either, miss some."""
    if first != shown[0]:
        return False, "it begins in the middle of a group of pictures"
    if packets.untimed or not (np.diff(shown) > 0).all():
        return False, "some frames have no time of their own"
    if packets.unclean:
        return False, "some key frames show the whole picture only later (intra refresh)"
    if packets.invisible:
        return False, "its codec hides frames"
    if packets.sizes > 1:
        return False, "its pictures change their size"
    if stream != opened.streams.video[0]:
        return False, "a cover picture comes before its video"
    if len(shown) < max(len(packets.time), stream.frames):
        return True, "an edit list hides frames"
    videos = sum(not is_cover(video) for video in opened.streams.video)
    if videos > 1:
        return True, f"of its {videos} videos, the first is not always taken for the main one"
    if packets.has_open_groups():
        return True, "some frames depend on a key frame that comes after them (open GOP)"
    return True, ""


def _index_by_decoding(
    source: Source, container: str, opened: av.container.InputContainer, limits: Limits
) -> FrameIndex:
    stream = main_video(source, opened)
    first: av.VideoFrame | None = None
    shown = array("q")
    untimed = False
    for frame in opened.decode(stream):
        first = first or frame
        untimed = untimed or frame.pts is None
        shown.append(frame.pts or 0)
        limits.check(source.path, "max_frames", len(shown), f"{len(shown):,} frames or more")
    if first is None:
        raise source.error("holds no frame that can be decoded; copy it again", "damaged")
    ticks, tick = np.frombuffer(shown, np.int64), stream.time_base or Fraction(0)
    if untimed or not (np.diff(ticks) > 0).all():
        # raw MPEG-4 in AVI, for one, has no times of its own: evenly spaced then
        ticks = np.arange(len(shown), dtype=np.int64)
        tick = 1 / stream.average_rate if stream.average_rate else tick
    times = FrameTimes(ticks - ticks[0], tick)
    trouble = f"{container} files have no exact index"
    keys = np.empty(0, np.int64)
    return _checked_index(
        source, container, stream, first, times, limits, start=0, keys=keys, seekable=False, trouble=trouble
    )


def _checked_index(
    source: Source,
    container: str,
    stream: av.VideoStream,
    first: av.VideoFrame,
    times: FrameTimes,
    limits: Limits,
    *,
    start: int,
    keys: NDArray[np.int64],
    seekable: bool,
    trouble: str,
) -> FrameIndex:
    # counter-clockwise, as FFmpeg and numpy count; players do not show other angles either
    turns = round(first.rotation / 90) % 4
    height, width = (first.width, first.height) if turns % 2 else (first.height, first.width)
    fps = float(stream.average_rate or 0)
    seconds = float((stream.duration or 0) * (stream.time_base or 0)) or times[len(times) - 1] + (1 / fps if fps else 0)
    limits.check_video(source.path, size=(height, width), frames=len(times), seconds=seconds)
    return FrameIndex(
        container=container,
        codec=stream.codec_context.codec.canonical_name,
        size=(height, width),
        turns=turns,
        times=times,
        start=int(start),
        keys=keys,
        fps=fps,
        announced=stream.frames,
        seconds=seconds,
        stream=stream.index,
        seekable=seekable,
        trouble=trouble,
    )
