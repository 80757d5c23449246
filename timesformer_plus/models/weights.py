"""Weights from elsewhere, fitted to a model: renamed by a key table, resized, compared on both sides, then loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor, nn

from .fitting import STEM, fit_positions, fit_stem
from .key_report import KeyReport, Named, compare, complain
from .key_tables import FAMILIES, Family
from .space_time import SpaceTime
from .weight_files import read_weights

__all__ = ["KeyReport", "Misfit", "filter_checkpoint", "find_family", "fit_checkpoint", "load_weights", "other_classes"]


def find_family(keys: Sequence[str]) -> Family | None:
    """Find whose names these are: the first family whose anchor is found in one of them, or ``None``."""
    for family in FAMILIES:
        anchor = re.compile(family.anchor)
        if any(anchor.search(key) for key in keys):
            return family
    return None


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    allow: Sequence[str] = (),
    sha256: str | None = None,
    released_resize: bool = False,
) -> KeyReport:
    """Fill a model from a file of weights, wholly or not at all.

    Args:
        model: The model; unchanged if this raises.
        path: A file that ``read_weights`` reads, in any layout that ``fit_checkpoint`` knows.
        allow: As in ``fit_checkpoint``.
        sha256: As in ``read_weights``.
        released_resize: As in ``fit_checkpoint``.

    Returns:
        What went where.

    Raises:
        ValueError: The file cannot be read, or does not fit the model.
    """
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("the model is on the meta device, which holds no values; call to_empty and init_weights first")
    try:
        fitted, report = fit_checkpoint(
            read_weights(path, sha256=sha256), model, allow=allow, released_resize=released_resize
        )
    except Misfit as error:
        raise ValueError(f"{path} {error}") from error
    model.load_state_dict(fitted)
    return report


class Misfit(ValueError):  # noqa: N818  it says what the file is
    """A checkpoint that does not fit, told so that the file's name can stand in front.

    Attributes:
        report: How far the comparison came.
    """

    def __init__(self, message: str, report: KeyReport | None = None) -> None:
        super().__init__(message)
        self.report = report or KeyReport()


def fit_checkpoint(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    allow: Sequence[str] = (),
    released_resize: bool = False,
) -> tuple[dict[str, Tensor], KeyReport]:
    """Turn any checkpoint of this family of models into a state dict of one model, strictly.

    The names are those of a family of ``key_tables``, of a timm image model, or ours. An image checkpoint inflates:
    its attention becomes the primary one of every block, its stem reads the central frame of a tubelet, and what an
    image model cannot have (added attentions, the time embedding) keeps its values. Stems are adapted to other
    ``in_chans`` as timm does; position embeddings are resampled, space bicubically on its true grid with the prefix
    rows apart, time linearly. The order of the channels is left alone.

    Args:
        state_dict: The file's tensors by name.
        model: What they are meant for; read only.
        allow: Regular expressions of names, searched for on both sides: what they match may be left over, missing or
            different, and is then not loaded.
        released_resize: Resample position embeddings as the loader of the project that released the file does, to
            repeat its numbers: for official TimeSformer the nearest entry along the flattened grid. Without it every
            file is resampled along the true axes.

    Returns:
        A value for every name of the model's state dict, for a strict load; and what was done.

    Raises:
        Misfit: Something is left over, missing, or of another shape or kind of dtype, and not allowed; both sides are
            listed. Or the family has no resize of its own.
        ValueError: A stem or a table that cannot be brought to the model's size.
    """
    video = cast(SpaceTime, model)
    named = _rename(state_dict, video, released_resize=released_resize)
    is_image = named.family is None and _is_image(named.tensors)
    if is_image and not _is_ours(named.tensors, video):
        named.tensors = _filter_image_checkpoint(named.tensors, video)
    named.tensors = fit_positions(fit_stem(named.tensors, video), video)
    report = compare(named, model.state_dict(), allow, is_image=is_image)
    if report.left_over or report.missing or report.mismatched:
        raise Misfit(complain(report), report)
    own = model.state_dict()
    return {key: own[key] if key in report.initial else named.tensors[key] for key in own}, report


def filter_checkpoint(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fit a checkpoint to a model whose pretrained cfg says what the checkpoint is, for a strict load.

    As ``fit_checkpoint``; besides, the head keeps its values where the model has another number of classes than the
    cfg says the file has, and only the head.
    """
    return fit_checkpoint(state_dict, model, allow=other_classes(model))[0]


