"""What the built-in tasks promise: labels that can be read, and ceilings for models that do not relate the cells."""

import itertools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from timesformer_plus.data.motion_tasks import MOTION_TASKS, SPLITS, Direction, Drift, Lattice

SIZE, T = 32, 8


def draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def variants(task) -> list[int]:
    return [variant for group in task.groups for variant in group]


@pytest.mark.parametrize("name", MOTION_TASKS)
def test_a_clip_depends_on_its_draw_and_variant_alone(name):
    task = MOTION_TASKS[name]
    for variant in variants(task):
        clip = task.render(draw(5), variant, "train", T, SIZE)
        assert clip.shape == (T, SIZE, SIZE, 3)
        assert clip.dtype == np.uint8
        assert np.array_equal(clip, task.render(draw(5), variant, "train", T, SIZE))
        assert not np.array_equal(clip, task.render(draw(6), variant, "train", T, SIZE))


@pytest.mark.parametrize("name", MOTION_TASKS)
def test_partners_are_2k_and_2k_plus_1_and_in_one_group(name):
    for group in MOTION_TASKS[name].groups:
        assert {variant ^ 1 for variant in group} == set(group)


@pytest.mark.parametrize("name", MOTION_TASKS)
@pytest.mark.parametrize(("frames", "size"), [(2, 16), (5, 48), (12, 64)])
def test_other_sizes(name, frames, size):
    assert MOTION_TASKS[name].render(draw(0), 1, "test", frames, size).shape == (frames, size, size, 3)


# direction and drift: the partner is the clip backwards


@pytest.mark.parametrize("name", ["direction", "drift"])
@pytest.mark.parametrize("seed", range(10))
def test_frames_as_a_set_are_those_of_the_partner(name, seed):
    task = MOTION_TASKS[name]
    for variant in variants(task)[::2]:
        clip, partner = (task.render(draw(seed), v, "test", T, SIZE) for v in (variant, variant + 1))
        assert np.array_equal(clip[::-1], partner)
        assert not np.array_equal(clip, partner)
        assert task.label(variant) != task.label(variant + 1)


