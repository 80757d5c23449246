"""Scores of predicted probabilities: plain functions of tensors, as fractions in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Metrics: TypeAlias = "dict[str, float | dict[str, float]]"

# A true class with probability 0 must cost much, not infinitely: one video would decide the mean, and JSON has no inf.
LEAST_PROBABILITY = 1e-15


def top_k_correct(probabilities: Tensor, targets: Tensor, k: int) -> Tensor:
    """Whether the true class is among the ``k`` most probable ones; ties go to the lower class index.

    Args:
        probabilities: (N, K).
        targets: Class indices, (N,).
        k: How many guesses.

    Returns:
        bool, (N,).
    """
    # a stable sort: a model that gives all classes the same probability must not be right k times as often as chance
    guesses = probabilities.argsort(dim=-1, descending=True, stable=True)[:, :k]
    return (guesses == targets[:, None]).any(dim=-1)


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


def score(probabilities: Tensor, targets: Tensor, *, classes: Sequence[str], pairs: Sequence[str] = ()) -> Metrics:
    """Score predictions.

    Args:
        probabilities: Softmax, or sigmoid for multi-label data, (N, K).
        targets: Class indices (N,), or for multi-label data 0 and 1, (N, K).
        classes: Names of the K classes.
        pairs: Pair name of every video, "" for none.

    Returns:
        For single-label data ``loss`` (mean negative log likelihood of the probabilities), ``top1``, ``top5`` (with
        more than five classes), ``per_class`` and, where there are pairs, ``pair``. For multi-label data ``loss`` (mean
        binary cross entropy), ``accuracy/NAME`` at threshold 1/2, their mean ``accuracy`` and, where there are pairs,
        ``pair/NAME`` and their mean ``pair``.
    """
    probabilities = probabilities.double()
    if targets.ndim == 2:
        return _score_multi_label(probabilities, targets, classes, pairs)
    correct = top_k_correct(probabilities, targets, 1)
    likelihood = probabilities.gather(1, targets[:, None]).clamp(min=LEAST_PROBABILITY)
    metrics: Metrics = {"loss": -likelihood.log().mean().item(), "top1": correct.double().mean().item()}
    if len(classes) > 5:
        metrics["top5"] = top_k_correct(probabilities, targets, 5).double().mean().item()
    if any(pairs):
        metrics["pair"] = pair_accuracy(correct, pairs).item()
    metrics["per_class"] = per_class_accuracy(correct, targets, classes)
    return metrics


def _score_multi_label(probabilities: Tensor, targets: Tensor, classes: Sequence[str], pairs: Sequence[str]) -> Metrics:
    positive = targets > 0.5
    correct = (probabilities > 0.5) == positive
    likelihood = torch.where(positive, probabilities, 1 - probabilities).clamp(min=LEAST_PROBABILITY)
    accuracy = correct.double().mean(dim=0)
    metrics: Metrics = {"loss": -likelihood.log().mean().item(), "accuracy": accuracy.mean().item()}
    metrics |= {f"accuracy/{name}": value for name, value in zip(classes, accuracy.tolist(), strict=True)}
    if any(pairs):
        pair = pair_accuracy(correct, pairs)
        metrics["pair"] = pair.mean().item()
        metrics |= {f"pair/{name}": value for name, value in zip(classes, pair.tolist(), strict=True)}
    return metrics


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
