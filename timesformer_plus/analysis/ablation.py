"""Run a sweep: every training its own process, what is finished skipped, what fails shown and passed over."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ..engine.build import build_on_meta
from .cost import Cost, Speed, measure_saved_models
from .data_digest import data_root, why_unusable
from .matching import describe_matches
from .options import parse_options
from .processes import FolderBusyError, folder_lock, termination_interrupts
from .report import print_report, write_report
from .runner import Runner
from .sweep import (
    Run,
    Sweep,
    parse_sweep,
    plan_runs,
    read_json,
    resolve_variants,
    write_json,
)
from .unfinished import refuse_busy

TRAINER: tuple[str, ...] = (sys.executable, "-m", "timesformer_plus.engine.train")

Measure = Callable[[Mapping[str, Path], int], Mapping[str, tuple[Cost, Speed]]]


def main(argv: list[str] | None = None) -> int:
    """Run the sweep that the command line asks for, measure what its models cost, report.

    Args:
        argv: Command line words; None for the process's own.

    Returns:
        Exit status: 0 when every run is finished, 1 when some are not, 2 when it could not start, 130 when interrupted.
    """
    sweep = parse_sweep(argv)
    console = Console()
    try:
        return run_ablation(sweep, command=_command(argv), console=console)
    except (ValueError, FolderBusyError) as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(
            "Stopped. Finished runs and checkpoints are kept; the same command goes on from here.", highlight=False
        )
        return 130


def run_ablation(
    sweep: Sweep,
    *,
    trainer: Sequence[str] = TRAINER,
    measure: Measure = measure_saved_models,
    command: str = "",
    console: Console | None = None,
) -> int:
    """Run what is missing of a sweep, measure costs once no training runs, write and print the report.

    Args:
        sweep: What to compare.
        trainer: Words of the command that trains; ``--config RUN/run.yaml`` is added. It has to write
            ``result.json`` last of all, and the model to ``best/``; told to stop by SIGTERM it may leave checkpoints
            as ``engine.training_state`` writes them, from which the same command has to go on.
        measure: Takes variant -> folder of a saved model and the number of threads; gives their costs.
        command: The command that repeats this sweep, for the report.
        console: Where to print; None for standard output.

    Returns:
        0 when every run of the sweep is finished, else 1.

    Raises:
        ValueError: The options or the data of a finished run have changed and ``on_change`` is ``refuse``, the data of
            a run to do is not there, or the folder of a run holds files that no run wrote.
        FolderBusyError: Somebody else works in ``sweep.output``, or in the folder of a run to do.
        KeyboardInterrupt: Interrupted or terminated; the trainings under way have been stopped.
    """
    console = console or Console()
    runs = plan_runs(sweep)
    with folder_lock(sweep.output) as lock, termination_interrupts():
        _mention_missing_data(runs, console)
        for name, suite in sweep.suites.items():
            for line in describe_matches(resolve_variants(sweep, name), suite.match):
                console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        if not sweep.report_only:
            if tuple(trainer) == TRAINER:
                _check_options(runs)
            todo = _runs_to_do(runs, sweep, console)
            Runner(sweep, trainer, console, lock).run(todo, total=len(runs))
            measure_costs(sweep, runs, measure, console)
        report = write_report(sweep, runs, command=command)
    print_report(report, console)
    return 0 if all(run.state() == "finished" for run in runs) else 1


def measure_costs(sweep: Sweep, runs: Sequence[Run], measure: Measure, console: Console) -> None:
    """Measure the models of each suite and keep the figures in ``VARIANT/cost.json``.

    A suite is measured as a whole, in alternating order, whenever one of its variants has no figures yet: speeds are
    only comparable when taken side by side. Variants without a finished run are left out.

    Args:
        sweep: The sweep.
        runs: Its runs.
        measure: See ``run_ablation``.
        console: Where to say what is being measured.
    """
    for name in sweep.suites:
        options = resolve_variants(sweep, name)
        models = {
            run.variant: run.folder / "best"
            for run in reversed(runs)
            if run.suite == name and run.state() == "finished" and (run.folder / "best").is_dir()
        }
        stored = {variant: read_json(cost_file(sweep, name, variant)) for variant in models}
        if all(cost is not None and cost.get("options") == options[variant] for variant, cost in stored.items()):
            continue
        console.print(f"measuring the cost of {len(models)} models of {name}", highlight=False, markup=False)
        for variant, (cost, speed) in measure(models, sweep.threads).items():
            figures = {"options": options[variant], "cost": asdict(cost), "speed": asdict(speed)}
            write_json(cost_file(sweep, name, variant), figures)


def cost_file(sweep: Sweep, suite: str, variant: str) -> Path:
    """Where the costs of a variant are kept."""
    return sweep.output / suite / variant / "cost.json"


def _check_options(runs: Sequence[Run]) -> None:
    """Read every run's options as the trainer will, and build every variant's model without weights.

    A typo must not cost a night. On the meta device a model takes no memory and no time.
    """
    built: set[tuple[str, str]] = set()
    for run in runs:
        try:
            config = parse_options({**run.options, "output": str(run.folder)})
            if (run.suite, run.variant) not in built:
                build_on_meta(config.model, config.data)
        except ValueError as error:
            raise ValueError(f"{run.name} cannot be trained: {error}") from None
        built.add((run.suite, run.variant))


def _runs_to_do(runs: Sequence[Run], sweep: Sweep, console: Console) -> list[Run]:
    states = {run.name: run.state() for run in runs}
    changed = {run.name: run.changes() for run in runs if states[run.name] == "changed"}
    for name, changes in list(changed.items())[:3]:
        what = "; ".join(change for kind in changes.values() for change in kind)
        console.print(f"{name} is finished with other {' and '.join(changes)}: {what}", markup=False, soft_wrap=True)
    if changed and sweep.on_change == "refuse":
        kinds = [kind for kind in ("options", "data") if any(kind in changes for changes in changed.values())]
        raise ValueError(
            f"{len(changed)} finished runs in {sweep.output} have other {' or '.join(kinds)} than there are now; "
            "give another --output, or --on_change rerun to throw them away"
        )
    todo = [run for run in runs if states[run.name] != "finished"]
    for run in todo:
        unusable = why_unusable(run.options)
        if unusable:
            raise ValueError(f"{run.name} cannot be trained: {unusable}")
        if run.folder.exists() and any(run.folder.iterdir()) and not run.config.is_file():
            raise ValueError(f"{run.folder} holds files but no run.yaml: no run wrote it; give another --output")
        refuse_busy(run)
    console.print(
        f"{len(runs)} runs, {len(runs) - len(todo)} of them finished; {sweep.jobs} at a time, logs in {sweep.output}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return todo


def _mention_missing_data(runs: Sequence[Run], console: Console) -> None:
    roots = {data_root(run.options) for run in runs if run.state() == "finished"}
    for gone in sorted(str(root) for root in roots if root is not None and not root.is_dir()):
        text = f"{gone} is no folder (any more): whether the finished runs were trained on the same data is unchecked"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _command(argv: list[str] | None) -> str:
    return shlex.join(["python", *sys.argv] if argv is None else ["python", "tools/ablate.py", *argv])
