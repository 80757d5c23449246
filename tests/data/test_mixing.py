"""Mixed clips: what the pixels show is what the label says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import Mixup
from torch.testing import assert_close

from timesformer_plus.data.mixing import ClipMixer
from timesformer_plus.data.transforms import Normalize

CLASSES = 4


def constant_clips(values=(10, 200, 60, 90), shape=(3, 5, 12, 16), dtype=torch.uint8) -> torch.Tensor:
    """Clip i is one grey everywhere, so that every pixel of a mixture tells where it comes from."""
    return torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1, 1).repeat(1, *shape)


def mix(mixer, video, target, seed):
    """Mix, and see that the arguments and the global generators stay as they were."""
    before = (video.clone(), target.clone(), torch.random.get_rng_state(), np.random.get_state()[1].copy())
    mixed, soft = mixer(video, target, seed=seed)
    assert torch.equal(video, before[0])
    assert torch.equal(target, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert np.array_equal(np.random.get_state()[1], before[3])
    assert (mixed.shape, mixed.dtype, type(mixed)) == (video.shape, video.dtype, torch.Tensor)
    assert (soft.shape, soft.dtype, type(soft)) == ((len(video), mixer.num_classes), torch.float32, torch.Tensor)
    return mixed, soft


@given(seed=st.integers(0, 2**63 - 1), height=st.integers(4, 20), width=st.integers(4, 20), dtype=st.booleans())
@settings(max_examples=60)
def test_cutmix_pixels_and_labels_agree_exactly(seed, height, width, dtype):
    video = constant_clips(shape=(3, 5, height, width), dtype=torch.float32 if dtype else torch.uint8)
    mixed, soft = mix(ClipMixer(CLASSES, cutmix_alpha=1.0), video, torch.arange(4), seed)
    for i, clip in enumerate(mixed):
        foreign = clip == video[i - 1]
        assert torch.all(foreign | (clip == video[i]))
        assert torch.equal(foreign, foreign[:1, :1].expand_as(foreign))  # one box through all frames and channels
        box = foreign[0, 0]
        rows, columns = box.any(dim=1), box.any(dim=0)
        assert torch.equal(box, rows[:, None] & columns[None, :])
        share = box.double().mean()
        assert_close(soft[i].double(), torch.eye(4).double()[i] * (1 - share) + torch.eye(4).double()[i - 1] * share)


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=60)
def test_mixup_pixels_and_labels_agree(seed):
    mixer = ClipMixer(CLASSES, mixup_alpha=0.8)
    video = constant_clips(dtype=torch.float64)
    mixed, soft = mix(mixer, video, torch.arange(4), seed)
    greys = video[:, 0, 0, 0, 0]
    assert_close(mixed, (soft.double() @ greys).view(-1, 1, 1, 1, 1).expand_as(mixed), rtol=0, atol=1e-4)
    assert_close(soft.sum(dim=1), torch.ones(4))
    # uint8 is the same mixture, rounded once: half a grey level, and the label's float32
    rounded, same_soft = mix(mixer, constant_clips(), torch.arange(4), seed)
    assert torch.equal(soft, same_soft)
    assert (rounded.double() - mixed).abs().max() <= 0.5 + 1e-4


def test_mixup_before_and_after_normalize_is_the_same_but_for_the_rounding():
    video = torch.randint(0, 256, (4, 3, 2, 8, 8), dtype=torch.uint8)
    normalize, mixer = Normalize((0.45,) * 3, (0.225,) * 3), ClipMixer(CLASSES, mixup_alpha=1.0)
    early = normalize(mixer(video, torch.arange(4), seed=3)[0])
    late = mixer(normalize(video), torch.arange(4), seed=3)[0]
    assert_close(early, late, rtol=0, atol=0.5 / 255 / 0.225 + 1e-5)
    assert not torch.equal(early, late)


def test_frames_are_mixed_with_frames_of_the_same_moment():
    video = torch.rand(2, 3, 4, 6, 6, dtype=torch.float64)
    mixed, soft = ClipMixer(2, mixup_alpha=1.0)(video, torch.tensor([0, 1]), seed=5)
    share = soft[0, 1].double()
    assert 0.05 < share < 0.95
    assert_close(mixed[0], video[0] * (1 - share) + video[1] * share, rtol=0, atol=1e-6)


def shares(mixer, count=400):
    """Share of the other clip in each of many batches."""
    video = constant_clips((0, 0), shape=(1, 1, 32, 32))
    return torch.tensor([mixer(video, torch.tensor([0, 1]), seed=seed)[1][0, 1].item() for seed in range(count)])


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
def test_shares_follow_their_distribution(name):
    drawn = shares(ClipMixer(2, **{name: 1.0}))
    # Beta(1, 1) has mean 1/2 and variance 1/12; cutmix's box is cut off at the border, so it takes less
    if name == "mixup_alpha":
        assert abs(drawn.mean() - 0.5) < 0.05
        assert abs(drawn.var() - 1 / 12) < 0.015
    else:
        assert 0.2 < drawn.mean() < 0.5
    narrow = shares(ClipMixer(2, **{name: 50.0}))
    assert narrow.std() < 0.7 * drawn.std()


def test_probabilities():
    assert torch.all(shares(ClipMixer(2, mixup_alpha=1.0, prob=0.0), 50) == 0)
    assert abs((shares(ClipMixer(2, mixup_alpha=1.0, prob=0.3)) > 0).float().mean() - 0.3) < 0.08
    video, target = torch.rand(2, 3, 2, 16, 16), torch.tensor([0, 1])

    def cut(mixed):
        return bool(((mixed == video) | (mixed == video.roll(1, 0))).all())

    for switch_prob in (0.0, 0.25, 1.0):
        mixer = ClipMixer(2, mixup_alpha=1.0, cutmix_alpha=1.0, switch_prob=switch_prob)
        found = np.mean([cut(mixer(video, target, seed=seed)[0]) for seed in range(300)])
        assert abs(found - switch_prob) < 0.08
        assert found == switch_prob or switch_prob == 0.25


def test_the_seed_decides_everything():
    mixer = ClipMixer(CLASSES, mixup_alpha=0.8, cutmix_alpha=1.0)
    video = torch.rand(4, 3, 2, 8, 8)
    first = mixer(video, torch.arange(4), seed=11)
    torch.rand(7)
    again, other = mixer(video, torch.arange(4), seed=11), mixer(video, torch.arange(4), seed=12)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_smoothing(prob):
    mixer = ClipMixer(CLASSES, mixup_alpha=1.0, prob=prob, label_smoothing=0.2)
    soft = mixer(constant_clips(), torch.arange(4), seed=1)[1]
    share = ClipMixer(CLASSES, mixup_alpha=1.0, prob=prob)(constant_clips(), torch.arange(4), seed=1)[1]
    assert_close(soft, share * 0.8 + 0.05)
    assert_close(soft.sum(dim=1), torch.ones(4))
    if prob == 0:  # what torch's own cross entropy takes smoothing to be
        logits = torch.randn(4, CLASSES)
        smoothed = torch.nn.functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.2)
        assert_close(torch.nn.functional.cross_entropy(logits, soft), smoothed)


def test_multi_label_targets_are_mixed_as_they_are():
    target = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    video = constant_clips((0, 100, 200), dtype=torch.float64)
    mixed, soft = mix(ClipMixer(3, mixup_alpha=1.0), video, target.float(), seed=2)
    share = (mixed[1, 0, 0, 0, 0] / 100).item()  # clip 1 is 100 times its own share and nothing of clip 0's grey
    assert 0.05 < share < 0.95
    assert_close(soft, target * share + target.roll(1, 0) * (1 - share), check_dtype=False)
    assert torch.equal(mix(ClipMixer(3, mixup_alpha=1.0, prob=0), video, target, seed=2)[1], target.float())


@pytest.mark.parametrize("size", [1, 3])
def test_any_batch_size(size):
    video = torch.rand(size, 3, 2, 8, 8)
    for name in ("mixup_alpha", "cutmix_alpha"):
        mixed, soft = ClipMixer(CLASSES, **{name: 1.0})(video, torch.arange(size), seed=4)
        if size == 1:
            assert_close(mixed, video)
            assert_close(soft, torch.eye(CLASSES)[:1])
        else:
            assert not torch.equal(mixed, video)


@st.composite
def pair_batches(draw):
    """A mixer, a batch, its targets and a seed for every pair."""
    size = draw(st.integers(0, 7))
    mixer = ClipMixer(
        CLASSES,
        mixup_alpha=draw(st.sampled_from([0.0, 0.8])),
        cutmix_alpha=1.0,
        prob=draw(st.sampled_from([0.5, 1.0])),
        label_smoothing=0.1,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    video = torch.rand(size, 3, 2, 8, 8, generator=generator)
    if draw(st.booleans()):
        video = (255 * video).to(torch.uint8)
    target = torch.randint(CLASSES, (size,), generator=generator)
    seeds = draw(st.lists(st.integers(0, 2**63 - 1), min_size=size // 2, max_size=size // 2))
    return mixer, video, target, seeds


@given(pair_batches())
@settings(max_examples=60)
def test_a_pair_is_mixed_as_it_would_be_alone(batch):
    mixer, video, target, seeds = batch
    before = video.clone(), torch.random.get_rng_state()
    mixed, soft = mixer.mix_pairs(video, target, seeds=seeds)
    assert torch.equal(video, before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert (mixed.shape, mixed.dtype, type(mixed)) == (video.shape, video.dtype, torch.Tensor)
    assert (soft.shape, soft.dtype, type(soft)) == ((len(video), CLASSES), torch.float32, torch.Tensor)
    for i, seed in enumerate(seeds):
        pair = slice(2 * i, 2 * i + 2)
        alone = mixer(video[pair], target[pair], seed=seed)
        assert torch.equal(mixed[pair], alone[0])
        assert torch.equal(soft[pair], alone[1])
    if len(video) % 2:
        assert torch.equal(mixed[-1], video[-1])
        assert_close(soft[-1], torch.eye(CLASSES)[target[-1]] * 0.9 + 0.1 / CLASSES)
    # so how a batch is cut between pairs changes nothing
    for cut in range(0, len(video), 2):
        parts = [
            mixer.mix_pairs(video[:cut], target[:cut], seeds=seeds[: cut // 2]),
            mixer.mix_pairs(video[cut:], target[cut:], seeds=seeds[cut // 2 :]),
        ]
        for whole, pieces in zip((mixed, soft), zip(*parts, strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), whole)


def test_pairs_are_mixed_within_themselves_by_draws_of_their_own():
    video = constant_clips((0, 100, 0, 100, 0, 100, 50), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    mixed, soft = ClipMixer(CLASSES, mixup_alpha=1.0).mix_pairs(video, target, seeds=[1, 2, 3])
    assert (soft > 0).sum(dim=1).tolist() == [2, 2, 2, 2, 2, 2, 1]
    for first, second in ((0, 1), (2, 3), (4, 5)):
        both = [int(target[first]), int(target[second])]
        assert_close(soft[first, both], soft[second, both].flip(0))
        assert_close(mixed[first, 0, 0, 0, 0], 100 * soft[first, both[1]].double(), rtol=0, atol=1e-4)
    assert len({round(soft[i].max().item(), 4) for i in (0, 2, 4)}) == 3


def test_multi_label_pairs():
    target = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    video = constant_clips((0, 100, 200), dtype=torch.float64)
    mixed, soft = ClipMixer(3, mixup_alpha=1.0).mix_pairs(video, target, seeds=[2])
    share = (mixed[1, 0, 0, 0, 0] / 100).float()
    assert_close(soft, torch.stack([target[0] * share, target[0] * (1 - share), target[2].float()]))


@pytest.mark.parametrize(("size", "count"), [(4, 1), (4, 3), (5, 3), (1, 1)])
def test_pairs_want_one_seed_each(size, count):
    with pytest.raises(ValueError, match=f"{count} seeds for {size} clips: give one for each of the {size // 2} pairs"):
        ClipMixer(CLASSES, cutmix_alpha=1.0).mix_pairs(
            torch.rand(size, 3, 2, 8, 8), torch.zeros(size, dtype=torch.int64), seeds=range(count)
        )


def test_timms_cutmix_mislabels_clips():
    """Why timm's Mixup is not used: on five dimensions its box and its label disagree; with time folded they agree."""
    video, target = torch.zeros(2, 3, 8, 16, 16), torch.tensor([0, 1])
    video[1] = 1
    timm_mixup = Mixup(mixup_alpha=0, cutmix_alpha=1.0, label_smoothing=0, num_classes=2)
    state = np.random.get_state()
    try:
        np.random.seed(0)
        errors, folded_errors = [], []
        for _ in range(20):
            mixed, soft = timm_mixup(video.clone(), target)
            errors.append(abs(mixed[0].mean().item() - soft[0, 1].item()))
            mixed, soft = timm_mixup(video.flatten(1, 2).clone(), target)
            folded_errors.append(abs(mixed[0].mean().item() - soft[0, 1].item()))
    finally:
        np.random.set_state(state)
    assert max(errors) > 0.1
    assert max(folded_errors) < 1e-6
    ours = [ClipMixer(2, cutmix_alpha=1.0)(video, target, seed=seed) for seed in range(20)]
    assert max(abs(mixed[0].mean().item() - soft[0, 1].item()) for mixed, soft in ours) < 1e-6


