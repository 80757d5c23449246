"""Videos for the table ``data``: moving texture under noise, coded as copies of video data sets usually are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import av

FPS = 30
# pixels that the camera wanders to either side
_REACH = 160
_NOISES = 7


def write_video(path: Path, *, height: int, width: int, frames: int, group: int = 250, seed: int = 0) -> Path:
    """Write an H.264 mp4 with x264's defaults (preset medium, crf 23, three B-frames), 30 frames a second.

    A camera wanders over a texture of coarse and fine grain, three shapes move before it, and every frame has sensor
    noise: about 0.5 Mbit/s at 340x256 and 3 Mbit/s at 1280x720, as such copies have.

    Args:
        path: The file.
        height: Of a frame, in pixels, even.
        width: Of a frame, in pixels, even.
        frames: How many.
        group: Most frames from one key frame to the next; 250 is x264's default.
        seed: Of texture, noise and path.

    Returns:
        ``path``.
    """
    import av

    rng = np.random.default_rng(seed)
    texture = _texture(rng, height + 2 * _REACH, width + 2 * _REACH)
    noises = [rng.normal(scale=3, size=(height, width, 1)).astype(np.float32) for _ in range(_NOISES)]
    with av.open(str(path), "w") as container:
        stream = cast("av.VideoStream", container.add_stream("libx264", rate=FPS, options={"g": str(group)}))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(frames):
            top = int(_REACH + 0.9 * _REACH * np.sin(i / 40 + seed))
            left = int(_REACH + 0.9 * _REACH * np.cos(i / 55))
            picture = texture[top : top + height, left : left + width] + noises[3 * i % _NOISES]
            _put_shapes(picture, i)
            pixels = np.clip(picture, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    coarse = rng.normal(size=(3, height // 8, width // 8)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in coarse]
    fine = rng.normal(scale=6, size=(height, width, 1))
    return (128 + 45 * np.stack([np.asarray(plane) for plane in planes], axis=-1) + fine).astype(np.float32)


def _put_shapes(picture: NDArray[np.float32], i: int) -> None:
    height, width, _ = picture.shape
    radius = height // 8
    for k in range(3):
        y = int(height / 2 + (height / 2 - radius) * np.sin(i / 15 + 2 * k))
        x = int(width / 2 + (width / 2 - radius) * np.cos(i / 20 + k))
        place = picture[max(0, y - radius) : y + radius, max(0, x - radius) : x + radius]
        place *= 0.4
        place += 0.6 * np.array([200, 60 + 60 * k, 255 - 80 * k], np.float32)
