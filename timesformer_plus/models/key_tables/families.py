"""What a table of key names is: how one project's checkpoint is recognised, renamed and turned into ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["Convert", "Family"]

Convert = Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]]
"""Renamed tensors and the model that they are meant for -> tensors by the model's names."""


@dataclass(frozen=True)
class Family:
    """The names that one project gives to the tensors of one architecture.

    Attributes:
        name: What messages call it, for example ``"TimeSformer (transformers)"``.
        anchor: Regular expression; a file belongs to this family if it is found in one of the file's keys.
        rows: Regular expressions and replacements; the first that matches a key renames it. What a row renames to is
            one of our names, or a name that ``convert`` knows.
        ignored: Regular expressions of keys for which our models have no use, and why; the reason is printed.
        convert: Runs after renaming: joins q, k and v, reshapes. Reads the model, changes nothing of it.
        released_resize: How the project's own loader brings position embeddings to a model of another size, where it
            does so in another way than along the true axes; runs only if it is asked for.
    """

    name: str
    anchor: str
    rows: tuple[tuple[str, str], ...]
    ignored: tuple[tuple[str, str], ...] = ()
    convert: Convert | None = None
    released_resize: Convert | None = None
