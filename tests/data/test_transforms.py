"""Clip transforms: the same for every frame, exact where nothing needs to change."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms import v2

from timesformer_plus.data.transforms import EvalTransform, Normalize, TrainTransform

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def noise(time: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (time, height, width, 3), dtype=torch.uint8)


def gradient(height: int, width: int) -> torch.Tensor:
    """One frame whose red is its column and whose green is its row, so that a crop tells where it was taken."""
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    planes = [columns.expand(height, width), rows.expand(height, width), torch.zeros(height, width)]
    return torch.stack(planes, dim=-1).to(torch.uint8)[None]


def channels_first(frames: torch.Tensor) -> torch.Tensor:
    return frames.permute(3, 0, 1, 2)


@pytest.mark.parametrize("transform", [EvalTransform(32), TrainTransform(32, scale=None)])
def test_frames_of_the_right_size_are_left_alone(transform):
    frames = noise(4, 32, 32)
    clip = transform(frames)
    assert clip.video.dtype == torch.uint8
    assert clip.video.is_contiguous()
    assert clip.flipped is False
    assert torch.equal(clip.video, channels_first(frames))


def test_no_chance_is_spent_on_a_crop_as_large_as_the_frame():
    """It is left out; the draws that come after it are those that they were with it."""
    transform = TrainTransform(16, scale=None, hflip=0.5)
    frames = noise(2, 16, 16)
    for seed in range(8):
        torch.manual_seed(seed)
        clip, flipped = transform(frames)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        cropped = transform.crop(channels_first(frames).transpose(0, 1))
        assert torch.equal(cropped, channels_first(frames).transpose(0, 1))
        assert bool(torch.rand(1) < 0.5) == flipped
        assert torch.equal(after, torch.get_rng_state())
        assert torch.equal(clip, channels_first(frames).flip(-1) if flipped else channels_first(frames))


def test_full_scale_and_square_ratio_change_nothing_either():
    frames = noise(2, 32, 32)
    assert torch.equal(TrainTransform(32, scale=(1, 1), ratio=(1, 1))(frames).video, channels_first(frames))


@pytest.mark.parametrize(("height", "width"), [(24, 60), (60, 24), (7, 9), (200, 32), (33, 32)])
@pytest.mark.parametrize(
    "transform",
    [
        EvalTransform((16, 24)),
        EvalTransform((16, 24), short_side=31),
        TrainTransform((16, 24)),
        TrainTransform((16, 24), scale=None),
        TrainTransform((16, 24), scale=None, short_side=(24, 40)),
        TrainTransform((16, 24), short_side=(8, 40)),
        TrainTransform((16, 24), multi_scale=(1, 0.875, 0.75, 0.66)),
        TrainTransform((16, 24), multi_scale=(1, 0.5), short_side=(20, 30)),
    ],
)
def test_any_frame_becomes_the_wanted_size(transform, height, width):
    for _ in range(3):
        clip = transform(noise(3, height, width))
        assert clip.video.shape == (3, 3, 16, 24)
        assert clip.video.dtype == torch.uint8
        assert clip.video.is_contiguous()


def test_crops_run_along_the_longer_side():
    frames = noise(2, 8, 20)
    crops = [EvalTransform(8)(frames, crop=i, num_crops=3).video for i in range(3)]
    for crop, left in zip(crops, (0, 6, 12), strict=True):
        assert torch.equal(crop, channels_first(frames[:, :, left : left + 8]))
    tall = frames.transpose(1, 2)
    for i, top in enumerate((0, 6, 12)):
        assert torch.equal(EvalTransform(8)(tall, crop=i, num_crops=3).video, channels_first(tall[:, top : top + 8]))
    assert torch.equal(EvalTransform(8)(frames).video, crops[1])


@pytest.mark.parametrize("free", range(8))
def test_the_central_crop_is_torchvisions(free):
    frames = noise(1, 9, 8 + free)
    for crop, num_crops in ((0, 1), (1, 3), (2, 5)):
        found = EvalTransform(8, short_side=min(9, 8 + free))(frames, crop=crop, num_crops=num_crops).video
        assert torch.equal(found.transpose(0, 1), v2.functional.center_crop(frames.permute(0, 3, 1, 2), [8, 8]))


@pytest.mark.parametrize("num_crops", range(2, 8))
@pytest.mark.parametrize("width", range(10, 20))
def test_crops_are_mirror_images_of_each_other(width, num_crops):
    """Crop i of a frame is crop n-1-i of the mirrored frame, mirrored."""
    frames = noise(1, 10, width)
    transform = EvalTransform(10)
    for crop in range(num_crops):
        if 2 * crop + 1 != num_crops:
            mirrored = transform(frames.flip(2), crop=num_crops - 1 - crop, num_crops=num_crops).video.flip(-1)
            assert torch.equal(transform(frames, crop=crop, num_crops=num_crops).video, mirrored)


def test_a_longer_short_side_leaves_a_margin():
    """Shorter side 40, crops of 32: 4 pixels above and below, and the crops from the left end to the right one."""
    frames = gradient(40, 100)
    for crop, left in enumerate((0, 34, 68)):
        video = EvalTransform(32, short_side=40)(frames, crop=crop, num_crops=3).video
        assert video[0, 0, 0].tolist() == list(range(left, left + 32))
        assert video[1, 0, :, 0].tolist() == list(range(4, 36))


def test_crops_of_a_square_run_from_left_to_right():
    for crop, left in enumerate((0, 4, 8)):
        video = EvalTransform(32, short_side=40)(gradient(40, 40), crop=crop, num_crops=3).video
        assert video[:2, 0, 0, 0].tolist() == [left, 4]


@pytest.mark.parametrize(("height", "width"), [(30, 45), (45, 30)])
def test_the_short_side_is_resized_to_each_length_asked_for(height, width):
    """A picture that is one gradient: the slope of a crop tells how far it was enlarged."""
    frames = gradient(height, width) * 5
    slopes = set()
    for _ in range(60):
        video = TrainTransform(32, scale=None, short_side=(32, 35))(frames).video.double()
        slope = (video[0, 0, 16, 28] - video[0, 0, 16, 4]) / 24
        slopes.add(min(range(30, 38), key=lambda side: abs(5 * 30 / side - slope)))
    assert slopes == {32, 33, 34, 35}


def test_resizing_keeps_the_shape_of_things():
    """A white left half stays the left half, whichever size the frame had."""
    frames = torch.zeros(1, 40, 80, 3, dtype=torch.uint8)
    frames[:, :, :40] = 255
    clip = EvalTransform(20)(frames).video
    assert clip[..., :8].min() > 242
    assert clip[..., 12:].max() < 13


def test_flips_are_off_unless_asked_for_and_reported():
    frames = noise(2, 16, 16)
    plain, mirrored = TrainTransform(16, scale=None), TrainTransform(16, scale=None, hflip=1)
    for _ in range(20):
        clip = plain(frames)
        assert torch.equal(clip.video, channels_first(frames))
        assert clip.flipped is False
    clip = mirrored(frames)
    assert torch.equal(clip.video, channels_first(frames).flip(-1))
    assert clip.flipped is True
    sometimes = TrainTransform(16, scale=None, hflip=0.5)
    reports = []
    for _ in range(40):
        clip = sometimes(frames)
        reports.append(clip.flipped)
        assert torch.equal(clip.video, channels_first(frames.flip(2) if clip.flipped else frames))
    assert 8 < sum(reports) < 32


def test_normalize_is_torchvisions_bit_for_bit():
    """Held against torchvision's own pipeline on frames (T, C, H, W), as every training run up to now used it."""
    video = noise(4, 10, 12).permute(3, 0, 1, 2).contiguous()
    pipeline = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=list(MEAN), std=list(STD))])
    expected = pipeline(video.transpose(0, 1)).transpose(0, 1)
    normalize = Normalize(MEAN, STD)
    result = normalize(video)
    assert torch.equal(result, expected)
    assert result.is_contiguous()
    assert_close(result, (video / 255 - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1))
    batch = torch.stack([video, video.flip(-1)])
    assert torch.equal(normalize(batch), torch.stack([expected, expected.flip(-1)]))
    assert normalize(batch).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_normalize_rounds_once(dtype):
    video = noise(2, 6, 6).permute(3, 0, 1, 2)
    before = video.clone()
    exact = (video.double() / 255 - torch.tensor(MEAN).double().view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)
    result = Normalize(MEAN, STD)(video, dtype)
    assert result.dtype == dtype
    # half a unit in the last place, and float32's own rounding where that decides a tie
    assert_close(result.double(), exact, rtol=torch.finfo(dtype).eps * 0.5 + 1e-6, atol=1e-6)
    assert torch.equal(video, before)


