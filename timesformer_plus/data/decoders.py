"""One way to read frames from a video file, whichever library decodes it.

Every decoder answers the same four questions, and frame ``i`` is the same picture from all of them: the i-th frame of
one sequential decode, upright. Where a library is known to return a neighbour instead, its class refuses the file and
names a decoder that reads it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from timesformer_plus.data.containers import INDEXED, DecodeError, FrameIndex, index_frames, open_container

__all__ = [
    "DecodeError",
    "Decoder",
    "DecoderName",
    "DecordDecoder",
    "Frames",
    "PyAVDecoder",
    "PyTorchVideoDecoder",
    "TorchCodecDecoder",
    "open_video",
    "resolve_decoder",
]

Frames = NDArray[np.uint8]
DecoderName = Literal["auto", "decord", "pyav", "pytorchvideo", "torchcodec"]


class Decoder(Protocol):
    """An open video."""

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
        """(height, width) of the frames, in pixels."""
        ...

    def read(self, indices: Sequence[int]) -> Frames:
        """Decode frames by index, in the order asked for; an index may come again.

        Args:
            indices: Frame numbers in ``range(num_frames)``, N of them, at least one.

        Returns:
            RGB, uint8, (N, height, width, 3).

        Raises:
            IndexError: No index, or one outside ``range(num_frames)``.
            DecodeError: A frame that cannot be decoded.
        """
        ...


def open_video(path: str | Path, decoder: DecoderName = "auto") -> Decoder:
    """Open a video file.

    Args:
        path: The file.
        decoder: ``"decord"``, ``"pyav"``, ``"pytorchvideo"``, ``"torchcodec"``, or ``"auto"``, which is decord where
            that is installed, else PyAV.

    Returns:
        The open video.

    Raises:
        ImportError: The decoder is not installed, or cannot be loaded.
        DecodeError: The file is not a readable video.
        ValueError: An unknown decoder name.
    """
    return _DECODERS[resolve_decoder(decoder)](Path(path))


def resolve_decoder(decoder: str) -> DecoderName:
    """Name the decoder that ``decoder`` stands for on this machine, so that it can be recorded and stays the same.

    Args:
        decoder: A ``DecoderName``. ``"auto"`` is decord where it is installed, else PyAV: both bring their own FFmpeg,
            and what it stands for does not change with the FFmpeg of the machine.

    Returns:
        A name other than ``"auto"``.

    Raises:
        ImportError: It is not installed, or cannot be loaded.
        ValueError: An unknown name.
    """
    if decoder == "auto":
        for name in ("decord", "pyav"):
            if not _not_installed(name):
                return name
        raise ImportError("no video decoder is installed; run `pip install decord`, or `pip install av`")
    if decoder not in _DECODERS:
        raise ValueError(f"decoder={decoder!r} is unknown; allowed are {', '.join(map(repr, get_args(DecoderName)))}")
    if packages := _not_installed(decoder):
        raise ImportError(
            f"decoder={decoder!r} needs {' and '.join(packages)}, not installed here; run "
            f"`pip install {' '.join(packages)}`, or take decoder='auto' for one that is"
        )
    if decoder == "torchcodec":
        _load_torchcodec()
    return cast(DecoderName, decoder)


class DecordDecoder:
    """Frames by decord, the fastest.

    It seeks to frames, so files in which that misses are refused: AVI, MPEG-TS, edit lists that hide frames, open GOPs
    (which is what x265 writes unless told otherwise), and files of several videos, where it need not take the first. A
    damaged frame that FFmpeg manages to patch up comes patched up.
    """

    def __init__(self, path: Path) -> None:
        import decord

        index = index_frames(path)
        if index.trouble:
            raise DecodeError(path, f"decord would return wrong frames, {index.trouble}; use decoder='pyav'")
        self.path = path
        self.num_frames = len(index.times)
        self.fps = index.fps
        self._errors = (RuntimeError, AssertionError, decord.DECORDError)
        try:
            # the least fault_tol above 0: decord otherwise fills a damaged frame with the last good one, silently
            self._reader: Any = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-9)
        except self._errors as error:
            raise DecodeError(path, f"decord cannot open it ({_first_line(error)}); try decoder='pyav'") from error
        if len(self._reader) != self.num_frames:
            reason = f"decord counts {len(self._reader)} frames, the file has {self.num_frames}; use decoder='pyav'"
            raise DecodeError(path, reason)
        # decord tells the size of a frame only with the frame
        height, width, _ = self.read([0])[0].shape
        self.size = (height, width)

    def read(self, indices: Sequence[int]) -> Frames:
        """See ``Decoder.read``."""
        _check_indices(self.path, indices, self.num_frames)
        try:
            batch = self._reader.get_batch(list(indices))
        except self._errors as error:
            reason = f"decord cannot read frames {list(indices)} ({_first_line(error)}); try decoder='pyav'"
            raise DecodeError(self.path, reason) from error
        # decord's own array, or a tensor once pytorchvideo has switched decord's bridge for the whole process
        return cast(Frames, batch.asnumpy() if hasattr(batch, "asnumpy") else batch.numpy())


class PyAVDecoder:
    """Frames by PyAV, always decoded from the start: exact wherever FFmpeg is, slow far into a long video."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = index_frames(path)
        self.num_frames = len(self._index.times)
        self.fps = self._index.fps

    @cached_property
    def size(self) -> tuple[int, int]:
        """See ``Decoder.size``."""
        return _orientation(self.path, self._index)[1]

    def read(self, indices: Sequence[int]) -> Frames:
        """See ``Decoder.read``."""
        _check_indices(self.path, indices, self.num_frames)
        wanted, last = set(indices), max(indices)
        pictures: dict[int, Frames] = {}
        with open_container(self.path, self._index.container) as opened:
            for i, frame in enumerate(opened.decode(video=0)):
                if i in wanted and frame.is_corrupt:
                    raise DecodeError(self.path, f"frame {i} of {self.num_frames} is damaged; copy the file again")
                if i in wanted:
                    pictures[i] = _upright(
                        cast(Frames, frame.to_ndarray(format="rgb24")), _quarter_turns(frame.rotation)
                    )
                if i == last:
                    break
        if len(pictures) < len(wanted):
            lost = min(wanted - pictures.keys())
            raise DecodeError(self.path, f"frame {lost} of {self.num_frames} could not be decoded; copy the file again")
        return np.stack([pictures[i] for i in indices])


