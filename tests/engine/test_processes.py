"""Runs in processes of their own: torchrun, signals, the command lines."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_runs import finish, full_run, start, tiny_run

from timesformer_plus.engine.config import EvaluationConfig
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.processes import runs_on_cpu
from timesformer_plus.engine.train import train

TOOLS = Path(__file__).parents[2] / "tools"


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def numbers(metrics):
    return {key: value for key, value in metrics.items() if isinstance(value, float)}


@pytest.mark.parametrize(
    ("device", "answer"), [(None, True), (torch.device("mps"), True), (torch.device("cuda"), False)]
)
def test_accelerator_without_float64_is_left_alone(device, answer, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: device)
    assert runs_on_cpu() is answer


def test_two_processes_train_the_numbers_of_one(eleven, five_videos, tmp_path):
    # 20 updates with every second batch a ragged one, accumulation, a moving average, mixing, augmentation, dropout and
    # stochastic depth; an odd number of validation videos; workers on one side only
    data = {"val": five_videos.name, "allow_leaks": True}
    one = full_run(tmp_path / "one", eleven, precision="fp64", epochs=10, data=data)
    one = replace(one, evaluation=replace(one.evaluation, every=5))
    two = replace(one, output=tmp_path / "two", world_size=2, data=replace(one.data, num_workers=1))
    running = start(two, processes=2)
    expected = train(one)
    code, output = finish(running)
    assert code == 0, output
    assert "2 processes, DDP on gloo, 8 clips an update = 2 x 2 micro-batches x 2" in reports(two.output)
    result = json.loads((two.output / "result.json").read_text())
    assert json.loads((two.output / "environment.json").read_text())["world_size"] == 2
    assert len(steps(one.output)) == 20
    for key in ("loss", "grad_norm", "lr"):
        pairs = zip(steps(two.output), steps(one.output), strict=True)
        assert all(abs(a[key] - b[key]) <= 1e-12 * max(1, abs(b[key])) for a, b in pairs), key
    for name in ("last", "best"):
        weights, reference = (load_file(run.output / name / "model.safetensors") for run in (two, one))
        assert reference["head.weight"].dtype == torch.float64
        for key, value in reference.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-12, msg=f"{name} {key}")
    for split in ("val", "test"):
        assert numbers(result[split]) == pytest.approx(numbers(expected[split]), rel=0, abs=1e-12)
        assert result[split]["per_class"] == expected[split]["per_class"]
    assert "pair" not in result["val"]


def reports(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [text for line in lines if line["event"] == "data" for text in line["report"]]


def test_evaluation_of_an_odd_number_of_videos_on_two_processes(finished_run, five_videos, tmp_path):
    folder, _ = finished_run
    words = [str(five_videos), "--model", str(folder / "best"), "--num_clips", "3", "--num_crops", "1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        args=[
            *launcher,
            str(TOOLS / "evaluate.py"),
            *words,
            "--batch_size",
            "4",
            "--output",
            str(tmp_path / "two.json"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    one = evaluate_checkpoint(five_videos, model=folder / "best", num_clips=3, num_crops=1, batch_size=1)
    assert numbers(two) == pytest.approx(numbers(one), rel=0, abs=1e-6)
    assert two["per_class"] == one["per_class"]
    # the table is printed once, by the main process
    assert done.stdout.count("top1") == 1


def test_loss_that_is_no_number_in_one_process_stops_both_and_names_its_clips(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, epochs=1, world_size=2)
    code, output = finish(start(config, processes=2, script=Path(__file__).with_name("nan_on_rank_one.py")))
    assert code != 0
    errors = [line for line in output.splitlines() if line.startswith("error: update 2: the loss is nan")]
    assert len(errors) == 2, output
    assert {line.count(".mp4") for line in errors} == {4}
    assert all("look at the clips: process 1: train/" in line for line in errors)
    assert not (config.output / "last").exists()


def test_interrupt_leaves_what_to_go_on_from(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, epochs=10_000, evaluation=EvaluationConfig(every=0))
    running = start(config)
    deadline = time.monotonic() + 120
    while not (config.output / "last" / "config.json").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    code, output = finish(running)
    assert code == 130, output
    assert re.fullmatch(
        rf"stopped after update \d+, which {config.output / 'checkpoints'} holds; the same command goes on from there",
        output.strip().splitlines()[-1],
    )
    assert "Traceback" not in output
    timm.create_model(f"local-dir:{config.output / 'last'}", pretrained=True)
    assert {path.name for path in config.output.iterdir()} == {
        ".lock", "checkpoints", "config.yaml", "environment.json", "last", "metrics.jsonl", "status.json"
    }  # fmt: skip


def test_autocast_keeps_float32_weights(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, epochs=1, precision="bf16")
    AcceleratorState._reset_state()  # one precision a process, elsewhere
    train(config)
    AcceleratorState._reset_state()
    weights = load_file(config.output / "best" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    losses = [line["loss"] for line in steps(config.output)]
    train(replace(config, precision="fp32", output=tmp_path / "full"))
    full = [line["loss"] for line in steps(tmp_path / "full")]
    assert losses == pytest.approx(full, rel=0.02)
    assert losses != pytest.approx(full, rel=1e-6)


@pytest.mark.parametrize("tool", ["train", "evaluate", "predict"])
def test_tools_explain_their_options(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / f"{tool}.py"), run_name="__main__")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    for block in text.split(" --")[1:]:
        explanation = re.split(r" \((?:type|required)", block)[0]
        assert len(explanation.split()) > 3, block
