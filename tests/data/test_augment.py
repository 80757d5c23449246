"""Augmentations: drawn once for a clip, from torch's generator alone, and doing what their names say."""

import random

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms import v2

from timesformer_plus.data.augment import ClipErasing, MultiScaleCrop, color_jitter_of, rand_augment_of
from timesformer_plus.data.transforms import TrainTransform

PLAIN = {"scale": None}
AUGMENTED = {
    "random resized crop": {"scale": (0.3, 0.9)},
    "random crop": {"scale": None, "short_side": (24, 24)},
    "scale jitter": {"scale": None, "short_side": (24, 32)},
    "multi-scale crop": {"multi_scale": (1, 0.875, 0.75, 0.66)},
    "flip": {"scale": None, "hflip": 0.5},
    "colour jitter": {"scale": None, "color_jitter": 0.4},
    "hue": {"scale": None, "color_jitter": (0, 0, 0, 0.5)},
    "RandAugment": {"scale": None, "rand_augment": "m9-n2"},
    "erasing": {"scale": None, "erasing": 0.7},
    "erasing with noise": {"scale": None, "erasing": 0.7, "erasing_mode": "pixel"},
    "everything": {
        "scale": (0.3, 0.9),
        "short_side": (24, 32),
        "hflip": 0.5,
        "color_jitter": (0.4, 0.4, 0.4, 0.1),
        "rand_augment": (2, 7),
        "erasing": 0.5,
        "erasing_mode": "pixel",
    },
}


def still(time: int = 5, height: int = 24, width: int = 24) -> torch.Tensor:
    """A clip of one picture, with colours and without symmetry, uint8 (T, H, W, 3)."""
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8).expand(time, -1, -1, -1)


@pytest.mark.parametrize("arguments", AUGMENTED.values(), ids=AUGMENTED)
def test_one_draw_holds_for_all_frames_and_changes_something(arguments):
    frames = still()
    transform = TrainTransform(20 if "short_side" in arguments else 24, **arguments)
    clips = [transform(frames).video for _ in range(30)]
    for clip in clips:
        assert clip.dtype == torch.uint8
        assert torch.equal(clip, clip[:, :1].expand_as(clip))
    assert len({clip.numpy().tobytes() for clip in clips}) > 1
    picture = frames.permute(3, 0, 1, 2)
    assert any(clip.shape != picture.shape or not torch.equal(clip, picture) for clip in clips)


@pytest.mark.parametrize("arguments", AUGMENTED.values(), ids=AUGMENTED)
def test_torch_draws_everything(arguments):
    frames, transform = still(), TrainTransform(20 if "short_side" in arguments else 24, **arguments)
    python, numpy = random.getstate(), np.random.get_state()[1].copy()

    def clips():
        torch.manual_seed(5)
        return [transform(frames) for _ in range(6)]

    for first, again in zip(clips(), clips(), strict=True):
        assert torch.equal(first.video, again.video)
        assert first.flipped == again.flipped
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)


@pytest.mark.parametrize("scale", [None, (0.3, 0.9)])
def test_what_is_off_draws_nothing(scale):
    """So that recipes from before there were augmentations see the clips that they always saw."""
    frames = still(height=30, width=40)
    crop = v2.RandomCrop(30) if scale is None else v2.RandomResizedCrop(30, scale, antialias=True)
    pipeline, transform = v2.Compose([crop, v2.RandomHorizontalFlip(0.5)]), TrainTransform(30, scale=scale, hflip=0.5)
    for seed in range(10):
        torch.manual_seed(seed)
        expected, after = pipeline(frames.permute(0, 3, 1, 2)), torch.rand(())
        torch.manual_seed(seed)
        assert torch.equal(transform(frames).video.transpose(0, 1), expected)
        assert torch.rand(()) == after


