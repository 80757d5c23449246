"""What is measured of finished runs once nothing trains any more: what models cost, and what they make of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from .cost import Cost, CostError, Speed
from .json_files import read_json, write_json
from .runs import Run, is_same_training
from .sweep import Sweep, resolve_variants
from .time_sensitivity import ProbeError, read_sensitivity

Measure = Callable[[Mapping[str, Path], int], Mapping[str, tuple[Cost, Speed]]]


class Probe(Protocol):
    """Scores the models of finished runs on altered clips, as ``time_sensitivity.probe_runs`` does."""

    def __call__(self, folders: Sequence[Path], *, threads: int) -> None:
        """Keep the scores in the folders; ``ProbeError`` tells which could not be scored."""


def measure_costs(sweep: Sweep, runs: Sequence[Run], measure: Measure, console: Console) -> bool:
    """Measure the models of each suite and keep the figures in ``VARIANT/cost.json``.

    A suite is measured as a whole, in alternating order, whenever one of its variants has no figures yet: speeds are
    only comparable when taken side by side. Figures of other options, or of a model of another size (of more classes,
    say), are none. Variants without a finished run are left out. A model that cannot be measured is named, and the
    others are measured without it.

    Args:
        sweep: The sweep.
        runs: Its runs.
        measure: See ``ablation.run_ablation``.
        console: Where to say what is being measured, and what could not be.

    Returns:
        Whether all of them have figures.
    """
    complete = True
    for name in sweep.suites:
        options = resolve_variants(sweep, name)
        finished = {
            run.variant: run
            for run in reversed(runs)
            if run.suite == name and run.state() == "finished" and (run.folder / "best").is_dir()
        }
        models = {variant: run.folder / "best" for variant, run in finished.items()}
        if all(
            is_cost_of(read_json(cost_file(sweep, name, variant)), options[variant], run.result() or {})
            for variant, run in finished.items()
        ):
            continue
        _say(console, f"measuring the cost of {len(models)} models of {name}")
        measured, failures = _measure_what_can_be(models, sweep.threads, measure)
        for variant, why in failures.items():
            complete = False
            if variant not in measured:
                cost_file(sweep, name, variant).unlink(missing_ok=True)  # it would be of another model
            _say(console, f"{name}/{variant}: its cost could not be measured: {why}")
        for variant, (cost, speed) in measured.items():
            figures = {"options": options[variant], "cost": asdict(cost), "speed": asdict(speed)}
            write_json(cost_file(sweep, name, variant), figures)
    return complete


def is_cost_of(figures: Mapping[str, Any] | None, options: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether figures that were kept are of the model that a run has trained.

    Args:
        figures: What ``cost_file`` holds; None for nothing.
        options: Of the run.
        result: Of the run; it may lack ``params``.
    """
    if figures is None or not is_same_training(figures.get("options") or {}, options):
        return False
    return result.get("params") in (None, figures["cost"]["params"])


def cost_file(sweep: Sweep, suite: str, variant: str) -> Path:
    """Where the costs of a variant are kept."""
    return sweep.output / suite / variant / "cost.json"


def probe_finished(sweep: Sweep, runs: Sequence[Run], probe: Probe, console: Console) -> bool:
    """Score every finished run on altered clips, unless it has been; what fails is said and stops nothing.

    Runs that have a test split, of a suite that compares scores on val, are left out.

    Relative folders of data are those that the trainings had: this works in the sweep's own working directory.

    Args:
        sweep: For its threads.
        runs: Its runs.
        probe: See ``ablation.run_ablation``.
        console: Where to say what is being scored, and what could not be.

    Returns:
        Whether all of them have scores.
    """
    # what has a test split is scored on that, which says nothing about a comparison on val
    finished = [
        run
        for run in runs
        if run.state() == "finished"
        and (run.folder / "best").is_dir()
        and (sweep.suites[run.suite].split == "test" or not (run.result() or {}).get("test"))
    ]
    todo = {run.folder: run for run in finished if read_sensitivity(run.folder) is None}
    if not todo:
        return True
    _say(console, f"scoring {len(todo)} models on altered clips")
    try:
        probe(list(todo), threads=sweep.threads)
    except ProbeError as error:
        for folder, why in error.failures.items():
            _say(console, f"{todo[folder].name}: not scored on altered clips: {why}")
        return False
    return True


def _measure_what_can_be(
    models: Mapping[str, Path], threads: int, measure: Measure
) -> tuple[Mapping[str, tuple[Cost, Speed]], dict[str, str]]:
    """Measure side by side those models that can be measured at all; the others, and why they cannot."""
    try:
        return measure(models, threads), {}
    except CostError as error:
        return error.measured, error.failures
    except Exception as error:  # of whatever kind: the report of a night of training hangs on it
        alone = {variant: _why_unmeasurable(variant, folder, threads, measure) for variant, folder in models.items()}
        failures = {variant: why for variant, why in alone.items() if why}
        rest = {variant: folder for variant, folder in models.items() if variant not in failures}
        if not rest or not failures:  # together they fail, each alone does not
            return {}, failures or dict.fromkeys(models, describe(error))
    try:
        return measure(rest, threads), failures
    except Exception as error:
        return {}, {**failures, **dict.fromkeys(rest, describe(error))}


def _why_unmeasurable(variant: str, folder: Path, threads: int, measure: Measure) -> str:
    try:
        measure({variant: folder}, threads)
    except Exception as error:
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    """An error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
