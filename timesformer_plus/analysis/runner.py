"""Trainings side by side, each a process of its own: shown at work, stopped together, their ends written down."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from .processes import signal_group, signals_ignored
from .sweep import Run, Sweep, outcome_file, read_json, read_outcome, write_json
from .unfinished import clear, resume_point

LOG_LINES_SHOWN = 15
# a training that is told to stop ends its update and writes a checkpoint, which takes a large model on a slow disk long
SECONDS_TO_STOP = 60.0
SECONDS_BETWEEN_WORDS = 10.0
POLL_SECONDS = 0.2


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
