"""The runs of a sweep as jobs of a cluster, through submitit: an array for Slurm, or jobs on this machine.

What was submitted is kept in ``OUTPUT/cluster/jobs.json``, so that a runner which was killed, or left by Ctrl-C, finds
its jobs again and waits for them instead of submitting them twice. submitit's own files lie beside it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import submitit
from rich.console import Console

from .json_files import read_json, write_json
from .processes import FolderBusyError, signals_deferred, signals_ignored
from .runner import LOG_LINES_SHOWN, log_tail
from .runs import Run, outcome_file, read_outcome
from .sweep import Sweep
from .training_process import Training, begin_training

POLL_SECONDS = 0.5
# before its time is over, a job is told; its training then ends its update and writes a checkpoint
SECONDS_TO_STOP = 120
# the rest is for submitting the job once more
SECONDS_TO_CHECKPOINT = 100.0
NOT_STARTED = "not started"


class TrainingJob:
    """What a job does: the training of one run, gone on from where an earlier job left it.

    Args:
        sweep: For how trainings are started.
        run: The run.
        trainer: Words of the command that trains.
    """

    def __init__(self, sweep: Sweep, run: Run, trainer: Sequence[str]) -> None:
        self.sweep, self.run, self.trainer = sweep, run, tuple(trainer)
        self.training: Training | None = None

    def __call__(self) -> str:
        """Train.

        Returns:
            "finished", "failed" or "stopped", as it is kept in the run's folder too; or "not started" and why, which is
            not kept there: the folder may be somebody else's.
        """
        if self.run.state() == "finished":
            return "finished"
        try:
            try:
                with signals_deferred():
                    training = self.training = begin_training(self.sweep, self.run, self.trainer)
            except (FolderBusyError, OSError, ValueError) as error:
                return f"{NOT_STARTED}, {error}"
            training.wait()
            training.end_leftovers(SECONDS_TO_CHECKPOINT)
            status, reason = training.outcome()
            training.write_outcome(status, reason)
            return status
        except BaseException:  # Ctrl-C in a debug job, the end of a job that is cancelled, what follows a checkpoint
            self._stop()
            raise

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit when the job's time is over: a checkpoint, and the same job once more."""
        self._stop()
        return submitit.helpers.DelayedSubmission(TrainingJob(self.sweep, self.run, self.trainer))

    def _stop(self) -> None:
        with signals_ignored():
            training, self.training = self.training, None
            if training is not None:
                training.stop(SECONDS_TO_CHECKPOINT)
                training.write_outcome(*training.outcome(told_to_stop=True))


class DetachedExecutor(submitit.LocalExecutor):
    """submitit's executor for this machine, but out of the terminal's reach: Ctrl-C leaves its jobs alone."""

    def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
        # submitit has no option for a session of its own; these are the words and variables of its ``start_controller``
        asked = self.parameters
        variables = {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(int(60 * asked["timeout_min"])),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(int(asked["signal_delay_s"])),
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "",
            "CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in range(asked["gpus_per_node"])),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "submitit.local._local", str(self.folder)],
            env={**os.environ, **variables},
            start_new_session=True,
        )
        return submitit.LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])


def make_executor(sweep: Sweep) -> submitit.Executor:
    """The executor of submitit for the sweep's cluster, with the resources that the sweep asks for.

    Raises:
        ValueError: There is no Slurm on this machine.
    """
    folder, slurm = _folder(sweep), sweep.slurm
    if sweep.cluster == "debug":
        return submitit.DebugExecutor(folder)
    if sweep.cluster == "local":
        local = DetachedExecutor(folder)
        local.update_parameters(timeout_min=slurm.minutes, gpus_per_node=slurm.gpus, signal_delay_s=SECONDS_TO_STOP)
        return local
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:
        raise ValueError(f"cluster=slurm: {error} Submit from a machine that has srun and sbatch.") from None
    words: dict[str, Any] = {
        "job_name": "ablation",
        "time": slurm.minutes,
        "cpus_per_task": slurm.cpus,
        "mem": f"{slurm.memory_gb}GB",
        "array_parallelism": slurm.at_once,
        "signal_delay_s": SECONDS_TO_STOP,
    }
    optional = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos}
    words |= {key: value for key, value in optional.items() if value is not None}
    words |= {"gpus_per_node": slurm.gpus} if slurm.gpus else {}
    executor.update_parameters(**words, additional_parameters=dict(slurm.extra))
    return executor


def jobs_under_way(sweep: Sweep) -> dict[str, submitit.Job[str]]:
    """Jobs of earlier runners that wait or run: name of the run -> job."""
    kept = read_json(jobs_file(sweep)) or {}
    found = {name: _find_job(sweep, entry) for name, entry in kept.items()}
    return {name: job for name, job in found.items() if job is not None}


