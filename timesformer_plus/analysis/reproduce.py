"""The commands that repeat a sweep: what makes its data, the sweep itself, and a single run of it."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path


def sweep_commands(command: str) -> list[str]:
    """The command of a sweep, and before it what the header of its specification says of the built-in data it needs.

    Args:
        command: As it was given; empty where it is not known.

    Returns:
        Lines of shell.
    """
    words = shlex.split(command)
    configs = [Path(after) for word, after in itertools.pairwise(words) if word == "--config"]
    header = configs[0].read_text(encoding="utf-8").splitlines() if configs and configs[0].is_file() else []
    comments = [line.lstrip("# ").rstrip() for line in header if line.startswith("#")]
    data = [line for line in comments if line.startswith("python tools/make_")]
    return [*data, *([command] if command else [])]


def run_commands(output: Path) -> list[str]:
    """Lines of shell that train one run of a sweep again.

    Args:
        output: Folder of the sweep.
    """
    one = output / "SUITE" / "VARIANT" / "seed=N" / "run.yaml"
    # in quotes, which names of variants need that would mean something to a shell: pattern=s | j
    single = f"python -m timesformer_plus.engine.train --config '{one}' --output ELSEWHERE"
    return ["# a single run, by its folder's name", single]
