"""A trainer that trains nothing: a script that does what the `fake` section of its YAML says."""

import json
import os
import sys
import time
from pathlib import Path

import yaml


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
    score = fake["score"] + 0.01 * seed
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