def jobs_file(sweep: Sweep) -> Path:
    """Where the jobs are kept."""
    return _folder(sweep) / "jobs.json"


def run_on_cluster(
    sweep: Sweep, runs: Sequence[Run], trainer: Sequence[str], console: Console, *, report: Callable[[], object]
) -> None:
    """Submit every run that has no job yet, and wait for all jobs.

    Ctrl-C leaves the jobs alone: the same command waits for them again.

    Args:
        sweep: The sweep.
        runs: What to run.
        trainer: Words of the command that trains.
        console: Where ends are shown.
        report: Writes the report of what is finished so far; called when jobs have ended, others not.
    """
    by_name = {run.name: run for run in runs}
    waiting = {name: job for name, job in jobs_under_way(sweep).items() if name in by_name}
    todo = [run for run in runs if run.name not in waiting]
    _say(console, f"{len(todo)} jobs submitted to {sweep.cluster}, {len(waiting)} were under way")
    executor = make_executor(sweep)
    # Slurm holds back what is too much by itself
    at_once = len(todo) if sweep.cluster == "slurm" else sweep.jobs
    while todo or waiting:
        now, todo = todo[: max(at_once - len(waiting), 0)], todo[max(at_once - len(waiting), 0) :]
        if sweep.cluster == "slurm":
            now, todo = now + todo, []
        if now:
            waiting |= _submit(sweep, executor, now, trainer)
        ended = [name for name, job in waiting.items() if _has_ended(job)]
        for name in ended:
            _finish(by_name[name], waiting.pop(name), sweep, console)
        if ended and waiting:
            report()
        elif waiting:
            time.sleep(POLL_SECONDS)


def _submit(
    sweep: Sweep, executor: submitit.Executor, runs: Sequence[Run], trainer: Sequence[str]
) -> dict[str, submitit.Job[str]]:
    jobs = executor.submit_array([TrainingJob(sweep, run, trainer) for run in runs])
    kept = read_json(jobs_file(sweep)) or {}
    kept |= {run.name: {"cluster": sweep.cluster, "job": job.job_id} for run, job in zip(runs, jobs, strict=True)}
    write_json(jobs_file(sweep), kept)
    return {run.name: job for run, job in zip(runs, jobs, strict=True)}


def _find_job(sweep: Sweep, entry: Mapping[str, str]) -> submitit.Job[str] | None:
    """The job that an earlier runner has submitted; None where it has ended."""
    folder, number = _folder(sweep), entry["job"]
    if entry["cluster"] == "slurm":
        job: submitit.Job[str] = submitit.SlurmJob(folder, number, tasks=[0])
        return None if job.done(force_check=True) else job
    job = submitit.LocalJob(folder, number)
    return None if entry["cluster"] == "debug" or _has_ended(job) else job


def _has_ended(job: submitit.Job[str]) -> bool:
    if isinstance(job, submitit.LocalJob) and job._process is None:  # another runner's: its number is a process
        return job.paths.result_pickle.exists() or not _is_controller(int(job.job_id))
    return job.done()


def _is_controller(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "submitit.local._local" in process.cmdline()
    except psutil.Error:
        return False


def _finish(run: Run, job: submitit.Job[str], sweep: Sweep, console: Console) -> None:
    outcome, said = read_outcome(run.folder), _last_word(job)
    if said.startswith(NOT_STARTED):
        _say(console, f"{run.name}: {said}")
    elif run.state() == "finished":
        _say(console, f"{run.name}: finished in {outcome.get('seconds', 0):.0f} s, job {job.job_id}")
    elif outcome.get("status") in ("failed", "stopped"):
        _say(console, f"{run.name}: {outcome['status']}, {outcome.get('reason', '')}; last lines of {run.log}:")
        for line in log_tail(run.log, LOG_LINES_SHOWN):
            _say(console, f"    | {line}")
    else:
        run.folder.mkdir(parents=True, exist_ok=True)
        reason = f"its job {job.job_id} of {sweep.cluster} ended without a word ({job.state}); see {job.paths.stderr}"
        write_json(outcome_file(run.folder), {"status": "stopped", "reason": reason})
        _say(console, f"{run.name}: {reason}")


def _last_word(job: submitit.Job[str]) -> str:
    """What a job that has ended has returned; empty where it was killed, or raised something."""
    if not isinstance(job, submitit.DebugJob) and not job.paths.result_pickle.exists():
        return ""  # result() would wait for it
    with contextlib.suppress(Exception):
        return job.result()
    return ""


def _folder(sweep: Sweep) -> Path:
    return Path(os.path.abspath(sweep.output)) / "cluster"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
