"""What a sweep found: scores with intervals, differences, costs, and the sentences that they support."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .bootstrap import TestSetInterval, bootstrap_seeds_and_videos
from .json_files import read_json
from .measuring import cost_file, is_cost_of
from .permutation import Improvement, probability_of_improvement
from .reproduce import run_commands, sweep_commands
from .runs import Run, State, read_outcome
from .sentences import find_sentences, find_warnings, left_out
from .statistics import MeanInterval, PairedDifference, correct, mean_interval, paired_difference
from .sweep import LESS_IS_BETTER, Suite, Sweep, matches_file
from .video_scores import VideoScores, difference_of, read_video_scores, stack_seeds

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
        seconds: Seed -> wall-clock time of its training.
        costs: Further costs that are counted, name -> number, as ``cost.Cost`` has them.
        measured: Further costs that a clock or an allocator measured, name -> number, as ``cost.Speed`` has them.
        holm_p: p of the difference, corrected for all variants of the suite; None where it is undefined.
        improvement: How probable it is that a seed beats one of the reference; None for the reference itself.
        elsewhere: The score with an interval for other seeds on another test set; None without predictions of two
            seeds, or where the metric is no mean over videos or groups of them.
        difference_elsewhere: The same for the difference to the reference, video by video.
        matched: What gave it the budget of another variant, in words; empty where nothing did.
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
    seconds: dict[int, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    holm_p: float | None = None
    improvement: Improvement | None = None
    elsewhere: TestSetInterval | None = None
    difference_elsewhere: TestSetInterval | None = None
    matched: str = ""


@dataclass(frozen=True)
class Missing:
    """A run without a result that counts, and why.

    Attributes:
        name: ``suite/variant/seed=N``.
        why: A sentence.
        variant: Its variant.
        seed: Its seed.
        state: ``failed``, ``changed`` or ``missing``.
    """

    name: str
    why: str
    variant: str
    seed: int
    state: str


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
        warnings: What should not be believed of it, a sentence each.
    """

    name: str
    suite: Suite
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]
    findings: tuple[str, ...]
    speed: str
    warnings: tuple[str, ...] = ()

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
        return [*sweep_commands(self.command), *run_commands(self.output)]

    @property
    def total(self) -> int:
        """Runs of the sweep."""
        return len(self.seeds) * sum(len(suite.rows) for suite in self.suites)


def collect(sweep: Sweep, runs: Sequence[Run], *, command: str = "") -> Report:
    """Gather results and costs; runs that are missing, failed or stale are listed and left out of every figure."""
    states = {run.name: run.state() for run in runs}
    return Report(
        title=sweep.title,
        output=sweep.output,
        command=command,
        seeds=sweep.seeds,
        jobs=sweep.jobs,
        threads=sweep.threads,
        suites=tuple(
            _suite_report(sweep, name, suite, [run for run in runs if run.suite == name], states)
            for name, suite in sweep.suites.items()
        ),
        environment=_environment([run for run in runs if states[run.name] == "finished"]),
    )


def _suite_report(
    sweep: Sweep, name: str, suite: Suite, runs: Sequence[Run], states: Mapping[str, State]
) -> SuiteReport:
    results = {(run.variant, run.seed): run.result() or {} for run in runs if states[run.name] == "finished"}
    matches = (read_json(matches_file(sweep)) or {}).get(name) or {}
    videos, doubts = _video_scores(suite, runs, results)
    rows = _correct(
        _row(suite, variant, runs, results, read_json(cost_file(sweep, name, variant)), videos, matches)
        for variant in suite.variants
    )
    missing = tuple(
        Missing(run.name, _why_missing(run, states[run.name]), run.variant, run.seed, states[run.name])
        for run in runs
        if states[run.name] != "finished"
    )
    speeds = (read_json(cost_file(sweep, name, row.variant)) for row in rows if row.gflops is not None)
    measured = next((figures["speed"] for figures in speeds if figures is not None), None)
    speed = ""
    if measured is not None:
        speed = (
            f"{measured['device']}, {measured['threads']} thread(s), {measured['batch_size']} clip views a batch, "
            f"median of {measured['repeats']}"
        )
    findings = (*find_sentences(suite, rows), *left_out(results.values()))
    return SuiteReport(name, suite, rows, missing, findings, speed, (*find_warnings(suite, rows), *_first(doubts)))


def _first(doubts: Sequence[str]) -> tuple[str, ...]:
    return (f"{doubts[0]} The same goes for {len(doubts) - 1} more runs.",) if len(doubts) > 1 else tuple(doubts)


def _correct(rows: Iterable[Row]) -> tuple[Row, ...]:
    rows = tuple(rows)
    corrected = correct({row.variant: row.difference for row in rows if row.difference is not None})
    return tuple(replace(row, holm_p=corrected.get(row.variant)) for row in rows)