def test_normalize_gives_a_model_of_blue_green_red_its_order_and_the_colours_their_numbers():
    video = noise(4, 10, 12).permute(3, 0, 1, 2).contiguous()
    mean, std = (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
    before = video.clone()
    expected = torch.stack([(video[channel] / 255 - mean[channel]) / std[channel] for channel in (2, 1, 0)])
    assert_close(Normalize(mean, std, "bgr")(video), expected)
    assert torch.equal(Normalize(mean, std, "bgr")(video), Normalize(mean, std)(video).flip(0))
    batch = torch.stack([video, video.flip(-1)])
    assert torch.equal(Normalize(mean, std, "bgr")(batch), Normalize(mean, std, "rgb")(batch).flip(1))
    assert torch.equal(video, before)
    for order, numbers in (("gbr", 3), ("bgr", 4), ("RGB", 3)):
        with pytest.raises(ValueError, match="give rgb, or bgr for three channels"):
            Normalize((0.5,) * numbers, (0.5,) * numbers, order)


@pytest.mark.gpu
def test_normalize_runs_where_the_clip_is():
    video = noise(2, 6, 6).permute(3, 0, 1, 2)
    result = Normalize(MEAN, STD)(video.cuda())
    assert result.is_cuda
    assert_close(result.cpu(), Normalize(MEAN, STD)(video))


@pytest.mark.parametrize(
    ("video", "dtype", "message"),
    [
        (torch.zeros(3, 2, 4, 4), torch.float32, "scaled twice"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.float32, r"uint8 \(..., 3, T, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), torch.float32, r"uint8 \(..., 3, T, H, W\)"),
        (torch.zeros(3, 2, 4, 4, dtype=torch.uint8), torch.int32, "are floats"),
    ],
)
def test_normalize_refuses_what_it_would_get_wrong(video, dtype, message):
    with pytest.raises(ValueError, match=message):
        Normalize(MEAN, STD)(video, dtype)


@pytest.mark.parametrize("statistics", [((0.5,), STD), ((), ()), (MEAN, (1, 1, 0))])
def test_normalize_refuses_such_statistics(statistics):
    with pytest.raises(ValueError, match="one of each for every channel"):
        Normalize(*statistics)


@pytest.mark.parametrize(
    "frames",
    [torch.zeros(4, 8, 8, 3), torch.zeros(3, 4, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, 3, dtype=torch.uint8)],
)
def test_other_layouts_are_refused(frames):
    with pytest.raises(ValueError, match=r"uint8 \(T, H, W, 3\)"):
        EvalTransform(8)(frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 0}, "img_size=0"),
        ({"scale": (0.9, 0.5)}, "scale="),
        ({"scale": (0.5, 1.5)}, "scale="),
        ({"ratio": (0, 1)}, "ratio="),
        ({"hflip": 1.5}, "hflip=1.5"),
        ({"scale": None, "short_side": (7, 9)}, "short_side=7: must be at least 8"),
        ({"short_side": (0, 9)}, "short_side=0: must be at least 1"),
        ({"short_side": (9, 8)}, "smallest <= largest"),
        ({"multi_scale": ()}, "multi_scale="),
        ({"multi_scale": (1.2, 1)}, "multi_scale="),
        ({"color_jitter": -0.1}, "color_jitter=-0.1"),
        ({"color_jitter": (0.4, 0.4)}, "color_jitter="),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "hue turns by at most 0.5"),
        ({"rand_augment": "m9"}, "write 'm9-n2'"),
        ({"rand_augment": "rand-m9-n2-mstd0.5"}, "mstd"),
        ({"rand_augment": "m11-n2"}, "magnitude of 0 to 10"),
        ({"rand_augment": "m9-n0"}, "at least 1 operation"),
        ({"rand_augment": (2, 9, 1)}, r"give \(operations, magnitude\)"),
        ({"rand_augment": (0, 9)}, "at least 1 operation"),
        ({"erasing": 1.1}, "erasing=1.1"),
        ({"erasing": 0.5, "erasing_mode": "random"}, "erasing_mode='random' is unknown"),
        ({"fill": (0.5, 0.5)}, "fill="),
        ({"fill": (0.5, 0.5, 128)}, "fill="),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainTransform(**({"img_size": 8} | arguments))


def test_nonsense_in_a_test_is_refused():
    with pytest.raises(ValueError, match="short_side=20: must be at least 24"):
        EvalTransform((16, 24), short_side=20)
    with pytest.raises(ValueError, match="crop=3 is outside the 3 crops"):
        EvalTransform(8)(noise(1, 8, 8), crop=3, num_crops=3)
