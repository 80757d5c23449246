"""Which frames to read: pure index arithmetic, without a video or a decoder in sight.

Three ways to choose the frames of a clip, each with a random form (training) and a repeatable one (testing):

* dense, by ``sample_indices``: frames ``stride`` apart. ``"random"`` starts anywhere, ``"uniform"`` spreads
  ``num_clips`` starts evenly from the first possible one to the last; one clip is the central one;
* ``"segments"``, by ``sample_indices``: the video is cut into ``num_frames`` equal parts and gives one frame of each
  (TSN, Wang et al. 2016), a random one when a generator is given, else the same relative place in every part;
* by seconds, ``sample_times``: the frames on screen at moments ``1 / target_fps`` apart, so that videos of different
  or varying frame rates are seen at the same speed.

Test clips are symmetric: clip v of V is clip V-1-v of the video played backwards. Where a place falls between two
frames, clips of the first half take the earlier one and clips of the second half the later one. Only the central clip
has no mirror image other than itself, and an even number of free places leaves it one frame off the middle.

A video too short for its clip (``is_short``) shows its last frame again (``"repeat"``), starts anew (``"loop"``) or is
refused (``"error"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

SamplingMode = Literal["random", "uniform", "segments"]
ShortPolicy = Literal["repeat", "loop", "error"]

# Times are rounded to the container's clock and again to floats: two that are closer than this (seconds) are the same.
# Clocks of containers tick every 11 microseconds (MPEG) or slower.
SAME_TIME = 1e-6


def clip_span(num_frames: int, stride: int) -> int:
    """Number of consecutive video frames that a clip reaches over, both ends included.

    Args:
        num_frames: Frames of the clip.
        stride: Distance of neighbouring clip frames, in video frames.

    Returns:
        ``(num_frames - 1) * stride + 1``.
    """
    return (num_frames - 1) * stride + 1


def is_short(total: int, num_frames: int, stride: int = 1) -> bool:
    """Whether a video has fewer frames than its clip reaches over; for ``"segments"`` leave the stride at 1.

    Args:
        total: Frames of the video.
        num_frames: Frames of the clip.
        stride: Distance of neighbouring clip frames, in video frames.
    """
    return total < clip_span(num_frames, stride)


def is_short_in_time(times: Sequence[float] | NDArray[np.float64], num_frames: int, *, target_fps: float) -> bool:
    """Whether the last moment of a clip comes after the last frame of a video; ``is_short`` for ``sample_times``.

    Args:
        times: When each frame of the video appears, in seconds, ascending.
        num_frames: Frames of the clip.
        target_fps: Frames of the clip per second of the video.
    """
    return bool((num_frames - 1) / target_fps > times[-1] - times[0] + SAME_TIME)


def spread(last: int, place: int, places: int) -> int:
    """One of several whole numbers spread evenly over ``0..last``, mirror images of each other.

    ``spread(last, v, n) + spread(last, n - 1 - v, n) == last`` for every ``v`` but the central one, which lies at
    ``last // 2``: ties are rounded away from the middle. No float is involved.

    Args:
        last: The largest number; at least 0.
        place: Which of them, in ``range(places)``.
        places: How many there are; at least 1.
    """
    if 2 * place + 1 == places:
        return last // 2
    numerator, denominator = 2 * place * last, 2 * (places - 1)
    half = places - 1  # added before flooring rounds a tie up; one less rounds it down
    return (numerator + (half if 2 * place >= places else half - 1)) // denominator


def sample_indices(
    total: int,
    num_frames: int,
    stride: int = 1,
    *,
    mode: SamplingMode,
    clip: int = 0,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
    short: ShortPolicy = "repeat",
) -> list[int]:
    """Choose the frames of one clip of a video.

    With ``total=10, num_frames=4, stride=2`` (span 7) ``"uniform"`` gives ``[1, 3, 5, 7]``, and for the two clips of
    ``num_clips=2`` ``[0, 2, 4, 6]`` and ``[3, 5, 7, 9]``; with ``total=5`` it gives ``[0, 2, 4, 4]``, or looped
    ``[0, 2, 4, 1]``.

    Args:
        total: Frames of the video.
        num_frames: Frames to choose.
        stride: Distance of neighbouring clip frames, in video frames. ``"segments"`` has no use for it.
        mode: ``"random"``, ``"uniform"`` or ``"segments"``, see the module.
        clip: Which of the ``num_clips`` clips; ``"random"`` ignores it.
        num_clips: Clips spread over the video.
        generator: Source of randomness; needed by ``"random"``, optional for ``"segments"``.
        short: What to do with fewer than ``clip_span(num_frames, stride)`` frames (in ``"segments"``: than
            ``num_frames``). ``"repeat"`` shows the last frame until the clip is full (in ``"segments"``, where every
            part still has a frame, each frame for longer); ``"loop"`` starts anew at the first frame, as often as it
            takes; ``"error"`` refuses.

    Returns:
        ``num_frames`` indices in ``range(total)``, never descending but where a looped video starts anew.

    Raises:
        ValueError: A count below one, ``clip`` outside ``range(num_clips)``, an unknown mode or policy, ``"random"``
            without a generator, or a short video with ``short="error"``.
    """
    _check_counts(total=total, num_frames=num_frames, stride=stride, num_clips=num_clips)
    _check_clip(clip, num_clips)
    _check_option("mode", mode, SamplingMode)
    _check_option("short", short, ShortPolicy)
    if mode == "random" and generator is None:
        raise ValueError('mode="random" needs a generator; pass a seeded torch.Generator, or use mode="uniform"')
    step = 1 if mode == "segments" else stride
    if is_short(total, num_frames, step) and short != "repeat":
        if short == "error":
            raise ValueError(
                f"the video has {total} frames, but a clip of {num_frames} frames, {step} apart, reaches over "
                f"{clip_span(num_frames, step)}; {_SHORT_REMEDY}"
            )
        return [i * step % total for i in range(num_frames)]

    if mode == "segments":
        return _segments(total, num_frames, clip, num_clips, generator)
    last_start = max(0, total - clip_span(num_frames, stride))
    if mode == "random":
        start = int(torch.randint(last_start + 1, (), generator=generator))
    else:
        start = spread(last_start, clip, num_clips)
    return [min(start + i * stride, total - 1) for i in range(num_frames)]


def sample_times(
    times: Sequence[float],
    num_frames: int,
    *,
    target_fps: float,
    mode: Literal["random", "uniform"],
    clip: int = 0,
    num_clips: int = 1,
    generator: torch.Generator | None = None,
    short: ShortPolicy = "repeat",
) -> list[int]:
    """Choose the frames on screen at evenly spaced moments; a frame stays on screen until the next one appears.

    At a constant frame rate that is a multiple of ``target_fps`` this is ``sample_indices`` with the stride
    ``fps / target_fps``. At a lower frame rate frames repeat, at a varying one their distances vary.

    The last frame has no successor to end it: it is taken to stay for the median distance of two frames.

    Args:
        times: When each frame appears, in seconds, ascending. For a part of a video, those of the ``trim`` range.
        num_frames: Frames to choose.
        target_fps: Frames of the clip per second of the video.
        mode: ``"random"`` starts at any moment, ``"uniform"`` spreads ``num_clips`` starts evenly.
        clip: Which of the ``num_clips`` clips; ``"random"`` ignores it.
        num_clips: Clips spread over the video.
        generator: Source of randomness; needed by ``"random"``.
        short: As for ``sample_indices``, for a clip longer than the video (``is_short_in_time``).

    Returns:
        ``num_frames`` indices in ``range(len(times))``, never descending but where a looped video starts anew.

    Raises:
        ValueError: No frame, times that descend, a count below one, a frame rate that is not above 0, ``clip`` outside
            ``range(num_clips)``, an unknown mode or policy, ``"random"`` without a generator, or a short video with
            ``short="error"``.
    """
    _check_counts(num_frames=num_frames, num_clips=num_clips)
    _check_clip(clip, num_clips)
    _check_option("mode", mode, Literal["random", "uniform"])
    _check_option("short", short, ShortPolicy)
    seconds, typical = _read_times(times)
    if not 0 < target_fps < float("inf"):
        raise ValueError(f"target_fps={target_fps}: give the frames of a clip per second of the video, above 0")
    if mode == "random" and generator is None:
        raise ValueError('mode="random" needs a generator; pass a seeded torch.Generator, or use mode="uniform"')

    duration = float(seconds[-1] - seconds[0]) + typical
    reach = (num_frames - 1) / target_fps
    # moments in the middle of a frame's time on screen are as far as can be from the rounding at its borders
    middle = typical / 2
    if is_short_in_time(seconds, num_frames, target_fps=target_fps):
        if short == "error":
            raise ValueError(
                f"the video lasts {duration:.3f} s, but a clip of {num_frames} frames at {target_fps:g} a second "
                f"reaches over {reach:.3f} s; {_SHORT_REMEDY}"
            )
        moments = middle + np.arange(num_frames) / target_fps
        if short == "loop" and duration > 0:  # a single frame has none
            moments %= duration
        tie = 0.0
    else:
        free = max(0.0, duration - typical - reach)
        if mode == "random":
            start = (free + typical) * float(torch.rand((), generator=generator, dtype=torch.float64))
        else:
            start = middle + free * (0.5 if num_clips == 1 else clip / (num_clips - 1))
        # between two frames: as in sample_indices, the earlier one up to the central clip, the later one after it
        tie = -SAME_TIME if mode == "uniform" and 2 * clip < num_clips else SAME_TIME
        moments = start + np.arange(num_frames) / target_fps
    shown = np.searchsorted(seconds, seconds[0] + moments + tie, side="right") - 1
    return [int(index) for index in shown.clip(0, len(seconds) - 1)]


def trim(times: Sequence[float], start: float = 0.0, end: float | None = None) -> range:
    """Find the frames that are on screen in a part of a video.

    Args:
        times: When each frame of the video appears, in seconds, ascending.
        start: Where the part begins, in seconds.
        end: Where it ends (a frame that appears at this moment is not in it); ``None`` for the end of the video.

    Returns:
        The indices of the frames, never empty. The first may have appeared before ``start``.

    Raises:
        ValueError: No frame, times that descend, a part that ends before it begins, or one that lies outside the video.
    """
    seconds, typical = _read_times(times)
    if not 0 <= start < (float("inf") if end is None else end):
        raise ValueError(f"start={start}, end={end}: a part of a video needs 0 <= start < end, in seconds")
    if start > seconds[-1] + SAME_TIME and start >= seconds[-1] + typical - SAME_TIME:
        raise ValueError(
            f"start={start}: the video ends at {seconds[-1] + typical:.3f} s; correct the part in the manifest, or "
            "check that its times are in seconds"
        )
    first = max(int(np.searchsorted(seconds, start + SAME_TIME, side="right")) - 1, 0)
    stop = len(seconds) if end is None else int(np.searchsorted(seconds, end - SAME_TIME, side="left"))
    if stop <= first:
        raise ValueError(
            f"start={start}, end={end}: the video begins at {seconds[0]:.3f} s, so no frame is on screen then; correct "
            "the part in the manifest"
        )
    return range(first, stop)


_SHORT_REMEDY = 'use short="repeat" or short="loop", a shorter clip, or leave the video out of the manifest'


def _segments(total: int, num_frames: int, clip: int, num_clips: int, generator: torch.Generator | None) -> list[int]:
    if generator is not None:
        places = torch.rand(num_frames, generator=generator, dtype=torch.float64).tolist()
        return [min(int(total * (i + place) / num_frames), total - 1) for i, place in enumerate(places)]
    # Clip v of V looks at the fraction (v + 1/2) / V of every part. On the border of two frames TSN, whose one test
    # clip is the central one, takes the later frame; the clips before it take the earlier one, to mirror those after.
    numerator, denominator = 2 * clip + 1, 2 * num_clips
    earlier = int(numerator < num_clips)
    return [(total * (i * denominator + numerator) - earlier) // (num_frames * denominator) for i in range(num_frames)]


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: a clip needs {name} >= 1")


def _check_clip(clip: int, num_clips: int) -> None:
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip={clip} is outside the {num_clips} clips of a video; allowed are 0 to {num_clips - 1}")


def _check_option(name: str, value: str, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise ValueError(f"{name}={value!r} is unknown; allowed are {', '.join(map(repr, get_args(allowed)))}")


def _read_times(times: Sequence[float]) -> tuple[NDArray[np.float64], float]:
    """The times, and for how long a frame is typically on screen (the last one, too: nobody says when it ends)."""
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.ndim != 1 or not len(seconds):
        raise ValueError(f"times has the shape {seconds.shape}: give one moment for every frame of the video")
    distances = np.diff(seconds)
    if not (distances >= 0).all():  # nor not a number
        raise ValueError("times descend: give them in the order in which the frames are shown")
    return seconds, float(np.median(distances)) if len(distances) else 0.0