def _video_scores(
    suite: Suite, runs: Sequence[Run], results: Results
) -> tuple[dict[str, dict[int, VideoScores]], list[str]]:
    """Variant -> seed -> scores of the single videos, and what is wrong with the files that should hold them."""
    found: dict[str, dict[int, VideoScores]] = {run.variant: {} for run in runs}
    doubts = []
    for run in runs:
        path = run.folder / "predictions" / f"{suite.split}.npz"
        if (run.variant, run.seed) not in results or not path.is_file():
            continue
        try:
            scores = read_video_scores(path, suite.metric)
        except (OSError, ValueError) as error:
            doubts.append(f"No interval for another test set counts {run.name}: {error}.")
            continue
        metrics = results[run.variant, run.seed].get(suite.split) or {}
        if scores is None or suite.metric not in metrics:
            continue
        stated = float(metrics[suite.metric])
        if abs(float(scores.scores.mean()) - stated) > 1e-6:
            doubts.append(
                f"No interval for another test set counts {run.name}: its predictions come to "
                f"{100 * scores.scores.mean():.2f} %, its result says {100 * stated:.2f} %."
            )
            continue
        found[run.variant][run.seed] = scores
    return found, doubts


def _row(
    suite: Suite,
    variant: str,
    runs: Sequence[Run],
    results: Results,
    figures: Mapping[str, Any] | None,
    videos: Mapping[str, Mapping[int, VideoScores]],
    matches: Mapping[str, Any],
) -> Row:
    options = next(run.options for run in runs if run.variant == variant)
    model = options.get("model")
    scores = _scores(suite, variant, results)
    own = [result for (name, _), result in results.items() if name == variant]
    if not is_cost_of(figures, options, own[0] if own else {}):
        figures = None
    reference = _scores(suite, suite.reference, results)
    paired = variant != suite.reference and bool(scores.keys() & reference.keys())
    seconds = {
        seed: float(result["train_seconds"])
        for (name, seed), result in sorted(results.items(), key=lambda item: item[0])
        if name == variant and "train_seconds" in result
    }
    params = next((int(result["params"]) for result in own if "params" in result), None)
    own_videos = stack_seeds(videos[variant], scores)
    apart = (
        difference_of(videos[variant], videos[suite.reference], scores.keys() & reference.keys()) if paired else None
    )
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
        train_seconds=statistics.mean(seconds.values()) if seconds else None,
        seconds=seconds,
        costs=_numbers(figures, "cost", without=("params", "gflops")),
        measured=_numbers(figures, "speed", without=("clips_per_second", "batch_size", "repeats", "threads")),
        improvement=probability_of_improvement(scores.values(), reference.values()) if paired else None,
        elsewhere=None if own_videos is None else bootstrap_seeds_and_videos(own_videos, bounds=(0, 1)),
        difference_elsewhere=None if apart is None else bootstrap_seeds_and_videos(apart, bounds=(-1, 1)),
        matched=_matched(suite, matches.get(variant)),
    )


def _numbers(figures: Mapping[str, Any] | None, part: str, *, without: Sequence[str]) -> dict[str, float]:
    known = (figures or {}).get(part) or {}
    return {key: value for key, value in known.items() if key not in without and type(value) in (int, float)}


def _matched(suite: Suite, solution: Mapping[str, Any] | None) -> str:
    """``"mlp_ratio 2.51 for the params of ts (+0.01 %)"``."""
    if solution is None or suite.match.quantity == "none":
        return ""
    if solution.get("value") is None:
        return "as it is"
    gap = 100 * (solution["quantity"] / solution["target"] - 1)
    return f"{suite.match.by} {solution['value']:g} for the {suite.match.quantity} of {suite.match.to} ({gap:+.2f} %)"


def _scores(suite: Suite, variant: str, results: Results) -> dict[int, float]:
    scores = {}
    for (name, seed), result in results.items():
        if name == variant:
            metrics = result.get(suite.split) or {}
            if suite.metric not in metrics:
                known = [key for key, value in metrics.items() if isinstance(value, float)]
                raise ValueError(
                    f"the results have no {suite.split} metric {suite.metric!r}; set the suite's `metric` to one of "
                    f"{[key for key in known if key not in LESS_IS_BETTER]} or change its `split`"
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


def _environment(runs: Sequence[Run]) -> dict[str, str]:
    """Versions, commit and machine of the finished runs; all values that occur, as they may come from several days."""
    seen: dict[str, dict[str, None]] = {}
    for run in runs:
        environment = read_json(run.folder / "environment.json")
        if environment is None:
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
