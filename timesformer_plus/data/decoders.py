"""One way to read frames from a video, whichever library decodes it.

Every decoder answers the same questions, and frame ``i`` is the same picture from all of them: the i-th frame of one
sequential decode, upright, RGB. Where a library is known to return a neighbour instead, its class refuses the file and
names a decoder that reads it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from timesformer_plus.data.backends import DecordDecoder, PyTorchVideoDecoder, TorchCodecDecoder, load_torchcodec
from timesformer_plus.data.containers import index_source
from timesformer_plus.data.frame_reader import Frames
from timesformer_plus.data.guard import DecodeError, Limits, admit
from timesformer_plus.data.pyav_decoder import PyAVDecoder
from timesformer_plus.data.stills import ArrayDecoder, ImagesDecoder

__all__ = [
    "ArrayDecoder",
    "DecodeError",
    "Decoder",
    "DecoderName",
    "DecordDecoder",
    "Frames",
    "ImagesDecoder",
    "Limits",
    "PyAVDecoder",
    "PyTorchVideoDecoder",
    "TorchCodecDecoder",
    "describe_auto",
    "is_usable",
    "open_video",
    "resolve_decoder",
]

DecoderName = Literal["auto", "decord", "pyav", "pytorchvideo", "torchcodec"]


class Decoder(Protocol):
    """An open video."""

    @property
    def name(self) -> str:
        """Which decoder this is: ``decord``, ``pyav``, ``pytorchvideo``, ``torchcodec``, ``images`` or ``array``."""
        ...

    @property
    def num_frames(self) -> int:
        """How many frames can be read."""
        ...

    @property
    def fps(self) -> float:
        """Average frames per second; 0 where the file does not say."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames that ``read`` returns, in pixels."""
        ...

    @property
    def times(self) -> Sequence[float]:
        """When each frame is shown, in seconds after the first one, ascending; (num_frames,).

        Raises:
            DecodeError: Frames without times: images or an array, and no ``fps`` given.
        """
        ...

    def read(self, indices: Sequence[int]) -> Frames:
        """Decode frames by index, in the order asked for; an index may come again.

        Args:
            indices: Frame numbers in ``range(num_frames)``, N of them, at least one.

        Returns:
            RGB, uint8, (N, height, width, 3).

        Raises:
            IndexError: No index, or one outside ``range(num_frames)``.
            DecodeError: A frame that cannot be decoded, or more bytes than ``limits.max_read_bytes``.
        """
        ...


def open_video(
    path: str | Path,
    decoder: DecoderName = "auto",
    *,
    member: tuple[int, int] | None = None,
    limits: Limits | None = None,
    short_side: int | None = None,
    fps: float | None = None,
) -> Decoder:
    """Open a video file, a folder of numbered frame images, or an ``.npy`` file of frames.

    Args:
        path: The file or folder.
        decoder: ``"decord"``, ``"pyav"``, ``"pytorchvideo"``, ``"torchcodec"``, or ``"auto"``, the fastest that is
            exact on the file, see ``describe_auto``. It has no say over folders and ``.npy``.
        member: Offset and length in bytes of the part of ``path`` that is the video, for a member of a tar archive.
            The library that decodes it sees these bytes and nothing else.
        limits: How large a video may be; the usual limits if not given.
        short_side: Pixels. Frames whose shorter side is longer are made smaller, to this, their shape kept (the longer
            side rounded down); by one and the same resizer (torchvision, bilinear, antialiased) for all decoders.
        fps: Frames per second of a folder or an ``.npy`` file; without it, these can be read by number only, and asking
            for their ``times`` is an error. Files of video have their own.

    Returns:
        The open video.

    Raises:
        ImportError: The decoder is not installed, or cannot be loaded.
        DecodeError: The file is not a readable video, or beyond the limits.
        ValueError: An unknown decoder name; ``short_side`` or ``fps`` not above zero.
    """
    path = Path(path)
    limits = limits or Limits()
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps}: must be above 0, or None where nobody knows")
    # unlike path.is_dir(), this does not fail where the system does not tell; the guard says why
    if member is None and os.path.isdir(path):
        return ImagesDecoder(path, fps=fps, limits=limits, short_side=short_side)
    if path.suffix.lower() == ".npy" and member is None:
        return ArrayDecoder(path, fps=fps, limits=limits, short_side=short_side)
    name = resolve_decoder(decoder)
    source = admit(path, member=member, limits=limits)
    index = index_source(source, limits)
    return _DECODERS[name](source, index, limits=limits, short_side=short_side)


def resolve_decoder(decoder: str) -> DecoderName:
    """Check, once and early, that a decoder can be used on this machine.

    Args:
        decoder: A ``DecoderName``.

    Returns:
        The same name.

    Raises:
        ImportError: It is not installed, or cannot be loaded.
        ValueError: An unknown name.
    """
    if decoder not in get_args(DecoderName):
        raise ValueError(f"decoder={decoder!r} is unknown; allowed are {', '.join(map(repr, get_args(DecoderName)))}")
    if packages := _not_installed(decoder):
        raise ImportError(
            f"decoder={decoder!r} needs {' and '.join(packages)}, not installed here; run "
            f"`pip install {' '.join(packages)}`"
            + ("" if "av" in packages else ", or take decoder='auto' for one that is")
        )
    if decoder == "torchcodec":
        load_torchcodec()
    return cast(DecoderName, decoder)


def is_usable(decoder: str) -> bool:
    """Whether a decoder is installed and can be loaded; see ``resolve_decoder``."""
    try:
        resolve_decoder(decoder)
    except ImportError:
        return False
    return True


def describe_auto() -> str:
    """Say in one line which library ``decoder="auto"`` reads which files with on this machine.

    Raises:
        ImportError: PyAV is not installed.
    """
    resolve_decoder("auto")
    return "auto: PyAV reads every video"


_DECODERS: dict[str, Callable[..., Decoder]] = {
    # decord and torchcodec go through the whole file whenever they open it, and decode what nobody refers to: on H.264
    # PyAV is 1.4 to 2.6 times as fast as decord (see analysis/bench/data.py), and where they agree, to the pixel
    "auto": PyAVDecoder,
    "decord": DecordDecoder,
    "pyav": PyAVDecoder,
    "pytorchvideo": PyTorchVideoDecoder,
    "torchcodec": TorchCodecDecoder,
}
# modules that each imports, PyAV for the list of frames; pip calls them by the same names
_MODULES = {
    "auto": ("av",),
    "decord": ("decord", "av"),
    "pyav": ("av",),
    "pytorchvideo": ("pytorchvideo", "av"),
    "torchcodec": ("torchcodec", "av"),
}


def _not_installed(decoder: str) -> list[str]:
    return [module for module in _MODULES[decoder] if importlib.util.find_spec(module) is None]