def sprite(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the sprite is in each frame, and its area, from the difference to the scene without it."""
    scene = np.median(clip.astype(float), axis=0)
    weight = np.abs(clip - scene).sum(-1)
    weight[weight < 60] = 0
    total = weight.sum((1, 2))
    y, x = np.mgrid[: clip.shape[1], : clip.shape[2]]
    return (weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total, total


@pytest.mark.parametrize("seed", range(8))
def test_sprites_move_as_their_class_says(seed):
    """Where the sprite is in the first and last frame, in which no other frame's sprite covers it for long."""
    clips = {name: Direction().render(draw(seed), v, "train", 9, 64) for v, name in enumerate(Direction().classes)}
    for name, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        place = sprite(clips[name])[axis]
        assert sign * (place[-1] - place[0]) > 10, name
    for name, sign in (("clockwise", 1), ("counterclockwise", -1)):
        x, y, _ = sprite(clips[name])
        # the path turns the same way all along; y points down, so a positive turn is clockwise
        turn = np.diff(x)[:-1] * np.diff(y)[1:] - np.diff(x)[1:] * np.diff(y)[:-1]
        assert sign * np.sign(turn).sum() >= 5, name
    for name, sign in (("growing", 1), ("shrinking", -1)):
        bright = clips[name].astype(float).sum(-1).mean((1, 2))
        assert (sign * np.diff(bright) > 0).all(), name


def test_clips_of_a_class_differ_in_colour_size_speed_and_place():
    clips = np.stack([Direction().render(draw(seed), 1, "train", T, SIZE) for seed in range(60)]).astype(float)
    places = np.array([sprite(clip)[:2] for clip in clips])
    assert np.ptp(places[:, 0, 0]) > 6  # pixels, where it starts
    assert np.ptp(places[:, 1, 0]) > 12
    assert np.ptp(places[:, 0, -1] - places[:, 0, 0]) > 4  # how far it gets
    assert clips.mean((1, 2, 3)).std(0).min() > 15  # each colour of the scene


# drift


def test_drift_frames_have_the_same_statistics_in_every_class_at_every_moment():
    clips = np.array(
        [[Drift().render(draw(1000 * v + s), v, "train", T, SIZE)[..., 0] for s in range(150)] for v in range(4)]
    ).astype(float)
    mean, deviation = clips.mean((3, 4)), clips.std((3, 4))  # (class, clip, T)
    across = np.abs(np.diff(clips, axis=-1)).mean((3, 4))
    down = np.abs(np.diff(clips, axis=-2)).mean((3, 4))
    for statistic in (mean, deviation, across, down, across - down):
        centre, error = statistic.mean(1), statistic.std(1) / np.sqrt(150)  # (class, T)
        z = (centre - statistic.mean()) / error
        assert np.abs(z).max() < 4.5, z
    # and within a clip they hardly vary: moving over the edge and back in loses nothing
    assert np.abs(mean - mean.mean(2, keepdims=True)).max() < 0.6
    assert np.abs(deviation - deviation.mean(2, keepdims=True)).max() < 1.5


def shift_between(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Displacement by phase correlation, (rows, columns), to a tenth of a pixel."""
    side = len(first)
    spectrum = np.conj(np.fft.fft2(first - first.mean())) * np.fft.fft2(second - second.mean())
    fine = np.arange(-40, 41) / 10
    waves = np.exp(2j * np.pi * np.outer(fine, np.fft.fftfreq(side)))
    correlation = (waves @ spectrum @ waves.T).real
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    return fine[row], fine[column]


@pytest.mark.parametrize("variant", range(4))
def test_the_shift_between_frames_tells_the_class(variant):
    towards = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[Drift().label(variant)]
    for seed in range(20):
        clip = Drift().render(draw(seed), variant, "test", T, SIZE)[..., 0].astype(float)
        shifts = np.array([shift_between(a, b) for a, b in itertools.pairwise(clip)])
        assert (shifts @ np.array(towards) > 0.6).all()
        assert np.abs(shifts @ np.array(towards)[::-1]).max() <= 0.1
        assert np.ptp(shifts, axis=0).max() <= 0.2  # steady


def test_adding_up_frames_does_not_read_drift():
    """Logistic regression on features of single frames, summed over the clip: with and without knowing the moment."""
    rng = draw(0)
    filters = rng.standard_normal((SIZE * SIZE, 40)) / SIZE
    labels = np.arange(800) % 4
    clips = np.array([Drift().render(draw(5000 + i), v, "train", T, SIZE)[..., 0] for i, v in enumerate(labels)])
    responses = (clips.reshape(800, T, -1) / 64 - 2) @ filters
    features = np.concatenate(
        [np.maximum(responses, 0), responses**2, np.cos(3 * responses)], -1
    )  # of each frame alone
    moments = rng.standard_normal((T, features.shape[-1]))
    for summed in (features.sum(1), (features * moments).sum(1)):
        summed = (summed - summed.mean(0)) / summed.std(0)
        fit = LogisticRegression(C=0.1, max_iter=2000).fit(summed[:600], labels[:600])
        accuracy = fit.score(summed[600:], labels[600:])
        assert accuracy < 0.25 + 4 * np.sqrt(0.25 * 0.75 / 200), accuracy


# lattice


def test_lattice_by_hand():
    lattice = Lattice()
    assert lattice.bits(0b1011) == (1, 0, 1)
    assert lattice.label(0b1011) == "time;width"
    assert lattice.label(0) == lattice.label(1) == ""
    assert lattice.digits(0b1011, 2, 16).tolist() == [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]
    assert lattice.digits(0b0100, 1, 24).tolist() == [[[0, 0, 0], [1, 1, 1], [0, 0, 0]]]


def test_every_cell_alone_is_uniform_and_complements_share_their_bits():
    lattice = Lattice()
    shown = np.array([lattice.digits(v, T, SIZE) for v in range(16)])
    assert (shown.mean(0) == 0.5).all()
    for variant in range(0, 16, 2):
        assert (shown[variant] == 1 - shown[variant + 1]).all()
        assert lattice.bits(variant) == lattice.bits(variant + 1)
    assert len({lattice.label(v) for v in range(16)}) == 8


def cells(clip: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> (T, rows, columns, 64), in 0..1."""
    time, height, width, _ = clip.shape
    grey = clip[..., 0].reshape(time, height // 8, 8, width // 8, 8)
    return grey.swapaxes(2, 3).reshape(time, height // 8, width // 8, 64) / 255


def test_a_group_shows_one_0_and_one_1_for_each_cell():
    both = np.stack([cells(Lattice().render(draw(3), v, "test", T, SIZE)) for v in range(16)])
    digit = np.stack([Lattice().digits(v, T, SIZE) for v in range(16)])
    for t, y, x in itertools.product(range(T), range(4), range(4)):
        for which in (0, 1):
            pictures = both[digit[:, t, y, x] == which, t, y, x]
            assert (pictures == pictures[0]).all()


def test_no_instance_is_shared_between_splits():
    from sklearn.datasets import load_digits

    from timesformer_plus.data.motion_tasks import _instances

    digits = load_digits()
    for digit in (0, 1):
        parts = {split: {picture.tobytes() for picture in _instances(digit, split)} for split in SPLITS}
        assert all(parts[a].isdisjoint(parts[b]) for a, b in itertools.combinations(SPLITS, 2))
        sizes = {split: len(_instances(digit, split)) for split in SPLITS}
        assert sum(sizes.values()) == (digits.target == digit).sum()
        assert min(sizes.values()) >= 30
        everything = {picture.tobytes() for picture in digits.images[digits.target == digit] / 16}
        assert set().union(*parts.values()) == everything


@pytest.fixture(scope="module")
def cell_reader():
    """Tells a 0 from a 1 in single cells; fitted on the training instances."""
    clips = np.stack([cells(Lattice().render(draw(s), s % 16, "train", T, SIZE)) for s in range(16)])
    digits = np.stack([Lattice().digits(s % 16, T, SIZE) for s in range(16)])
    return SVC().fit(clips.reshape(-1, 64), digits.ravel())


def test_comparing_neighbours_reads_every_bit(cell_reader):
    """The labels are right: products of neighbouring cells along an axis tell that axis' bit, on unseen handwriting."""
    for seed, variant in itertools.product(range(3), range(16)):
        clip = cells(Lattice().render(draw(seed), variant, "test", T, SIZE))
        sign = 2 * cell_reader.predict(clip.reshape(-1, 64)).reshape(clip.shape[:3]) - 1.0
        read = (
            (sign[1:] * sign[:-1]).mean() < 0,
            (sign[:, 1:] * sign[:, :-1]).mean() < 0,
            (sign[:, :, 1:] * sign[:, :, :-1]).mean() < 0,
        )
        assert tuple(map(int, read)) == Lattice().bits(variant)


def test_single_cells_are_legible(cell_reader):
    clip = Lattice().render(draw(77), 5, "test", T, SIZE)
    assert cell_reader.score(cells(clip).reshape(-1, 64), Lattice().digits(5, T, SIZE).ravel()) > 0.97


def both_right(scores: np.ndarray, bits: np.ndarray) -> float:
    """Share of pairs with both partners right, for scores (..., variants) whose partners stand side by side."""
    right = (scores > 0) == bits.astype(bool)
    return float((right[..., 0::2] & right[..., 1::2]).mean())


@pytest.mark.parametrize("axis", range(3), ids=Lattice().classes)
def test_sums_over_slices_read_at_most_half_of_the_pairs(axis):
    """The ceiling itself: any function of the slices across an axis, summed, whatever its bias; exact, not on average.

    The functions are wild ones (random networks with as many parameters as they like, another one for each place, and
    one that knows the other two bits perfectly); the slices are whole frames, rows or columns.
    """
    bits = np.array([Lattice().bits(v)[axis] for v in range(16)])
    best = 0.0
    for seed in range(30):
        rng = draw(9000 + seed)
        clips = np.stack([cells(Lattice().render(draw(seed), v, "test", T, SIZE)) for v in range(16)])
        slices = np.moveaxis(clips, 1 + axis, 1)
        slices = slices.reshape(16, slices.shape[1], -1)
        hidden = np.tanh(np.einsum("vsd,sdk->vsk", slices - 0.4, rng.standard_normal((*slices.shape[1:], 32))))
        scores = (hidden * rng.standard_normal((slices.shape[1], 32))).sum((1, 2))
        for bias in (0.0, -np.median(scores), 1e3, -1e3):
            share = both_right(scores + bias, bits)
            assert share <= 0.5
            best = max(best, share)
    assert best == 0.5  # reached by always answering the same


def test_a_fitted_additive_model_stays_below_the_ceiling_on_lattice():
    """The best that training can do: logistic regression on the true digits' features, summed over all cells."""
    train = [(s, v) for s in range(25) for v in range(16)]
    reader = Lattice()
    place = draw(1).standard_normal((T, 4, 4, 16))

    def summed(draws, split):
        rows = []
        for seed, variant in draws:
            clip = cells(reader.render(draw(seed), variant, split, T, SIZE))
            features = np.concatenate([clip, clip**2], -1)  # of each cell alone
            embedded = features[..., :, None] * place[..., None, :]  # as if it knew where it stands
            rows.append(np.concatenate([features.sum((0, 1, 2)), embedded.sum((0, 1, 2)).ravel()]))
        return np.array(rows)

    # training draws are single, test draws are whole groups, as in the files
    x_train = summed([(100 + i, v) for i, (_, v) in enumerate(train)], "train")
    x_test = summed([(s, v) for s in range(6) for v in range(16)], "test")
    centre, spread = x_train.mean(0), x_train.std(0)
    for axis in range(3):
        y_train = np.array([reader.bits(v)[axis] for _, v in train])
        y_test = np.array([reader.bits(v)[axis] for v in range(16)] * 6)
        fit = LogisticRegression(C=0.01, max_iter=3000).fit((x_train - centre) / spread, y_train)
        assert both_right(fit.decision_function((x_test - centre) / spread), y_test) <= 0.5


def test_a_size_that_cuts_cells_is_refused():
    with pytest.raises(ValueError, match=r"size=36 is not a multiple of the cells' 8 pixels"):
        Lattice().render(draw(0), 0, "train", T, 36)
