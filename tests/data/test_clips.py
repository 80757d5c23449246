"""Frame indices: by hand, for any numbers, and against what the field publishes."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler, RandomClipSampler, UniformClipSampler

from timesformer_plus.data.clips import (
    SAME_TIME,
    clip_span,
    is_short,
    is_short_in_time,
    sample_indices,
    sample_times,
    spread,
    trim,
)

counts = st.integers(1, 60)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("total", "num_frames", "stride", "clip", "num_clips", "expected"),
    [
        (10, 4, 2, 0, 1, [1, 3, 5, 7]),  # span 7, four possible starts, the central one
        (10, 4, 2, 0, 2, [0, 2, 4, 6]),
        (10, 4, 2, 1, 2, [3, 5, 7, 9]),
        (10, 4, 2, 1, 3, [1, 3, 5, 7]),  # start 1.5: the central clip of any number is the same
        (5, 4, 2, 0, 1, [0, 2, 4, 4]),  # too short: the last frame again
        (5, 4, 2, 1, 2, [0, 2, 4, 4]),  # and no second place to start
        (1, 3, 5, 0, 1, [0, 0, 0]),
        (8, 8, 1, 0, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_uniform_by_hand(total, num_frames, stride, clip, num_clips, expected):
    assert sample_indices(total, num_frames, stride, mode="uniform", clip=clip, num_clips=num_clips) == expected


@pytest.mark.parametrize(
    ("total", "num_frames", "clip", "num_clips", "expected"),
    [
        (8, 4, 0, 1, [1, 3, 5, 7]),  # parts [0 1] [2 3] [4 5] [6 7], middle 1.0 of each
        (9, 3, 0, 1, [1, 4, 7]),
        (9, 3, 0, 3, [0, 3, 6]),
        (9, 3, 2, 3, [2, 5, 8]),
        (3, 6, 0, 1, [0, 0, 1, 1, 2, 2]),  # parts shorter than a frame
    ],
)
def test_segments_by_hand(total, num_frames, clip, num_clips, expected):
    assert sample_indices(total, num_frames, mode="segments", clip=clip, num_clips=num_clips) == expected


def test_random_start_reaches_every_place_and_nothing_else():
    starts = {sample_indices(10, 4, 2, mode="random", generator=generator(seed))[0] for seed in range(200)}
    assert starts == {0, 1, 2, 3}


def test_random_segments_reach_every_frame():
    drawn = [sample_indices(7, 3, mode="segments", generator=generator(seed)) for seed in range(300)]
    # parts [0, 2.33) [2.33, 4.67) [4.67, 7): the frame that a border cuts belongs to both
    assert [set(place) for place in zip(*drawn, strict=True)] == [{0, 1, 2}, {2, 3, 4}, {4, 5, 6}]


def test_randomness_comes_from_the_generator_alone():
    before = torch.random.get_rng_state()
    first = sample_indices(1000, 4, 3, mode="random", generator=generator(7))
    assert first == sample_indices(1000, 4, 3, mode="random", generator=generator(7))
    assert first != sample_indices(1000, 4, 3, mode="random", generator=generator(8))
    assert torch.equal(before, torch.random.get_rng_state())


@given(total=counts, num_frames=counts, stride=st.integers(1, 9), num_clips=st.integers(1, 5), data=st.data())
def test_any_clip(total, num_frames, stride, num_clips, data):
    mode = data.draw(st.sampled_from(["random", "uniform", "segments"]))
    clip = data.draw(st.integers(0, num_clips - 1))
    source = generator(data.draw(st.integers(0, 99))) if mode == "random" or data.draw(st.booleans()) else None
    indices = sample_indices(total, num_frames, stride, mode=mode, clip=clip, num_clips=num_clips, generator=source)
    assert len(indices) == num_frames
    assert all(0 <= i < total for i in indices)
    assert indices == sorted(indices)
    if mode != "segments":
        steps = [b - a for a, b in pairwise(indices)]
        if total >= clip_span(num_frames, stride):
            assert all(step == stride for step in steps)
        else:
            assert indices[0] == 0
            assert indices[-1] == total - 1
    elif total >= num_frames:
        for i, index in enumerate(indices):
            assert i * total // num_frames <= index <= (i + 1) * total / num_frames


@given(total=counts, num_frames=counts, stride=st.integers(1, 9), num_clips=st.integers(2, 6))
def test_uniform_clips_cover_the_video_evenly(total, num_frames, stride, num_clips):
    clips = [
        sample_indices(total, num_frames, stride, mode="uniform", clip=i, num_clips=num_clips) for i in range(num_clips)
    ]
    starts = [clip[0] for clip in clips]
    gaps = [b - a for a, b in pairwise(starts)]
    assert starts[0] == 0
    assert max(clips[-1]) == total - 1 or starts[-1] == total - clip_span(num_frames, stride)
    assert max(gaps) - min(gaps) <= 1


@given(last=st.integers(0, 200), places=st.integers(1, 9))
def test_spread_is_even_and_symmetric(last, places):
    found = [spread(last, place, places) for place in range(places)]
    for place, number in enumerate(found):
        exact = Fraction(last) / 2 if places == 1 else Fraction(last * place, places - 1)
        assert abs(number - exact) <= Fraction(1, 2)
        if 2 * place + 1 != places:
            assert number + found[-1 - place] == last
            if abs(number - exact) == Fraction(1, 2):  # away from the middle
                assert (number < exact) == (2 * exact < last)
        else:
            assert number == last // 2


def played_backwards(indices: list[int], total: int) -> list[int]:
    return [total - 1 - index for index in reversed(indices)]


@given(total=counts, num_frames=counts, stride=st.integers(1, 9), num_clips=st.integers(2, 10), data=st.data())
def test_test_clips_mirror_each_other(total, num_frames, stride, num_clips, data):
    mode = data.draw(st.sampled_from(["uniform", "segments"]))
    # a short dense video repeats its last frame, which is nothing that its mirror image does
    if mode == "uniform" and is_short(total, num_frames, stride):
        total += clip_span(num_frames, stride)
    clips = [
        sample_indices(total, num_frames, stride, mode=mode, clip=clip, num_clips=num_clips)
        for clip in range(num_clips)
    ]
    for clip, mirror in zip(clips, reversed(clips), strict=True):
        if clip is not mirror:
            assert played_backwards(clip, total) == mirror
        else:  # the central one: no more than one frame off
            assert all(abs(a - b) <= 1 for a, b in zip(clip, played_backwards(clip, total), strict=True))


@given(total=counts, num_frames=counts, stride=st.integers(1, 9), data=st.data())
def test_short_videos_by_brute_force(total, num_frames, stride, data):
    """Against the video written down as often as it takes, or with its last frame as often as it takes."""
    clip_at = list(range(0, num_frames * stride, stride))
    assert is_short(total, num_frames, stride) == (clip_at[-1] not in range(total))
    if not is_short(total, num_frames, stride):
        return
    mode = data.draw(st.sampled_from(["uniform", "random"]))
    arguments = {"mode": mode, "clip": data.draw(st.integers(0, 2)), "num_clips": 3, "generator": generator()}
    looped = list(range(total)) * (clip_at[-1] // total + 1)
    padded = list(range(total)) + [total - 1] * clip_at[-1]
    assert sample_indices(total, num_frames, stride, **arguments, short="loop") == [looped[i] for i in clip_at]
    assert sample_indices(total, num_frames, stride, **arguments, short="repeat") == [padded[i] for i in clip_at]
    with pytest.raises(
        ValueError, match=rf"has {total} frames, but a clip of {num_frames} frames, {stride} apart.*loop"
    ):
        sample_indices(total, num_frames, stride, **arguments, short="error")


@given(total=counts, num_frames=counts, short=st.sampled_from(["repeat", "loop", "error"]), randomly=st.booleans())
def test_short_videos_in_segments(total, num_frames, short, randomly):
    def sample(policy):
        source = generator() if randomly else None
        return sample_indices(total, num_frames, 7, mode="segments", short=policy, generator=source)

    if total >= num_frames:
        assert sample(short) == sample("repeat")
    elif short == "error":
        with pytest.raises(ValueError, match=f"has {total} frames"):
            sample(short)
    elif short == "loop":
        assert sample(short) == (list(range(total)) * num_frames)[:num_frames]
    else:
        assert set(sample(short)) == set(range(total)) or randomly


@given(total=st.integers(1, 300), num_frames=st.integers(1, 32))
def test_segments_are_tsns(total, num_frames):
    """TSN's own definition: ticks of ``total / num_frames``, tested in their middle, rounded down."""
    tick = Fraction(total, num_frames)
    assert sample_indices(total, num_frames, mode="segments") == [int(tick / 2 + tick * i) for i in range(num_frames)]


