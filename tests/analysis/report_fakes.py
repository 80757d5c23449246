"""Folders of runs as a sweep leaves them, written by hand: what a report reads, without anything that trains."""

import json
from pathlib import Path

import torch

from timesformer_plus.analysis.json_files import write_json
from timesformer_plus.analysis.runs import Run
from timesformer_plus.analysis.time_sensitivity import FILE, FORMAT, score_digest
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.predictions import Predictions, save_predictions

CLASSES = ("left", "right", "up")
PROTOCOL = ClipRecipe(4, 1, "stride", (16, 16), (0.5,) * 3, (0.5,) * 3, multi_label=False).protocol
COUNTS = {"expected": 12, "found": 11, "missing": 1, "unreadable": 0, "excluded": 0, "short": 0}


def finish(run: Run, score: float, **metrics: object) -> None:
    """Leave a finished run with this top1 and pair score."""
    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_inputs()
    test = {"loss": 1.0, "top1": score, "pair": score, **metrics}
    result = {"status": "finished", "val": test, "test": test, "params": 1000, "train_seconds": 1.5, "steps": 4}
    result |= {"videos": {"test": COUNTS}, "protocol": PROTOCOL.as_dict()}
    write_json(run.folder / "result.json", result)
    environment = {"git": {"commit": "abc123", "modified": False}, "packages": {"torch": "2.0"}, "device": "cpu"}
    write_json(run.folder / "environment.json", environment)


def fail(run: Run, reason: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.write_inputs()
    write_json(run.folder / "sweep.json", {"status": "failed", "reason": reason, "seconds": 1.0})


def write_cost(run: Run, gflops: float, **speed: float) -> None:
    """Costs of a run's variant."""
    options = {key: value for key, value in run.options.items() if key != "seed"}
    measured = {"clips_per_second": 50 / gflops, "batch_size": 8, "repeats": 3, "threads": 1, "device": "test <cpu>"}
    figures = {"options": options, "cost": {"params": 1000, "gflops": gflops}, "speed": {**measured, **speed}}
    write_json(run.folder.parent / "cost.json", figures)


def write_model(folder: Path, pattern: str) -> None:
    """The part of a configuration that a model is made of: 4 x 2 x 2 tokens, two blocks."""
    args = {"patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 2}
    model = {"name": "timesformer_test_patch8_32", "pattern": pattern, "pretrained": False, "args": args}
    config = {
        "model": model,
        "data": {"root": "clips", "num_frames": 4, "img_size": [16, 16]},
        "epochs": 2,
        "batch_size": 4,
        "optim": {"name": "adamw", "lr": 0.001, "weight_decay": 0.05},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML


def write_curves(folder: Path, losses: list[float], val: list[float]) -> None:
    """As many steps an epoch as there are losses over validations."""
    every = len(losses) // len(val)
    events: list[dict[str, object]] = []
    for epoch, score in enumerate(val):
        steps = range(epoch * every, (epoch + 1) * every)
        events += [{"event": "step", "epoch": epoch, "step": step + 1, "loss": losses[step]} for step in steps]
        events.append({"event": "epoch", "epoch": epoch, "step": (epoch + 1) * every, "val": {"top1": score}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def write_predictions(folder: Path, true: list[int], taken: list[int | None]) -> None:
    """What every video was taken for; None for one that could not be read."""
    logits = torch.full((len(true), 1, len(CLASSES)), -9.0)
    for row, what in enumerate(taken):
        logits[row, 0] = torch.nan if what is None else logits[row, 0]
        if what is not None:
            logits[row, 0, what] = 9.0
    read = torch.tensor([[what is not None] for what in taken])
    (folder / "predictions").mkdir()
    save_predictions(
        folder / "predictions" / "test.npz",
        Predictions(
            ids=tuple(f"{n:03}.mp4" for n in range(len(true))),
            logits=logits,
            read=read,
            targets=torch.tensor(true),
            pairs=("",) * len(true),
            short=torch.zeros(len(true), dtype=torch.bool),
            reasons=tuple("" if what is not None else "torn" for what in taken),
            classes=CLASSES,
            protocol=PROTOCOL,
        ),
    )


def write_altered(folder: Path, drops: dict[str, float]) -> None:
    """Scores on altered clips: those of the result, lowered by what is given, the first class by all of it."""
    as_is = json.loads((folder / "result.json").read_text())["test"]
    conditions = {}
    for condition in ("as_is", "reversed", "shuffled", "repeated", "half"):
        metrics = {**as_is, "top1": as_is["top1"] - drops.get(condition, 0.0)}
        classes = dict(as_is.get("per_class", {}))
        if classes:
            first = next(iter(classes))
            classes[first] -= len(classes) * drops.get(condition, 0.0)
        conditions[condition] = {**metrics, "per_class": classes}
    content = {"format": FORMAT, "split": "test", "digest": score_digest(folder), "conditions": conditions}
    write_json(folder / FILE, content)
