"""What a sweep found: scores with intervals, differences, costs, and the sentences that they support."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .statistics import MeanInterval, PairedDifference, correct, is_separated, mean_interval, paired_difference
from .sweep import Run, Suite, Sweep, read_json, read_outcome

Results = Mapping[tuple[str, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One variant of a suite.

    Attributes:
        variant: Its name.
        pattern: Its ``model.pattern``; empty where the recipe sets none.
        scores: Seed -> score of every finished run, fractions.
        score: Mean over the seeds; None while no run is finished.
        difference: To the reference over shared seeds; None for the reference itself and where no seed is shared.
        parts: Class or bit -> its own score, where the suite's metric has parts.
        params: Number of parameters.
        gflops: 10^9 multiply-adds a clip view.
        clips_per_second: Clip views a second in inference.
        train_seconds: Wall-clock time of a training, mean over the seeds.
    """

    variant: str
    pattern: str
    scores: dict[int, float]
    score: MeanInterval | None
    difference: PairedDifference | None
    parts: dict[str, MeanInterval]
    params: int | None
    gflops: float | None
    clips_per_second: float | None
    train_seconds: float | None


@dataclass(frozen=True)
class Missing:
    """A run without a result that counts, and why.

    Attributes:
        name: ``suite/variant/seed=N``.
        why: A sentence.
    """

    name: str
    why: str


@dataclass(frozen=True)
class SuiteReport:
    """One comparison.

    Attributes:
        name: Name of the suite.
        suite: Its specification.
        rows: A row a variant, in the order of the specification.
        missing: Runs without a result.
        findings: What the figures support, a sentence each.
        speed: What the clips a second were measured on; empty where they were not.
    """

    name: str
    suite: Suite
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    findings: tuple[str, ...]
    speed: str

    @property
    def title(self) -> str:
        """Heading."""
        return self.suite.title or self.name

    @property
    def parts(self) -> list[str]:
        """Names of the classes or bits that the score falls into."""
        return list(dict.fromkeys(part for row in self.rows for part in row.parts))


@dataclass(frozen=True)
class Report:
    """A sweep's findings.

    Attributes:
        title: Heading.
        output: Folder of the sweep.
        command: What repeats it.
        seeds: Seeds that were asked for.
        jobs: Trainings at a time.
        threads: Threads of a training.
        suites: The comparisons.
        environment: What the runs were trained with, name -> value; several values where the runs differ.
    """

    title: str
    output: Path
    command: str
    seeds: tuple[int, ...]
    jobs: int
    threads: int
    suites: tuple[SuiteReport, ...]
    environment: dict[str, str]

    @property
    def finished(self) -> int:
        """Runs with a result."""
        return sum(len(row.scores) for suite in self.suites for row in suite.rows)

    @property
    def commands(self) -> list[str]:
        """Lines of shell: what repeats the sweep, and what repeats a single run of it."""
        one = self.output / "SUITE" / "VARIANT" / "seed=N" / "run.yaml"
        single = f"python -m timesformer_plus.engine.train --config {shlex.quote(str(one))} --output ELSEWHERE"
        return [*([self.command] if self.command else []), "# a single run, by its folder's name", single]

    @property
    def total(self) -> int:
        """Runs of the sweep."""
        return len(self.seeds) * sum(len(suite.rows) for suite in self.suites)


def collect(sweep: Sweep, runs: Sequence[Run], *, command: str = "") -> Report:
    """Gather results and costs; runs that are missing, failed or stale are listed and left out of every figure."""
    return Report(
        title=sweep.title,
        output=sweep.output,
        command=command,
        seeds=sweep.seeds,
        jobs=sweep.jobs,
        threads=sweep.threads,
        suites=tuple(
            _suite_report(sweep, name, suite, [run for run in runs if run.suite == name])
            for name, suite in sweep.suites.items()
        ),
        environment=_environment(runs),
    )


def format_percent(score: MeanInterval | None) -> str:
    """``"97.1 % [95.0, 99.2]"``; a single seed has no interval and says so."""
    if score is None:
        return "–"
    if score.low is None or score.high is None:
        return f"{100 * score.mean:.1f} % [one seed]"
    return f"{100 * score.mean:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _suite_report(sweep: Sweep, name: str, suite: Suite, runs: Sequence[Run]) -> SuiteReport:
    states = {run.name: run.state() for run in runs}
    results = {(run.variant, run.seed): run.result() or {} for run in runs if states[run.name] == "finished"}
    rows = tuple(
        _row(suite, variant, runs, results, read_json(sweep.output / name / variant / "cost.json"))
        for variant in suite.variants
    )
    missing = tuple(
        Missing(run.name, _why_missing(run, states[run.name])) for run in runs if states[run.name] != "finished"
    )
    speeds = (read_json(sweep.output / name / row.variant / "cost.json") for row in rows)
    measured = next((figures["speed"] for figures in speeds if figures is not None), None)
    speed = ""
    if measured is not None:
        speed = (
            f"{measured['device']}, {measured['threads']} thread(s), {measured['batch_size']} clip views a batch, "
            f"median of {measured['repeats']}"
        )
    findings = (*_findings(suite, rows), *_left_out(results.values()))
    return SuiteReport(name, suite, rows, missing, findings, speed)


