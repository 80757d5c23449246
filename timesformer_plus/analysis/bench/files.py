"""The JSON file of a run of the benchmark."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...engine.environment import describe_environment
from ..json_files import read_json, write_json
from ..measured_cost import device_name
from .rows import Row, check_row

FORMAT = 1


def describe_run(
    *,
    device: torch.device | str,
    command: str,
    quick: bool,
    rounds: int,
    sizes: Sequence[str],
    tables: Sequence[str],
) -> dict[str, Any]:
    """Say what the figures of a run depend on.

    Args:
        device: What it computes on.
        command: The command that repeats it.
        quick: As on the command line.
        rounds: Likewise.
        sizes: Likewise.
        tables: Likewise.

    Returns:
        Something for JSON, with no rows yet; sizes of memory are in GB (10^9 bytes).
    """
    device = torch.device(device)
    environment = describe_environment(device=device, world_size=1, seed=0)
    versions = {name: version for name, version in environment["packages"].items() if version is not None}
    with contextlib.suppress(metadata.PackageNotFoundError):
        versions["transformers"] = metadata.version("transformers")
    return {
        "format": FORMAT,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device.type,
        "machine": {"device": device_name(device), "platform": environment["platform"], **environment["hardware"]},
        "versions": {"python": environment["python"], "cuda": environment["cuda"], **versions},
        "git": environment["git"],
        "threads": environment["threads"],
        "numerics": environment["numerics"],
        "variables": environment["variables"],
        "command": command,
        "settings": {"quick": quick, "rounds": rounds, "sizes": list(sizes)},
        "tables": list(tables),
        "finished": [],
        "said": [],
        "rows": [],
    }


def choose_path(output: Path, run: Mapping[str, Any]) -> Path:
    """Name a file after day and device; one that is there is left alone, and the new one gets a number.

    Args:
        output: The folder.
        run: What ``describe_run`` says.

    Raises:
        ValueError: ``output`` is no folder.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output={output} is a file; give a folder, in which every run has a file of its own")
    name = re.sub(r"\(R\)|\(TM\)|CPU|Processor|NVIDIA|\([^)]*\)|@.*", " ", run["machine"]["device"])
    slug = re.sub(r"[^a-z0-9]+", "-", f"{run['device']} {name}".lower()).strip("-")
    stem = f"{run['date'][:10]}-{slug}"
    candidates = [output / f"{stem}.json", *(output / f"{stem}-{i}.json" for i in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def write_run(path: Path, run: Mapping[str, Any]) -> None:
    """Write the file in one step.

    Raises:
        OSError: It cannot be written.
    """
    write_json(path, run)


def read_run(path: Path) -> dict[str, Any]:
    """Read a file of this benchmark.

    Raises:
        ValueError: There is none, or it holds something else.
    """
    run = read_json(path)
    if run is None:
        raise ValueError(f"{path} is no JSON file of a benchmark; tools/benchmark.py writes them to benchmarks/")
    lacking = {"format", "machine", "versions", "settings", "threads", "tables", "rows"} - run.keys()
    if lacking or run["format"] != FORMAT:
        raise ValueError(
            f"{path} is no file of this benchmark (format {run.get('format')!r} where {FORMAT} is known, "
            f"{sorted(lacking)} lacking); measure again"
        )
    return run


def rows_of(run: Mapping[str, Any]) -> dict[tuple[str, str, str], Row]:
    """Rows by table, name and unit.

    Raises:
        ValueError: One is no row.
    """
    rows = [check_row(row) for row in run["rows"]]
    return {(row["table"], row["name"], row["unit"]): row for row in rows}
