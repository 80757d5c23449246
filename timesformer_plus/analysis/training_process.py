"""The training of a run as a process: how it is begun, and what its end means."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .launching import training_command, training_environment
from .processes import group_is_alive
from .sweep import Run, Sweep, outcome_file, read_json, read_outcome, write_json
from .unfinished import clear, resume_point


@dataclass(eq=False)
class Training:
    """The training of a run, as a process that leads its own session."""

    run: Run
    process: subprocess.Popen[bytes]
    note: str = ""  # what is worth saying of how it began
    before: float = 0.0  # seconds that the earlier parts of the run took
    goes_on: bool = False
    is_launched: bool = False  # by a process that ends with a status of its own, maybe before the training does
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """What all parts of the run have taken so far."""
        return self.before + time.monotonic() - self.started

    def is_alive(self) -> bool:
        """Whether the process, or one that it has started, lives."""
        return self.process.poll() is None or (self.is_launched and group_is_alive(self.process))

    def outcome(self, *, told_to_stop: bool = False) -> tuple[str, str]:
        """How the training, which has ended, did so: finished, failed or stopped, and why."""
        code = self.process.returncode
        if code == 0:
            is_finished = self.run.result() is not None
            return ("finished", "") if is_finished else ("failed", "it ended without writing result.json")
        status = read_json(self.run.folder / "status.json") or {}
        if status.get("status") == "preempted" and (self.is_launched or code == 128 + status.get("signal", 0)):
            return "stopped", f"after update {status.get('step', '?')}, which the same command goes on from"
        if told_to_stop and (self.is_launched or code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)):
            return "stopped", "without a checkpoint of its last update"
        return "failed", f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def write_outcome(self, status: str, reason: str) -> None:
        """Keep how the training has ended."""
        content = {"status": status, "reason": reason, "seconds": round(self.seconds, 3)}
        write_json(outcome_file(self.run.folder), content)


def begin_training(sweep: Sweep, run: Run, trainer: Sequence[str], *, pass_fds: tuple[int, ...] = ()) -> Training:
    """Start the training of a run: from its newest checkpoint that is of use, else from the beginning.

    Args:
        sweep: For how trainings are started.
        run: Not finished, with nobody at work in its folder.
        trainer: Words of the command that trains.
        pass_fds: File descriptors that the training inherits.

    Raises:
        FolderBusyError: A training is at work in the folder.
    """
    checkpoint, useless = resume_point(run)
    before = 0.0
    if checkpoint is None:
        clear(run)
    else:
        before = float(read_outcome(run.folder).get("seconds", 0))
        outcome_file(run.folder).unlink(missing_ok=True)
        (run.folder / "status.json").unlink(missing_ok=True)  # how it goes on is not how it had ended
    run.write_inputs()
    with run.log.open("wb" if checkpoint is None else "ab") as log:
        process = subprocess.Popen(
            training_command(sweep, trainer, run.config),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **training_environment(sweep)},
            # A session of its own: Ctrl-C reaches the runner alone, which then stops the whole group.
            start_new_session=True,
            pass_fds=pass_fds,
        )
    note = f"goes on from {checkpoint.name}" if checkpoint is not None else ""
    if useless:
        note = f"started anew, its checkpoints are not used: {useless}"
    launched = sweep.processes is not None
    return Training(run, process, note, before=before, goes_on=checkpoint is not None, is_launched=launched)
