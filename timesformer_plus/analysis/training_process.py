"""The training of a run as a process: how it is begun, and what its end means."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .json_files import read_json, write_json
from .launching import training_command, training_environment
from .processes import MARK, inherited_as_blocked, marked_processes, signal_group, signal_marked
from .runs import Run, outcome_file, read_outcome
from .sweep import Sweep
from .unfinished import clear, refuse_busy, resume_point

POLL_SECONDS = 0.1
SECONDS_TO_DIE = 5.0  # after SIGKILL: what hangs in the kernel is not waited for


@dataclass(eq=False)
class Training:
    """The training of a run, as a process that leads its own session."""

    run: Run
    process: subprocess.Popen[bytes]
    note: str = ""  # what is worth saying of how it began
    before: float = 0.0  # seconds that the earlier parts of the run took
    goes_on: bool = False
    is_launched: bool = False  # by a process that ends with a status of its own, maybe before the training does
    mark: str = ""  # which all that it starts inherits, see ``processes.MARK``
    started: float = field(default_factory=time.monotonic)
    code: int | None = None  # exit status as of Popen, once it has ended

    @property
    def seconds(self) -> float:
        """What all parts of the run have taken so far."""
        return self.before + time.monotonic() - self.started

    def is_alive(self) -> bool:
        """Whether the process lives, or one that it has launched."""
        return not self.has_ended() or (self.is_launched and bool(marked_processes(self.mark)))

    def has_ended(self) -> bool:
        """Whether the process has ended, whatever it has left behind.

        ``Popen.wait`` holds a lock that a signal handler which waits too, as a job's ``checkpoint`` does, would wait
        for in vain; so nothing here waits for it.
        """
        if self.code is None and hasattr(os, "waitid"):  # macOS has none before Python 3.13
            with contextlib.suppress(ChildProcessError):  # Popen knows already
                ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if ended is None:
                    return False
                self.code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        code = self.process.poll()
        self.code = code if self.code is None else self.code
        return self.code is not None

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait for the end of the process, for no longer than that; whether it has ended."""
        until = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def stop(self, seconds: float) -> None:
        """Tell it to stop, and kill it if it has not ended after that time."""
        if not self.has_ended():
            signal_group(self.process, signal.SIGTERM)
        until = time.monotonic() + seconds
        if self.wait(seconds):
            self.end_leftovers(max(until - time.monotonic(), 0))
        else:
            self.kill()

    def kill(self) -> None:
        """Kill it at once, with all that it has launched."""
        if not self.has_ended():
            signal_group(self.process, signal.SIGKILL)
        self.wait()
        self.end_leftovers(0)

    def end_leftovers(self, seconds: float) -> None:
        """End what a launcher that has ended left behind, which has this time to write a checkpoint.

        The processes that ``accelerate launch`` starts have sessions of their own: what kills the launcher and its
        group leaves them at work, in the way of the next run.
        """
        patience = {signal.SIGTERM: seconds, signal.SIGKILL: SECONDS_TO_DIE} if self.is_launched else {}
        for number, longest in patience.items():
            until = time.monotonic() + longest
            signal_marked(self.mark, number)
            while marked_processes(self.mark) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def outcome(self, *, told_to_stop: bool = False) -> tuple[str, str]:
        """How the training, which has ended, did so: finished, failed or stopped, and why."""
        code = self.code if self.has_ended() else None
        if code is None:
            raise RuntimeError(f"{self.run.name} has not ended yet; wait for it before asking how it did")
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
        run: Not finished.
        trainer: Words of the command that trains.
        pass_fds: File descriptors that the training inherits.

    Raises:
        FolderBusyError: A training is at work in the folder.
        OSError: The folder cannot be written, or the process not be started.
        ValueError: The trainer is none that can be launched as the sweep says.
    """
    refuse_busy(run)
    checkpoint, useless = resume_point(run)
    before = 0.0
    if checkpoint is None:
        clear(run)
    else:
        before = float(read_outcome(run.folder).get("seconds", 0))
        outcome_file(run.folder).unlink(missing_ok=True)
        (run.folder / "status.json").unlink(missing_ok=True)  # how it goes on is not how it had ended
    run.write_inputs()
    mark = secrets.token_hex(16)
    # Slurm sends the signal that a job's time is over to all processes of the job; only the job's own knows it, the
    # training would be killed by it
    with run.log.open("wb" if checkpoint is None else "ab") as log, inherited_as_blocked(signal.SIGUSR2):
        process = subprocess.Popen(
            training_command(sweep, trainer, run.config),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **training_environment(sweep), MARK: mark},
            # A session of its own: Ctrl-C reaches the runner alone, which then stops the whole group.
            start_new_session=True,
            pass_fds=pass_fds,
        )
    note = f"goes on from {checkpoint.name}" if checkpoint is not None else ""
    if useless:
        note = f"started anew, its checkpoints are not used: {useless}"
    launched = sweep.processes is not None
    goes_on = checkpoint is not None
    return Training(run, process, note, before=before, goes_on=goes_on, is_launched=launched, mark=mark)