def _row(suite: Suite, variant: str, runs: Sequence[Run], results: Results, figures: Mapping[str, Any] | None) -> Row:
    options = next(run.options for run in runs if run.variant == variant)
    unseeded = {key: value for key, value in options.items() if key != "seed"}
    if figures is not None and figures.get("options") != unseeded:
        figures = None  # taken with other options
    model = options.get("model")
    scores = _scores(suite, variant, results)
    own = [result for (name, _), result in results.items() if name == variant]
    reference = _scores(suite, suite.reference, results)
    paired = variant != suite.reference and bool(scores.keys() & reference.keys())
    seconds = [float(result["train_seconds"]) for result in own if "train_seconds" in result]
    params = next((int(result["params"]) for result in own if "params" in result), None)
    return Row(
        variant=variant,
        pattern=str(model.get("pattern", "")) if isinstance(model, Mapping) else "",
        scores=scores,
        score=mean_interval(scores.values(), bounds=(0, 1)) if scores else None,
        difference=paired_difference(scores, reference, bounds=(-1, 1)) if paired else None,
        parts=_parts(suite, own),
        params=figures["cost"]["params"] if params is None and figures else params,
        gflops=figures["cost"]["gflops"] if figures else None,
        clips_per_second=figures["speed"]["clips_per_second"] if figures else None,
        train_seconds=statistics.mean(seconds) if seconds else None,
    )


def _scores(suite: Suite, variant: str, results: Results) -> dict[int, float]:
    scores = {}
    for (name, seed), result in results.items():
        if name == variant:
            metrics = result.get(suite.split) or {}
            if suite.metric not in metrics:
                raise ValueError(
                    f"the results have no {suite.split} metric {suite.metric!r}; set the suite's `metric` to one of "
                    f"{[key for key, value in metrics.items() if isinstance(value, float)]} or change its `split`"
                )
            scores[seed] = float(metrics[suite.metric])
    return dict(sorted(scores.items()))


