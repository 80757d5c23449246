"""Trainings side by side, each a process of its own: shown at work, stopped together, their ends written down."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from .processes import FolderBusyError, signal_group, signals_deferred, signals_ignored
from .runs import Run, read_outcome
from .sweep import Sweep
from .training_process import Training, begin_training

LOG_LINES_SHOWN = 15
# a training that is told to stop ends its update and writes a checkpoint, which takes a large model on a slow disk long
SECONDS_TO_STOP = 60.0
SECONDS_BETWEEN_WORDS = 10.0
POLL_SECONDS = 0.2
# Collecting what the folders hold takes computing time from the trainings: no more than a twentieth of it.
SECONDS_BETWEEN_REPORTS = 60.0
SHARE_OF_REPORTS = 1 / 20


class Runner:
    """Keeps up to ``sweep.jobs`` trainings going until a list of runs is through.

    Args:
        sweep: For its jobs and threads.
        trainer: Words of the command that trains.
        console: Where progress and failures are shown: bars on a terminal, lines elsewhere.
        lock: File descriptor of the folder's lock. The trainings inherit it, so that one which outlives a killed runner
            still keeps others out of the folder.
        report: Writes the report of what is finished so far; called now and then after runs have finished.
    """

    def __init__(
        self,
        sweep: Sweep,
        trainer: Sequence[str],
        console: Console,
        lock: int,
        *,
        report: Callable[[], object] = lambda: None,
    ) -> None:
        self.sweep, self.trainer, self.console, self.lock = sweep, trainer, console, lock
        self.report, self.is_report_old, self.next_report = report, False, time.monotonic() + SECONDS_BETWEEN_REPORTS
        self.active: list[Training] = []
        self.tasks: dict[str, TaskID] = {}
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

    def run(self, runs: Sequence[Run], *, done: int, total: int) -> None:
        """Run every run once, in order; failures are shown and remembered on disk, and stop nothing.

        Args:
            runs: What to run.
            done: Runs of the sweep that were finished earlier.
            total: Runs of the sweep, those that are left as they are included.
        """
        self.waiting = deque(runs)
        self.done, self.total = done, total
        self._learn_durations()
        self.bar = self.overall.add_task("runs", total=total, completed=self.done, note="")
        with self._display():
            try:
                while self.waiting or self.active:
                    while self.waiting and len(self.active) < self.sweep.jobs:
                        self._start(self.waiting.popleft())
                    self._refresh()
                    self._report_now_and_then()
                    time.sleep(POLL_SECONDS)
                    for training in [t for t in self.active if t.has_ended()]:
                        self._finish(training)
            finally:
                self._stop_all()

    def _display(self) -> AbstractContextManager[object]:
        if not self.console.is_terminal:
            return nullcontext()
        return Live(Group(self.overall, self.trainings), console=self.console, refresh_per_second=4, transient=True)

    def _start(self, run: Run) -> None:
        try:
            with signals_deferred():
                training = begin_training(self.sweep, run, self.trainer, pass_fds=(self.lock,))
                self.active.append(training)
        except (FolderBusyError, OSError, ValueError) as error:
            # nothing is written down: the folder may be somebody else's, and the next start tries again
            self._say(f"[bold red]{escape(run.name)}: not started[/], {escape(str(error))}", markup=True)
            return
        self.tasks[run.name] = self.trainings.add_task(escape(run.name), total=None, note="starting")
        if training.note or not self.console.is_terminal:
            self._say(f"{run.name}: {training.note or 'started'}")

    def _finish(self, training: Training) -> None:
        run = training.run
        training.end_leftovers(SECONDS_TO_STOP)
        self.active.remove(training)
        self.trainings.remove_task(self.tasks.pop(run.name))
        status, reason = training.outcome()
        training.write_outcome(status, reason)
        self.is_report_old = True
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

    def _report_now_and_then(self) -> None:
        began = time.monotonic()
        if not self.is_report_old or began < self.next_report or not (self.active or self.waiting):
            return
        self.report()
        self.is_report_old, ended = False, time.monotonic()
        self.next_report = ended + max(SECONDS_BETWEEN_REPORTS, (ended - began) / SHARE_OF_REPORTS)

    def _stop_all(self) -> None:
        if not self.active:
            return
        with signals_ignored():  # a second Ctrl-C must not leave orphans
            for training in self.active:
                if not training.has_ended():
                    signal_group(training.process, signal.SIGTERM)
            self._say_if_heard(
                f"stopping {len(self.active)} trainings under way; each ends its update and writes a checkpoint, for "
                f"which it has {SECONDS_TO_STOP:.0f} s"
            )
            began = said = time.monotonic()
            while under_way := [t for t in self.active if t.is_alive()]:
                now = time.monotonic()
                if now - began >= SECONDS_TO_STOP:
                    break
                if now - said >= SECONDS_BETWEEN_WORDS:
                    said = now
                    names = ", ".join(training.run.name for training in under_way)
                    self._say_if_heard(f"waiting for {names}; {began + SECONDS_TO_STOP - now:.0f} s left")
                time.sleep(POLL_SECONDS)
            for training in under_way:
                training.kill()
                self._say_if_heard(f"{training.run.name}: killed, it had not ended after {SECONDS_TO_STOP:.0f} s")
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
            self.trainings.update(self.tasks[training.run.name], note=escape(last[0]) if last else "starting")

    def _say(self, text: str, *, markup: bool = False) -> None:
        self.console.print(text, markup=markup, highlight=False, soft_wrap=True)

    def _say_if_heard(self, text: str) -> None:
        # Ctrl-C ends what the output is piped to as well, and rich exits when a pipe is broken
        with contextlib.suppress(OSError, SystemExit):
            self._say(text)


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


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
