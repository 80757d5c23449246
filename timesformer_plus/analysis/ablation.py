"""Run a sweep: every training its own process, what is finished skipped, what fails shown and passed over."""

from __future__ import annotations

import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jsonargparse import ArgumentError
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from ..engine.build import build_model
from ..engine.config import train_parser
from .cost import Cost, Speed, measure_saved_models
from .data_digest import data_root, why_unusable
from .processes import FolderBusyError, folder_lock, signal_group, signals_ignored, termination_interrupts
from .report import print_report, write_report
from .sweep import (
    Run,
    Sweep,
    outcome_file,
    parse_sweep,
    plan_runs,
    read_json,
    read_outcome,
    resolve_variants,
    write_json,
)
from .unfinished import clear, refuse_busy, resume_point

TRAINER: tuple[str, ...] = (sys.executable, "-m", "timesformer_plus.engine.train")
LOG_LINES_SHOWN = 15
# a training that is told to stop ends its update and writes a checkpoint, which takes a large model on a slow disk long
SECONDS_TO_STOP = 60.0
SECONDS_BETWEEN_WORDS = 10.0
POLL_SECONDS = 0.2

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
        if not sweep.report_only:
            if tuple(trainer) == TRAINER:
                _check_options(runs)
            todo = _runs_to_do(runs, sweep, console)
            Runner(sweep, trainer, console, lock).run(todo, total=len(runs))
            measure_costs(sweep, runs, measure, console)
        report = write_report(sweep, runs, command=command)
    print_report(report, console)
    return 0 if all(run.state() == "finished" for run in runs) else 1


