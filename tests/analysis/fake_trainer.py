"""A trainer that trains nothing: a script that does what the `fake` section of its YAML says."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from runpy import run_path

import yaml


def take_steps(output: Path, fake: dict) -> float:
    """Add up a number over `steps`, with a checkpoint after each; wait at step `pause` for release or SIGTERM."""
    # by its path: importing the package imports torch, which takes longer than everything else here
    atomic = run_path(str(Path(__file__).parents[2] / "timesformer_plus" / "engine" / "atomic_folder.py"))

    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    step, total = 0, 0.0
    for checkpoint in sorted((output / "checkpoints").glob("step-*")):
        assert atomic["damage"](checkpoint) is None
        state = json.loads((checkpoint / "state.json").read_text())
        step, total = state["step"], state["record"]["total"]
    print(f"going on after update {step}", flush=True)
    while step < fake["steps"]:
        if step == fake.get("pause"):
            (output / "paused").touch()
            given_up = time.monotonic() + 120  # by a test that has failed
            while not told and not (output.parents[2] / "release").exists() and time.monotonic() < given_up:
                time.sleep(0.01)
        if told:
            time.sleep(fake.get("slow_to_save", 0))
            (output / "status.json").write_text(json.dumps({"status": "preempted", "step": step, "signal": 15}))
            sys.exit(128 + 15)
        total, step = total + 0.1 / (step + 3), step + 1
        (output / "checkpoints").mkdir(exist_ok=True)
        with atomic["new_folder"](output / "checkpoints" / f"step-{step:08d}") as staged:
            state = {"format": 1, "step": step, "groups": [], "record": {"total": total}}
            (staged / "state.json").write_text(json.dumps(state))
        with (output.parents[2] / "steps.txt").open("a") as steps:
            steps.write(f"{output.parent.name} {step}\n")
        (output / "status.json").write_text(json.dumps({"status": "running", "step": step}))
    (output / "status.json").write_text(json.dumps({"status": "finished", "step": step}))
    return total


def main() -> None:
    assert sys.argv[1] == "--config"
    options = yaml.safe_load(Path(sys.argv[2]).read_text(encoding="utf-8"))
    output, fake, seed = Path(options["output"]), options["fake"], options["seed"]
    with (output.parents[2] / "calls.txt").open("a") as calls:
        calls.write(f"{options['model']['pattern']} {seed} {options['threads']}\n")
    assert os.environ["OMP_NUM_THREADS"] == str(options["threads"])
    print("epoch 1 of 1", flush=True)
    (output / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + fake.get("sleep", 0)
    while time.monotonic() < deadline and not (output.parents[2] / "release").exists():
        time.sleep(0.01)
    if seed in fake.get("fail", []):
        print("loss is \x1b[31mnan\x1b[0m\nRuntimeError: <planted> failure", file=sys.stderr)
        sys.exit(3)
    if seed in fake.get("silent", []):
        return
    score = fake["score"] + 0.01 * seed + (take_steps(output, fake) if "steps" in fake else 0)
    test = {"loss": 1.0, "top1": score, "pair": score, "per_class": {"left": score, "<up>": score / 2}}
    test |= {f"pair/{bit}": value for bit, value in fake.get("bits", {}).items()}
    result = {"status": "finished", "val": test, "test": test, "params": 1000, "train_seconds": 1.5, "steps": 3}
    (output / "environment.json").write_text(
        json.dumps({"git": {"commit": "abc123", "modified": False}, "packages": {"torch": "2.0"}, "device": "cpu"})
    )
    if fake.get("saves", True):
        (output / "best").mkdir()
    staged = output / "result.tmp"
    staged.write_text(json.dumps(result))
    staged.replace(output / "result.json")


main()
