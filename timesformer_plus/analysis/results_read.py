"""What a finished sweep left, read again: scores of every seed, costs, and what altered clips did to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.pattern import format_pattern, parse_pattern
from .statistics import MeanInterval, PairedDifference, mean_interval, paired_difference
from .time_sensitivity import read_sensitivity

# newest first
FILES = ("results.json", "report.json")


@dataclass(frozen=True)
class Scored:
    """A variant with at least one finished run.

    Attributes:
        variant: Its name.
        pattern: Its ``model.pattern``, canonical; empty where the recipe sets none.
        scores: Seed -> score, fractions.
        params: Number of parameters; None where unknown.
        gflops: 10^9 multiply-adds a clip view; None where unknown.
        altered: Condition of ``engine.altered_clips`` -> seed -> score on clips so altered.
    """

    variant: str
    pattern: str
    scores: dict[int, float]
    params: int | None
    gflops: float | None
    altered: dict[str, dict[int, float]]

    @property
    def score(self) -> MeanInterval:
        """Mean over the seeds."""
        return mean_interval(self.scores.values(), bounds=(0, 1))

    def minus(self, other: Scored) -> PairedDifference | None:
        """This one's score minus another's, over shared seeds; None where there is none."""
        if not self.scores.keys() & other.scores.keys():
            return None
        return paired_difference(self.scores, other.scores, bounds=(-1, 1))

    def change(self, condition: str) -> PairedDifference | None:
        """Score on altered clips minus that on the clips as they are, over shared seeds; None where there is none."""
        as_is, altered = self.altered.get("as_is", {}), self.altered.get(condition, {})
        return paired_difference(altered, as_is, bounds=(-1, 1)) if as_is.keys() & altered.keys() else None


@dataclass(frozen=True)
class SuiteResults:
    """One comparison.

    Attributes:
        name: Its name in the sweep.
        title: Heading.
        metric: What the scores are.
        split: What they are on.
        reference: Variant that the others are held against.
        ceiling: Highest score of a model that lacks what the task asks for; None where there is no such thing.
        matched: What all variants were given alike (``Match.quantity``): none, params, …
        setting: What they share, as JSON: name of the recipe, and its overrides.
        findings: What the sweep itself has found, a sentence each.
        rows: The variants, in the order of the specification, without those that have no finished run.
        missing: Runs without a result, and why.
    """

    name: str
    title: str
    metric: str
    split: str
    reference: str
    ceiling: float | None
    matched: str
    setting: str
    findings: tuple[str, ...]
    rows: tuple[Scored, ...]
    missing: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, Scored]:
        """Variant -> row."""
        return {row.variant: row for row in self.rows}

    def by_pattern(self) -> dict[str, Scored]:
        """Pattern -> its variant, for the patterns that one variant alone has: of several, none speaks for it."""
        counts = Counter(row.pattern for row in self.rows)
        return {row.pattern: row for row in self.rows if counts[row.pattern] == 1}


@dataclass(frozen=True)
class SweepResults:
    """A sweep.

    Attributes:
        folder: Where it lies.
        title: Heading.
        command: What repeats it.
        seeds: Seeds that were asked for.
        finished: Runs with a result.
        total: Runs that were asked for.
        environment: Versions, commit and machine.
        suites: The comparisons.
    """

    folder: Path
    title: str
    command: str
    seeds: tuple[int, ...]
    finished: int
    total: int
    environment: dict[str, str]
    suites: tuple[SuiteResults, ...]


def read_sweep(folder: Path) -> SweepResults:
    """Read a sweep's results, and the scores on altered clips from the folders of its runs.

    Args:
        folder: The sweep's ``output``.

    Raises:
        ValueError: There are no results, or they are not a sweep's.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} holds neither {' nor '.join(FILES)}; give the `output` folder of tools/ablate.py")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return SweepResults(
            folder=folder,
            title=content["title"],
            command=content["command"],
            seeds=tuple(content["seeds"]),
            finished=content["finished"],
            total=content["total"],
            environment={name: str(value) for name, value in content["environment"].items()},
            suites=tuple(_read_suite(folder, name, suite) for name, suite in content["suites"].items()),
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not the results of a sweep ({what}); report the sweep again") from error


def _read_suite(folder: Path, name: str, suite: Mapping[str, Any]) -> SuiteResults:
    return SuiteResults(
        name=name,
        title=suite["title"],
        metric=suite["metric"],
        split=suite["split"],
        reference=suite["reference"],
        ceiling=suite.get("ceiling"),
        matched=(suite.get("match") or {}).get("quantity", "none"),
        setting=json.dumps(suite.get("setting"), sort_keys=True),
        findings=tuple(suite.get("findings", ())),
        rows=tuple(_read_row(folder / name, suite, row) for row in suite["rows"] if row["scores"]),
        missing=tuple(f"{missing['name']}: {missing['why']}" for missing in suite.get("missing", ())),
    )


def _read_row(folder: Path, suite: Mapping[str, Any], row: Mapping[str, Any]) -> Scored:
    scores = {int(seed): float(score) for seed, score in row["scores"].items()}
    altered: dict[str, dict[int, float]] = {}
    for seed in scores:
        found = read_sensitivity(folder / row["variant"] / f"seed={seed}")
        if found is not None and found["split"] == suite["split"]:
            for condition, metrics in found["conditions"].items():
                altered.setdefault(condition, {})[seed] = float(metrics[suite["metric"]])
    cost: Mapping[str, Any] = row.get("cost") or row
    pattern = row.get("pattern") or ""
    return Scored(
        variant=row["variant"],
        pattern=format_pattern(parse_pattern(pattern)) if pattern else "",
        scores=scores,
        params=cost.get("params"),
        gflops=cost.get("gflops"),
        altered=altered,
    )
