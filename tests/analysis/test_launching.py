"""Trainings of several processes."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from ablation_fakes import FAKE_TRAINER
from rich.console import Console

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
