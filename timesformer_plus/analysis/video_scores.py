"""Scores of single test videos, from the predictions that a run keeps: what a bootstrap over videos draws from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..engine.metrics import right_labels, top_k_correct
from ..engine.predictions import Predictions, load_predictions

Scores = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class VideoScores:
    """What one seed scores, unit by unit; the mean is the metric.

    Attributes:
        units: Names of the N videos, or of the N pairs for the metric ``pair``, which are right or wrong together.
        scores: (N,), fractions.
    """

    units: tuple[str, ...]
    scores: Scores


def read_video_scores(path: Path, metric: str) -> VideoScores | None:
    """Take a metric apart into the scores whose mean it is.

    Args:
        path: ``predictions/SPLIT.npz`` of a run.
        metric: Its name, as ``engine.metrics.score`` has it.

    Returns:
        The scores; None for a metric that is no such mean (``mean_average_precision``, ``mean_class_accuracy``).

    Raises:
        ValueError: It is no file of predictions.
        OSError: It cannot be read.
    """
    predictions = load_predictions(path)
    right = _right(predictions, metric)
    if right is None:
        return None
    if metric.partition("/")[0] != "pair":
        return VideoScores(predictions.ids, _mean_over_labels(right))
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(predictions.pairs):
        if pair:
            rows.setdefault(pair, []).append(row)
    if not rows:
        return None
    together = np.stack([_mean_over_labels(right[members].all(dim=0, keepdim=True))[0] for members in rows.values()])
    return VideoScores(tuple(rows), together)


def stack_seeds(videos: Mapping[int, VideoScores], seeds: Collection[int]) -> Scores | None:
    """Scores as (seeds, units); None unless all of two or more seeds have them, on the same two or more units."""
    if len(seeds) < 2 or not set(seeds) <= videos.keys():
        return None
    chosen = [videos[seed] for seed in sorted(seeds)]
    if len(chosen[0].units) < 2 or any(other.units != chosen[0].units for other in chosen):
        return None
    return np.stack([one.scores for one in chosen])


def difference_of(
    ours: Mapping[int, VideoScores], theirs: Mapping[int, VideoScores], seeds: Collection[int]
) -> Scores | None:
    """Differences seed by seed and video by video, (seeds, units); None where ``stack_seeds`` has none for either."""
    left, right = stack_seeds(ours, seeds), stack_seeds(theirs, seeds)
    if left is None or right is None or ours[min(seeds)].units != theirs[min(seeds)].units:
        return None
    return np.asarray(left - right)


def _right(predictions: Predictions, metric: str) -> Tensor | None:
    """Whether each video is right, bool, (N,) or, label by label, (N, K); None for a metric that does not ask that."""
    kind, _, label = metric.partition("/")
    probabilities, scored = predictions.probabilities(), predictions.scored
    if predictions.multi_label:
        if kind not in ("accuracy", "pair") or (label and label not in predictions.classes):
            return None
        right = right_labels(probabilities.nan_to_num(0.0), predictions.targets) & scored[:, None]
        return right[:, predictions.classes.index(label)] if label else right
    if metric not in ("top1", "top5", "pair"):
        return None
    guesses = 5 if metric == "top5" else 1
    return top_k_correct(probabilities.nan_to_num(0.0), predictions.targets, guesses) & scored


def _mean_over_labels(right: Tensor) -> Scores:
    values: Scores = right.double().reshape(len(right), -1).mean(dim=1).numpy()
    return values