@given(part=st.integers(1, 9), num_frames=st.integers(1, 8))
def test_random_segments_are_tsns_where_parts_are_whole(part, num_frames):
    """TSN trains on ``i * part + randint(part)`` with ``part = total // num_frames``, losing what is left over.

    Ours cuts the video into equal parts to its very end; without a remainder the two mean the same.
    """
    drawn = [
        sample_indices(part * num_frames, num_frames, mode="segments", generator=generator(seed)) for seed in range(60)
    ]
    for i, places in enumerate(zip(*drawn, strict=True)):
        assert set(places) <= set(range(i * part, (i + 1) * part))
        if part <= 4:
            assert len(set(places)) == part


class Share(random.Random):
    """In place of the ``random`` module, on which RandomClipSampler draws: always the same share of the interval."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def uniform(self, a, b):
        return a + (b - a) * self.share


@pytest.mark.parametrize("seed", range(30))
def test_random_clips_by_seconds_start_where_pytorchvideos_do(seed, monkeypatch):
    """RandomClipSampler draws the start from 0 to the video's length less the clip's; so does ``sample_times``.

    Its clip lasts from the first moment to the last. (``sample_indices`` draws a frame, not a moment: the first and
    the last start have the same chance as all others there, and half of it or none in pytorchvideo.)
    """
    fps, target_fps, total, num_frames = 24, 7, 100, 8
    duration = Fraction(num_frames - 1, target_fps)
    share = float(torch.rand((), generator=generator(seed), dtype=torch.float64))
    monkeypatch.setattr("pytorchvideo.data.clip_sampling.random", Share(share))
    start, end, *_ = RandomClipSampler(duration)(0, Fraction(total, fps), {})
    moments = [start + Fraction(i, target_fps) for i in range(num_frames)]
    assert moments[-1] == end
    times = [i / fps for i in range(total)]
    found = sample_times(times, num_frames, target_fps=target_fps, mode="random", generator=generator(seed))
    assert found == [int(moment * fps) for moment in moments]


@given(total=counts, num_frames=st.integers(1, 9), stride=st.integers(1, 4), num_clips=st.integers(1, 6))
def test_constant_clips_are_pytorchvideos_less_the_last(total, num_frames, stride, num_clips):
    """ConstantClipsPerVideoSampler divides by the number of clips, so that the video's end is never tested.

    Ours divides by one less, from the first possible start to the last: its V clips are the first V of our V + 1.
    """
    if is_short(total, num_frames, stride):
        total += clip_span(num_frames, stride)
    fps = 30
    sampler = ConstantClipsPerVideoSampler(Fraction(clip_span(num_frames, stride), fps), num_clips)
    for clip in range(num_clips):
        start, _, index, _, last = sampler(0, Fraction(total, fps), {})
        assert index == clip
        ours = sample_indices(total, num_frames, stride, mode="uniform", clip=clip, num_clips=num_clips + 1)[0]
        assert abs(start * fps - ours) <= Fraction(1, 2)  # pytorchvideo's start is a moment, ours a frame
        if last:  # also where all clips are one, for the video is no longer than it
            break


@given(num_frames=st.integers(1, 9), num_clips=st.integers(1, 6), rest=st.integers(0, 8))
def test_uniform_clips_are_pytorchvideos_where_they_fill_the_video(num_frames, num_clips, rest):
    """UniformClipSampler lays clips end to end, as many as fit, and leaves the rest; ``backpad_last`` tests it too.

    Ours are as many as asked for and spread to the end. Without a rest they are the same clips.
    """
    rest = rest % num_frames
    total, fps = num_frames * num_clips + rest, 25
    sampler = UniformClipSampler(Fraction(num_frames, fps))
    theirs, last, end = [], False, Fraction(0)
    while not last:
        start, end, _, _, last = sampler(end, Fraction(total, fps), {})
        theirs.append([int(start * fps) + i for i in range(num_frames)])
    ours = [
        sample_indices(total, num_frames, mode="uniform", clip=clip, num_clips=len(theirs))
        for clip in range(len(theirs))
    ]
    assert len(theirs) == num_clips
    if rest == 0:
        assert theirs == ours
    else:
        assert max(theirs[-1]) == total - 1 - rest
        assert max(ours[-1]) == total - 1 or num_clips == 1


@given(
    total=counts,
    num_frames=st.integers(1, 20),
    stride=st.integers(1, 6),
    num_clips=st.integers(1, 5),
    fps=st.sampled_from([Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(7, 2)]),
    offset=st.sampled_from([0.0, 0.04, 3600.7]),
    short=st.sampled_from(["repeat", "loop"]),
)
def test_times_at_a_constant_rate_are_a_stride(total, num_frames, stride, num_clips, fps, offset, short):
    times = [offset + float(i / fps) for i in range(total)]
    for clip in range(num_clips):
        arguments = {"mode": "uniform", "clip": clip, "num_clips": num_clips, "short": short}
        dense = sample_indices(total, num_frames, stride, **arguments)
        assert sample_times(times, num_frames, target_fps=float(fps / stride), **arguments) == dense
    short_in_time = is_short_in_time(times, num_frames, target_fps=float(fps / stride))
    assert short_in_time == is_short(total, num_frames, stride)


def test_random_times_at_a_constant_rate_reach_every_start_alike():
    times = [i / 30 for i in range(10)]
    starts = [sample_times(times, 4, target_fps=15, mode="random", generator=generator(seed))[0] for seed in range(800)]
    assert set(starts) == {0, 1, 2, 3}
    assert all(150 < starts.count(start) < 250 for start in range(4))


# hundredths of a second between frames: no moment below is closer to a border than SAME_TIME without lying on it
distances = st.lists(st.integers(0, 40), min_size=0, max_size=30)


@given(
    distances=distances,
    begin=st.integers(0, 500),
    num_frames=st.integers(1, 12),
    target_fps=st.integers(1, 60),
    num_clips=st.integers(1, 5),
    data=st.data(),
)
def test_times_by_brute_force(distances, begin, num_frames, target_fps, num_clips, data):
    """Against exact fractions and a walk over all frames, at any frame rate."""
    times = [Fraction(begin, 100)]
    for distance in distances:
        times.append(times[-1] + Fraction(distance, 100))
    ordered = sorted(Fraction(distance, 100) for distance in distances)
    middle = len(ordered) // 2
    typical = (ordered[middle] + ordered[-1 - middle]) / 2 if ordered else Fraction(0)
    reach = Fraction(num_frames - 1, target_fps)
    length = times[-1] - times[0]
    too_short = reach > length
    clip = data.draw(st.integers(0, num_clips - 1))
    short = data.draw(st.sampled_from(["repeat", "loop"]))
    start = typical / 2
    if not too_short:
        start += (length - reach) * (Fraction(1, 2) if num_clips == 1 else Fraction(clip, num_clips - 1))
    moments = [start + Fraction(i, target_fps) for i in range(num_frames)]
    if too_short and short == "loop" and length + typical > 0:
        moments = [moment % (length + typical) for moment in moments]
    earlier = not too_short and 2 * clip < num_clips

    def shown(moment):
        appeared = [i for i, time in enumerate(times) if time - times[0] < moment]
        appeared += [i for i, time in enumerate(times) if time - times[0] == moment and not earlier]
        return max(appeared, default=0)

    expected = [shown(moment) for moment in moments]
    arguments = {"target_fps": target_fps, "mode": "uniform", "clip": clip, "num_clips": num_clips}
    floats = [float(time) for time in times]
    if too_short:
        with pytest.raises(ValueError, match=rf"a clip of {num_frames} frames at {target_fps} a second.*loop"):
            sample_times(floats, num_frames, **arguments, short="error")
        if short == "loop":  # floats cannot tell on which side of a round's border a moment lies that lies on it
            borders = [time - times[0] for time in [*times, times[-1] + typical]]
            clear = [all(abs(moment - border) > SAME_TIME for border in borders) for moment in moments]
            found = sample_times(floats, num_frames, **arguments, short=short)
            assert [i for i, on in zip(found, clear, strict=True) if on] == [
                i for i, on in zip(expected, clear, strict=True) if on
            ]
            return
    assert sample_times(floats, num_frames, **arguments, short=short) == expected


@given(distances=distances, num_frames=counts, target_fps=st.floats(0.1, 200), seed=st.integers(0, 99))
def test_any_clip_by_seconds(distances, num_frames, target_fps, seed):
    times = [0.0]
    for distance in distances:
        times.append(times[-1] + distance / 100)
    for mode in ("random", "uniform"):
        arguments = {"target_fps": target_fps, "mode": mode, "generator": generator(seed)}
        indices = sample_times(times, num_frames, **arguments)
        assert len(indices) == num_frames
        assert all(0 <= i < len(times) for i in indices)
        assert indices == sorted(indices)
        looped = sample_times(times, num_frames, **arguments | {"generator": generator(seed)}, short="loop")
        assert all(0 <= i < len(times) for i in looped)
        if not is_short_in_time(times, num_frames, target_fps=target_fps):
            assert looped == indices


def test_a_frame_that_stays_long_fills_the_clip():
    """A slide shown for two seconds between two fast scenes, seen at 4 frames a second: 8 of the 12 moments are its."""
    times = [i / 10 for i in range(5)] + [2.5 + i / 10 for i in range(5)]
    found = sample_times(times, 12, target_fps=4, mode="uniform")
    assert found.count(4) == 8
    assert found[0] in range(3)
    assert found[-1] in range(7, 10)


@given(distances=distances, begin=st.integers(0, 50), start=st.integers(0, 400), length=st.integers(1, 400))
def test_trim_by_brute_force(distances, begin, start, length):
    times = [begin]
    for distance in distances:
        times.append(times[-1] + distance)
    typical = (
        sorted(distances)[len(distances) // 2] / 2 + sorted(distances)[(len(distances) - 1) // 2] / 2
        if distances
        else 0
    )
    gone = [*times[1:], times[-1] + typical]
    end = start + length
    on_screen = [i for i in range(len(times)) if times[i] < end and (gone[i] > start or times[i] == start)]
    seconds = [time / 100 for time in times]
    if not on_screen:
        with pytest.raises(ValueError, match="correct the part"):
            trim(seconds, start / 100, end / 100)
        return
    part = trim(seconds, start / 100, end / 100)
    # of frames that appear at the same moment only the last is ever on screen, but reading them does no harm
    assert [i for i in part if gone[i] > times[i] or i in on_screen] == [i for i in on_screen if i in part]
    assert {i for i in on_screen if gone[i] > times[i]} <= set(part)
    assert trim(seconds, start / 100) == range(part.start, len(times))


def test_trim_by_hand():
    times = [i / 30 for i in range(90)]
    assert trim(times) == range(90)
    assert trim(times, 1.0, 2.0) == range(30, 60)
    assert trim(times, 1.01, 2.01) == range(30, 61)
    assert trim(times, 2.99) == range(89, 90)
    assert trim(times, 1.0, 1.0001) == range(30, 31)
    assert trim(times, 1.0, 100) == range(30, 90)


@pytest.mark.parametrize(
    ("times", "start", "end", "message"),
    [
        ([0, 1, 2], 2, 2, "0 <= start < end"),
        ([0, 1, 2], -1, 2, "0 <= start < end"),
        ([0, 1, 2], 3.5, None, "the video ends at 3.000 s"),
        ([5, 6, 7], 0, 5, "begins at 5.000 s"),
        ([], 0, None, "one moment for every frame"),
        ([0, 2, 1], 0, None, "times descend"),
        ([0, float("nan"), 1], 0, None, "times descend"),
    ],
)
def test_trim_refuses(times, start, end, message):
    with pytest.raises(ValueError, match=message):
        trim(times, start, end)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": []}, "one moment for every frame"),
        ({"times": [[0.0, 1.0]]}, "one moment for every frame"),
        ({"times": [0.0, 0.2, 0.1]}, "times descend"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"clip": 2, "num_clips": 2}, "clip=2 is outside the 2 clips"),
        ({"target_fps": 0}, "target_fps=0"),
        ({"target_fps": float("nan")}, "target_fps=nan"),
        ({"mode": "segments"}, "mode='segments' is unknown; allowed are 'random', 'uniform'"),
        ({"mode": "random"}, "needs a generator"),
        ({"short": "wrap"}, "short='wrap' is unknown"),
    ],
)
def test_nonsense_in_seconds_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_times(**({"times": [0.0, 0.1, 0.2], "num_frames": 2, "target_fps": 10, "mode": "uniform"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total": 0}, "total=0"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"clip": 1}, "clip=1 is outside the 1 clips"),
        ({"clip": -1}, "clip=-1 is outside"),
        ({"mode": "random"}, "needs a generator"),
        ({"mode": "dense"}, "mode='dense' is unknown"),
        ({"short": "wrap"}, "short='wrap' is unknown; allowed are 'repeat', 'loop', 'error'"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(**({"total": 10, "num_frames": 4, "mode": "uniform"} | arguments))
