"""What a training run leaves on disk.

config.yaml        every option as it was used; ``--config`` reads it back
environment.json   versions, commit, machine, processes, command, digests of the data; under "resumed" the same of
                   every continuation, with the update it began after
metrics.jsonl      a line for every update and every epoch
bad_videos.csv     the videos of the training split that could not be read, if there are any
status.json        running, preempted, failed or finished, and after which update
checkpoints/       what an unfinished run goes on from; removed at the end
last/ best/        the model after the last finished epoch and after the best one, in timm's local-dir form
predictions/       every view's logits of the best epoch's model on val.npz and test.npz, see ``predictions``
result.json        the outcome; its presence says that the run is finished
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock, Timeout

from timesformer_plus.engine.atomic_file import write_atomically
from timesformer_plus.engine.checkpoint import is_replaceable
from timesformer_plus.engine.config import TrainConfig, dump_config

Status = Literal["running", "preempted", "failed", "finished"]


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
        self.checkpoints = path / "checkpoints"
        self.predictions = path / "predictions"
        self.result = path / "result.json"
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self._metrics = path / "metrics.jsonl"
        self._bad_videos = path / "bad_videos.csv"
        self._status = path / "status.json"
        self._lock: BaseFileLock | None = None

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

    def refuse_strangers(self) -> None:
        """Stop before any work if what a run would replace was not written by one.

        Raises:
            ValueError: There is a best/ or last/ that is no model, or what runs write without the configuration of one.
        """
        for model in (self.best, self.last):
            if model.exists() and not is_replaceable(model):
                raise ValueError(
                    f"{model} is not a checkpoint and will not be replaced; move it away or choose another output"
                )
        if self.config.is_file():
            return
        # a run writes its configuration first and removes it last
        for path in (self._metrics, self.environment, self._bad_videos, self.checkpoints, self.predictions):
            if path.exists():
                raise ValueError(
                    f"{path} is there, but no {self.config.name} of a run: it will not be replaced; move it away or "
                    "choose another output"
                )

    def hold(self) -> None:
        """Keep other trainings out of the folder, until ``let_go`` or until this process ends, however it ends.

        Raises:
            ValueError: Another training is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another training is at work in output={self.path}; wait for it or choose another output"
            ) from None

    def let_go(self) -> None:
        """Let others work in the folder."""
        if self._lock is not None:
            self._lock.release()

    def begin(self, config: TrainConfig, environment: dict[str, Any]) -> None:
        """Remove what an earlier run left here, and record how this one is made."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self.result.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.best, self.last):
            if folder.exists():
                # half of a model or of a checkpoint must not be taken for one should this be killed
                folder.rename(folder.with_name(f".{folder.name}-discarded-{os.getpid()}"))
        for folder in self.path.glob(".*-discarded-*"):
            shutil.rmtree(folder)
        predictions = [self.predictions_of(split, is_final=f) for split in ("val", "test") for f in (True, False)]
        for file in (self._metrics, self.environment, self._bad_videos, *predictions):
            file.unlink(missing_ok=True)
        write_atomically(self.config, dump_config(config))
        write_atomically(self.environment, json.dumps(environment, indent=2) + "\n")
        self.say_status("running", step=0)

    def go_on(
        self,
        config: TrainConfig,
        begun: dict[str, Any],
        environment: dict[str, Any],
        *,
        step: int,
        epochs: int,
        bad_videos: int,
    ) -> None:
        """Take back what the earlier part of the run wrote after the checkpoint that is continued.

        Args:
            config: The run.
            begun: environment.json as it is.
            environment: That of the continuation.
            step: Updates that the checkpoint has.
            epochs: Epochs that it has finished, with their evaluation.
            bad_videos: Rows of bad_videos.csv that it knows of.
        """
        if not self.writes:
            return
        kept = []
        for line in self._metrics.read_text().splitlines() if self._metrics.is_file() else ():
            with contextlib.suppress(ValueError):  # the last line of a killed process may be half there
                entry = json.loads(line)
                if entry["epoch"] < epochs if entry["event"] == "epoch" else entry.get("step", 0) <= step:
                    kept.append(line)
        write_atomically(self._metrics, "".join(f"{line}\n" for line in kept))
        if self._bad_videos.is_file():
            with self._bad_videos.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[: bad_videos + 1]
            text = io.StringIO(newline="")
            csv.writer(text).writerows(rows)
            write_atomically(self._bad_videos, text.getvalue())
        resumed = [*begun.get("resumed", ()), {"step": step, **environment}]
        write_atomically(self.environment, json.dumps({**(begun or environment), "resumed": resumed}, indent=2) + "\n")
        write_atomically(self.config, dump_config(config))
        self.say_status("running", step=step)

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

    def say_status(self, status: Status, *, step: int, **more: Any) -> None:
        """Write status.json."""
        if self.writes:
            write_atomically(self._status, json.dumps({"status": status, "step": step, **more}, indent=2) + "\n")

    def predictions_of(self, split: str, *, is_final: bool) -> Path:
        """File for the predictions on a split; where these may not be the last, one for ``settle_predictions``."""
        return self.predictions / (f"{split}.npz" if is_final else f".{split}-new.npz")

    def settle_predictions(self, split: str, *, keep: bool) -> None:
        """Let new predictions take the place of those that are there, or drop them."""
        if self.writes:
            new = self.predictions_of(split, is_final=False)
            if keep:
                new.replace(self.predictions_of(split, is_final=True))
            else:
                new.unlink()

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, and remove what only an unfinished run needs."""
        if self.writes:
            write_atomically(self.result, json.dumps(result, indent=2) + "\n")
            self.say_status("finished", step=result["steps"])
            shutil.rmtree(self.checkpoints, ignore_errors=True)
