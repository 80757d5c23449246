"""Frame indices: by hand, and for any numbers."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timesformer_plus.data.clips import clip_span, sample_indices

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
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(**({"total": 10, "num_frames": 4, "mode": "uniform"} | arguments))