def _parts(suite: Suite, results: Sequence[Mapping[str, Any]]) -> dict[str, MeanInterval]:
    """Intervals of ``METRIC/PART`` or, for a score of single labels, of ``per_class``."""
    values: dict[str, list[float]] = {}
    for result in results:
        metrics = result[suite.split]
        parts = {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{suite.metric}/")}
        if not parts and suite.metric == "top1":
            parts = metrics.get("per_class", {})
        for part, value in parts.items():
            values.setdefault(part, []).append(float(value))
    return {part: mean_interval(scores, bounds=(0, 1)) for part, scores in values.items()}


def _why_missing(run: Run, state: str) -> str:
    if state == "changed":
        return f"finished with other {' and '.join(run.changes())}"
    outcome = read_outcome(run.folder)
    if state == "failed":
        return f"failed, {outcome.get('reason', 'no reason known')}; see {run.log}"
    if outcome.get("status") == "stopped":
        return f"stopped, {outcome.get('reason', 'no reason known')}"
    return "begun, not finished" if outcome.get("status") in ("running", "preempted") else "not run"


def _findings(suite: Suite, rows: Sequence[Row]) -> Iterator[str]:
    scored = {row.variant: row.score for row in rows if row.score is not None}
    if not scored:
        yield "No run is finished yet."
        return
    top = max(score.mean for score in scored.values())
    best = [name for name, score in scored.items() if math.isclose(score.mean, top, abs_tol=1e-9)]
    reference = scored.get(suite.reference)
    apart = {row.variant: row.difference for row in rows if row.difference is not None}
    beside = "" if suite.reference in best else f"; the reference {suite.reference} has {format_percent(reference)}"
    if beside and best[0] in apart and (apart[best[0]].low or 0.0) <= 0:
        shared = apart[best[0]].n
        beside += f", and {shared} seed{' does' if shared == 1 else 's do'} not tell the two apart at 95 %"
    yield f"Highest mean {suite.metric}: {_list(best)}, {format_percent(scored[best[0]])}{beside}."
    if apart:
        corrected = correct(apart)
        separated = {name: d for name, d in apart.items() if is_separated(d, corrected[name])}
        better = [name for name, d in separated.items() if d.mean > 0]
        worse = [name for name, d in separated.items() if d.mean < 0]
        unclear = [name for name in apart if name not in {*better, *worse}]
        yield (
            f"Against {suite.reference}, at 95 % for all comparisons together (Holm): better {_list(better)}; "
            f"worse {_list(worse)}; not separated {_list(unclear)}."
        )
    if suite.ceiling is not None and all(score.n == 1 for score in scored.values()):
        yield f"One seed has no interval that could be held against the ceiling of {100 * suite.ceiling:.0f} %."
    elif suite.ceiling is not None and suite.readable:
        yield from _cells_against_ceiling(suite, suite.ceiling, rows)
    elif suite.ceiling is not None:
        above = [name for name, score in scored.items() if score.is_above(suite.ceiling)]
        others = [f"{name} ({_beside(score, suite.ceiling, 1)})" for name, score in scored.items() if name not in above]
        yield (
            f"Above the ceiling of {100 * suite.ceiling:.0f} % with 95 % confidence: {_list(above)}; "
            f"at, below or not separated from it: {_list(others)}."
        )


def _left_out(results: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the videos behind the scores lack, so that nobody takes them for those of the whole data set."""
    results = list(results)
    for split in ("train", "val", "test"):
        counts = [(result.get("videos") or {}).get(split) or {} for result in results]
        # of a split that is scored, what the scan calls bad is not left out: it counts as wrong
        kinds = ("missing", "unreadable", "excluded") if split == "train" else ("missing", "excluded")
        lost = {kind: {count.get(kind, 0) for count in counts} - {0} for kind in kinds}
        parts = [f"{'/'.join(map(str, sorted(numbers)))} {kind}" for kind, numbers in lost.items() if numbers]
        if parts:
            expected = "/".join(map(str, sorted({count["expected"] for count in counts if "expected" in count})))
            yield f"Of the {expected} videos of the {split} split, {', '.join(parts)}: these figures are without them."
    replaced = [sum((result.get("bad_videos") or {}).values()) for result in results]
    if any(replaced):
        yield f"Training put other videos in the place of unreadable ones, at most {max(replaced)} times a run."


def _cells_against_ceiling(suite: Suite, ceiling: float, rows: Sequence[Row]) -> Iterator[str]:
    """Hold every class or bit of every variant against the ceiling, and the outcome against theory."""
    predicted = [row for row in rows if row.variant in suite.readable]
    for readable in (True, False):
        cells = {
            f"{row.variant}/{part}": interval
            for row in predicted
            for part, interval in row.parts.items()
            if (part in suite.readable[row.variant]) == readable
        }
        if not cells:
            continue
        above = [name for name, interval in cells.items() if interval.is_above(ceiling)]
        surprises = [name for name in cells if (name in above) != readable]
        shown = [f"{name} ({_beside(cells[name], ceiling, 0)})" for name in surprises]
        yield (
            f"Above the ceiling of {100 * ceiling:.0f} %, each with 95 % confidence: {len(above)} of {len(cells)} "
            f"cells that theory says can{'' if readable else 'not'} be read"
            + (f"; {'the others' if readable else 'against theory'}: {_list(shown)}." if shown else ".")
        )


def _beside(score: MeanInterval, ceiling: float, digits: int) -> str:
    """The mean; with its interval where the mean alone would seem to be above the ceiling, and is not separated."""
    mean = f"{100 * score.mean:.{digits}f} %"
    if score.mean <= ceiling or score.is_above(ceiling):
        return mean
    if score.low is None or score.high is None:
        return f"{mean} [one seed]"
    return f"{mean} [{100 * score.low:.{digits}f}, {100 * score.high:.{digits}f}]"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _environment(runs: Sequence[Run]) -> dict[str, str]:
    """Versions, commit and machine of the finished runs; all values that occur, as they may come from several days."""
    seen: dict[str, dict[str, None]] = {}
    for run in runs:
        environment = read_json(run.folder / "environment.json")
        if environment is None or run.result() is None:
            continue
        git = environment.get("git") or {}
        commit = git.get("commit", "unknown") + (" with uncommitted changes" if git.get("modified") else "")
        packages = {name: number for name, number in (environment.get("packages") or {}).items() if number}
        facts = {"commit": commit, **packages}
        facts |= {
            key: environment[key]
            for key in ("python", "platform", "device", "threads", "world_size")
            if key in environment
        }
        for name, value in facts.items():
            seen.setdefault(name, {})[str(value)] = None
    return {name: " / ".join(values) for name, values in seen.items()}
