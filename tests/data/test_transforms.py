"""Clip transforms: the same for every frame, exact where nothing needs to change."""

import pytest
import torch
from torch.testing import assert_close

from timesformer_plus.data.transforms import EvalTransform, TrainTransform

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
STATISTICS = {"mean": MEAN, "std": STD}


def normalised(frames: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    return (frames.permute(3, 0, 1, 2).float() / 255 - mean) / std


def noise(time: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (time, height, width, 3), dtype=torch.uint8)


@pytest.mark.parametrize("transform", [EvalTransform(32, **STATISTICS), TrainTransform(32, scale=None, **STATISTICS)])
def test_frames_of_the_right_size_are_only_normalised(transform):
    frames = noise(4, 32, 32)
    clip = transform(frames)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert_close(clip, normalised(frames))


def test_full_scale_and_square_ratio_change_nothing_either():
    frames = noise(2, 32, 32)
    assert_close(TrainTransform(32, scale=(1, 1), ratio=(1, 1), **STATISTICS)(frames), normalised(frames))


@pytest.mark.parametrize(("height", "width"), [(24, 60), (60, 24), (7, 9), (200, 32), (33, 32)])
def test_any_frame_becomes_the_wanted_size(height, width):
    frames = noise(3, height, width)
    for transform in (
        EvalTransform((16, 24), **STATISTICS),
        TrainTransform((16, 24), **STATISTICS),
        TrainTransform((16, 24), scale=None, **STATISTICS),
    ):
        assert transform(frames).shape == (3, 3, 16, 24)


def test_crops_run_along_the_longer_side():
    frames = noise(2, 8, 20)
    crops = [EvalTransform(8, **STATISTICS)(frames, crop=i, num_crops=3) for i in range(3)]
    for crop, left in zip(crops, (0, 6, 12), strict=True):
        assert_close(crop, normalised(frames[:, :, left : left + 8]))
    tall = frames.transpose(1, 2)
    for i, top in enumerate((0, 6, 12)):
        assert_close(EvalTransform(8, **STATISTICS)(tall, crop=i, num_crops=3), normalised(tall[:, top : top + 8]))
    assert_close(EvalTransform(8, **STATISTICS)(frames), crops[1])


def test_resizing_keeps_the_shape_of_things():
    """A white left half stays the left half, whichever size the frame had."""
    frames = torch.zeros(1, 40, 80, 3, dtype=torch.uint8)
    frames[:, :, :40] = 255
    clip = EvalTransform(20, mean=(0, 0, 0), std=(1, 1, 1))(frames)
    assert clip[..., :8].min() > 0.95
    assert clip[..., 12:].max() < 0.05


@pytest.mark.parametrize("scale", [None, (0.3, 0.9)])
def test_one_draw_holds_for_all_frames(scale):
    frames = noise(1, 40, 48).expand(6, -1, -1, -1)
    transform = TrainTransform(16, scale=scale, hflip=0.5, **STATISTICS)
    clips = [transform(frames) for _ in range(8)]
    for clip in clips:
        assert_close(clip, clip[:, :1].expand_as(clip))
    assert any(not torch.equal(clips[0], other) for other in clips[1:])


def test_flip_is_off_unless_asked_for():
    frames = noise(2, 16, 16)
    plain, mirrored = (
        TrainTransform(16, scale=None, **STATISTICS),
        TrainTransform(16, scale=None, hflip=1, **STATISTICS),
    )
    for _ in range(20):
        assert_close(plain(frames), normalised(frames))
    assert_close(mirrored(frames), normalised(frames).flip(-1))


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(4, 8, 8, 3), torch.zeros(3, 4, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, 3, dtype=torch.uint8)],
)
def test_other_layouts_are_refused(frames):
    with pytest.raises(ValueError, match=r"uint8 \(T, H, W, 3\)"):
        EvalTransform(8, **STATISTICS)(frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 0}, "img_size=0"),
        ({"scale": (0.9, 0.5)}, "scale="),
        ({"scale": (0.5, 1.5)}, "scale="),
        ({"ratio": (0, 1)}, "ratio="),
        ({"hflip": 1.5}, "hflip=1.5"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**({"img_size": 8} | STATISTICS | arguments))


def test_crop_outside_is_refused():
    with pytest.raises(ValueError, match="crop=3 is outside the 3 crops"):
        EvalTransform(8, **STATISTICS)(noise(1, 8, 8), crop=3, num_crops=3)
