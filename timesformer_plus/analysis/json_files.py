"""JSON objects in files: read without fuss, written in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.atomic_file import write_atomically


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where the file is missing, torn or holds something else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return loaded if isinstance(loaded, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in one step: a reader finds the old file or the new one, never half of it."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
