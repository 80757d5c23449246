"""Scores against numbers worked by hand."""

import math

import pytest
import torch

from timesformer_plus.engine.metrics import (
    UNREADABLE,
    better,
    count_confusions,
    expected_calibration_error,
    headline,
    pair_accuracy,
    per_class_accuracy,
    score,
    top_k_correct,
)


def test_top_k_counts_the_true_class_among_the_k_most_probable():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]])
    targets = torch.tensor([0, 1, 2])
    assert top_k_correct(probabilities, targets, 1).tolist() == [True, False, False]
    # third row: classes 0 and 2 tie for the second place, and the lower index takes it
    assert top_k_correct(probabilities, targets, 2).tolist() == [True, True, False]
    assert top_k_correct(probabilities, targets, 3).tolist() == [True, True, True]


def test_constant_model_is_at_chance_whatever_k():
    probabilities = torch.full((10, 10), 0.1)
    targets = torch.arange(10)
    for k in (1, 3, 5):
        assert top_k_correct(probabilities, targets, k).sum().item() == k


def test_per_class_accuracy_leaves_out_classes_without_a_video():
    correct = torch.tensor([True, False, True, True])
    assert per_class_accuracy(correct, torch.tensor([0, 0, 2, 2]), ["a", "b", "c"]) == {"a": 0.5, "c": 1.0}


def test_pair_counts_when_every_partner_is_right():
    correct = torch.tensor([True, True, True, False, False])
    # p: rows 0 and 2, both right; q: rows 1 and 3, one wrong; row 4 is in no pair
    assert pair_accuracy(correct, ["p", "q", "p", "q", ""]).item() == 0.5


def test_pair_accuracy_of_every_bit():
    correct = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.bool)
    assert pair_accuracy(correct, ["p", "p", "q", "q"]).tolist() == [0.5, 0.5]
    assert pair_accuracy(correct, ["p", "q", "q", "p"]).tolist() == [0.5, 0.5]
    assert pair_accuracy(correct[:2], ["p", "p"]).tolist() == [1.0, 0.0]


def test_pair_accuracy_without_pairs_is_an_error():
    with pytest.raises(ValueError, match="column `pair`"):
        pair_accuracy(torch.tensor([True]), [""])


def test_single_label_score():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    metrics = score(probabilities, torch.tensor([0, 1]), classes=["a", "b", "c"])
    assert metrics == {
        "loss": pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-12),
        "top1": 0.5,
        "mean_class_accuracy": 0.5,
        "ece": 0.0,  # sure by one half, and right in one half
        "per_class": {"a": 1.0, "b": 0.0},
    }


def test_top5_and_pair_appear_where_they_mean_something():
    probabilities = torch.eye(6)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    metrics = score(probabilities, targets, classes=list("abcdef"), pairs=["p", "p", "q", "", "", "q"])
    # the last video is taken for class 5; after it the ranking of the zeros is 0 1 2 3 4, so class 0 is second
    assert metrics["top1"] == pytest.approx(5 / 6)
    assert metrics["top5"] == 1.0
    assert metrics["pair"] == 0.5


def test_multi_label_score():
    probabilities = torch.tensor([[0.75, 0.5], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    targets = torch.tensor([[1, 0], [1, 1], [1, 0], [1, 0]])
    metrics = score(probabilities, targets, classes=["t", "h"], pairs=["p", "q", "p", "q"])
    # right: t 1 0 1 1, h 1 1 1 0 (exactly one half is no yes)
    chances = [0.75, 0.5, 0.25, 0.75, 0.75, 0.75, 0.75, 0.25]
    assert metrics == {
        "loss": pytest.approx(-sum(map(math.log, chances)) / 8, abs=1e-12),
        "accuracy": 0.75,
        # all have t; the one that has h shares the first place with one that has not
        "mean_average_precision": 0.75,
        "average_precision": {"t": 1.0, "h": 0.5},
        "accuracy/t": 0.75,
        "accuracy/h": 0.75,
        "pair": 0.5,
        "pair/t": 0.5,
        "pair/h": 0.5,
    }


def test_certain_and_wrong_costs_a_finite_amount():
    metrics = score(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), classes=["a", "b"])
    assert metrics["loss"] == pytest.approx(-math.log(1e-15))
    metrics = score(torch.tensor([[1.0]]), torch.tensor([[0]]), classes=["a"])
    assert metrics["loss"] == pytest.approx(-math.log(1e-15))


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ({"loss": 1.0, "top1": 0.5, "top5": 1.0}, "top1"),
        ({"loss": 1.0, "top1": 0.5, "pair": 0.1}, "pair"),
        ({"loss": 1.0, "accuracy": 0.5, "accuracy/t": 1.0}, "accuracy"),
    ],
)
def test_headline(metrics, name):
    assert headline(metrics) == name


