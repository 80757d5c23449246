"""A difference that was put there is found; one that is not there is found as often as the level says, no oftener."""

import csv
import math
from itertools import combinations
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from timesformer_plus.analysis.ablation import run_ablation
from timesformer_plus.analysis.json_files import read_json
from timesformer_plus.analysis.power import power_of
from timesformer_plus.analysis.statistics import LEVEL, correct, is_separated, paired_difference
from timesformer_plus.analysis.sweep import Suite, Sweep
from timesformer_plus.data.motion import write_motion

CONFIGS = Path(__file__).parents[2] / "configs"


def separated(reference, variants):
    """The decision of a report: paired by seed, Holm over the variants."""
    differences = {
        name: paired_difference(dict(enumerate(scores)), dict(enumerate(reference)), bounds=(-1, 1))
        for name, scores in variants.items()
    }
    corrected = correct(differences)
    return {name: d.mean for name, d in differences.items() if is_separated(d, corrected[name])}


def sweeps(count, variants, seeds=5, videos=208):
    """Scores (count, variants, seeds): the seed's luck is shared, the test set is finite, nobody is better."""
    generator = np.random.default_rng(0)
    skill = 0.7 + generator.normal(0, 0.03, (count, 1, seeds)) + generator.normal(0, 0.03, (count, variants, seeds))
    return generator.binomial(videos, skill.clip(0, 1)) / videos


def test_one_equal_variant_is_called_different_at_the_nominal_rate():
    count = 900
    found = sum(bool(separated(reference, {"a": a})) for reference, a in sweeps(count, 2))
    assert found / count == pytest.approx(LEVEL, abs=4 * math.sqrt(LEVEL * (1 - LEVEL) / count))


def test_one_of_four_equal_variants_is_called_different_in_no_more_sweeps_than_that():
    count = 400
    found = alone = 0
    for reference, *others in sweeps(count, 5):
        if (ttest_1samp(np.array(others) - reference, 0, axis=1).pvalue < LEVEL).any():
            alone += 1  # else nothing can be left of it after the correction
            found += bool(separated(reference, {str(i): scores for i, scores in enumerate(others)}))
    assert found / count < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    assert alone / count > 2 * LEVEL  # without the correction for their number


def test_a_planted_difference_is_found_as_often_as_the_power_says_and_with_its_sign():
    count, gap = 400, 0.08
    # spread of a difference of two variants of one seed: their own luck and that of the test set, twice each
    std = math.sqrt(2 * (0.03**2 + 0.7 * 0.3 / 208))
    outcomes = [separated(reference, {"a": a + gap}) for reference, a in sweeps(count, 2)]
    rate = sum(bool(outcome) for outcome in outcomes) / count
    assert rate == pytest.approx(power_of(5, std=std, gap=gap), abs=4 * 0.5 / math.sqrt(count))
    assert all(outcome["a"] > 0 for outcome in outcomes if outcome)


@pytest.mark.slow
def test_label_noise_is_found_in_real_trainings_and_other_seeds_are_not(tmp_path):
    """The same model twice, one with most of its training labels exchanged; then the first against itself."""
    clean = write_motion("lattice", tmp_path / "clean", train=400, val=16, test=96, progress=False)
    noisy = copytree(clean, tmp_path / "noisy")
    _exchange_labels(noisy / "train.csv", share=0.8)
    sweep = Sweep(
        suites={
            "lattice": Suite(
                base=CONFIGS / "motion_lattice.yaml",
                variants={"clean": {"data.root": str(clean)}, "noisy": {"data.root": str(noisy)}},
                reference="clean",
                metric="pair",
                overrides={"model.pattern": "w", "epochs": 8, "data.cache_dir": None, "data.cache_mb": 0},
            )
        },
        output=tmp_path / "out",
        seeds=(0, 1, 2, 3, 4, 5),
        jobs=2,
    )
    assert run_ablation(sweep) == 0
    suite = read_json(sweep.output / "results.json")["suites"]["lattice"]
    clean_row, noisy_row = suite["rows"]
    print(clean_row["scores"], noisy_row["scores"], noisy_row["holm_p"], suite["findings"])
    assert suite["findings"][1].endswith("better none; worse noisy; not separated none.")
    # single seeds may well be the other way round
    assert noisy_row["improvement"]["probability"] < 0.2
    # the model against itself with other seeds: every choice of three against the other three
    scores = list(clean_row["scores"].values())
    choices = [set(choice) for choice in combinations(range(6), 3)]
    called = sum(
        bool(separated([scores[i] for i in choice], {"again": [scores[i] for i in sorted(set(range(6)) - choice)]}))
        for choice in choices
    )
    assert called <= 0.15 * len(choices)


def _exchange_labels(manifest, share):
    """Give that share of the clips the labels of other ones."""
    with manifest.open(newline="") as file:
        header, *rows = csv.reader(file)
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(rows))[: int(share * len(rows))]
    column = next(i for i, name in enumerate(header) if name.startswith("label"))
    labels = [rows[row][column] for row in chosen]
    for row, label in zip(chosen, generator.permutation(labels), strict=True):
        rows[row][column] = str(label)
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
