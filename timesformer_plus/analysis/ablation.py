"""Run a sweep: every training its own process, what is finished skipped, what fails shown and passed over."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.markup import escape

from ..engine.build import build_on_meta
from .cost import measure_saved_models
from .data_digest import data_root, why_unusable
from .findings import Report, collect
from .matching import describe_matches
from .measuring import Measure, Probe, describe, measure_costs, probe_finished
from .options import parse_options
from .plan import print_plan
from .processes import FolderBusyError, folder_lock, signals_ignored, termination_interrupts
from .report import print_report, write_report
from .runner import LOG_LINES_SHOWN, Runner, log_tail
from .runs import Run, read_outcome
from .sweep import Sweep, parse_sweep, plan_runs, store_matches, suite_matches
from .time_sensitivity import probe_runs
from .unfinished import holds_strangers, refuse_busy

TRAINER: tuple[str, ...] = (sys.executable, "-m", "timesformer_plus.engine.train")


def main(argv: list[str] | None = None) -> int:
    """Run the sweep that the command line asks for, measure what its models cost, report.

    Args:
        argv: Command line words; None for the process's own.

    Returns:
        Exit status: 0 when every run is finished and in the report, 1 when something is missing, 2 when it could not
        start, 130 when interrupted.
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
    probe: Probe | None = None,
    command: str = "",
    console: Console | None = None,
) -> int:
    """Run what is missing of a sweep, measure its models once no training runs, write and print the report.

    Args:
        sweep: What to compare.
        trainer: Words of the command that trains; ``--config RUN/run.yaml`` is added. It has to write
            ``result.json`` last of all, and the model to ``best/``; told to stop by SIGTERM it may leave checkpoints
            as ``engine.training_state`` writes them, from which the same command has to go on.
        measure: Takes variant -> folder of a saved model and the number of threads; gives their costs.
        probe: Takes folders of finished runs and the number of threads; keeps their scores on altered clips there. None
            for ``time_sensitivity.probe_runs``, so many at a time as there are trainings.
        command: The command that repeats this sweep, for the report.
        console: Where to print; None for standard output.

    Returns:
        0 when every run of the sweep is finished, measured and reported, or nothing was to be run (``dry_run``), else
        1.

    Raises:
        ValueError: The options or the data of a finished run have changed and ``on_change`` is ``refuse``, the data of
            a run to do is not there, or the folder of a run holds files that no run wrote.
        FolderBusyError: Somebody else works in ``sweep.output``, or in the folder of a run to do.
        KeyboardInterrupt: Interrupted or terminated; the trainings under way have been stopped.
    """
    console = console or Console()
    runs = plan_runs(sweep)
    if sweep.dry_run:
        print_plan(sweep, runs, console)
        return 0
    with folder_lock(sweep.output) as lock, termination_interrupts():
        _mention_missing_data(runs, console)
        for name, suite in sweep.suites.items():
            for line in describe_matches(suite_matches(sweep, name), suite.match):
                console.print(f"{name}: {line}", highlight=False, markup=False, soft_wrap=True)
        complete = True
        if not sweep.report_only:
            if tuple(trainer) == TRAINER:
                _check_options(sweep, runs)
            todo = _runs_to_do(runs, sweep, console)
            store_matches(sweep)  # once nothing refuses to start: finished runs may hang on what is kept there

            def report_so_far() -> None:
                try:
                    _report(sweep, runs, command, console)
                except Exception as error:  # of whatever kind: the trainings under way do not hang on it
                    _say(console, f"there is no report of what is finished so far: {describe(error)}")

            try:
                if sweep.cluster == "none":
                    runner = Runner(sweep, trainer, console, lock, report=report_so_far)
                    runner.run(todo, done=_finished(runs), total=len(runs))
                elif todo:
                    from .cluster import run_on_cluster

                    run_on_cluster(sweep, todo, trainer, console, report=report_so_far)
                complete = measure_costs(sweep, runs, measure, console)
                if sweep.time_sensitivity:
                    probe = probe or functools.partial(probe_runs, jobs=sweep.jobs)
                    complete = probe_finished(sweep, runs, probe, console) and complete
            except KeyboardInterrupt:
                with signals_ignored():  # a second Ctrl-C must not leave half a page
                    report_so_far()
                raise
        report, is_whole = _report(sweep, runs, command, console)
    print_report(report, console)
    return 0 if _finished(runs) == len(runs) and complete and is_whole else 1


def _report(sweep: Sweep, runs: Sequence[Run], command: str, console: Console) -> tuple[Report, bool]:
    """Write what can be written; whether that is all. The page comes last: the figures do not hang on its drawings."""
    try:
        return write_report(sweep, runs, command=command), True
    except Exception as error:
        report = collect(sweep, runs, command=command)
        _say(console, f"not all of the report could be written to {sweep.output}: {describe(error)}")
        return report, False


def _check_options(sweep: Sweep, runs: Sequence[Run]) -> None:
    """Read every run's options as the trainer will, and build every variant's model without weights.

    A typo must not cost a night. On the meta device a model takes no memory and no time.
    """
    built: set[tuple[str, str]] = set()
    for run in runs:
        try:
            config = parse_options({**run.options, "output": str(run.folder)})
            if sweep.suites[run.suite].split == "test" and config.data.test is None:
                raise ValueError("the suite compares scores on test, and data.test is null; give it, or split: val")
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
    # what failed with other options or data has not been tried with these
    left = [] if sweep.rerun_failed else [run for run in runs if states[run.name] == "failed" and not run.changes()]
    todo = [run for run in runs if states[run.name] != "finished" and run not in left]
    under_way = _jobs_under_way(sweep)
    for run in todo:
        unusable = why_unusable(run.options)
        if unusable:
            raise ValueError(f"{run.name} cannot be trained: {unusable}")
        if holds_strangers(run):
            raise ValueError(f"{run.folder} holds files but no run.yaml: no run wrote it; give another --output")
        if run.name not in under_way:
            refuse_busy(run)
        elif sweep.cluster == "none":
            raise FolderBusyError(f"{run.name} is a job of a cluster that waits or runs; wait for it, or cancel it")
    finished = len(runs) - len(todo) - len(left)
    failed = f", {len(left)} failed" if left else ""
    _say(
        console,
        f"{len(runs)} runs, {finished} of them finished{failed}; {sweep.jobs} at a time, logs in {sweep.output}",
    )
    for run in left:
        reason = read_outcome(run.folder).get("reason") or "its log tells why"
        _say(console, f"{run.name}: has failed, {reason}; last lines of {run.log}:")
        for line in log_tail(run.log, LOG_LINES_SHOWN):
            _say(console, f"    | {line}")
    if left:
        _say(console, "What has failed is left as it is; --rerun_failed true runs it again.")
    return todo


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _jobs_under_way(sweep: Sweep) -> Collection[str]:
    if not (sweep.output / "cluster" / "jobs.json").exists():
        return ()  # submitit is not needed by those who have no cluster
    from .cluster import jobs_under_way

    return jobs_under_way(sweep)


def _finished(runs: Sequence[Run]) -> int:
    return sum(run.state() == "finished" for run in runs)


def _mention_missing_data(runs: Sequence[Run], console: Console) -> None:
    roots = {data_root(run.options) for run in runs if run.state() == "finished"}
    for gone in sorted(str(root) for root in roots if root is not None and not root.is_dir()):
        text = f"{gone} is no folder (any more): whether the finished runs were trained on the same data is unchecked"
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _command(argv: list[str] | None) -> str:
    return shlex.join(["python", *sys.argv] if argv is None else ["python", "tools/ablate.py", *argv])