class PyTorchVideoDecoder:
    """Frames by pytorchvideo's ``EncodedVideo`` with its PyAV backend; refuses AVI and MPEG-TS.

    It reads spans of seconds, so an index is turned into the exact time of its frame first. Everything between the
    first and the last frame asked for is decoded, and held as float32: meant for short clips and for parity with code
    that builds on pytorchvideo.
    """

    def __init__(self, path: Path) -> None:
        from pytorchvideo.data.encoded_video import EncodedVideo

        self.path = path
        self._index = index_frames(path)
        if self._index.container not in INDEXED:
            raise DecodeError(
                path, f"pytorchvideo would return wrong frames, {self._index.trouble}; use decoder='pyav'"
            )
        self.num_frames = len(self._index.times)
        self.fps = self._index.fps
        self._turns, self.size = _orientation(path, self._index)
        try:
            self._video: Any = EncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
        except (RuntimeError, OSError) as error:
            raise DecodeError(path, f"pytorchvideo cannot open it ({_first_line(error)})") from error

    def read(self, indices: Sequence[int]) -> Frames:
        """See ``Decoder.read``."""
        _check_indices(self.path, indices, self.num_frames)
        first, last = min(indices), max(indices)
        # the end of the span is exclusive: one tick after the last frame's time
        video = self._video.get_clip(self._index.times[first], self._index.times[last] + self._index.tick)["video"]
        found = 0 if video is None else video.shape[1]
        if found != last - first + 1:
            reason = (
                f"pytorchvideo read {found} frames from {first} to {last}; the file is damaged, or try decoder='pyav'"
            )
            raise DecodeError(self.path, reason)
        chosen = video[:, [i - first for i in indices]].permute(1, 2, 3, 0).byte().numpy()
        return np.stack([_upright(picture, self._turns) for picture in chosen])


