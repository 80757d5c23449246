"""Take the tensors out of a pickle that holds other objects too, without running any code of the file.

Published checkpoints sometimes hold the options of their training beside the weights, as objects of classes that
``torch.load(weights_only=True)`` refuses. Here every such class is replaced by a stand-in that takes any arguments and
does nothing; only what rebuilds tensors is called. The reading is done by a throw-away process, so that a file that
breaks the reader ends that process alone. What comes back is a file of dictionaries of tensors, to be read as any
other, through ``weights_only``.

    python -I tensors_only.py SOURCE OUTPUT
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

# what files of tensors consist of; storages and tensors are made by torch itself, from these
_REBUILD = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class StandIn:
    """In the place of any object that is no tensor: takes everything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *_args: Any, **_kwargs: Any) -> StandIn:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None:
        """What unpickling asks of lists."""

    def extend(self, items: Any) -> None:
        """What unpickling asks of lists."""

    def add(self, item: Any) -> None:
        """What unpickling asks of sets."""


class Unpickler(pickle.Unpickler):
    """Knows what rebuilds tensors, and a stand-in for all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return _REBUILD.get((module, name), StandIn)


def load(file: Any, **options: Any) -> Any:
    """Unpickle one object; ``torch.load`` asks this of what it is given as pickle module."""
    return Unpickler(file, **options).load()


def keep_tensors(content: Any) -> Any:
    """Leave of nested dictionaries the tensors under names; ``None`` if there is nothing else."""
    if isinstance(content, torch.Tensor):
        return content.detach()
    if not isinstance(content, dict):
        return None
    kept = {key: keep_tensors(value) for key, value in content.items() if isinstance(key, str)}
    return {key: value for key, value in kept.items() if value is not None} or None


def take_tensors(source: Path, output: Path) -> None:
    """Run this file on another one, in a process of its own.

    Args:
        source: A file of ``torch.save``.
        output: Where the tensors are written, again by ``torch.save``.

    Raises:
        ValueError: There are none, or the file cannot be read even so.
    """
    words = [sys.executable, "-I", str(Path(__file__).resolve()), str(source), str(output)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
        raise ValueError(f"{source}: no tensors can be taken out of it ({lines[-1]})")


def main(source: str, output: str) -> None:
    """What the process does."""
    content = torch.load(source, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
    tensors = keep_tensors(content)
    if not isinstance(tensors, dict):
        raise ValueError("it holds no dictionary of tensors")
    torch.save(tensors, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
