"""Scores of predicted probabilities: plain functions of tensors, as fractions in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Metrics: TypeAlias = "dict[str, float | dict[str, float]]"

# a true class with probability 0 must cost much, not infinitely: JSON has no inf
LEAST_PROBABILITY = 1e-15
MOST_NATS = 1e300
# as Guo et al. 2017 have it
CALIBRATION_BINS = 15
# what a video that could not be read is taken for
UNREADABLE = "(unreadable)"


def top_k_correct(probabilities: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether the true class is among the ``k`` most probable ones; ties go to the lower class index.

    Args:
        probabilities: (N, K).
        targets: Class indices, (N,).
        k: How many guesses.

    Returns:
        bool, (N,).
    """
    return (_ranked(probabilities)[:, :k] == targets[:, None]).any(dim=-1)


def right_labels(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Whether each label of multi-label data is said rightly at threshold 1/2.

    Args:
        probabilities: (N, K).
        targets: 0 and 1, (N, K).

    Returns:
        bool, (N, K).
    """
    return (_settled(probabilities) > _settled(torch.tensor(0.5))) == (targets > 0.5)


def _settled(probabilities: Tensor) -> Tensor:
    """Probabilities as they are compared: their logarithms to ten decimals.

    The last bit of a mean over views is a matter of chance (torch computes the same exponential differently by where it
    stands in an array) and must not decide between equals, nor whether one half is more than one half.
    """
    return probabilities.double().clamp(min=1e-300).log().round(decimals=10)


def _ranked(probabilities: Tensor) -> Tensor:
    # a stable sort: a model that gives all classes the same probability must not be right k times as often as chance
    return _settled(probabilities).argsort(dim=-1, descending=True, stable=True)


def per_class_accuracy(correct: Tensor, targets: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy on the videos of each class; classes without a video are left out.

    Args:
        correct: bool, (N,).
        targets: Class indices, (N,).
        classes: Names of the classes.
    """
    return {
        name: correct[targets == index].double().mean().item()
        for index, name in enumerate(classes)
        if bool((targets == index).any())
    }


def pair_accuracy(correct: Tensor, pairs: Sequence[str]) -> Tensor:
    """Fraction of pairs of which every partner is right; videos without a pair name are left out.

    Args:
        correct: bool, (N,) or (N, K) with one column a class.
        pairs: Pair name of every video, "" for none.

    Returns:
        float64, () or (K,).

    Raises:
        ValueError: No video has a pair name.
    """
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        if pair:
            rows.setdefault(pair, []).append(row)
    if not rows:
        raise ValueError(
            "pair accuracy needs videos with a pair name; the manifest's column `pair` is empty or missing"
        )
    return torch.stack([correct[members].all(dim=0) for members in rows.values()]).double().mean(dim=0)


def expected_calibration_error(confidences: Tensor, correct: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """How far confidence and accuracy lie apart: ECE of Guo et al. 2017 (arXiv 1706.04599), equation 3.

    Videos are sorted into bins of equal width by their confidence, bin m holding those in ((m - 1) / bins, m / bins];
    the result is the mean over all videos of |accuracy - mean confidence| of their bin.

    Args:
        confidences: Probability of the class that each video is taken for, (N,).
        correct: Whether it is the true one, bool, (N,).
        bins: Number of bins.

    Raises:
        ValueError: There is no video.
    """
    if not len(confidences):
        raise ValueError("the calibration error of no videos; give at least one")
    # 1/3 computed as 0.33333333333333337 belongs to the bin that 1/3 belongs to
    places = (confidences.double() * bins).round(decimals=9).ceil().clamp(min=1, max=bins).long() - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, correct.double() - confidences.double())
    return gaps.abs().sum().item() / len(confidences)


def count_confusions(
    probabilities: Tensor, targets: Tensor, classes: Sequence[str], scored: Tensor
) -> dict[str, dict[str, int]]:
    """Count what the videos of each class are taken for: the confusion matrix, without its zeros.

    Args:
        probabilities: (N, K).
        targets: Class indices, (N,).
        classes: Names of the K classes.
        scored: Which videos could be read, bool, (N,).

    Returns:
        Class -> guess -> number of videos, both in the order of the classes; ``UNREADABLE`` is the guess for videos
        that could not be read, so that the numbers of a class sum up to its videos. Classes without one are left out.
    """
    guesses = torch.where(scored, _ranked(probabilities)[:, 0], len(classes))
    columns = (*classes, UNREADABLE)
    counts: dict[str, dict[str, int]] = {}
    for target, guess in sorted(zip(targets.tolist(), guesses.tolist(), strict=True)):
        row = counts.setdefault(classes[target], {})
        row[columns[guess]] = row.get(columns[guess], 0) + 1
    return counts


def score(
    probabilities: Tensor,
    targets: Tensor,
    *,
    classes: Sequence[str],
    pairs: Sequence[str] = (),
    scored: Tensor | None = None,
    nats: Tensor | None = None,
) -> Metrics:
    """Score predictions.

    A video that could not be read is wrong in every accuracy, at the end of every ranking, and makes its pair wrong.
    It has no probabilities, so ``loss`` and ``ece``, which are about these, are over the others.

    Args:
        probabilities: Softmax, or sigmoid for multi-label data, (N, K).
        targets: Class indices (N,), or for multi-label data 0 and 1, (N, K).
        classes: Names of the K classes.
        pairs: Pair name of every video, "" for none.
        scored: Which videos could be read, bool, (N,); ``None`` for all. The probabilities of the others are not
            looked at.
        nats: Negative log likelihood of every target, in the shape of ``targets``, see ``Predictions.nats``; ``None``
            for that of the probabilities, which are taken for at least ``LEAST_PROBABILITY``.

    Returns:
        For single-label data ``loss`` (mean negative log likelihood of the probabilities), ``top1``, ``top5`` (with
        more than five classes), ``mean_class_accuracy`` (of the classes that have a video), ``ece`` (see
        ``expected_calibration_error``), ``per_class`` and, where there are pairs, ``pair``. For multi-label data
        ``loss`` (mean binary cross entropy), ``accuracy/NAME`` at threshold 1/2, their mean ``accuracy``,
        ``average_precision`` of each class that has a positive video (scikit-learn's), their mean
        ``mean_average_precision`` and, where there are pairs, ``pair/NAME`` and their mean ``pair``.

    Raises:
        ValueError: No video could be read.
    """
    probabilities = probabilities.double()
    scored = torch.ones(len(targets), dtype=torch.bool) if scored is None else scored
    if not scored.any():
        raise ValueError("no video could be read, so there is nothing to score")
    if nats is None:
        if targets.ndim == 2:
            likelihood = torch.where(targets > 0.5, probabilities, 1 - probabilities)
        else:
            likelihood = probabilities.gather(1, targets[:, None])[:, 0]
        nats = -likelihood.clamp(min=LEAST_PROBABILITY).log()
    loss = nats[scored].clamp(max=MOST_NATS).mean().item()
    if targets.ndim == 2:
        return _score_multi_label(probabilities, targets, classes, pairs, scored, loss)
    correct = top_k_correct(probabilities, targets, 1) & scored
    per_class = per_class_accuracy(correct, targets, classes)
    metrics: Metrics = {"loss": loss, "top1": correct.double().mean().item()}
    if len(classes) > 5:
        metrics["top5"] = (top_k_correct(probabilities, targets, 5) & scored).double().mean().item()
    metrics["mean_class_accuracy"] = sum(per_class.values()) / len(per_class)
    metrics["ece"] = expected_calibration_error(probabilities.amax(dim=1)[scored], correct[scored])
    if any(pairs):
        metrics["pair"] = pair_accuracy(correct, pairs).item()
    metrics["per_class"] = per_class
    return metrics


def _score_multi_label(
    probabilities: Tensor, targets: Tensor, classes: Sequence[str], pairs: Sequence[str], scored: Tensor, loss: float
) -> Metrics:
    positive = targets > 0.5
    correct = right_labels(probabilities, targets) & scored[:, None]
    accuracy = correct.double().mean(dim=0)
    metrics: Metrics = {"loss": loss, "accuracy": accuracy.mean().item()}
    if precisions := _average_precisions(probabilities, positive, classes, scored):
        metrics["mean_average_precision"] = sum(precisions.values()) / len(precisions)
        metrics["average_precision"] = precisions
    metrics |= {f"accuracy/{name}": value for name, value in zip(classes, accuracy.tolist(), strict=True)}
    if any(pairs):
        pair = pair_accuracy(correct, pairs)
        metrics["pair"] = pair.mean().item()
        metrics |= {f"pair/{name}": value for name, value in zip(classes, pair.tolist(), strict=True)}
    return metrics


def _average_precisions(
    probabilities: Tensor, positive: Tensor, classes: Sequence[str], scored: Tensor
) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    # unreadable: behind every other video
    ranked = torch.where(scored[:, None], _settled(probabilities), -1000.0).numpy()
    return {
        name: float(average_precision_score(positive[:, k].numpy(), ranked[:, k]))
        for k, name in enumerate(classes)
        if bool(positive[:, k].any())
    }


def headline(metrics: Metrics) -> str:
    """Name the metric a run is judged by: ``pair`` where there are pairs, else ``top1`` or (multi-label) accuracy."""
    return next(name for name in ("pair", "top1", "accuracy") if name in metrics)


def better(new: Metrics, old: Metrics | None) -> bool:
    """Whether ``new`` has the higher headline metric or, with the same, the lower loss."""
    if old is None:
        return True
    name = headline(new)
    return (_number(new, name), -_number(new, "loss")) > (_number(old, name), -_number(old, "loss"))


def _number(metrics: Metrics, name: str) -> float:
    value = metrics[name]
    assert isinstance(value, float)
    return value