def test_multi_scale_crops_are_those_of_tsn():
    """On a frame whose red is its column and green its row, slope and offset tell the crop: (height, width, top, left).

    Base 64 on 64 x 96 pixels, scales 1 and 1/2: four shapes at four corners and the centre.
    """
    rows, columns = torch.arange(64).view(-1, 1).expand(64, 96), torch.arange(96).view(1, -1).expand(64, 96)
    clip = torch.stack([columns, rows, rows * 0]).to(torch.uint8)[None]
    crop = MultiScaleCrop((16, 16), (1, 0.5))

    def side_and_start(line: torch.Tensor) -> tuple[int, int]:
        slope = round((line[12] - line[4]).item() / 8)
        return slope * 16, round(line[8].item() - 8.5 * slope + 0.5)

    found = set()
    for _ in range(400):
        reds, greens = crop(clip)[0, :2].double()
        (width, left), (height, top) = side_and_start(reds[8]), side_and_start(greens[:, 8])
        found.add((height, width, top, left))
    expected = set()
    for height in (64, 32):
        for width in (64, 32):
            bottom, right = 64 - height, 96 - width
            expected |= {(height, width, top, left) for top in (0, bottom) for left in (0, right)}
            expected.add((height, width, bottom // 2, right // 2))
    assert found == expected


def test_scales_of_a_multi_scale_crop_are_neighbours():
    pairs = MultiScaleCrop((8, 8), (1, 0.875, 0.75, 0.66)).pairs
    assert len(pairs) == 10
    assert (1, 0.75) not in pairs
    assert (0.75, 0.66) in pairs


@pytest.mark.parametrize("mode", ["const", "pixel"])
def test_erasing_takes_one_rectangle(mode):
    clip = torch.full((4, 3, 40, 60), 7, dtype=torch.uint8)
    erase = ClipErasing(1.0, mode, (200, 100, 50))
    for _ in range(30):
        erased = erase(clip)
        gone = (erased != 7).any(dim=1)[0]
        rows, columns = gone.any(dim=1), gone.any(dim=0)
        box = rows[:, None] & columns[None, :]
        if mode == "const":
            assert torch.equal(box, gone)
            assert torch.equal(erased[..., box], torch.tensor([200, 100, 50])[None, :, None].expand(4, 3, box.sum()))
        else:
            assert erased[..., box].unique().numel() > 30
            assert torch.equal(erased[..., ~box], clip[..., ~box])
        assert 0.015 < box.float().mean() < 0.36
        assert torch.equal(erased, erased[:1].expand_as(erased))
    assert torch.all(clip == 7)


def test_erasing_happens_as_often_as_asked():
    clip = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    erase = ClipErasing(0.25, "const", (255, 255, 255))
    assert 60 < sum(bool(erase(clip).any()) for _ in range(400)) < 140


def test_noise_covers_the_whole_range():
    clip = torch.zeros(1, 3, 200, 200, dtype=torch.uint8)
    noise = torch.cat([erased[erased > 0] for erased in (ClipErasing(1.0, "pixel", (0, 0, 0))(clip) for _ in range(5))])
    assert abs(noise.double().mean() - 128) < 3
    assert (noise.min(), noise.max()) == (1, 255)


def test_colour_jitter_stays_within_its_strength():
    grey = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    jitter = color_jitter_of((0.3, 0, 0))
    values = {int(jitter(grey)[0, 0, 0, 0]) for _ in range(300)}
    assert min(values) in range(70, 76)
    assert max(values) in range(125, 131)
    assert color_jitter_of(0) is None
    assert color_jitter_of((0, 0, 0, 0)) is None


def three_dots() -> torch.Tensor:
    """A large, a medium and a small grey disc on black, which go round clockwise in this order; (1, 3, 128, 128).

    Grey, because solarising would turn white into black.
    """
    rows, columns = torch.arange(128).view(-1, 1), torch.arange(128).view(1, -1)
    discs = [((46, 50), 9), ((52, 80), 6), ((82, 60), 3)]
    covered = sum(((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).int() for (y, x), radius in discs)
    return (100 * covered).to(torch.uint8).expand(1, 3, 128, 128)


def goes_round(picture: torch.Tensor) -> int:
    """+1 when the discs go round as in ``three_dots``, -1 when they go the other way."""
    plane = picture[0].double().mean(dim=0).numpy()
    labels, count = ndimage.label(abs(plane - np.median(plane)) > 8)
    assert count == 3
    areas = ndimage.sum_labels(np.ones_like(plane), labels, [1, 2, 3])
    (y0, x0), (y1, x1), (y2, x2) = (ndimage.center_of_mass(labels == i + 1) for i in np.argsort(-areas))
    return int(np.sign((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)))


def test_rand_augment_never_mirrors():
    dots = three_dots()
    assert goes_round(dots) == 1
    assert goes_round(dots.flip(-1)) == -1
    assert goes_round(dots.flip(-2)) == -1
    augment = rand_augment_of("m5-n1", (0, 0, 0))
    assert {goes_round(augment(dots)) for _ in range(300)} == {1}


def test_rand_augment_has_many_operations():
    picture = still(1, 32, 32).permute(0, 3, 1, 2)
    augment = rand_augment_of("m9-n1", (128, 128, 128))
    assert len({augment(picture).numpy().tobytes() for _ in range(300)}) > 14  # 14 operations, most of them with a sign


def test_rand_augment_speaks_timms_words():
    for words in ("m9-n2", "rand-m9-n2", "rand-m9-n2-inc1", (2, 9)):
        augment = rand_augment_of(words, (1, 2, 3))
        assert (augment.num_ops, augment.magnitude, augment.num_magnitude_bins) == (2, 9, 11)
    assert rand_augment_of(None, (0, 0, 0)) is None


def test_magnitude_10_is_the_strongest():
    """Brightness by a factor of 1.9 or 0.1, the end of torchvision's range, and nothing at magnitude 0."""
    grey = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    strong, none = rand_augment_of("m10-n1", (100, 100, 100)), rand_augment_of("m0-n1", (100, 100, 100))
    centres = {int(strong(grey)[0, 0, 16, 16]) for _ in range(400)}
    assert {10, 190} <= centres
    # equalising one grey level, like everything else at magnitude 0, changes nothing
    assert {int(none(grey)[0, 0, 16, 16]) for _ in range(200)} == {100}


def test_fill_is_the_colour_of_what_was_not_there():
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    transform = TrainTransform(64, scale=None, rand_augment="m9-n1", fill=(1.0, 0.5, 0.0))
    corners = set()
    for _ in range(200):
        video = transform(white).video[:, 0]
        corners |= {tuple(video[:, y, x].tolist()) for y in (0, -1) for x in (0, -1)}
    assert (255, 128, 0) in corners
