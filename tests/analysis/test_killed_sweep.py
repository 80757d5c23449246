"""A sweep of real trainings that is killed at random points, runner or run, ends as one that nobody disturbs."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from timesformer_plus.analysis.processes import FolderBusyError, folder_lock
from timesformer_plus.data.motion import write_motion

REPOSITORY = Path(__file__).parents[2]
KILLS = 20
# what a clock, an allocator or the machine says
MEASURED = {"measured", "environment", "command", "cost", "speed", "speed_measured_on", "reproduce", "hardware"}
MEASURED_WORDS = ("seconds", "per_second", "latency", "memory", "_mb")


@pytest.mark.slow
def test_killed_twenty_times_and_the_results_are_those_of_an_undisturbed_sweep(tmp_path):
    rng = random.Random(0)
    data = write_motion("lattice", tmp_path / "data", train=16, val=16, test=16, size=32, num_frames=4, progress=False)
    began = time.monotonic()
    whole = _start(_prepare(tmp_path / "whole", data))
    assert whole.wait() == 0, (tmp_path / "whole" / "printed.txt").read_text()
    span = time.monotonic() - began
    expected = _results(tmp_path / "whole")

    kills = {"runner": 0, "training": 0}
    attempt, compared, runner = 0, 0, None
    folder = _prepare(tmp_path / "killed-0", data)
    while sum(kills.values()) < KILLS or runner is not None:
        if runner is None:
            _wait_for_orphans(folder)
            runner = _start(folder)
        if sum(kills.values()) < KILLS:
            _kill_something(runner, rng, span, kills)
        else:
            runner.wait()
        if runner.poll() is None:
            continue
        status, runner = runner.returncode, None
        printed = (folder / "printed.txt").read_text()
        if status == 0:
            assert _results(folder) == expected
            compared += 1
            attempt += 1
            if sum(kills.values()) < KILLS:
                folder = _prepare(tmp_path / f"killed-{attempt}", data)
        else:
            # a training was killed, so that the sweep is incomplete; or the runner was
            assert status in (1, -9), printed
        if sum(kills.values()) >= KILLS and status != 0:
            _wait_for_orphans(folder)
            runner = _start(folder)
    print(f"killed {kills}, {compared} sweeps compared, {time.monotonic() - began:.0f} s")
    assert compared
    assert min(kills.values()) >= 3, kills


def _prepare(folder, data):
    folder.mkdir()
    recipe = {
        "data": {"root": str(data), "multi_label": True, "num_frames": 4, "img_size": 32},
        "model": {"name": "timesformer_test_patch8_32", "args": {"depth": 1, "embed_dim": 16, "global_pool": "avg"}},
        "epochs": 20,
        "batch_size": 4,
        "checkpoint": {"every": 5},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    suite = {"base": "base.yaml", "reference": "t", "metric": "pair"}
    suite["variants"] = {pattern: {"model.pattern": pattern} for pattern in ("t", "h")}
    sweep = {"suites": {"lattice": suite}, "output": "out", "seeds": [0, 1], "jobs": 2, "rerun_failed": True}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return folder


def _start(folder):
    with (folder / "printed.txt").open("ab") as printed:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tools" / "ablate.py"), "--config", "sweep.yaml"],
            cwd=folder,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )


def _kill_something(runner, rng, span, kills):
    """Wait for a random time; then kill the runner, or one of its trainings, if there are any by then."""
    deadline = time.monotonic() + rng.uniform(0, span)
    while runner.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if runner.poll() is not None:
        return
    trainings = [child for child in psutil.Process(runner.pid).children() if "engine.train" in " ".join(_words(child))]
    if trainings and rng.random() < 0.6:
        rng.choice(trainings).kill()
        kills["training"] += 1
        return
    # sometimes with its trainings, as when a machine is switched off
    for training in trainings if rng.random() < 0.5 else []:
        training.kill()
    runner.kill()
    runner.wait()
    kills["runner"] += 1


def _words(process):
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _wait_for_orphans(folder):
    """Trainings that outlive a killed runner end by themselves, and keep the folder until then."""
    deadline = time.monotonic() + 120
    while not _is_free(folder / "out"):
        assert time.monotonic() < deadline, f"{folder} is held for ever"
        time.sleep(0.1)


def _is_free(folder):
    try:
        with folder_lock(folder):
            return True
    except FolderBusyError:
        return False


def _results(folder):
    found = [folder / "out" / name for name in ("results.json", "report.json")]
    return _without_measured(json.loads(next(file for file in found if file.exists()).read_text()))


def _without_measured(value):
    if isinstance(value, dict):
        return {
            key: _without_measured(part)
            for key, part in value.items()
            if key not in MEASURED and not any(word in key for word in MEASURED_WORDS)
        }
    return [_without_measured(part) for part in value] if isinstance(value, list) else value