@pytest.mark.gpu
def test_a_gpu_draws_and_mixes_the_same():
    video, target = torch.rand(4, 3, 2, 8, 8), torch.arange(4)
    mixer = ClipMixer(CLASSES, mixup_alpha=1.0, cutmix_alpha=1.0, label_smoothing=0.1)
    state = torch.cuda.get_rng_state()
    for seed in range(6):
        there, here = mixer(video.cuda(), target.cuda(), seed=seed), mixer(video, target, seed=seed)
        for a, b in zip(there, here, strict=True):
            assert a.is_cuda
            assert_close(a.cpu(), b)
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"mixup_alpha": -1}, "mixup_alpha=-1"),
        ({"cutmix_alpha": float("inf")}, "cutmix_alpha=inf"),
        ({"mixup_alpha": 0}, "both 0"),
        ({"prob": 1.2}, "prob=1.2"),
        ({"switch_prob": -0.2}, "switch_prob=-0.2"),
        ({"label_smoothing": 1}, "label_smoothing=1"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClipMixer(**({"num_classes": 4, "mixup_alpha": 1.0} | arguments))


@pytest.mark.parametrize(
    ("video", "target", "message"),
    [
        (torch.zeros(3, 2, 4, 4), torch.zeros(3, dtype=torch.int64), "mix batches, not single clips"),
        (torch.zeros(2, 3, 2, 4, 4, dtype=torch.int64), torch.tensor([0, 1]), "uint8 or floats"),
        (torch.zeros(2, 3, 2, 4, 4), torch.tensor([0, 1, 2]), r"target must be int64 \(2,\) or \(2, 4\)"),
        (torch.zeros(2, 3, 2, 4, 4), torch.zeros(2, 5), r"target must be int64 \(2,\) or \(2, 4\)"),
        (torch.zeros(2, 3, 2, 4, 4), torch.tensor([0.0, 1.0]), "not torch.float32"),
        (torch.zeros(2, 3, 2, 4, 4), torch.tensor([0, 4]), "classes 0 to 4, but num_classes=4"),
        (torch.zeros(2, 3, 2, 4, 4), torch.tensor([0, -1]), "classes -1 to 0"),
        (torch.zeros(2, 3, 2, 4, 4), torch.zeros(2, 4), "set it to 0"),
    ],
)
def test_other_batches_are_refused(video, target, message):
    with pytest.raises(ValueError, match=message):
        ClipMixer(CLASSES, cutmix_alpha=1.0, label_smoothing=0.1)(video, target, seed=0)