class TorchCodecDecoder:
    """Frames by torchcodec with an exact index, through the FFmpeg of the machine; refuses AVI, MPEG-TS and their like.

    Seeks, and reads what decord refuses as well: edit lists and open GOPs. Opening takes one more pass over the packets
    of the file, for torchcodec's own index. A damaged frame that FFmpeg manages to patch up comes patched up.
    """

    def __init__(self, path: Path) -> None:
        index = index_frames(path)
        if index.container not in INDEXED:
            raise DecodeError(path, f"torchcodec would return wrong frames, {index.trouble}; use decoder='pyav'")
        self.path = path
        self.num_frames = len(index.times)
        self.fps = index.fps
        # what torchcodec raises depends on its layer: RuntimeError from FFmpeg, the others from its own checks
        self._errors = (RuntimeError, ValueError, IndexError)
        video_decoder = _load_torchcodec()
        try:
            self._reader: Any = video_decoder(
                str(path.absolute()),  # a relative name could be taken for an address
                stream_index=index.stream,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",  # else torch's default device
                seek_mode="exact",
            )
        except self._errors as error:
            raise DecodeError(path, f"torchcodec cannot open it ({_first_line(error)}); try decoder='pyav'") from error
        if len(self._reader) != self.num_frames:
            reason = f"torchcodec counts {len(self._reader)} frames, the file has {self.num_frames}; use decoder='pyav'"
            raise DecodeError(path, reason)

    @property
    def size(self) -> tuple[int, int]:
        """See ``Decoder.size``."""
        return self._reader.metadata.height, self._reader.metadata.width

    def read(self, indices: Sequence[int]) -> Frames:
        """See ``Decoder.read``."""
        _check_indices(self.path, indices, self.num_frames)
        try:
            batch = self._reader.get_frames_at(list(indices))
        except self._errors as error:
            reason = f"torchcodec cannot read frames {list(indices)} ({_first_line(error)}); try decoder='pyav'"
            raise DecodeError(self.path, reason) from error
        return cast(Frames, batch.data.numpy())


_DECODERS: dict[str, Callable[[Path], Decoder]] = {
    "decord": DecordDecoder,
    "pyav": PyAVDecoder,
    "pytorchvideo": PyTorchVideoDecoder,
    "torchcodec": TorchCodecDecoder,
}
# modules that each imports, PyAV for the list of frames; pip calls them by the same names
_MODULES = {
    "decord": ("decord", "av"),
    "pyav": ("av",),
    "pytorchvideo": ("pytorchvideo", "av"),
    "torchcodec": ("torchcodec", "av"),
}


def _not_installed(decoder: str) -> list[str]:
    return [module for module in _MODULES[decoder] if importlib.util.find_spec(module) is None]


def _load_torchcodec() -> Callable[..., Any]:
    """Import torchcodec's reader, and make sure that it found FFmpeg and turns frames upright."""
    try:
        # import statements would fail the type check, with and without torchcodec: it marks none of its names public
        torchcodec: Any = importlib.import_module("torchcodec")
        # None where no FFmpeg was found; earlier releases raise on import
        if torchcodec.ffmpeg_major_version is None:
            raise RuntimeError("it could not load its libraries for any version of FFmpeg")
        if "rotation" not in torchcodec.decoders.VideoStreamMetadata.__dataclass_fields__:
            raise RuntimeError("it is older than 0.11 and leaves turned videos lying on their side")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            "decoder='torchcodec' cannot be loaded: beside `pip install torchcodec`, 0.11 or later and made for the "
            "torch that is installed, it needs the system's FFmpeg libraries, as `apt-get install ffmpeg`, `conda "
            "install ffmpeg` or `brew install ffmpeg` bring them; or take decoder='auto', which needs neither "
            f"({_first_line(error)})"
        ) from error
    return cast(Callable[..., Any], torchcodec.decoders.VideoDecoder)


def _check_indices(path: Path, indices: Sequence[int], num_frames: int) -> None:
    if not indices or min(indices) < 0 or max(indices) >= num_frames:
        raise IndexError(f"{path}: frames {list(indices)} asked for; allowed are 0 to {num_frames - 1}, at least one")


def _orientation(path: Path, index: FrameIndex) -> tuple[int, tuple[int, int]]:
    """Counter-clockwise quarter turns that bring frames upright, and their (height, width) then."""
    with open_container(path, index.container) as opened:
        first = next(opened.decode(video=0), None)
    if first is None:
        raise DecodeError(path, "holds no frame that can be decoded; copy it again")
    turns = _quarter_turns(first.rotation)
    return turns, (first.width, first.height) if turns % 2 else (first.height, first.width)


def _quarter_turns(degrees: int) -> int:
    """Counter-clockwise, as FFmpeg and numpy count; players do not show other angles either."""
    return round(degrees / 90) % 4


def _upright(picture: Frames, turns: int) -> Frames:
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
