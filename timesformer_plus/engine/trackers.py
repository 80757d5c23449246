"""Metrics of a run in TensorBoard, Weights & Biases or Trackio, through accelerate; metrics.jsonl has them anyway.

What they leave in the run's folder: ``tensorboard/``, ``wandb/``, and ``trackers.json`` with the id under which a
resumed run is appended to. Trackio keeps its database in a place of its own, see TRACKIO_DIR.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from timesformer_plus.engine.config import TrainConfig, dump_config

PROJECT = "timesformer_plus"
"""Project that runs are filed under; WANDB_PROJECT names another one."""

_LOG_IN = {
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
    "trackio": "see TRACKIO_DIR, TRACKIO_SPACE_ID",
    "tensorboard": "is the folder writable?",
}


class Choice(NamedTuple):
    """Trackers that a run uses.

    Attributes:
        names: Their names.
        note: A line for people; empty where they are the ones that were asked for by name.
    """

    names: tuple[str, ...]
    note: str


def choose_trackers(names: Iterable[str]) -> Choice:
    """Settle which trackers a run uses; takes no time.

    Args:
        names: ``tensorboard``, ``wandb``, ``trackio``; ``auto`` is tensorboard where it is installed.

    Raises:
        ValueError: One that is asked for by name is not installed.
    """
    installed = {str(name) for name in get_available_trackers()}
    chosen: dict[str, None] = {}
    note = ""
    for name in names:
        if name == "auto":
            if "tensorboard" in installed:
                chosen["tensorboard"] = None
            else:
                note = "metrics go to metrics.jsonl only; for curves `pip install tensorboard`, or see `trackers`"
        elif name in installed:
            chosen[name] = None
        else:
            raise ValueError(f"trackers: {name!r} is not installed; `pip install {name}`, or leave it out of trackers")
    return Choice(tuple(chosen), note)


class Trackers:
    """The trackers of a run; on all processes but the main one it does nothing.

    Args:
        names: See ``choose_trackers``.
        folder: The run's folder.
        config: The run, shown by the trackers.

    Attributes:
        notes: Lines for people: where the curves are, or why there are none.

    Raises:
        ValueError: A tracker that is asked for by name is not installed.
    """

    def __init__(self, names: Iterable[str], folder: Path, config: TrainConfig) -> None:
        choice = choose_trackers(names)
        writes = PartialState().is_main_process
        self.folder = folder
        self.notes: tuple[str, ...] = ()
        self._config = config
        self._names = choice.names if writes else ()
        self._trackers: dict[str, Any] | None = None
        self._id: str | None = None
        if writes:
            told = {"tensorboard": f"curves: tensorboard --logdir {folder / 'tensorboard'}"}
            self.notes = tuple(line for line in (choice.note, *(told.get(name, "") for name in self._names)) if line)

    def start(self, step: int) -> None:
        """Start the trackers, before anything takes long; else the first ``log`` does.

        Args:
            step: Updates done: 0 for a run that begins, whose curves replace those of an earlier run in the folder.
                What a resumed run had logged after that update is hidden by TensorBoard, kept by Weights & Biases, and
                twice the same in Trackio.

        Raises:
            ValueError: A tracker does not start; its own words are quoted.
        """
        self._trackers = {}
        for name in self._names:
            where, arguments = self._arguments(name, step)
            try:
                tracker = LOGGER_TYPE_TO_CLASS[name](where, **arguments)
                tracker.start()
                if step == 0 or name != "tensorboard":  # a resumed run of trackio loses what it is not told again
                    self._show_config(name, tracker)
            except Exception as error:  # whatever they raise: of a service, a network, a database
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ValueError(
                    f"trackers: {name} does not start ({reason}); {_LOG_IN[name]}, or leave it out of trackers"
                ) from error
            self._trackers[name] = tracker

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers.

        Args:
            values: Numbers by name; those of a mapping get its name in front, ``val/top1``. Whatever is no number
                (``None``, tables of classes) is left out.
            step: Updates done.
        """
        if self._trackers is None:
            self.start(max(step - 1, 0))
        assert self._trackers is not None
        numbers = dict(_numbers(values))
        for name, tracker in self._trackers.items():
            if name == "wandb" and step < tracker.run.step:
                continue  # logged before the run was resumed; it would answer every one of these with a warning
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Close the trackers; without one that was started nothing happens."""
        for tracker in (self._trackers or {}).values():
            tracker.finish()
        self._trackers = {}

    def _arguments(self, name: str, step: int) -> tuple[str, dict[str, Any]]:
        """The first argument of one of accelerate's trackers, and the others."""
        if name == "tensorboard":
            folder = self.folder / "tensorboard"
            for file in folder.glob("events.out.tfevents.*") if step == 0 else ():
                file.unlink()
            return "", {"logging_dir": str(folder), **({"purge_step": step + 1} if step else {})}
        run = self._run_id(step)
        if name == "wandb":
            options = {"id": run, "name": self.folder.name, "dir": str(self.folder), "resume": "allow"}
            return os.environ.get("WANDB_PROJECT", PROJECT), options
        return PROJECT, {"name": f"{self.folder.name}-{run}", "resume": "allow"}  # trackio knows a run by its name

    def _run_id(self, step: int) -> str:
        """The id of this run; a run that begins gets a new one, and does not go on with what was in its folder."""
        file = self.folder / "trackers.json"
        if self._id is None:
            self._id = json.loads(file.read_text())["id"] if step and file.is_file() else uuid.uuid4().hex[:8]
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"id": self._id}) + "\n")
        return str(self._id)

    def _show_config(self, name: str, tracker: Any) -> None:
        text = dump_config(self._config)
        if name == "tensorboard":
            # accelerate's own way adds a second run, named by the time; four spaces make Markdown show it as it is
            tracker.log({"config": "".join(f"    {line}\n" for line in text.splitlines())}, step=0)
        else:
            tracker.store_init_configuration(yaml.safe_load(text))


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and not above:
            yield from _numbers(value, f"{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
