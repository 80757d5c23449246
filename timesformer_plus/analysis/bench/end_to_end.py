"""Table ``end_to_end``: what a user waits for: a training from videos, the import of the package, one prediction."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...data.motion import write_motion
from .rows import Progress, Row, make_row
from .timing import medians, ratios, take_turns

TABLE = "end_to_end"

# clips of H.264, 8 frames each
_SIDE = 112
_PREDICT = "from timesformer_plus.engine.predict import main; main()"  # as tools/predict.py does


def measure(
    *, rounds: int, quick: bool, progress: Progress, sizes: Sequence[str], device: torch.device | str = "cpu"
) -> list[Row]:
    """Train on videos that are written for it, import, predict; all in processes of their own.

    Args:
        rounds: Imports and predictions that are timed.
        quick: Whether to train the model for tests alone, and for fewer epochs.
        progress: Is told what goes on.
        sizes: A model of the smallest of them is trained, besides the one for tests.
        device: Unused: the training takes the GPU if there is one, as ever.

    Returns:
        Training: clips a second (as seconds a clip) and the share of the time in which it waits for clips, an epoch a
        value, without the first, in which reading workers start. Seconds of imports and of predictions.

    Raises:
        ValueError: A process that should have worked did not.
    """
    del device
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        progress("writing videos")
        data = write_motion("direction", folder / "videos", train=96, val=8, test=8, size=_SIDE, seed=0, progress=False)
        size = next(size for size in ("test", "tiny", "small", "base") if size in sizes)
        models = {"test": "timesformer_test_patch8_32"}
        if size != "test" and not quick:
            models[size] = f"timesformer_{size}_patch16_224"
        epochs = 3 if quick else 5
        for name, model in models.items():
            progress(f"training {name} on videos")
            rows += _training(name, model, data, folder / f"run-{name}", epochs)
        video = next((data / "test").glob("*.mp4"))
        progress("imports and predictions")
        rows += _start_up(folder / "run-test" / "best", video, rounds, quick)
    return rows


def _training(name: str, model: str, data: Path, output: Path, epochs: int) -> list[Row]:
    side = {"test": 32}.get(name, _SIDE)
    options = {
        "data.root": str(data),
        "model.name": model,
        "model.pattern": "ts",
        "data.img_size": str(side),
        "epochs": str(epochs),
        "batch_size": "16",
        "evaluation.every": "0",
        "threads": str(torch.get_num_threads()),
        "output": str(output),
    }
    _run(
        [sys.executable, "-m", "timesformer_plus.engine.train", *(f"--{key}={value}" for key, value in options.items())]
    )
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    later = [line for line in lines if line["event"] == "epoch"][1:]
    speed = [float(line["clips_per_second"]) for line in later]
    config: dict[str, Any] = {
        "clips_per_second": statistics.median(speed),
        "batch": 16,
        "frames": 8,
        "side": side,
        "videos": f"{_SIDE} px",
    }
    label = f"training {name} ts 8x{side} from H.264 of {_SIDE} px"
    waited = [100 * float(line["data_wait"]) for line in later]
    return [
        make_row(TABLE, f"{label}: a clip", [1 / s for s in speed], unit="seconds", better="lower", detail=config),
        make_row(TABLE, f"{label}: waits for data", waited, unit="percent", better="lower", detail=config),
    ]


def _start_up(model: Path, video: Path, rounds: int, quick: bool) -> list[Row]:
    python = [sys.executable, "-c"]
    commands = {
        "timm": [*python, "import timm"],
        "ours": [*python, "import timesformer_plus"],
        "help": [*python, _PREDICT, "--help"],
        "predict": [*python, _PREDICT, str(video), "--model", str(model)],
    }
    seconds = take_turns(
        {name: lambda words=words: _run(words) for name, words in commands.items()},  # type: ignore[misc]
        rounds=rounds,
        budget=30.0 if quick else 120.0,
    )
    detail = medians(seconds)
    over = ratios(seconds["ours"], seconds["timm"])
    rows = [make_row(TABLE, "import timesformer_plus: time over import timm", over, better="lower", detail=detail)]
    for name, what in (
        ("ours", "python -c 'import timesformer_plus'"),
        ("help", "tools/predict.py --help"),
        ("predict", "tools/predict.py on a clip, test model"),
    ):
        rows.append(make_row(TABLE, what, seconds[name], unit="seconds", better="lower", detail=detail))
        if name != "ours":
            over = ratios(seconds[name], seconds["timm"])
            rows.append(make_row(TABLE, f"{what}: time over import timm", over, better="lower", detail=detail))
    return rows


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "without a word").splitlines()[-1]
        raise ValueError(f"{' '.join(words[1:4])} … ended with {done.returncode}: {last}")