def other_classes(model: nn.Module) -> tuple[str, ...]:
    """Regular expressions of the head's names if the model has other classes than its pretrained cfg says."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if cfg.get("num_classes") == model.num_classes:
        return ()
    names = cfg.get("classifier") or "head"
    return tuple(rf"^{re.escape(name)}\." for name in ([names] if isinstance(names, str) else names))


def _rename(state_dict: Mapping[str, Tensor], model: SpaceTime, *, released_resize: bool) -> Named:
    """Give a family's tensors our names; those of timm and ours keep them."""
    if not state_dict:
        raise Misfit("holds no tensors")
    family = None if state_dict.keys() <= model.state_dict().keys() else find_family(list(state_dict))
    if released_resize and (family is None or family.released_resize is None):
        raise Misfit(
            f"has names of {family.name if family else 'timm or of this package'}, for which no resize of its own is "
            "known; leave released_resize out"
        )
    if family is None:
        return Named(dict(state_dict), shapes=_shapes(state_dict))
    named = Named({}, family)
    for key, tensor in state_dict.items():
        for pattern, why in family.ignored:
            if re.search(pattern, key):
                named.ignored[key] = why
                break
        else:
            ours = _translate(key, family)
            if ours is None:
                named.unknown.append(key)
            elif ours in named.tensors:
                raise Misfit(f"has two tensors for {ours!r}, one of them {key!r}")
            else:
                named.tensors[ours] = tensor
                if ours != key:
                    named.renamed[key] = ours
    if family.convert is not None:
        named.tensors = family.convert(named.tensors, model)
    named.shapes = _shapes(named.tensors)
    if released_resize and family.released_resize is not None:
        named.tensors = family.released_resize(named.tensors, model)
    return named


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _translate(key: str, family: Family) -> str | None:
    for pattern, replacement in family.rows:
        ours, found = re.subn(pattern, replacement, key)
        if found:
            return ours
    return None


def _is_image(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors with timm's names are an image model's."""
    stem = tensors.get(STEM)
    return not any(key == "time_embed" or ".added." in key for key in tensors) and (stem is None or stem.ndim != 5)


def _is_ours(tensors: Mapping[str, Tensor], model: SpaceTime) -> bool:
    """Whether tensors have the model's names, and a stem that is a convolution's."""
    stem = tensors.get(STEM)
    return tensors.keys() <= model.state_dict().keys() and (stem is None or stem.ndim >= 4)


def _filter_image_checkpoint(tensors: dict[str, Tensor], model: SpaceTime) -> dict[str, Tensor]:
    """Pass other layouts of image models through the filter of the timm module that the model's class comes from."""
    for cls in type(model).__mro__:
        filter_fn = getattr(sys.modules[cls.__module__], "checkpoint_filter_fn", None)
        if cls.__module__.startswith("timm.models.") and filter_fn is not None:
            try:
                filtered: dict[str, Tensor] = dict(filter_fn(dict(tensors), _AsImageModel(model)))
            except Exception as error:  # each of timm's filters fails in its own way on what it does not expect
                raise Misfit(f"cannot be read as timm reads image models ({error})") from error
            return filtered
    return tensors


class _AsImageModel:
    """A video model as timm's filters know image models: with a stem of four axes."""

    def __init__(self, model: SpaceTime) -> None:
        embed = model.patch_embed
        weight = embed.proj.weight if embed.proj.weight.ndim == 4 else embed.proj.weight[:, :, 0]
        self._model = model
        self.patch_embed = SimpleNamespace(
            proj=SimpleNamespace(weight=weight),
            grid_size=embed.grid_size,
            img_size=embed.img_size,
            patch_size=embed.patch_size,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
