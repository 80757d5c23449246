"""Which frames to read: pure index arithmetic, without a video or a decoder in sight.

Two ways to choose the frames of a clip, each with a random and a repeatable form:

* frames ``stride`` apart: ``"random"`` starts anywhere (training), ``"uniform"`` spreads ``num_clips`` starts evenly
  from the first possible one to the last (testing; one clip is the central one);
* ``"segments"``: the video is cut into ``num_frames`` equal parts and gives one frame of each (TSN, Wang et al. 2016),
  a random one when a generator is given, else the same relative place in every part.

A video too short for its clip is never refused and never wrapped around: its last frame is repeated.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

SamplingMode = Literal["random", "uniform", "segments"]


def clip_span(num_frames: int, stride: int) -> int:
    """Number of consecutive video frames that a clip reaches over, both ends included.

    Args:
        num_frames: Frames of the clip.
        stride: Distance of neighbouring clip frames, in video frames.

    Returns:
        ``(num_frames - 1) * stride + 1``.
    """
    return (num_frames - 1) * stride + 1


def sample_indices(
    total: int,
    num_frames: int,
    stride: int = 1,
    *,
    mode: SamplingMode,
    clip: int = 0,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Choose the frames of one clip of a video.

    With ``total=10, num_frames=4, stride=2`` (span 7) ``"uniform"`` gives ``[1, 3, 5, 7]``, and for the two clips of
    ``num_clips=2`` ``[0, 2, 4, 6]`` and ``[3, 5, 7, 9]``; with ``total=5`` it gives ``[0, 2, 4, 4]``.

    Args:
        total: Frames of the video.
        num_frames: Frames to choose.
        stride: Distance of neighbouring clip frames, in video frames. ``"segments"`` has no use for it.
        mode: ``"random"``, ``"uniform"`` or ``"segments"``, see the module.
        clip: Which of the ``num_clips`` clips; ``"random"`` ignores it.
        num_clips: Clips spread over the video.
        generator: Source of randomness; needed by ``"random"``, optional for ``"segments"``.

    Returns:
        ``num_frames`` indices in ``range(total)``, never descending.

    Raises:
        ValueError: A count below one, ``clip`` outside ``range(num_clips)``, an unknown mode, or ``"random"`` without
            a generator.
    """
    for name, value in (("total", total), ("num_frames", num_frames), ("stride", stride), ("num_clips", num_clips)):
        if value < 1:
            raise ValueError(f"{name}={value}: a clip needs {name} >= 1")
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip={clip} is outside the {num_clips} clips of a video; allowed are 0 to {num_clips - 1}")

    if mode == "segments":
        return _segments(total, num_frames, clip, num_clips, generator)
    last_start = max(0, total - clip_span(num_frames, stride))
    if mode == "random":
        if generator is None:
            raise ValueError('mode="random" needs a generator; pass a seeded torch.Generator, or use mode="uniform"')
        start = int(torch.randint(last_start + 1, (), generator=generator))
    elif mode == "uniform":
        # exact integer rounding (half up): no float may move a test clip by a frame
        start = last_start // 2 if num_clips == 1 else (2 * clip * last_start + num_clips - 1) // (2 * (num_clips - 1))
    else:
        raise ValueError(f"mode={mode!r} is unknown; allowed are {', '.join(map(repr, get_args(SamplingMode)))}")
    return [min(start + i * stride, total - 1) for i in range(num_frames)]


def _segments(total: int, num_frames: int, clip: int, num_clips: int, generator: torch.Generator | None) -> list[int]:
    # without a generator, clip v of V looks at the fraction (v + 1/2) / V of every part
    if generator is None:
        numerator, denominator = 2 * clip + 1, 2 * num_clips
        return [total * (i * denominator + numerator) // (num_frames * denominator) for i in range(num_frames)]
    places = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
    return [min(int(total * (i + place) / num_frames), total - 1) for i, place in enumerate(places)]
