"""Whether a run begins anew, goes on from a checkpoint, or is refused: decided before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from timesformer_plus.engine.atomic_folder import recover
from timesformer_plus.engine.config import TrainConfig, dump_config
from timesformer_plus.engine.data_config import DataConfig, require
from timesformer_plus.engine.run_folder import RunFolder
from timesformer_plus.engine.training_state import newest_state

# What may differ between a run and its continuation: it decides how fast, where and how talkative, not what is
# computed. The videos' place is among it because their names and labels are compared by themselves.
FREE = (
    "output",
    "world_size",
    "timeout",
    "resume",
    "overwrite",
    "trackers",
    "progress",
    "checkpoint",
    "data.root",
    "data.train",
    "data.val",
    "data.test",
    "data.format",
    "data.videos",
    "data.scan",
    "data.exclude",
    "data.max_missing",
    "data.max_bad",
    "data.limits",
    "data.num_workers",
    "data.cache_dir",
    "data.cache_mb",
)
# The same, but for the last bits: what helps where memory runs out, or machines change
ROUNDING = ("accumulate", "threads", "grad_checkpointing", "evaluation.batch_size")
UNEXACT = "the same run up to rounding, not bitwise"
SHOWN = 5


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
        checkpoint: Folder of the checkpoint it goes on from; ``None`` for the beginning.
        notes: What people should know about that, a line each.
        begun: environment.json of the run that is continued; ``None`` at the beginning.
    """

    checkpoint: Path | None
    notes: tuple[str, ...] = ()
    begun: dict[str, Any] | None = None


def find_start(folder: RunFolder, config: TrainConfig, digests: Mapping[str, str]) -> Start:
    """Look at what is in the folder of a run, and put right what a killed process has left half done.

    Args:
        folder: Where the run is to be; held by this process.
        config: The run, with everything settled that the user left open.
        digests: Name of a split -> digest of its videos' names and labels.

    Raises:
        ValueError: The folder holds a finished run, a run of another configuration or of other data, one that may not
            be continued, or only damaged checkpoints; or something that no run has written is in the way.
    """
    folder.refuse_finished(config.overwrite)
    for exported in (folder.best, folder.last):
        recover(exported)
    folder.refuse_strangers()
    if config.overwrite or not folder.config.is_file():
        return Start(None)
    name = f"output={folder.path}"
    begun, now = _read(folder.config), yaml.safe_load(dump_config(config))
    other = differences(begun, now)
    more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    require(
        not other,
        f"{name} holds an unfinished run of another configuration: {'; '.join(other[:SHOWN])}{more}. Go on with that "
        "one, choose another output, or replace it with overwrite=true",
    )
    require(
        config.resume,
        f"{name} holds an unfinished run; go on with it (resume=true), choose another output, or replace it "
        "(overwrite=true)",
    )
    environment = _read(folder.environment) if folder.environment.is_file() else {}
    changed = [split for split, digest in environment.get("data", {}).items() if digests.get(split) != digest]
    require(
        not changed,
        f"{name} holds an unfinished run whose videos or labels were others ({', '.join(changed)}); give it its data "
        "back, choose another output, or replace it with overwrite=true",
    )
    checkpoint, damaged = newest_state(folder.checkpoints)
    require(
        checkpoint is not None or not damaged,
        f"{name} holds an unfinished run, but no checkpoint of it is whole ({'; '.join(damaged)}); begin again with "
        "overwrite=true",
    )
    old, new = _flat(begun), _flat(now)
    rounded = [f"{key} was {old.get(key)}, now {new[key]}: {UNEXACT}" for key in ROUNDING if old.get(key) != new[key]]
    return Start(checkpoint, (*(f"passed over: {line}" for line in damaged), *rounded), environment)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())  # of which JSON is a part
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        content = str(error).partition("\n")[0]
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not what a run writes; choose another output, or replace it with overwrite=true")
    return content


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options that a run and its continuation do not share although they have to, as ``name 1, now 2``."""
    old, new = (_flat(options) for options in (begun, now))
    defaults = _flat(yaml.safe_load(dump_config(TrainConfig(output=Path(), data=DataConfig(root=Path())))))
    found = []
    for name in sorted(old.keys() | new.keys()):
        if any(name == free or name.startswith(f"{free}.") for free in (*FREE, *ROUNDING)):
            continue
        # a run that was begun before an option existed had its default
        pair = [options.get(name, defaults.get(name)) for options in (old, new)]
        if pair[0] != pair[1]:
            found.append(f"{name} {pair[0]}, now {pair[1]}")
    return found


def version_notes(begun: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """What is different about the machine, so that the continuation need not be bitwise the same run."""
    before, now = (_machine(environment) for environment in (begun, environment))
    return [
        f"{name} was {before[name]}, now {now[name]}: {UNEXACT}"
        for name in before.keys() & now.keys()
        if before[name] != now[name]
    ]


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    git = environment.get("git") or {}
    found = {
        **environment.get("packages", {}),
        **environment.get("numerics", {}),
        **{key: environment.get(key) for key in ("device", "world_size")},
        "commit": git.get("commit"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
