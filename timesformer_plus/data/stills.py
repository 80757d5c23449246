"""Videos that are no video files: a folder of frame images, and an ``.npy`` file of frames.

Neither has times. The caller gives the frame rate; without one, frames can be read by number, but not asked for times.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from timesformer_plus.data.containers import FrameTimes
from timesformer_plus.data.frame_reader import FrameReader, Frames
from timesformer_plus.data.guard import DecodeError, Limits, admit

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class ImagesDecoder(FrameReader):
    """A folder of numbered frame images, one video.

    The last number in a file's name is the frame's; they may start anywhere, but none may be left out or come twice.
    Images are turned to RGB (palettes and grey too, transparency dropped); how a camera was held (EXIF) is left out of
    account, since tools that write frames out turn them upright already, and write no EXIF. Files whose suffix is
    not an image's (labels, thumbnails' databases) are passed over; so are hidden ones.

    Args:
        path: The folder.
        fps: Frames per second; ``None`` if nobody knows.
        limits: How large a video may be.
        short_side: See ``open_video``.

    Raises:
        DecodeError: No images, gaps in their numbers, several kinds of them, or too many.
    """

    name = "images"

    def __init__(self, path: Path, *, fps: float | None, limits: Limits, short_side: int | None) -> None:
        self._files = _numbered_images(path, limits)
        size = _image_size(self._files[0], limits)
        super().__init__(path, len(self._files), fps or 0.0, size, limits=limits, short_side=short_side)

    @property
    def times(self) -> Sequence[float]:
        """See ``Decoder.times``."""
        return _even_times(self.path, len(self._files), self.fps)

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        for i in wanted:
            yield _read_image(self._files[i], self._limits)


class ArrayDecoder(FrameReader):
    """The frames of an ``.npy`` file, uint8 of shape (N, height, width, 3), mapped into memory rather than loaded.

    Args:
        path: The file. Arrays of Python objects are refused: loading them would run what the file says.
        fps: Frames per second; ``None`` if nobody knows.
        limits: How large a video may be.
        short_side: See ``open_video``.

    Raises:
        DecodeError: Not such a file, or too large.
    """

    name = "array"

    def __init__(self, path: Path, *, fps: float | None, limits: Limits, short_side: int | None) -> None:
        source = admit(path, limits=limits)
        try:
            self._array = np.lib.format.open_memmap(source.path, mode="r")
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError) as error:
            reason = f"is no whole .npy file of plain numbers ({error}); write it with np.save(path, frames)"
            raise DecodeError(path, reason, "damaged") from error
        array = self._array
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            found = f"{getattr(array, 'dtype', type(array))} of shape {getattr(array, 'shape', '?')}"
            raise DecodeError(
                path, f"holds {found}; frames must be uint8 of shape (N, height, width, 3)", "unsupported"
            )
        if not array.size:
            raise DecodeError(path, f"holds no frame: its shape is {array.shape}; write it again", "empty")
        count, height, width, _ = array.shape
        limits.check_video(path, size=(height, width), frames=count, seconds=0)
        super().__init__(path, count, fps or 0.0, (height, width), limits=limits, short_side=short_side)

    @property
    def times(self) -> Sequence[float]:
        """See ``Decoder.times``."""
        return _even_times(self.path, self.num_frames, self.fps)

    def _pictures(self, wanted: Sequence[int]) -> Iterator[Frames]:
        for i in wanted:
            yield np.array(self._array[i : i + 1])


def _even_times(path: Path, count: int, fps: float) -> FrameTimes:
    if not fps:
        raise DecodeError(path, "frames without a video file have no times; give data.image_fps", "unsupported")
    return FrameTimes(np.arange(count, dtype=np.int64), 1 / Fraction(fps).limit_denominator(1_000_000))


def _numbered_images(folder: Path, limits: Limits) -> list[Path]:
    """The images in the order of their numbers."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DecodeError(folder, f"cannot be read ({error.strerror})", "no access") from error
    numbered: dict[int, str] = {}
    series: dict[tuple[str, ...], str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if name.startswith(".") or suffix.lower() not in IMAGE_SUFFIXES:
            continue
        parts = _LAST_NUMBER.fullmatch(stem)
        if parts is None:
            raise DecodeError(folder, f"{name!r} has no number; name frames like 00001{suffix}", "unsupported")
        before, digits, after = parts.groups()
        series.setdefault((before, after, suffix.lower()), name)
        if len(series) > 1 or int(digits) in numbered:
            other = next(iter(series.values())) if len(series) > 1 else numbered[int(digits)]
            reason = f"holds several series of images, {other!r} and {name!r}; give every video a folder of its own"
            raise DecodeError(folder, reason, "unsupported")
        numbered[int(digits)] = name
        limits.check(folder, "max_frames", len(numbered), f"{len(numbered):,} images or more")
    if not numbered:
        reason = f"is a folder without frame images ({', '.join(IMAGE_SUFFIXES)}); give a video file, or such a folder"
        raise DecodeError(folder, reason, "not a file")
    first, last = min(numbered), max(numbered)
    if last - first + 1 != len(numbered):
        lost = next(number for number in range(first, last) if number not in numbered)
        reason = f"frame {lost} is missing between {numbered[first]!r} and {numbered[last]!r}; copy it again"
        raise DecodeError(folder, reason, "cut off")
    return [folder / numbered[number] for number in range(first, last + 1)]


# the last run of digits, and what stands before and after it
_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)


def _image_size(file: Path, limits: Limits) -> tuple[int, int]:
    with _opened_image(file, limits) as image:
        return image.height, image.width


def _read_image(file: Path, limits: Limits) -> Frames:
    with _opened_image(file, limits) as image:
        if image.mode[0] in "IF":
            # PIL would cut everything above 255
            raise DecodeError(file, f"has more than 8 bits a colour ({image.mode}); save it with 8", "unsupported")
        return np.array(image.convert("RGB"))[None]


@contextmanager
def _opened_image(file: Path, limits: Limits) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    # by its content PIL would also take formats that run other programs or refer to other files
    formats = ("JPEG", "PNG", "WEBP", "BMP")
    source = admit(file, limits=limits)
    try:
        with source.open() as stream, warnings.catch_warnings():
            # PIL's own limit of pixels warns before it refuses; ours takes its place
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream, formats=formats) as image:
                limits.check(file, "max_pixels", image.height * image.width, f"{image.height}x{image.width} pixels")
                yield image
    except UnidentifiedImageError as error:
        raise DecodeError(file, f"is no {', '.join(formats)} image; copy it again", "not a video") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(file, f"is too large ({error}); leave it out", "too large") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(file, f"is damaged ({error}); copy it again", "damaged") from error
