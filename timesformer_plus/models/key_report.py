"""What became of every tensor of a file and of a model: the comparison of both sides, and its words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .key_tables import Family

__all__ = ["KeyReport", "Named", "compare", "complain", "shape_text"]


@dataclass
class Named:
    """A checkpoint on its way: tensors by the model's names, and what happened to the file's."""

    tensors: dict[str, Tensor]
    family: Family | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # before they are brought to the model's size


@dataclass(frozen=True)
class KeyReport:
    """What became of every tensor of a file, and where every tensor of the model came from.

    Attributes:
        family: Whose names the file has; ``None`` for timm's or our own.
        loaded: Names of the model that the file fills.
        renamed: The file's names that differ from the model's, and those they became before conversion.
        resized: Names of the model -> shape in the file, shape in the model.
        initial: Names of the model that keep the values they have, and why.
        ignored: Names of the file that are not used, and why.
        left_over: Names of the file for which the model has no place.
        missing: Names of the model that the file does not fill.
        mismatched: Names of the model -> how the file's tensor differs from it.
    """

    family: str | None = None
    loaded: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    initial: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    left_over: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """Write the report as text, a line a tensor under a heading a group; groups without any are left out."""
        groups: dict[str, list[str]] = {
            "renamed": [f"{theirs} -> {ours}" for theirs, ours in self.renamed.items()],
            "resized": [f"{key}: {shape_text(old)} -> {shape_text(new)}" for key, (old, new) in self.resized.items()],
            "kept as initialised": [f"{key}: {why}" for key, why in self.initial.items()],
            "ignored": [f"{key}: {why}" for key, why in self.ignored.items()],
            "left over in the file": list(self.left_over),
            "missing in the file": list(self.missing),
            "different": [f"{key}: {how}" for key, how in self.mismatched.items()],
        }
        lines = [f"names of {self.family or 'timm or of this package'}: {len(self.loaded)} tensors matched"]
        for heading, rows in groups.items():
            if rows:
                lines += [f"{heading} ({len(rows)})", *(f"  {row}" for row in rows)]
        return "\n".join(lines)


def compare(
    named: Named,
    own: Mapping[str, Tensor],
    allow: Sequence[str] = (),
    *,
    is_image: bool = False,
) -> KeyReport:
    """Hold the tensors of a file against those of a model, both ways.

    Args:
        named: The file's tensors by the model's names, brought to its size.
        own: The model's.
        allow: Regular expressions of names that may be left over, missing or different.
        is_image: Whether an image model's file is held against a video model, which may have more.
    """
    allowed = [re.compile(pattern) for pattern in allow]
    theirs = {ours: key for key, ours in named.renamed.items()}

    def excuse(key: str) -> str | None:
        found = (p for p in allowed if p.search(key) or p.search(theirs.get(key, key)))
        return next((f"allowed by {p.pattern!r}" for p in found), None)

    loaded, missing, left_over = [], [], []
    initial, mismatched, ignored = {}, {}, dict(named.ignored)
    for key, tensor in own.items():
        why = excuse(key)
        if key in named.tensors:
            difference = _difference(named.tensors[key], tensor)
            if difference is None:
                loaded.append(key)
            elif why:
                initial[key] = f"{why}, {difference}"
            else:
                mismatched[key] = difference
            continue
        if is_image and (key == "time_embed" or ".added." in key):
            why = "an image model has none"
        if why:
            initial[key] = why
        else:
            missing.append(key)
    for key in (*named.unknown, *(key for key in named.tensors if key not in own)):
        if why := excuse(key):
            ignored[theirs.get(key, key)] = why
        else:
            left_over.append(theirs.get(key, key))
    shapes = {key: (old, tuple(named.tensors[key].shape)) for key, old in named.shapes.items() if key in named.tensors}
    return KeyReport(
        family=named.family.name if named.family else None,
        loaded=tuple(loaded),
        renamed=named.renamed,
        resized={key: pair for key, pair in shapes.items() if key in own and pair[0] != pair[1]},
        initial=initial,
        ignored=ignored,
        left_over=tuple(left_over),
        missing=tuple(missing),
        mismatched=mismatched,
    )


def _difference(theirs: Tensor, ours: Tensor) -> str | None:
    if theirs.shape != ours.shape:
        return f"{shape_text(theirs.shape)} in the file, {shape_text(ours.shape)} in the model"
    if _number(theirs) != _number(ours):
        return f"{theirs.dtype} in the file, {ours.dtype} in the model"
    return None


def _number(tensor: Tensor) -> str:
    """The kind of number: a file in half precision fits a model in single precision, one of integers does not."""
    if tensor.is_floating_point():
        return "float"
    if tensor.is_complex():
        return "complex"
    return "bool" if str(tensor.dtype) == "torch.bool" else "int"


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as ``2x3``."""
    return "x".join(map(str, shape)) or "scalar"


def complain(report: KeyReport) -> str:
    """Say what does not fit, both sides of it, behind the name of a file."""
    total = len(report.loaded) + len(report.missing) + len(report.mismatched) + len(report.initial)
    what = f"does not fit the model ({len(report.loaded)} of its {total} tensors do)"
    advice = f"Build the model with the file's own arguments{_hint(report)}, or name what may differ in allow=[REGEX]"
    if 2 * len(report.loaded) < total - len(report.initial) and len(report.left_over) > len(report.loaded):
        what = f"is a checkpoint of another architecture ({len(report.loaded)} of the model's {total} tensors fit)"
        advice = "Create a model of its own architecture"
    sides = {
        "left over in the file": report.left_over,
        "missing in the file": report.missing,
        "different": [f"{key} ({how})" for key, how in report.mismatched.items()],
    }
    listed = [f"{side} ({len(keys)}): {_first(keys)}" for side, keys in sides.items() if keys]
    return f"{what}; names of {report.family or 'timm or of this package'}; {'; '.join(listed)}. {advice}"


def _first(keys: Sequence[str], count: int = 8) -> str:
    return ", ".join(keys[:count]) + (f" and {len(keys) - count} more" if len(keys) > count else "")


def _hint(report: KeyReport) -> str:
    if any(".added." in report.renamed.get(key, key) for key in report.left_over):
        return " (pattern: it has attentions, such as those over time, that the model lacks)"
    if any(".added." in key for key in report.missing):
        return " (pattern: the model has attentions that it lacks)"
    if any(re.search(r"^head\b", key) for key in (*report.missing, *report.mismatched)):
        return " (num_classes: the heads differ)"
    return ""
