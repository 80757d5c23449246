"""What a training run leaves on disk.

config.yaml        every option as it was used; ``--config`` reads it back
environment.json   versions, commit, device, processes, command
metrics.jsonl      a line for every update and every epoch
bad_videos.csv     the videos of the training split that could not be read, if there are any
last/ best/        checkpoints of the last finished epoch and of the best one
result.json        the outcome; its presence says that the run is finished
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from timesformer_plus.engine.config import TrainConfig, dump_config

PACKAGES = (
    "timesformer-plus",
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "numpy",
    "safetensors",
    "decord",
    "av",
    "torchcodec",
)


class RunFolder:
    """The files of one run. Only the main process writes.

    Args:
        path: The folder.
        writes: Whether this process is the one that writes.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.best = path / "best"
        self.last = path / "last"
        self.result = path / "result.json"
        self._config = path / "config.yaml"
        self._environment = path / "environment.json"
        self._metrics = path / "metrics.jsonl"
        self._bad_videos = path / "bad_videos.csv"

    def refuse_finished(self, overwrite: bool) -> None:
        """Stop before any work if the folder holds a finished run.

        Raises:
            ValueError: It does, and ``overwrite`` is false; or it is not a folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output={self.path} is a file; choose another output")
        if self.result.exists() and not overwrite:
            raise ValueError(
                f"output={self.path} holds a finished run; choose another output, or replace it with overwrite=true"
            )

    def start(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Remove what an earlier run left here, and record how this one is made."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for file in (self.result, self._metrics, self._environment, self._bad_videos):
            file.unlink(missing_ok=True)
        for checkpoint in (self.best, self.last):
            if (checkpoint / "model.safetensors").is_file():
                shutil.rmtree(checkpoint)
        write_atomically(self._config, dump_config(config))
        write_atomically(self._environment, json.dumps(environment, indent=2) + "\n")

    def log(self, event: str, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        if self.writes:
            with self._metrics.open("a") as file:
                file.write(json.dumps({"event": event, **values}) + "\n")

    def bad_video(self, name: str, kind: str, reason: str) -> None:
        """Append a row to bad_videos.csv."""
        if not self.writes:
            return
        is_new = not self._bad_videos.exists()
        with self._bad_videos.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "kind", "reason")] * is_new + [(name, kind, reason)])

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, the last act of a run."""
        if self.writes:
            write_atomically(self.result, json.dumps(result, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that at no moment half of it is there under its name."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def describe_environment(*, device: torch.device, world_size: int, seed: int) -> dict[str, Any]:
    """What else a number depends on: versions, commit, machine, processes, seed, command."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: _version(package) for package in PACKAGES},
        "git": git_state(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} ({os.cpu_count()} cores)",
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "seed": seed,
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """Commit of this package's source and whether files differ from it; ``None`` outside a repository."""

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
        return answer.stdout.strip()

    try:
        # an installed package may lie inside somebody else's repository (.venv): only a tracked file has its commit
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
