"""Sweeps whose runs are jobs: the scripts for Slurm, and real jobs of submitit's local and debug executors."""

import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
from ablation_fakes import FAKE_TRAINER
from rich.console import Console

from timesformer_plus.analysis import ablation, cluster
from timesformer_plus.analysis.json_files import read_json, write_json
from timesformer_plus.analysis.processes import FolderBusyError
from timesformer_plus.analysis.sweep import Slurm, plan_runs
from timesformer_plus.engine.run_folder import RunFolder

TS = {"model.pattern": "ts", "fake.score": 0.9}
PAUSED = {"fake.steps": 4, "fake.pause": 2}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The commands of a cluster that takes jobs and never gets round to them."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    state = folder / "state"
    state.write_text("PENDING")
    scripts = {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {folder}/submitted-$(ls {folder} | grep -c submitted).sh; echo Submitted batch job 71',
        "sacct": f'echo "JobID|State|NodeList"; for n in 0 1 2; do echo "71_$n|$(cat {state})|"; done',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(sweep):
    file = sweep.output / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []


@contextmanager
def signal_at_pause(folder, number):
    """Send this process a signal once the training in a folder pauses; fail if the block then does not end."""

    def wait_and_send():
        while not (folder / "paused").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    def give_up(*_):
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    thread = threading.Thread(target=wait_and_send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    thread.join()


def steps(sweep):
    return (sweep.output / "steps.txt").read_text().splitlines()


def test_slurm_is_asked_for_what_the_sweep_says(make_sweep, slurm):
    asked = Slurm("gpu", 2, 8, 64, 90, 3, "lab", "high", {"constraint": "a100"})
    sweep = make_sweep({"s": {}, "ts": TS}, seeds=(0, 1), cluster="slurm", slurm=asked)
    cluster._submit(sweep, cluster.make_executor(sweep), plan_runs(sweep), FAKE_TRAINER)
    (script,) = slurm.glob("submitted-*.sh")
    lines = script.read_text().splitlines()
    flags = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    expected = {
        "partition": "gpu",
        "gpus-per-node": "2",
        "cpus-per-task": "8",
        "mem": "64GB",
        "time": "90",
        "array": "0-3%3",
        "account": "lab",
        "qos": "high",
        "constraint": "a100",
        "signal": "USR2@120",
    }
    assert {key: flags.get(key) for key in expected} == expected
    assert any(line.startswith("srun ") and "submitit.core._submit" in line for line in lines)
    jobs = read_json(cluster.jobs_file(sweep))
    assert jobs["task/ts/seed=1"] == {"cluster": "slurm", "job": "71_3"}


def test_jobs_that_wait_are_not_submitted_twice(make_sweep, run, slurm, monkeypatch):
    sweep = make_sweep({"s": {}, "ts": TS}, seeds=(0,), cluster="slurm")

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cluster.time, "sleep", interrupt)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(sweep)
    assert len(list(slurm.glob("submitted-*.sh"))) == 1
    assert set(cluster.jobs_under_way(sweep)) == {"task/s/seed=0", "task/ts/seed=0"}
    with pytest.raises(FolderBusyError, match="task/s/seed=0 is a job of a cluster that waits or runs"):
        run(replace(sweep, cluster="none"))


def test_without_slurm_there_is_no_slurm(make_sweep):
    with pytest.raises(ValueError, match="Submit from a machine that has srun"):
        cluster.make_executor(make_sweep({"s": {}}, cluster="slurm"))
    with pytest.raises(ValueError, match=r"slurm\.minutes=0 is not positive"):
        Slurm(minutes=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_debug_runs_train_here_one_after_the_other(make_sweep, run):
    sweep = make_sweep({"s": {}, "ts": {**TS, "fake.fail": [0]}}, seeds=(0,), cluster="debug")
    status, text = run(sweep)
    assert status == 1
    assert calls(sweep) == ["s 0 1", "ts 0 1"]
    assert "task/s/seed=0: finished in" in text
    assert "task/ts/seed=0: failed, exit status 3; last lines of " in text
    assert "    | RuntimeError: <planted> failure\n" in text
    assert "2 runs, 1 of them finished, 1 failed" in run(sweep)[1]


def test_a_job_whose_time_is_over_stops_its_training_in_the_signal_handler_and_goes_on_later(make_sweep):
    sweep = make_sweep({"s": PAUSED}, seeds=(0,))
    (here,) = plan_runs(sweep)
    job, again = cluster.TrainingJob(sweep, here, FAKE_TRAINER), []

    def time_is_over(*_):  # as submitit's handler, in the thread that waits for the training
        os.killpg(job.training.process.pid, signal.SIGUSR2)  # Slurm signals all processes of the job
        again.append(job.checkpoint())
        raise SystemExit(144)

    before = signal.signal(signal.SIGUSR2, time_is_over)
    try:
        with signal_at_pause(here.folder, signal.SIGUSR2), pytest.raises(SystemExit):
            job()
    finally:
        signal.signal(signal.SIGUSR2, before)
    stopped = read_json(here.folder / "sweep.json")
    assert (stopped["status"], stopped["reason"][:14]) == ("stopped", "after update 2"), here.log.read_text()
    assert not psutil.pid_exists(int((here.folder / "pid").read_text()))
    (sweep.output / "release").touch()
    assert again[0].result() == "finished"
    assert steps(sweep) == ["s 1", "s 2", "s 3", "s 4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_ctrl_c_stops_the_training_of_a_debug_run(make_sweep, run):
    sweep = make_sweep({"s": PAUSED}, seeds=(0,), cluster="debug")
    (here,) = plan_runs(sweep)
    with signal_at_pause(here.folder, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        run(sweep)
    assert not psutil.pid_exists(int((here.folder / "pid").read_text()))
    assert read_json(here.folder / "sweep.json")["status"] == "stopped"
    (sweep.output / "release").touch()
    assert run(sweep)[0] == 0
    assert steps(sweep) == ["s 1", "s 2", "s 3", "s 4"]


def test_local_jobs_are_out_of_the_terminals_reach(make_sweep):
    sweep = make_sweep({"s": {}}, cluster="local", slurm=Slurm(minutes=5))
    job = cluster.make_executor(sweep).submit(os.getsid, 0)
    # Ctrl-C is for the session of the terminal; the job's is led by its controller
    assert job.result() == int(job.job_id) != os.getsid(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_a_job_that_cannot_be_started_stops_no_other(make_sweep, run, monkeypatch):
    sweep = make_sweep({"s": {}, "ts": TS}, seeds=(0,), cluster="debug")
    monkeypatch.setattr(ablation, "refuse_busy", lambda _: None)  # it was not busy then
    by_hand = RunFolder(plan_runs(sweep)[0].folder)
    by_hand.hold()
    status, text = run(sweep)
    by_hand.let_go()
    assert status == 1
    assert calls(sweep) == ["ts 0 1"]
    assert "task/s/seed=0: not started, another training is at work in " in text
    assert not (by_hand.path / "sweep.json").exists()
    assert run(sweep)[0] == 0


@pytest.mark.slow  # a job imports everything anew
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that nobody has waited for it
def test_local_jobs_outlive_their_runner_and_are_waited_for(make_sweep, run, monkeypatch):
    variants = {"s": {"fake.sleep": 60}, "ts": {**TS, "fake.sleep": 60}}
    sweep = make_sweep(variants, seeds=(0,), jobs=2, cluster="local", slurm=Slurm(minutes=5))

    def interrupt(_):
        if len(calls(sweep)) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cluster.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(sweep)
    assert set(cluster.jobs_under_way(sweep)) == {"task/s/seed=0", "task/ts/seed=0"}
    (sweep.output / "release").touch()
    status, text = run(sweep)
    assert status == 0, text
    assert "0 jobs submitted to local" in text or "2 of them finished" in text
    assert len(calls(sweep)) == 2
    assert "2 of 2 runs are in the figures" in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
def test_a_job_that_ends_without_a_word_is_begun_again(make_sweep, run):
    sweep = make_sweep({"s": {}}, seeds=(0,), cluster="debug")
    write_json(cluster.jobs_file(sweep), {"task/s/seed=0": {"cluster": "local", "job": str(2**22 + 1)}})
    assert cluster.jobs_under_way(sweep) == {}
    (here,) = plan_runs(sweep)
    job = cluster.submitit.LocalJob(cluster.jobs_file(sweep).parent, "4194305")
    cluster._finish(here, job, sweep, Console(quiet=True))
    assert "ended without a word" in read_json(here.folder / "sweep.json")["reason"]
    assert here.state() == "missing"
    assert run(sweep)[0] == 0
    assert calls(sweep) == ["s 0 1"]
