"""Trainings of several processes."""

import io
import json
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from ablation_fakes import FAKE_TRAINER
from rich.console import Console

from timesformer_plus.analysis import ablation, training_process
from timesformer_plus.analysis import runner as runner_module
from timesformer_plus.analysis.ablation import TRAINER, run_ablation
from timesformer_plus.analysis.launching import training_command, training_environment
from timesformer_plus.analysis.sweep import Suite, Sweep, plan_runs
from timesformer_plus.data.motion import write_motion

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
CONFIG = Path("out/run.yaml")


def test_without_processes_the_trainer_is_started_itself(make_sweep):
    sweep = make_sweep({"s": {}}, threads=3)
    assert training_command(sweep, TRAINER, CONFIG) == [*TRAINER, "--config", "out/run.yaml"]
    assert training_environment(sweep) == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    ("processes", "launch", "between"),
    [
        (1, [], ["--main_process_port", "0"]),
        (2, [], ["--multi_gpu", "--main_process_port", "0"]),
        (2, ["--main_process_port=7"], ["--multi_gpu", "--main_process_port=7"]),
        (4, ["--config_file", "f.yaml"], ["--main_process_port", "0", "--config_file", "f.yaml"]),
    ],
)
def test_accelerate_launches_the_number_of_processes_and_the_trainer_is_told_it(make_sweep, processes, launch, between):
    sweep = make_sweep({"s": {}}, processes=processes, launch=launch)
    assert training_command(sweep, TRAINER, CONFIG) == [
        *(*LAUNCH, "--num_processes", str(processes), *between, "-m", "timesformer_plus.engine.train"),
        *("--config", "out/run.yaml", "--world_size", str(processes)),
    ]


def test_without_a_gpu_accelerate_is_told_to_compute_on_the_cpu(make_sweep, monkeypatch):
    sweep = make_sweep({"s": {}}, processes=2)
    for available in (False, True):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        assert ("ACCELERATE_USE_CPU" in training_environment(sweep)) == (not available)


def test_what_cannot_be_launched_is_refused(make_sweep):
    sweep = make_sweep({"s": {}})
    with pytest.raises(ValueError, match="processes=0 is not positive"):
        replace(sweep, processes=0)
    with pytest.raises(ValueError, match="give the number of processes too"):
        replace(sweep, launch=["--use_fsdp"])
    with pytest.raises(ValueError, match="the trainer is 'bash train'"):
        training_command(replace(sweep, processes=2), ["bash", *FAKE_TRAINER[1:1], "train"], CONFIG)


# as torchrun: the worker has a session of its own. The launcher is killed, or waits and has to be.
LAUNCHER = """
    import os, signal, subprocess, sys, time
    from pathlib import Path
    import psutil

    output = Path(sys.argv[2]).parent
    started = [int(file.read_text()) for file in output.parents[2].glob("*/*/*/worker")]
    (output / "seen").write_text(str([pid for pid in started if psutil.pid_exists(pid)
                                      and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, WORKER, str(output)], start_new_session=True)
    while not (output / "worker").exists():
        time.sleep(0.01)
    if IS_KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
WORKER = """
    import os, signal, sys, time
    from pathlib import Path

    output = Path(sys.argv[1])

    def stop(*_):
        (output / "status.json").write_text('{"status": "preempted", "step": 7, "signal": 15}')
        sys.exit(143)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if IS_STUBBORN else stop)
    (output / "worker.new").write_text(str(os.getpid()))
    (output / "worker.new").rename(output / "worker")
    time.sleep(60)
"""


@pytest.fixture
def fake_launcher(tmp_path, monkeypatch):
    """Have trainings started by a launcher that imports next to nothing."""

    def launch(*, is_killed=True, is_stubborn=False):
        launcher, worker = tmp_path / "launcher.py", tmp_path / "worker.py"
        launcher.write_text(f"WORKER, IS_KILLED = {str(worker)!r}, {is_killed}\n{textwrap.dedent(LAUNCHER)}")
        worker.write_text(f"IS_STUBBORN = {is_stubborn}\n{textwrap.dedent(WORKER)}")
        words = [sys.executable, str(launcher), "--config"]
        monkeypatch.setattr(training_process, "training_command", lambda *given: [*words, str(given[-1])])

    return launch


def living_workers(sweep):
    pids = [int((run.folder / "worker").read_text()) for run in plan_runs(sweep) if (run.folder / "worker").exists()]
    assert pids
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("is_stubborn", "seconds", "end"),
    [(False, 30.0, "stopped by somebody else, after update 7"), (True, 0.2, "failed, it was killed by SIGKILL")],
)
def test_what_a_killed_launcher_leaves_is_ended_before_the_next_run(
    make_sweep, run, fake_launcher, monkeypatch, is_stubborn, seconds, end
):
    fake_launcher(is_stubborn=is_stubborn)
    monkeypatch.setattr(runner_module, "SECONDS_TO_STOP", seconds)
    sweep = make_sweep({"s": {}}, processes=2)
    status, text = run(sweep)
    assert status == 1
    assert all(f"{r.name}: {end}" in text for r in plan_runs(sweep))
    assert [(r.folder / "seen").read_text() for r in plan_runs(sweep)] == ["[]", "[]"]
    assert living_workers(sweep) == []


def test_a_launcher_that_has_to_be_killed_leaves_no_worker(make_sweep, run, fake_launcher, monkeypatch):
    fake_launcher(is_killed=False, is_stubborn=True)
    monkeypatch.setattr(runner_module, "SECONDS_TO_STOP", 0.3)
    sweep = make_sweep({"s": {}}, seeds=(0,), processes=2)
    (here,) = plan_runs(sweep)

    class Interrupted(runner_module.Runner):
        def _refresh(self):
            if (here.folder / "worker").exists():
                raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "Runner", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(sweep)
    assert living_workers(sweep) == []


@pytest.mark.slow
def test_a_run_of_two_processes(tmp_path):
    data = write_motion("lattice", tmp_path / "data", train=16, val=16, test=16, size=32, num_frames=4, progress=False)
    base = tmp_path / "base.yaml"
    recipe = {
        "data": {"root": str(data), "multi_label": True, "num_frames": 4, "img_size": 32},
        "model": {"name": "timesformer_test_patch8_32", "args": {"depth": 1, "embed_dim": 16, "global_pool": "avg"}},
        "epochs": 1,
        "batch_size": 8,
    }
    base.write_text(yaml.safe_dump(recipe))
    suite = Suite(base=base, variants={"t": {"model.pattern": "t"}}, reference="t", metric="pair")
    # with 2 seeds at a time: each needs a port of its own
    sweep = Sweep(suites={"task": suite}, output=tmp_path / "out", seeds=(0, 1), jobs=2, processes=2)
    text = io.StringIO()
    assert run_ablation(sweep, console=Console(file=text, width=100)) == 0, text.getvalue()
    for run in plan_runs(sweep):
        environment = json.loads((run.folder / "environment.json").read_text())
        assert '"processes_here": 2' in json.dumps(environment)
