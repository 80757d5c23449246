"""What the page shows beyond a suite's rows, read from the folders of the runs that the rows count.

Curves, confusions, altered clips and the models' geometry are needed nowhere else; scores, intervals and costs that
other reports show too stand in ``findings``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..engine.build import build_on_meta
from ..engine.config import ModelConfig
from ..engine.data_config import DataConfig
from ..engine.predictions import load_predictions
from ..models.tokens import Grid
from .findings import Report, Row, SuiteReport
from .json_files import read_json
from .statistics import MeanInterval, PairedDifference, mean_interval, paired_difference
from .time_sensitivity import CONDITION_NAMES, read_sensitivity

COSTS = {
    "gflops": ("GFLOPs", "GFLOPs a clip view (multiply-adds)"),
    "params": ("parameters", "parameters"),
    "latency_ms": ("latency", "latency of one clip view, ms"),
    "clips_per_second": ("speed", "clip views a second in inference: more is better"),
    "train_clips_per_second": ("training speed", "clip views a second in training: more is better"),
    "activation_mb": ("activations", "activations kept for training, MB a clip view"),
    "peak_memory_mb": ("memory", "peak memory in inference, MB"),
    "train_peak_memory_mb": ("training memory", "peak memory in training, MB"),
    "train_seconds": ("training time", "training, seconds"),
}
"""Cost -> its name on a switch, its name on an axis."""

MOST_CLASSES = 40  # a larger matrix is unreadable, and its numbers would outweigh the rest of the page
MOST_POINTS = 80

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Geometry:
    """What the drawing of an interleaving needs of a model.

    Attributes:
        pattern: Its interleaving, written out.
        depth: Its blocks.
        grid: Token counts of a clip.
        prefix_tokens: Class and register tokens.
        class_token: Whether the first of them is a class token.
    """

    pattern: str
    depth: int
    grid: Grid
    prefix_tokens: int
    class_token: bool


@dataclass(frozen=True)
class Confusion:
    """What the videos of a class were taken for, over all seeds.

    Attributes:
        classes: Names.
        counts: (true, taken for), whole numbers; the last column are videos that could not be read.
    """

    classes: tuple[str, ...]
    counts: np.ndarray[tuple[int, int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Condition:
    """A variant on altered clips.

    Attributes:
        score: Of the suite's metric, over the seeds that were tried.
        change: To the clips as they are, seed by seed.
        classes: Class -> mean change of its score, where the metric has classes.
    """

    score: MeanInterval
    change: PairedDifference
    classes: dict[str, float]


@dataclass(frozen=True)
class Evidence:
    """What the folders of a variant hold.

    Attributes:
        curves: Name -> seed -> points (epoch, value).
        confusion: Over the seeds; None without single-label predictions.
        conditions: Condition of ``engine.altered_clips`` -> outcome; empty where altered clips were not tried.
        costs: Key of ``COSTS`` -> number, those that are known.
        geometry: Of the model; None where it has no interleaving.
    """

    curves: dict[str, dict[int, Curve]] = field(default_factory=dict)
    confusion: Confusion | None = None
    conditions: dict[str, Condition] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    geometry: Geometry | None = None


def read_evidence(report: Report, suite: SuiteReport, row: Row) -> Evidence:
    """Read what the finished runs of a variant left in their folders.

    Args:
        report: The sweep's.
        suite: The comparison.
        row: A variant of it; only seeds that its scores count are looked at.

    Returns:
        What is there; what is not stays empty.
    """
    variant = report.output / suite.name / row.variant
    folders = {seed: variant / f"seed={seed}" for seed in row.scores}
    return Evidence(
        curves=_curves(suite, folders),
        confusion=_confusion(folder / "predictions" / f"{suite.suite.split}.npz" for folder in folders.values()),
        conditions=_conditions(suite, folders),
        costs=_costs(row, variant / "cost.json"),
        geometry=next((_geometry(folder / "config.yaml") for folder in folders.values()), None),
    )


def _curves(suite: SuiteReport, folders: Mapping[int, Path]) -> dict[str, dict[int, Curve]]:
    curves: dict[str, dict[int, Curve]] = {}
    for seed, folder in folders.items():
        path = folder / "metrics.jsonl"
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        epochs = [event for event in events if event.get("event") == "epoch"]
        steps = [event for event in events if event.get("event") == "step" and event.get("loss") is not None]
        if epochs and steps:
            a_epoch = epochs[-1]["step"] / (epochs[-1]["epoch"] + 1)
            curves.setdefault("training loss", {})[seed] = _thin(
                [(event["step"] / a_epoch, float(event["loss"])) for event in steps]
            )
        metric = suite.suite.metric
        val = [(e["epoch"] + 1.0, 100 * float(e["val"][metric])) for e in epochs if metric in (e.get("val") or {})]
        if len(val) > 1:
            curves.setdefault(f"{metric} on val, %", {})[seed] = val
    return curves


def _thin(points: Curve) -> Curve:
    """Means over neighbours, at most ``MOST_POINTS`` of them, the same number of points in each."""
    width = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + width] for i in range(0, len(points) - width + 1, width)]
    return [(sum(x for x, _ in group) / width, sum(y for _, y in group) / width) for group in groups]


def _confusion(paths: Iterable[Path]) -> Confusion | None:
    total: Confusion | None = None
    for path in paths:
        try:
            predictions = load_predictions(path)
        except (OSError, ValueError):  # not there, or torn
            return None
        classes = len(predictions.classes)
        if predictions.multi_label or classes > MOST_CLASSES:
            return None
        taken = predictions.probabilities().nan_to_num(-1.0).argmax(dim=1)
        taken = torch.where(predictions.scored, taken, classes)
        counts = np.zeros((classes, classes + 1), dtype=np.int64)
        np.add.at(counts, (predictions.targets.numpy(), taken.numpy()), 1)
        if total is not None and total.classes != predictions.classes:
            return None  # seeds of other classes have nothing to add up
        total = Confusion(predictions.classes, counts if total is None else total.counts + counts)
    return total


def _conditions(suite: SuiteReport, folders: Mapping[int, Path]) -> dict[str, Condition]:
    metric, split = suite.suite.metric, suite.suite.split
    tried: dict[str, dict[int, Mapping[str, Any]]] = {}
    for seed, folder in folders.items():
        found = read_sensitivity(folder)
        if found is not None and found["split"] == split:
            for key, metrics in found["conditions"].items():
                tried.setdefault(key, {})[seed] = metrics
    as_is = {seed: float(metrics[metric]) for seed, metrics in tried.get("as_is", {}).items()}
    conditions = {}
    for key in CONDITION_NAMES:
        scores = {seed: float(metrics[metric]) for seed, metrics in tried.get(key, {}).items() if seed in as_is}
        if scores:
            conditions[key] = Condition(
                mean_interval(scores.values(), bounds=(0, 1)),
                paired_difference(scores, as_is, bounds=(-1, 1)),
                _class_changes([(tried[key][seed], tried["as_is"][seed]) for seed in scores], metric),
            )
    return conditions


def _class_changes(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], metric: str) -> dict[str, float]:
    changes: dict[str, list[float]] = {}
    for altered, as_is in pairs:
        if metric == "top1":
            after, before = altered.get("per_class") or {}, as_is.get("per_class") or {}
        else:
            after, before = ({k: v for k, v in m.items() if k.startswith(f"{metric}/")} for m in (altered, as_is))
        for name in after:
            changes.setdefault(name.removeprefix(f"{metric}/"), []).append(after[name] - before[name])
    return {name: sum(values) / len(values) for name, values in changes.items()}


def _costs(row: Row, path: Path) -> dict[str, float]:
    known: dict[str, float | None] = {"params": row.params, "gflops": row.gflops, "train_seconds": row.train_seconds}
    if row.gflops is not None:  # else the file was taken with other options
        figures = read_json(path) or {}
        known |= {k: v for part in ("cost", "speed") for k, v in (figures.get(part) or {}).items() if k in COSTS}
    return {key: float(known[key]) for key in COSTS if known.get(key) is not None}  # type: ignore[arg-type]


def _geometry(path: Path) -> Geometry | None:
    config = read_yaml(path)
    if "model" not in config or "data" not in config:
        return None
    # two sections of the file are all that a model is made of: reading the whole with the parser takes far longer
    model = ModelConfig(**config["model"])
    data = DataConfig(root=config["data"]["root"], num_frames=config["data"]["num_frames"])
    size = config["data"]["img_size"]
    data = replace(data, img_size=tuple(size) if isinstance(size, list) else size)
    network: Any = build_on_meta(model, data)
    if not hasattr(network, "plan"):
        return None
    has_class_token = getattr(network, "cls_token", None) is not None
    return Geometry(network.pattern, len(network.blocks), network.grid, network.num_prefix_tokens, has_class_token)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; empty where there is no file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C many times faster
    return (yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}) if path.exists() else {}