def test_better_is_higher_headline_then_lower_loss():
    old = {"loss": 1.0, "top1": 0.5}
    assert better(old, None)
    assert better({"loss": 9.0, "top1": 0.6}, old)
    assert better({"loss": 0.9, "top1": 0.5}, old)
    assert not better(old, old)
    assert not better({"loss": 0.1, "top1": 0.4}, old)


def test_mean_class_accuracy_gives_every_class_the_same_weight():
    probabilities = torch.eye(3)[[0, 0, 0, 0, 0]]
    metrics = score(probabilities, torch.tensor([0, 0, 0, 0, 1]), classes=["a", "b", "c"])
    assert metrics["top1"] == 0.8
    assert metrics["mean_class_accuracy"] == 0.5  # of a and b; c has no video


def test_calibration_error_by_hand():
    # bins of 1/15: of (.6, .667] one of two is right, of (.933, 1] both are, and (0, .067] holds a wrong one
    confidences = torch.tensor([0.62, 0.66, 1.0, 0.95, 0.05])
    correct = torch.tensor([True, False, True, True, False])
    gaps = [2 * abs(0.5 - 0.64), 2 * abs(1 - 0.975), 0.05]
    assert expected_calibration_error(confidences, correct) == pytest.approx(sum(gaps) / 5)
    assert expected_calibration_error(confidences, correct, bins=1) == pytest.approx(
        abs(0.6 - confidences.mean().item())
    )
    assert expected_calibration_error(torch.ones(3), torch.ones(3).bool()) == 0.0
    with pytest.raises(ValueError, match="of no videos"):
        expected_calibration_error(torch.ones(0), torch.ones(0).bool())


def test_calibration_error_does_not_hang_on_the_last_bit():
    # all are as sure as one third, five fifteenths, give or take a rounding: one bin, in which one of three is right
    third = torch.tensor(1 / 3, dtype=torch.float64)
    confidences = torch.stack([third, torch.nextafter(third, torch.tensor(1.0).double()), 1 - 2 * third])
    assert confidences.unique().numel() > 1
    correct = torch.tensor([True, False, False])
    assert expected_calibration_error(confidences, correct) == pytest.approx(0.0, abs=1e-12)


def test_confusions_sum_up_to_the_videos_of_each_class():
    probabilities = torch.eye(3)[[1, 1, 0, 2]]
    scored = torch.tensor([True, True, True, False])
    counts = count_confusions(probabilities, torch.tensor([0, 0, 0, 0]), ["a", "b", "c"], scored)
    assert counts == {"a": {"a": 1, "b": 2, UNREADABLE: 1}}
    assert list(counts["a"]) == ["a", "b", UNREADABLE]
    counts = count_confusions(probabilities, torch.tensor([2, 1, 0, 1]), ["a", "b", "c"], torch.ones(4).bool())
    assert counts == {"a": {"a": 1}, "b": {"b": 1, "c": 1}, "c": {"b": 1}}


def test_unreadable_videos_are_wrong_whatever_stands_in_their_place():
    targets = torch.tensor([0, 1, 1, 0])
    scored = torch.tensor([True, True, True, False])
    given = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [1.0, 0.0]])
    nothing = torch.where(scored[:, None], given, math.nan)
    assert score(given, targets, classes=["a", "b"], scored=scored) == (
        metrics := score(nothing, targets, classes=["a", "b"], scored=scored)
    )
    assert metrics["top1"] == 0.5
    assert metrics["per_class"] == {"a": 0.5, "b": 0.5}
    assert metrics["loss"] == pytest.approx(-(2 * math.log(0.75) + math.log(0.25)) / 3)
    assert metrics["ece"] == pytest.approx(abs(2 / 3 - 0.75))
    with pytest.raises(ValueError, match="nothing to score"):
        score(nothing, targets, classes=["a", "b"], scored=torch.zeros(4).bool())


def test_average_precision_leaves_out_classes_without_a_positive_video():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.3]])
    metrics = score(probabilities, torch.tensor([[1, 0], [0, 0]]), classes=["a", "b"])
    assert metrics["average_precision"] == {"a": 1.0}
    assert metrics["mean_average_precision"] == 1.0
    assert "average_precision" not in score(probabilities, torch.zeros(2, 2), classes=["a", "b"])


def test_a_last_bit_decides_nothing():
    half = torch.tensor(0.5, dtype=torch.float64)
    above = torch.nextafter(half, torch.tensor(1.0).double())
    for row in ([half, above], [above, half]):
        assert top_k_correct(torch.stack(row)[None], torch.tensor([0]), 1).item()
    metrics = score(torch.stack([half, above])[:, None], torch.tensor([[0], [0]]), classes=["a"])
    assert metrics["accuracy"] == 1.0
    # but the least probable ones are still told apart
    tiny = torch.tensor([[1.0, 1e-40, 1e-30, 1e-200]], dtype=torch.float64)
    assert top_k_correct(tiny, torch.tensor([2]), 2).item()
    assert not top_k_correct(tiny, torch.tensor([1]), 2).item()
