"""One training of a sweep: its folder, its options, and what of it lies on disk.

A run owns a folder, ``OUTPUT/SUITE/VARIANT/seed=N``, with

    run.yaml      its complete options: base, suite, variant and seed merged
    data.json     digests of the manifests that it was trained on
    log.txt       what the training printed
    sweep.json    how it ended: finished, failed or stopped, why, and after how many seconds
    result.json   the scores, which the training writes last of all

beside what else the training keeps there (``engine.run_folder``; its own account of itself is status.json). So the
folder alone tells what is done, and ``--config run.yaml`` repeats any run by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..engine.atomic_file import write_atomically
from .data_digest import data_digests
from .json_files import read_json, write_json
from .options import Options, flatten, read_options

# where decoded videos are kept changes no result: a finished run stays one, whatever these say now
WITHOUT_EFFECT = ("data.cache_dir", "data.cache_mb")

State = Literal["finished", "changed", "failed", "missing"]


@dataclass(frozen=True)
class Run:
    """One training: a variant of a suite with one seed.

    Attributes:
        suite: Name of the suite.
        variant: Name of the variant.
        seed: The seed.
        folder: Where it lives.
        options: Everything the trainer is told, nested as in YAML, without ``output``.
    """

    suite: str
    variant: str
    seed: int
    folder: Path
    options: Options

    @property
    def name(self) -> str:
        """``suite/variant/seed=N``, as on disk."""
        return f"{self.suite}/{self.variant}/seed={self.seed}"

    @property
    def log(self) -> Path:
        """File with what the training printed."""
        return self.folder / "log.txt"

    @property
    def config(self) -> Path:
        """File with the complete options."""
        return self.folder / "run.yaml"

    def write_inputs(self) -> None:
        """Write ``run.yaml`` and ``data.json`` into the run's folder."""
        text = yaml.safe_dump({**self.options, "output": str(self.folder)}, sort_keys=False, allow_unicode=True)
        write_atomically(self.config, text)
        write_json(self.folder / "data.json", data_digests(self.options) or {})

    def stored_options(self) -> Options | None:
        """Options that the folder was run with, without ``output``; None where nothing was run."""
        if not self.config.is_file():
            return None
        return {key: value for key, value in read_options(self.config).items() if key != "output"}

    def changes(self) -> dict[str, list[str]]:
        """What differs between the run on disk and now.

        Returns:
            ``{"options": ["optim.lr: 0.001 -> 0.01"], "data": ["train.csv differs"]}``, without what is unchanged. Data
            that lies there no more cannot differ.
        """
        found = {"options": self._changed_options(), "data": self._changed_data()}
        return {kind: changes for kind, changes in found.items() if changes}

    def _changed_options(self) -> list[str]:
        then, now = flatten(self.stored_options() or {}), flatten(self.options)
        return [
            f"{key}: {then.get(key, '(unset)')} -> {now.get(key, '(unset)')}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key, ...) != now.get(key, ...) and key not in WITHOUT_EFFECT
        ]

    def _changed_data(self) -> list[str]:
        now = data_digests(self.options)
        if now is None:
            return []
        then = read_json(self.folder / "data.json")
        if then is None:
            return ["data.json is missing, which would tell what the run was trained on"]
        return [
            f"{name} {'differs' if name in then and name in now else 'is new' if name in now else 'is gone'}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]

    def result(self) -> dict[str, Any] | None:
        """Scores of the finished run; None while there are none, or none that can be read."""
        return read_result(self.folder)

    def state(self) -> State:
        """What the folder says: finished with these options and data, or with others; failed; not (fully) run."""
        if self.result() is not None:
            return "changed" if self.changes() else "finished"
        return "failed" if read_outcome(self.folder).get("status") == "failed" else "missing"


def is_same_training(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two sets of options train the same, but for the seed and for what changes no result."""
    ours, theirs = (
        {key: value for key, value in flatten(dict(options)).items() if key != "seed" and key not in WITHOUT_EFFECT}
        for options in (then, now)
    )
    return ours == theirs


def read_result(folder: Path) -> dict[str, Any] | None:
    """Scores of the finished run in a folder; None where there are none, or none that can be read."""
    result = read_json(folder / "result.json")
    return result if result is not None and result.get("status") == "finished" else None


def outcome_file(folder: Path) -> Path:
    """Where the sweep keeps how a run has ended."""
    return folder / "sweep.json"


def read_outcome(folder: Path) -> dict[str, Any]:
    """How a run has ended, as far as its folder tells.

    Args:
        folder: The run's.

    Returns:
        ``status``, ``reason`` and ``seconds``, each of which may be lacking. Where the sweep had no time to write it,
        what the training says of itself; sweeps of before wrote theirs to status.json too.
    """
    return read_json(outcome_file(folder)) or read_json(folder / "status.json") or {}
