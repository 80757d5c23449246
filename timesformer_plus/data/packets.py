"""Opening a container, and its coded frames: when each is shown, and where decoding can begin."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from timesformer_plus.data.guard import Limits, Source
from timesformer_plus.data.key_frames import is_clean_start, picture_parameters, unit_length_bytes

if TYPE_CHECKING:
    import av
    import av.container


# Left to itself FFmpeg decodes the first frames of every file that it opens, to tell what the header does not: 30 ms at
# 1280x720, a tenth of what a clip takes. With these it is content with the first bytes, and nothing is decoded.
_NO_PROBE = {"probesize": "32", "skip_frame": "all"}


@contextmanager
def open_container(
    source: Source, container: str, limits: Limits, *, probe: bool = True
) -> Iterator[av.container.InputContainer]:
    """Open a file with PyAV, with a demuxer named beforehand and local files only.

    Args:
        source: The file.
        container: Name of the demuxer, see ``identify``.
        limits: What the header may announce.
        probe: Whether FFmpeg decodes the first frames to tell what the header does not: the format of the pixels, the
            rate, and how far frames are out of order where an H.264 file does not say. Without the last a decoder may
            drop frames; the time of those that it gives is right.

    Yields:
        The open container.

    Raises:
        DecodeError: It cannot be opened, holds no video, is larger than the limits, or an FFmpeg error comes up while
            it is used.
    """
    import av

    file = source.open() if source.member else None
    options = {"protocol_whitelist": "file", **({} if probe else _NO_PROBE)}
    try:
        # these are options of opening alone: PyAV makes the decoder of a stream anew
        with av.open(file or str(source.path), format=container, options=options) as opened:
            stream = main_video(source, opened)
            _check_header(source, stream, limits)
            stream.codec_context.thread_count = 1
            # a stream whose pictures grow beyond what its header said stops the decoder before it makes room for them
            stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
            yield opened
    except (av.FFmpegError, EOFError, ValueError) as error:
        raise source.error(f"is damaged ({type(error).__name__}: {error})", "damaged") from error
    finally:
        if file is not None:
            file.close()


@contextmanager
def packets_of(
    opened: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[Iterator[av.Packet[av.VideoStream]]]:
    """Read the coded frames of a stream; to be left before the container is.

    PyAV loses 150 bytes whenever an unfinished reading is left to the garbage collector, in holes all over the heap:
    4 MB for 1,000 videos.
    """
    packets = cast("Generator[av.Packet[av.VideoStream], None, None]", opened.demux(stream))
    with closing(packets):
        yield packets


def main_video(source: Source, opened: av.container.InputContainer) -> av.VideoStream:
    """The stream that is read: the first video that is no cover picture.

    Raises:
        DecodeError: There is none.
    """
    for stream in opened.streams.video:
        if not is_cover(stream):
            return stream
    found = "a cover picture only" if opened.streams.video else "no video stream"
    raise source.error(f"holds {found}; remove it from the manifest", "not a video")


def is_cover(stream: av.VideoStream) -> bool:
    """Whether a video is the cover picture of the file."""
    from av.stream import Disposition

    # mp4, mov and mkv keep it as a video of its own
    return bool(stream.disposition & Disposition.attached_pic)


def _check_header(source: Source, stream: av.VideoStream, limits: Limits) -> None:
    context = cast("av.VideoCodecContext | None", stream.codec_context)
    if context is None:
        reason = "is in a codec that FFmpeg does not know; convert it to H.264, or leave it out"
        raise source.error(reason, "unsupported")
    seconds = float((stream.duration or 0) * (stream.time_base or 0))
    limits.check_video(source.path, size=(context.height, context.width), frames=stream.frames, seconds=seconds)


class Packets(NamedTuple):
    """The coded frames of a stream in the order of decoding: times in ticks, int64, and flags, bool; each (N,).

    ``key`` marks the packets that decoding can begin at, ``unclean`` counts those that only claim it; ``invisible``
    counts what the codec itself never shows, ``untimed`` what has no presentation time, ``sizes`` the different
    parameters of pictures that key frames bring along.
    """

    time: NDArray[np.int64]
    duration: NDArray[np.int64]
    key: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    unclean: int
    invisible: int
    untimed: int
    sizes: int

    def has_open_groups(self) -> bool:
        """Whether a key frame, other than the first, is followed by a frame shown before it."""
        # of every frame, the last key frame; times of key frames ascend in the order of decoding
        last = np.maximum.accumulate(np.where(self.key, self.time, self.time[0]))
        return bool(((self.time < last) & (last != self.time[0])).any())


def read_packets(
    source: Source, opened: av.container.InputContainer, stream: av.VideoStream, limits: Limits
) -> tuple[Packets, av.VideoFrame | None]:
    """All packets of a video, and the first frame that can be decoded."""
    codec = stream.codec_context.codec.canonical_name
    length_bytes = unit_length_bytes(codec, stream.codec_context.extradata)
    first: av.VideoFrame | None = None
    unclean = invisible = untimed = 0
    sizes: set[bytes] = set()
    # four numbers a packet, flat: an hour of video has 100,000 packets
    rows = array("q")
    for packet in opened.demux(stream):
        if packet.has_sidedata("encryption_info"):
            raise source.error("is encrypted; decrypt it first, or leave it out", "unsupported")
        if first is None:
            first = next(iter(packet.decode()), None)
        if not packet.size:
            continue
        key, hidden = packet.is_keyframe, packet.is_discard
        if key:
            sizes.add(picture_parameters(codec, memoryview(packet), length_bytes))
            key = is_clean_start(codec, memoryview(packet), length_bytes)
            unclean += not key
        # VP8: a flag of the frame's first byte; its alternate references have packets of their own
        if codec == "vp8" and not memoryview(packet)[0] & 0x10:
            hidden = True
            invisible += 1
        untimed += packet.pts is None
        # without a presentation time the frame is presented when it is decoded
        time = packet.pts if packet.pts is not None else packet.dts or 0
        rows.extend((time, packet.duration or 0, key, hidden))
        limits.check(source.path, "max_frames", len(rows) // 4, f"{len(rows) // 4:,} frames or more")
    table = np.frombuffer(rows, np.int64).reshape(-1, 4)
    time, duration, key, hidden = table.T
    flags = key.astype(bool), hidden.astype(bool)
    return Packets(time, duration, *flags, unclean, invisible, untimed, len(sizes - {b""})), first
