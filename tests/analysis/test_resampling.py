"""Permutations, bootstraps and numbers of seeds: worked by hand, and their rates in simulation."""

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from timesformer_plus.analysis.bootstrap import bootstrap_seeds_and_videos, resampled_means
from timesformer_plus.analysis.permutation import probability_of_improvement, sign_flip_p
from timesformer_plus.analysis.power import power_of, seeds_needed
from timesformer_plus.analysis.statistics import mean_interval, paired_difference


def test_sign_flips_by_hand():
    # sums of +-1 +-2 +-3: 6 4 2 0 0 -2 -4 -6, of eight two are as far out as 6, four as far as 4 (-1 + 2 + 3)
    assert sign_flip_p([1, 2, 3]) == pytest.approx(2 / 8)
    assert sign_flip_p([-1, 2, 3]) == pytest.approx(4 / 8)
    # 1 in 2^n on each side: five seeds cannot reach .05, six can
    assert sign_flip_p([0.1] * 5) == pytest.approx(2 / 32)
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.5]) is None
    # shares of videos whose sums are equal, though not in their last bits: counted by whole numbers, 120 of 128
    assert sign_flip_p([videos / 208 for videos in (1, 6, -9, 0, 2, -5, 7)]) == pytest.approx(120 / 128)


def test_sign_flips_stand_beside_t():
    difference = paired_difference({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert (difference.permutation_p, difference.std) == (pytest.approx(0.25), pytest.approx(1.0))
    assert paired_difference({0: 1.0}, {0: 0.5}).permutation_p is None


def test_sign_flips_of_many_seeds_are_drawn_and_always_the_same():
    sample = np.random.default_rng(0).normal(0.4, 1, 40)
    assert sign_flip_p(sample) == sign_flip_p(sample)
    assert sign_flip_p(sample) == pytest.approx(ttest_1samp(sample, 0).pvalue, abs=0.01)


def test_sign_flips_err_at_the_nominal_rate_without_normal_scores():
    # heavy tails; 7 seeds: p is a multiple of 1/64, so that p <= .0625 holds in exactly 4 of 64
    samples = np.random.default_rng(0).standard_t(2, (1500, 7))
    rate = np.mean([sign_flip_p(sample) <= 0.0626 for sample in samples])
    assert rate == pytest.approx(0.0625, abs=4 * math.sqrt(0.0625 * 0.9375 / 1500))


def test_improvement_by_hand():
    # of six pairs 2 > 1, 3 > 1, 3 > 2 win, 2 = 2 ties, 1 < 2 and 1 = 1: 3 wins, 2 ties, 1 loss
    found = probability_of_improvement([1, 2, 3], [1, 2])
    assert found.probability == pytest.approx((3 + 2 * 0.5) / 6)
    assert 0 <= found.low < found.probability < found.high <= 1
    sure = probability_of_improvement([0.8, 0.9], [0.1, 0.2])
    assert (sure.probability, sure.low, sure.high) == (1.0, 1.0, 1.0)
    # 0.1 + 0.2 is 0.3 in all but the last bit
    single = probability_of_improvement([0.1 + 0.2], [0.3])
    assert (single.probability, single.low, single.high) == (0.5, None, None)
    with pytest.raises(ValueError, match="need a finished seed"):
        probability_of_improvement([], [0.1])


def test_improvement_covers_as_rarely_as_its_docstring_says():
    generator = np.random.default_rng(0)
    found = [probability_of_improvement(*generator.normal(size=(2, 5))) for _ in range(600)]
    assert np.mean([i.low <= 0.5 <= i.high for i in found]) == pytest.approx(0.91, abs=0.035)


def test_power_against_the_textbook():
    # paired t, gap of half a standard deviation, power .8: 34 pairs (Cohen 1988); of a whole one: 10
    assert seeds_needed(1.0, 0.5) == 34
    assert seeds_needed(2.0, 2.0) == 10
    assert seeds_needed(1.0, -0.5) == 34
    assert power_of(34, std=1.0, gap=0.5) == pytest.approx(0.808, abs=0.001)
    assert power_of(5, std=1.0, gap=0.0) == pytest.approx(0.05, abs=1e-6)
    assert seeds_needed(1.0, 100.0) == 2
    # two seeds, whose t has tails that scipy has no number for: power of two is .49 for a gap of six deviations
    assert power_of(2, std=1, gap=6) == pytest.approx(0.494, abs=0.002)
    assert power_of(2, std=1, gap=8) == pytest.approx(0.625, abs=0.002)
    assert [seeds_needed(1.0, gap) for gap in (6, 8, 10)] == [3, 3, 3]
    assert seeds_needed(0.0, 0.1) == 2
    assert seeds_needed(0.1, 0.0) is None
    assert seeds_needed(1.0, 0.001) is None
    assert seeds_needed(1.0, 0.5, power=0.9) > 34
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        seeds_needed(1.0, 0.5, power=80)


def test_power_is_how_often_the_difference_is_found():
    found = ttest_1samp(np.random.default_rng(0).normal(0.5, 1, (4000, 12)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(power_of(12, std=1, gap=0.5), abs=4 * math.sqrt(0.25 / 4000))


def test_bootstrap_of_seeds_alone_is_the_t_interval():
    # every video says the same: another test set would change nothing, and degrees of freedom are n - 1
    seeds = [0.4, 0.5, 0.7, 0.55]
    found = bootstrap_seeds_and_videos(np.repeat(np.array(seeds)[:, None], 50, axis=1))
    student = mean_interval(seeds)
    assert found.mean == pytest.approx(student.mean)
    assert found.high - found.low == pytest.approx(student.high - student.low, rel=0.05)
    assert (found.seeds, found.units) == (4, 50)


def test_bootstrap_of_videos_alone_is_the_binomial_interval():
    # all seeds say the same: 1.98 sqrt(.25 / 100) about a half, with t of 99 degrees; the t-interval has no width
    scores = np.tile(np.arange(100) % 2, (5, 1)).astype(float)
    found = bootstrap_seeds_and_videos(scores)
    assert found.high - found.mean == pytest.approx(1.984 * 0.5 / math.sqrt(99), rel=0.05)
    assert mean_interval(scores.mean(axis=1)).high == 0.5


def test_bootstrap_is_the_same_every_time_is_cut_and_refuses_what_it_cannot_resample():
    scores = (np.random.default_rng(0).random((3, 20)) < 0.95).astype(float)
    assert bootstrap_seeds_and_videos(scores) == bootstrap_seeds_and_videos(scores)
    assert bootstrap_seeds_and_videos(scores, bounds=(0, 1)).high == 1.0
    for wrong in (np.ones((1, 20)), np.ones((5, 1)), np.ones(5), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="two or more"):
            bootstrap_seeds_and_videos(wrong)


def test_bootstrap_of_what_never_varies_says_what_may_be_unseen():
    # of 208 videos all right: the share of wrong ones is below 1 - .025^(1/208), Clopper and Pearson
    perfect = bootstrap_seeds_and_videos(np.ones((5, 208)), bounds=(0, 1))
    assert (perfect.low, perfect.high) == (pytest.approx(0.9824, abs=1e-4), 1.0)
    equal = bootstrap_seeds_and_videos(np.zeros((5, 208)), bounds=(-1, 1))
    assert (equal.low, equal.high) == (pytest.approx(-0.0176, abs=1e-4), pytest.approx(0.0176, abs=1e-4))
    assert bootstrap_seeds_and_videos(np.ones((3, 20))).low == -math.inf


@pytest.mark.parametrize(("units", "skill"), [(208, 0.995), (208, 0.99), (60, 0.97)])
def test_bootstrap_covers_near_the_top_too(units, skill):
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(150):
        right = np.repeat(generator.random((1, units)) < skill, 5, axis=0).astype(float)  # hard ones are hard for all
        interval = bootstrap_seeds_and_videos(right, bounds=(0, 1))
        covered += interval.low <= skill <= interval.high
    assert covered / 150 > 0.9


@pytest.mark.parametrize(("seed_spread", "video_spread", "students"), [(0.1, 2.0, 0.8), (0.5, 0.5, 0.97)])
def test_bootstrap_covers_the_mean_over_other_seeds_and_videos(seed_spread, video_spread, students):
    sweeps, n, units = 250, 5, 80
    generator = np.random.default_rng(1)
    truth = norm.cdf(0.5 / math.sqrt(1 + seed_spread**2 + video_spread**2))
    covered = alone = 0
    for _ in range(sweeps):
        skill = 0.5 + generator.normal(0, seed_spread, (n, 1)) + generator.normal(0, video_spread, (1, units))
        right = (skill + generator.normal(size=(n, units)) > 0).astype(float)
        interval = bootstrap_seeds_and_videos(right)
        covered += interval.low <= truth <= interval.high
        over_seeds = mean_interval(right.mean(axis=1))
        alone += over_seeds.low <= truth <= over_seeds.high
    assert covered / sweeps > 0.92
    assert alone / sweeps < students


def test_percentiles_would_have_been_too_narrow():
    # nearly all of the spread is the seeds'
    generator = np.random.default_rng(2)
    covered = ours = 0
    for _ in range(250):
        scores = generator.normal(size=(5, 1)) + generator.normal(0, 0.5, (5, 40))
        low, high = np.quantile(resampled_means(scores, resamples=500), [0.025, 0.975])
        covered += low <= 0 <= high
        interval = bootstrap_seeds_and_videos(scores)
        ours += interval.low <= 0 <= interval.high
    assert covered / 250 < 0.9
    assert ours / 250 == pytest.approx(0.95, abs=0.045)
