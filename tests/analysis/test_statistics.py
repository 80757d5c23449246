"""Intervals worked by hand, and their coverage in simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from timesformer_plus.analysis.statistics import correct, holm, is_separated, mean_interval, paired_difference


def test_interval_worked_by_hand():
    # mean 3, deviations -1 0 1, variance 2/2 = 1, standard error 1/sqrt(3), t(0.975, df 2) = 4.302653 (tables)
    interval = mean_interval([2.0, 3.0, 4.0])
    assert interval.mean == 3.0
    assert interval.std == pytest.approx(1.0)
    assert interval.n == 3
    assert interval.low == pytest.approx(3 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(3 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_interval_of_two_values():
    # std = 0.2 / sqrt(2), standard error 0.1, t(0.975, df 1) = 12.706205 (tables)
    interval = mean_interval([0.4, 0.6])
    assert interval.low == pytest.approx(0.5 - 1.2706205, abs=1e-6)
    assert interval.high == pytest.approx(0.5 + 1.2706205, abs=1e-6)


def test_interval_follows_the_confidence():
    # t(0.95, df 2) = 2.919986 (tables)
    interval = mean_interval([2.0, 3.0, 4.0], confidence=0.9)
    assert interval.high == pytest.approx(3 + 2.919986 / math.sqrt(3), abs=1e-6)


def test_bounds_cut_the_interval_and_not_the_mean():
    interval = mean_interval([0.9, 1.0], bounds=(0.0, 1.0))
    assert (interval.mean, interval.high) == (pytest.approx(0.95), 1.0)
    assert interval.low == pytest.approx(0.95 - 12.706205 * 0.05, abs=1e-6)


def test_one_seed_has_no_interval():
    interval = mean_interval([0.7])
    assert interval.mean == 0.7
    assert (interval.low, interval.high, interval.std, interval.n) == (None, None, None, 1)


def test_equal_values_give_an_interval_of_no_width():
    interval = mean_interval([0.5, 0.5, 0.5])
    assert (interval.low, interval.high, interval.std) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [([], "no values"), ([0.5, math.nan], "finite"), ([0.5, math.inf], "finite")],
)
def test_interval_refuses_what_has_no_mean(values, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values)


def test_interval_refuses_percent_where_fractions_are_meant():
    with pytest.raises(ValueError, match="fractions, not percent"):
        mean_interval([55.0, 60.0], bounds=(0, 1))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([1.0, 2.0], confidence=confidence)


def test_paired_difference_worked_by_hand():
    # shared seeds 0 1 2: differences 1 2 3, mean 2, std 1, se 1/sqrt(3), t = 2 sqrt(3) = 3.4641, df 2:
    # p = 1 - t / sqrt(t^2 + 2) = 1 - 3.4641 / sqrt(14) = 0.0741799 (closed form of the t distribution with df 2)
    difference = paired_difference({0: 2.0, 1: 4.0, 2: 6.0, 9: 100.0}, {0: 1.0, 1: 2.0, 2: 3.0, 5: -7.0})
    assert difference.n == 3
    assert difference.mean == pytest.approx(2.0)
    assert difference.p == pytest.approx(1 - math.sqrt(12) / math.sqrt(14), abs=1e-9)
    assert difference.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert difference.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_pairing_cancels_what_a_seed_does_to_both():
    luck = {0: -0.2, 1: 0.0, 2: 0.2, 3: 0.1}
    jitter = {0: 0.001, 1: -0.001, 2: 0.0, 3: 0.0}
    difference = paired_difference({s: 0.6 + luck[s] + jitter[s] for s in luck}, {s: 0.5 + luck[s] for s in luck})
    unpaired = mean_interval(0.6 + luck[s] for s in luck)
    assert difference.high - difference.low < 0.02 * (unpaired.high - unpaired.low)
    assert difference.p < 1e-4


def test_one_shared_seed_has_neither_interval_nor_p():
    difference = paired_difference({0: 0.6, 1: 0.7}, {1: 0.4, 2: 0.1})
    assert difference.mean == pytest.approx(0.3)
    assert (difference.low, difference.high, difference.p, difference.n) == (None, None, None, 1)


def test_equal_differences_spread_as_whole_videos_round():
    # 0.3 - 0.1 and 0.4 - 0.2 differ in the last bit; that is no spread. Tenths: t = .2 / (.1 / sqrt(12) / sqrt(3)) =
    # 12, whose p with df 2 is 1 - t / sqrt(t^2 + 2)
    difference = paired_difference({0: 0.3, 1: 0.4, 2: 0.9}, {0: 0.1, 1: 0.2, 2: 0.7})
    assert difference.p == pytest.approx(1 - 12 / math.sqrt(146))
    assert difference.mean == pytest.approx(0.2)
    assert paired_difference({0: 0.3, 1: 0.4}, {0: 0.3, 1: 0.4}).p == 1.0
    # one video of 208, lost by two seeds, is luck; by five it is not; and half of all videos never is
    assert [round(_lost(1, 208, seeds).p, 3) for seeds in (2, 3, 5)] == [0.128, 0.027, 0.001]
    assert _lost(104, 208, 5).p < 0.002
    # no shares of a number of videos: nobody knows how they round
    assert paired_difference({0: math.pi / 4, 1: math.pi / 4}, {0: 0.5, 1: 0.5}).p is None


def _lost(videos, of, seeds):
    return paired_difference(dict.fromkeys(range(seeds), 1.0), dict.fromkeys(range(seeds), 1 - videos / of))


@pytest.mark.parametrize(("seeds", "skill"), [(2, 0.99), (3, 0.99), (5, 0.995)])
def test_whole_videos_and_few_seeds_raise_no_more_false_alarms_than_that(seeds, skill):
    # fourteen variants as good as the reference, all near the top: seeds that agree by luck are not rare there
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        scores = generator.binomial(208, skill, (15, seeds)) / 208
        reference, *others = (dict(enumerate(of_seeds)) for of_seeds in scores)
        apart = {str(i): paired_difference(other, reference) for i, other in enumerate(others)}
        corrected = correct(apart)
        alarms += any(is_separated(difference, corrected[name]) for name, difference in apart.items())
    assert alarms / 100 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


def test_paired_difference_needs_a_shared_seed():
    with pytest.raises(ValueError, match=r"no shared seed: values have \[0\], the reference has \[1\]"):
        paired_difference({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_cover_at_their_nominal_rate(n):
    # 4000 sweeps of n seeds around a known mean: the rate itself has a standard error of sqrt(.95 * .05 / 4000) = .0034
    sweeps, truth = 4000, 0.7
    samples = np.random.default_rng(n).normal(truth, 0.03, (sweeps, n))
    covered = 0
    for sample in samples:
        interval = mean_interval(sample)
        covered += interval.low <= truth <= interval.high
    assert covered / sweeps == pytest.approx(0.95, abs=4 * 0.0034)
    # the usual 1.96 standard errors would not have passed
    half = 1.96 * samples.std(axis=1, ddof=1) / math.sqrt(n)
    assert (np.abs(samples.mean(axis=1) - truth) <= half).mean() < 0.95 - 4 * 0.0034


def test_two_equal_variants_differ_at_the_nominal_rate_only():
    sweeps, n = 2000, 3
    scores = np.random.default_rng(0).normal(0.6, 0.05, (sweeps, 2, n))
    false_alarms = sum(
        paired_difference(dict(enumerate(ours)), dict(enumerate(theirs))).p < 0.05 for ours, theirs in scores
    )
    assert false_alarms / sweeps == pytest.approx(0.05, abs=4 * 0.0049)  # sqrt(.05 * .95 / 2000) = .0049


def test_above_means_the_whole_interval_and_never_one_seed():
    assert mean_interval([0.64, 0.65, 0.66]).is_above(0.5)
    assert not mean_interval([0.45, 0.6, 0.9]).is_above(0.5)
    assert not mean_interval([0.5, 0.5, 0.5]).is_above(0.5)
    assert not mean_interval([0.9]).is_above(0.5)


def test_holm_by_hand():
    # .01 * 4; .02 * 3; .03 * 2 is as large; .5 * 1
    found = holm({"d": 0.5, "a": 0.01, "c": 0.03, "b": 0.02})
    assert list(found) == ["d", "a", "c", "b"]
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5})
    # never below the one before it, never above 1
    assert holm({"a": 0.04, "b": 0.045, "c": 0.9}) == pytest.approx({"a": 0.12, "b": 0.12, "c": 0.9})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match=r"p of a is nan, not in 0\.\.1"):
        holm({"a": math.nan})


def test_holm_errs_in_one_sweep_of_twenty():
    generator = np.random.default_rng(0)
    wrong = corrected = 0
    sweeps, variants, seeds = 1500, 6, 5
    for differences in generator.normal(size=(sweeps, variants, seeds)):
        p = stats.ttest_1samp(differences, 0.0, axis=1).pvalue
        wrong += bool((p < 0.05).any())
        corrected += any(value < 0.05 for value in holm({str(i): value for i, value in enumerate(p)}).values())
    # 1 - .95^6 = .265 of sweeps have a false finding without it; 3 standard errors are .017 at .05
    assert wrong / sweeps == pytest.approx(1 - 0.95**variants, abs=0.035)
    assert 0.03 < corrected / sweeps < 0.068
