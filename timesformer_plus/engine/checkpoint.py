"""A trained model as a folder that timm loads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

Its config.json holds, besides what timm writes, the class names (``label_names``) and under ``clips`` the recipe by
which videos become clips. A folder is complete or not there: it is written under another name and renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.engine.build_data import ClipRecipe

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RECIPE_KEY = "clips"
# of timm's pretrained_cfg, what says where the classifier is, so that it can be exchanged for another
STRUCTURE_KEYS = ("first_conv", "classifier", "pool_size", "fixed_input_size")


class Checkpoint(NamedTuple):
    """A model with what is needed to use it."""

    model: nn.Module
    classes: tuple[str, ...]
    recipe: ClipRecipe


def save_checkpoint(folder: Path, model: nn.Module, *, classes: Sequence[str], recipe: ClipRecipe) -> None:
    """Write a model to ``folder``, replacing an older checkpoint there.

    Args:
        folder: Where to; created.
        model: A model made by ``timm.create_model``.
        classes: Names of its classes.
        recipe: How its clips are made.

    Raises:
        ValueError: ``folder`` exists and is not a checkpoint.
        OSError: It cannot be written, because of a full disk, say.
    """
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} is not a checkpoint and will not be replaced; move it away or choose another output"
        )
    with _replacing(folder) as staged:
        given: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        kept = {key: given[key] for key in STRUCTURE_KEYS if key in given}
        model_config = {
            "label_names": list(classes),
            "pretrained_cfg": {
                **kept,  # older versions of timm write nothing but what they are given here
                "mean": recipe.mean,
                "std": recipe.std,
                "input_size": (3, *recipe.img_size),
                "crop_pct": 1.0,  # frames are resized until they just cover the crop
                "interpolation": "bilinear",  # the default of torchvision's transforms
            },
            RECIPE_KEY: dataclasses.asdict(recipe),
        }
        # newer versions of timm know the arguments of every model; older ones have to be told, and VideoTransformer can
        model_args: dict[str, Any] | None = getattr(model, "model_args", None)
        try:
            save_for_hf(model, str(staged), model_config=model_config, model_args=model_args, safe_serialization=True)
        except SafetensorError as error:  # how safetensors reports that a file cannot be written
            raise OSError(f"the weights cannot be written to {folder} ({error})") from error
        for file in staged.iterdir():
            file.chmod(0o644)  # safetensors writes 0600
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder which takes the place of ``folder`` if the block succeeds, and vanishes if not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-new-", dir=folder.parent))
    old = staged.with_name(staged.name.replace("-new-", "-old-"))
    try:
        staged.chmod(0o755)  # mkdtemp makes 0700
        yield staged
        # a folder cannot be renamed onto a full one: for the moment between these two the old one has another name
        if folder.exists():
            folder.rename(old)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if old.exists() and folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Copy the weights of a checkpoint into a model of the same making, strictly."""
    model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)


def load_checkpoint(folder: Path, *, num_clips: int | None = None, num_crops: int | None = None) -> Checkpoint:
    """Load a model that ``save_checkpoint`` wrote, to be used on as many views of a video as are wanted now.

    Args:
        folder: The checkpoint.
        num_clips: Clips a video; ``None`` for as many as in training's evaluation.
        num_crops: Crops a clip; ``None`` for as many as in training's evaluation.

    Raises:
        ValueError: A number of views below one, or ``folder`` is not such a checkpoint, or a damaged one.
    """
    for name, number in {"num_clips": num_clips, "num_crops": num_crops}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: give at least 1, or leave it out for that of training's evaluation")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CONFIG_FILE}; give the best/ or last/ folder of a training run")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(config, dict) or not isinstance(config.get(RECIPE_KEY), dict) or "label_names" not in config:
        raise ValueError(
            f"{path} does not say how videos become clips (keys {RECIPE_KEY!r} and 'label_names'), "
            "so it was not written by tools/train.py; load it with timm.create_model instead"
        )
    recipe = _read_recipe(config[RECIPE_KEY], path)
    recipe = dataclasses.replace(
        recipe,
        num_clips=recipe.num_clips if num_clips is None else num_clips,
        num_crops=recipe.num_crops if num_crops is None else num_crops,
    )
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, SafetensorError) as error:  # no weights, half of them, or those of another model
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the model in {folder} cannot be loaded ({reason}); copy or train it again") from error
    return Checkpoint(model, tuple(config["label_names"]), recipe)


def _read_recipe(stored: dict[str, Any], path: Path) -> ClipRecipe:
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(ClipRecipe)}
    wrong = {
        "unknown": sorted(stored.keys() - fields.keys()),
        "missing": [name for name, is_required in fields.items() if is_required and name not in stored],
    }
    if any(wrong.values()):
        said = "; ".join(f"{what}: {', '.join(map(repr, names))}" for what, names in wrong.items() if names)
        raise ValueError(
            f"{path} was written by another version of timesformer_plus: of the keys under {RECIPE_KEY!r} are {said}; "
            "use the version that wrote it, or train again"
        )
    # JSON has lists where the recipe has tuples
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return ClipRecipe(**values)
