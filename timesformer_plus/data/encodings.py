"""Small videos in the encodings that data sets come in, whose frames carry their own number.

Written on the spot, they tell whether the decoders of a machine agree on which picture frame ``i`` is, whatever the
codec did to it; ``timesformer_plus.data.decoder_table`` prints the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av

BITS = 8
# H.264 that says so everywhere: ten frames from one key frame to the next, none of them by chance
_CLOSED = {"g": "10", "bf": "2", "x264-params": "scenecut=0"}


@dataclass(frozen=True)
class Encoding:
    """How a sample video is written.

    Attributes:
        name: What it is, for a table.
        file: Name of the file; its suffix decides the container unless ``container_format`` does.
        codec: FFmpeg's name of the encoder.
        pix_fmt: FFmpeg's name of the pixels' format.
        size: (height, width) in pixels.
        count: Frames, at most 256.
        rate: Frames per second.
        options: Options of the encoder.
        container_options: Options of the container.
        container_format: FFmpeg's name of the container.
        times: Times of the frames in ticks of 1/1000 s, instead of a constant rate.
        hide: How many first frames are put before time 0, which mp4 expresses by an edit list: decoded, but not shown.
        turned: Whether players are asked to turn the picture by a quarter, clockwise; mp4 and mov only.
    """

    name: str
    file: str
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (48, 64)
    count: int = 40
    rate: Fraction = Fraction(25)
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    container_format: str | None = None
    times: Sequence[int] | None = None
    hide: int = 0
    turned: bool = False


def numbered_frame(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Draw a number in binary: one black or white stripe a bit, the highest first; the upper third is grey.

    Args:
        number: 0 to 255.
        height: Pixels.
        width: Pixels, at least 16.

    Returns:
        RGB, uint8, (height, width, 3).
    """
    frame = np.full((height, width, 3), 100, np.uint8)
    for bit in range(BITS):
        stripe = slice(bit * width // BITS, (bit + 1) * width // BITS)
        frame[height // 3 :, stripe] = 255 * (number >> (BITS - 1 - bit) & 1)
    return frame


def number_of(frame: NDArray[np.uint8]) -> int:
    """Read the number of a frame, (height, width, 3), that ``numbered_frame`` drew."""
    height, width, _ = frame.shape
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bits = frame[height // 3 + 4 : -4, centres].mean(axis=(0, 2)) > 127
    return int(sum(int(on) << (BITS - 1 - bit) for bit, on in enumerate(bits)))


def write_encoding(path: Path, encoding: Encoding) -> Path:
    """Write numbered frames as ``encoding`` says, by PyAV.

    Args:
        path: The file to write; ``encoding.file`` has no say over it.
        encoding: How.

    Returns:
        ``path``.

    Raises:
        ValueError: PyAV was built without the encoder.
    """
    import av

    rate, size = encoding.rate, encoding.size
    with av.open(
        str(path), "w", format=encoding.container_format, options=dict(encoding.container_options)
    ) as container:
        stream = cast("av.VideoStream", container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options)))
        stream.height, stream.width = size
        stream.pix_fmt = encoding.pix_fmt
        stream.codec_context.thread_count = 1
        tick = Fraction(1, 1000) if encoding.times is not None else 1 / rate
        stream.codec_context.time_base = tick
        for i in range(encoding.count):
            frame = _coloured(numbered_frame(i, *size), encoding.pix_fmt)
            frame.pts = encoding.times[i] if encoding.times is not None else i - encoding.hide
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if encoding.turned:
        _turn(path)
    return path


def sequential_numbers(path: Path) -> list[int]:
    """What a plain decode by PyAV from start to end shows: the truth that every decoder is held against."""
    import av

    with av.open(str(path)) as container:
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        return [number_of(frame.astype(np.uint8, copy=False)) for frame in frames]


def _coloured(picture: NDArray[np.uint8], pix_fmt: str) -> av.VideoFrame:
    import av

    if "a" not in pix_fmt.removeprefix("gray"):
        return av.VideoFrame.from_ndarray(picture, format="rgb24")
    # transparent from end to end: what shows nevertheless is the colour underneath
    clear = np.concatenate([picture, np.zeros((*picture.shape[:2], 1), np.uint8)], axis=2)
    return av.VideoFrame.from_ndarray(clear, format="rgba")


def _turn(path: Path) -> None:
    """Put a display matrix into an mp4 that asks players to turn the picture by a quarter, clockwise."""
    content = bytearray(path.read_bytes())
    # version 0 of the header: flags, two dates, id, reserved, duration, reserved, layer, group, volume, reserved
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    rows = (0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in rows)
    path.write_bytes(content)


def _x265(parameters: str) -> dict[str, str]:
    return {"x265-params": f"log-level=none:keyint=10:{parameters}"}


# at its faster presets the encoder repeats frames outright
_AV1 = {"preset": "8", "crf": "20"}
_VPX = {"g": "10", "deadline": "realtime", "cpu-used": "8"}


_UNEVEN = tuple(40 * i + 11 * (i % 3) for i in range(40))
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

ENCODINGS = (
    Encoding("H.264, no B-frames, mp4", "plain.mp4", options=_CLOSED | {"bf": "0"}),
    Encoding("H.264, B-frames, mp4", "b.mp4", options=_CLOSED),
    Encoding("H.264, every frame a key frame", "intra.mp4", options={"g": "1", "bf": "0"}),
    Encoding("H.264, open groups", "open.mp4", options=_CLOSED | {"x264-params": "scenecut=0:open-gop=1"}),
    Encoding("H.264, intra refresh", "refresh.mp4", options=_CLOSED | {"x264-params": "scenecut=0:intra-refresh=1"}),
    Encoding("H.264, index first", "first.mp4", options=_CLOSED, container_options={"movflags": "faststart"}),
    Encoding("H.264, fragments", "fragments.mp4", options=_CLOSED, container_options=_FRAGMENTS),
    # so many that the first one shown needs hidden ones
    Encoding("H.264, edit list", "edit.mp4", options=_CLOSED, hide=15),
    Encoding("H.264, 23.976 frames/s", "ntsc.mp4", options=_CLOSED, rate=Fraction(24000, 1001)),
    Encoding("H.264, 30 frames/s", "thirty.mp4", options=_CLOSED, rate=Fraction(30)),
    Encoding("H.264, variable rate", "uneven.mp4", options=_CLOSED, times=_UNEVEN),
    Encoding("H.264, variable rate, mkv", "uneven.mkv", options=_CLOSED, times=_UNEVEN),
    Encoding("H.264, turned by its header", "turned.mp4", size=(64, 128), options=_CLOSED, turned=True),
    Encoding("H.264, odd size", "odd.mp4", options=_CLOSED, size=(51, 67), pix_fmt="yuv444p"),
    Encoding("H.264, one frame", "one.mp4", count=1),
    Encoding("H.264, three frames", "three.mp4", count=3),
    Encoding("H.264, 10 bits", "ten.mp4", options=_CLOSED, pix_fmt="yuv420p10le"),
    Encoding("H.264, full range", "full.mp4", options=_CLOSED, pix_fmt="yuvj420p"),
    Encoding("H.264, mov", "h264.mov", options=_CLOSED),
    Encoding("H.264, mkv", "h264.mkv", options=_CLOSED),
    Encoding("H.264, mp4 named .avi", "mp4.avi", options=_CLOSED, container_format="mp4"),
    Encoding("H.264, flv", "h264.flv", options=_CLOSED),
    Encoding("H.264, transport stream", "h264.ts", options=_CLOSED),
    Encoding("H.264, avi", "h264.avi", options=_CLOSED | {"bf": "0"}),
    Encoding("HEVC, mp4", "hevc.mp4", "libx265", options=_x265("open-gop=0")),
    Encoding("HEVC, open groups", "open-hevc.mp4", "libx265", options=_x265("open-gop=1")),
    Encoding("HEVC, 10 bits, mkv", "hevc.mkv", "libx265", "yuv420p10le", options=_x265("open-gop=0")),
    Encoding("VP8, webm", "vp8.webm", "libvpx", options=_VPX),
    Encoding("VP9, webm", "vp9.webm", "libvpx-vp9", options=_VPX),
    Encoding("VP9, alpha, webm", "alpha.webm", "libvpx-vp9", "yuva420p", options=_VPX | {"auto-alt-ref": "0"}),
    Encoding("AV1, mp4", "av1.mp4", "libsvtav1", size=(64, 64), options=_AV1 | {"g": "10"}),
    Encoding("AV1, 10 bits, webm", "av1.webm", "libsvtav1", "yuv420p10le", (64, 64), options=_AV1),
    Encoding("MPEG-4, mp4", "mpeg4.mp4", "mpeg4", options={"g": "10"}),
    Encoding("MPEG-4, B-frames, mkv", "mpeg4.mkv", "mpeg4", options={"g": "10", "bf": "2"}),
    Encoding("MPEG-4, avi", "mpeg4.avi", "mpeg4"),
    Encoding("MPEG-2, program stream", "mpeg2.mpg", "mpeg2video"),
    Encoding("Motion JPEG, mov", "mjpeg.mov", "mjpeg", "yuvj420p"),
    Encoding("Motion JPEG, avi", "mjpeg.avi", "mjpeg", "yuvj420p"),
    Encoding("WMV 8, wmv", "wmv2.wmv", "wmv2"),
    Encoding("FFV1, grey, mkv", "grey.mkv", "ffv1", "gray"),
    Encoding("ProRes 4444, alpha, mov", "prores.mov", "prores_ks", "yuva444p10le"),
    Encoding("QuickTime animation, alpha, mov", "qtrle.mov", "qtrle", "argb"),
)