class Runner:
    """Keeps up to ``sweep.jobs`` trainings going until a list of runs is through.

    Args:
        sweep: For its jobs and threads.
        trainer: Words of the command that trains.
        console: Where progress and failures are shown: bars on a terminal, lines elsewhere.
        lock: File descriptor of the folder's lock. The trainings inherit it, so that one which outlives a killed runner
            still keeps others out of the folder.
    """

    def __init__(self, sweep: Sweep, trainer: Sequence[str], console: Console, lock: int) -> None:
        self.sweep, self.trainer, self.console, self.lock = sweep, trainer, console, lock
        self.active: list[_Training] = []
        self.seconds: dict[str, list[float]] = {}
        # The sweep has a bar; the trainings under it a line each, with the last words of their logs.
        note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.overall = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", table_column=note),
            expand=True,
        )
        self.trainings = Progress(
            TextColumn("  {task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", table_column=note),
            expand=True,
        )

    def run(self, runs: Sequence[Run], *, total: int) -> None:
        """Run every run once, in order; failures are shown and remembered on disk, and stop nothing.

        Args:
            runs: What to run.
            total: Runs of the sweep, those finished earlier included.
        """
        self.waiting = deque(runs)
        self.done, self.total = total - len(runs), total
        self._learn_durations()
        self.bar = self.overall.add_task("runs", total=total, completed=self.done, note="")
        with self._display():
            try:
                while self.waiting or self.active:
                    while self.waiting and len(self.active) < self.sweep.jobs:
                        self._start(self.waiting.popleft())
                    self._refresh()
                    time.sleep(POLL_SECONDS)
                    for training in [t for t in self.active if t.process.poll() is not None]:
                        self._finish(training)
            finally:
                self._stop_all()

    def _display(self) -> AbstractContextManager[object]:
        if not self.console.is_terminal:
            return nullcontext()
        return Live(Group(self.overall, self.trainings), console=self.console, refresh_per_second=4, transient=True)

    def _start(self, run: Run) -> None:
        checkpoint, useless = resume_point(run)
        before = 0.0
        if checkpoint is None:
            clear(run)
        else:
            before = float(read_outcome(run.folder).get("seconds", 0))
            outcome_file(run.folder).unlink(missing_ok=True)
        run.write_inputs()
        with run.log.open("wb" if checkpoint is None else "ab") as log:
            process = subprocess.Popen(
                [*self.trainer, "--config", str(run.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.sweep.threads))},
                # A session of its own: Ctrl-C reaches the runner alone, which then stops the whole group.
                start_new_session=True,
                pass_fds=(self.lock,),
            )
        task = self.trainings.add_task(escape(run.name), total=None, note="starting")
        self.active.append(_Training(run, process, task, before=before, goes_on=checkpoint is not None))
        if useless:
            self._say(f"{run.name}: started anew, its checkpoints are not used: {useless}")
        elif checkpoint is not None:
            self._say(f"{run.name}: goes on from {checkpoint.name}")
        elif not self.console.is_terminal:
            self._say(f"{run.name}: started")

    def _finish(self, training: _Training) -> None:
        run = training.run
        self.active.remove(training)
        self.trainings.remove_task(training.task)
        status, reason = training.outcome()
        training.write_outcome(status, reason)
        if status == "finished":
            self.done += 1
            self.overall.update(self.bar, completed=self.done)
            self.seconds.setdefault(run.suite, []).append(training.seconds)
            score = (run.result() or {}).get(self.sweep.suites[run.suite].split) or {}
            metric = self.sweep.suites[run.suite].metric
            shown = f", {metric} {score[metric]:.1%}" if metric in score else ""
            took = _duration(training.seconds)
            self._say(f"{run.name}: finished in {took}{shown}; {self.done} of {self.total}, {self._outlook()}")
        elif status == "stopped":
            self._say(f"{run.name}: stopped by somebody else, {reason}")
        else:
            self._say(
                f"[bold red]{escape(run.name)}: failed[/], {escape(reason)}; last lines of {run.log}:", markup=True
            )
            for line in log_tail(run.log, LOG_LINES_SHOWN):
                self._say(f"    | {line}")
            if training.goes_on:
                self._say(f"it had gone on from a checkpoint; to have it begin anew, remove {run.folder}")

    def _stop_all(self) -> None:
        if not self.active:
            return
        with signals_ignored():  # a second Ctrl-C must not leave orphans
            self._say(
                f"stopping {len(self.active)} trainings under way; each ends its update and writes a checkpoint, for "
                f"which it has {SECONDS_TO_STOP:.0f} s"
            )
            for training in self.active:
                signal_group(training.process, signal.SIGTERM)
            began = said = time.monotonic()
            while under_way := [t for t in self.active if t.process.poll() is None]:
                now = time.monotonic()
                if now - began >= SECONDS_TO_STOP:
                    break
                if now - said >= SECONDS_BETWEEN_WORDS:
                    said = now
                    names = ", ".join(training.run.name for training in under_way)
                    self._say(f"waiting for {names}; {began + SECONDS_TO_STOP - now:.0f} s left")
                time.sleep(POLL_SECONDS)
            for training in under_way:
                signal_group(training.process, signal.SIGKILL)
                training.process.wait()
                self._say(f"{training.run.name}: killed, it had not ended after {SECONDS_TO_STOP:.0f} s")
            for training in self.active:
                training.write_outcome(*training.outcome(told_to_stop=True))
            self.active.clear()

    def _learn_durations(self) -> None:
        for folder in self.sweep.output.glob("*/*/seed=*"):
            outcome = read_outcome(folder)
            # what the training says of itself has no seconds
            if outcome.get("status") == "finished" and "seconds" in outcome:
                self.seconds.setdefault(folder.parts[-3], []).append(float(outcome["seconds"]))

    def _seconds_left(self) -> float | None:
        known = {suite: statistics.mean(seconds) for suite, seconds in self.seconds.items()}
        if not known:
            return None
        default = statistics.mean(known.values())
        waiting = sum(known.get(run.suite, default) for run in self.waiting)
        active = sum(max(known.get(t.run.suite, default) - t.seconds, 0) for t in self.active)
        return (waiting + active) / self.sweep.jobs

    def _outlook(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"about {_duration(seconds)} left"

    def _refresh(self) -> None:
        self.overall.update(self.bar, note=self._outlook())
        for training in self.active:
            last = log_tail(training.run.log, 1)
            self.trainings.update(training.task, note=escape(last[0]) if last else "starting")

    def _say(self, text: str, *, markup: bool = False) -> None:
        self.console.print(text, markup=markup, highlight=False, soft_wrap=True)


@dataclass(eq=False)
class _Training:
    run: Run
    process: subprocess.Popen[bytes]
    task: TaskID
    before: float = 0.0  # seconds that the earlier parts of the run took
    goes_on: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def outcome(self, *, told_to_stop: bool = False) -> tuple[str, str]:
        """How the training, which has ended, did so: finished, failed or stopped, and why."""
        code = self.process.returncode
        if code == 0:
            is_finished = self.run.result() is not None
            return ("finished", "") if is_finished else ("failed", "it ended without writing result.json")
        status = read_json(self.run.folder / "status.json") or {}
        if status.get("status") == "preempted" and code == 128 + status.get("signal", 0):
            return "stopped", f"after update {status.get('step', '?')}, which the same command goes on from"
        if told_to_stop and code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
            return "stopped", "without a checkpoint of its last update"
        return "failed", f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def write_outcome(self, status: str, reason: str) -> None:
        content = {"status": status, "reason": reason, "seconds": round(self.seconds, 3)}
        write_json(outcome_file(self.run.folder), content)


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


def log_tail(log: Path, lines: int) -> list[str]:
    """Last lines of a log that are not blank, control characters taken out, reading no more than its last 16 KiB."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 16384, 0))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    plain = (Text.from_ansi(line).plain for line in text.splitlines())
    clean = ("".join(c for c in line if c.isprintable() or c == "\t") for line in plain)
    return [line for line in clean if line.strip()][-lines:]


def _check_options(runs: Sequence[Run]) -> None:
    """Read every run's options as the trainer will, and build every variant's model without weights.

    A typo must not cost a night. On the meta device a model takes no memory and no time.
    """
    parser = train_parser()
    parser.exit_on_error = False
    built: set[tuple[str, str]] = set()
    for run in runs:
        try:
            config = parser.instantiate(parser.parse_object({**run.options, "output": str(run.folder)}))
            if (run.suite, run.variant) not in built:
                with torch.device("meta"):
                    build_model(replace(config.model, pretrained=False), config.data, num_classes=2)
        except (ArgumentError, ValueError) as error:
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


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
