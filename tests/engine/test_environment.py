"""What is written down about the machine."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from timesformer_plus.engine import environment
from timesformer_plus.engine.environment import PACKAGES, describe_environment, git_state


def described(**changes):
    return describe_environment(**{"device": torch.device("cpu"), "world_size": 1, "seed": 3, **changes})


def test_is_json_and_says_what_matters():
    told = described(data={"train": "ab" * 32})
    assert json.loads(json.dumps(told)) == told
    assert set(told["packages"]) == set(PACKAGES)
    assert torch.__version__.startswith(told["packages"]["torch"])
    assert told["data"] == {"train": "ab" * 32}
    assert told["seed"] == 3
    assert told["command"] == sys.argv
    assert told["distributed"] == {"backend": None, "processes_here": 1, "nodes": 1}
    hardware = told["hardware"]
    assert hardware["cpu"]
    assert 1 <= hardware["cores_usable"] <= hardware["cores"]
    assert 0.1 < hardware["memory_gb"] < 1e5
    assert len(hardware["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_a_package_that_is_not_installed_is_null(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    assert described()["packages"] == {"torch": metadata.version("torch"), "no-such-package": None}


def test_nothing_secret_is_written_down(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    monkeypatch.setenv("HF_TOKEN", "sesame")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = described()
    assert "sesame" not in json.dumps(told)
    assert told["variables"]["OMP_NUM_THREADS"] == "1"


def test_the_commit_is_that_of_this_source():
    state = git_state()
    if state is None:
        pytest.skip("not in a repository")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    assert state["commit"] == head.stdout.strip()


def test_a_repository_around_an_installed_package_is_not_its_own(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    assert git_state() is None


def test_processes_that_work_together(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import json, os, sys
import torch
from timesformer_plus.engine.environment import describe_environment
torch.distributed.init_process_group("gloo")
told = describe_environment(device=torch.device("cpu"), world_size=torch.distributed.get_world_size(), seed=0)
if torch.distributed.get_rank() == 0:
    open(sys.argv[1], "w").write(json.dumps(told["distributed"]))
torch.distributed.destroy_process_group()
""")
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*command, str(script), str(out)],
        check=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert json.loads(out.read_text()) == {"backend": "gloo", "processes_here": 2, "nodes": 1}
