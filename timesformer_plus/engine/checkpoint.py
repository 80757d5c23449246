"""A trained model as a folder that timm loads: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

Its config.json holds, besides what timm writes, the class names (``label_names``), under ``clips`` the recipe by which
videos become clips, and under ``training`` where in its training the model was taken. A folder is whole or not there,
and its manifest.json tells if one of its files has changed since: see ``atomic_folder``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.engine.atomic_folder import MANIFEST_FILE, damage, new_folder
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.pixels import CONFIG_FILE as CONFIG_FILE
from timesformer_plus.engine.pixels import RECIPE_KEY as RECIPE_KEY
from timesformer_plus.engine.training_state import unshared

WEIGHTS_FILE = "model.safetensors"
TRAINING_KEY = "training"
# of timm's pretrained_cfg, what says where the classifier is, so that it can be exchanged for another
STRUCTURE_KEYS = ("first_conv", "classifier", "pool_size", "fixed_input_size")


class Checkpoint(NamedTuple):
    """A model with what is needed to use it."""

    model: nn.Module
    classes: tuple[str, ...]
    recipe: ClipRecipe


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    *,
    classes: Sequence[str],
    recipe: ClipRecipe,
    weights: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
    license: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write a model to ``folder``, replacing an older checkpoint there.

    Args:
        folder: Where to; created.
        model: A model made by ``timm.create_model``.
        classes: Names of its classes.
        recipe: How its clips are made.
        weights: State dict to write instead of the model's, of the same names and shapes: a moving average, say, or
            the gathered shards of a model of which this process has a part only.
        extra: What to tell about its training, as JSON has it: epoch, step, score.
        license: Of the weights; that of the model's ``pretrained_cfg`` if not given.
        details: What else to tell about the model, by keys of config.json that are in no other use.

    Raises:
        ValueError: ``folder`` exists and is not a checkpoint, or ``weights`` are of another model.
        OSError: It cannot be written, because of a full disk, say; an older checkpoint there is untouched.
    """
    if folder.exists() and not is_replaceable(folder):
        raise ValueError(
            f"{folder} is not a checkpoint and will not be replaced; move it away or choose another output"
        )
    own = model.state_dict()
    if weights is None:
        weights = own
    wrong = sorted(name for name in own.keys() | weights.keys() if _shape(own.get(name)) != _shape(weights.get(name)))
    if wrong:
        raise ValueError(
            f"the weights to be written are not of this model: {', '.join(wrong[:3])} "
            f"{'and others ' if len(wrong) > 3 else ''}differ; pass the model's whole state dict"
        )
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
            **({} if license is None else {"license": license}),
        },
        RECIPE_KEY: dataclasses.asdict(recipe),
        **({} if extra is None else {TRAINING_KEY: dict(extra)}),
        **({} if details is None else details),
    }
    # newer versions of timm know the arguments of every model; older ones have to be told, and VideoTransformer can
    model_args: dict[str, Any] | None = getattr(model, "model_args", None)
    with new_folder(folder) as staged:
        save_config_for_hf(model, str(staged / CONFIG_FILE), model_config=model_config, model_args=model_args)
        save_file(unshared(weights), staged / WEIGHTS_FILE)


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is a checkpoint, be it a damaged one, or empty."""
    known = {CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE}
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    return not names or bool(names & known)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Copy the weights of a checkpoint into a model of the same making, strictly.

    Raises:
        ValueError: The checkpoint is damaged.
        RuntimeError: It is of another model.
    """
    _refuse_damaged(folder)
    model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=True)


def _refuse_damaged(folder: Path) -> None:
    wrong = damage(folder) if (folder / MANIFEST_FILE).is_file() else None  # older checkpoints have none
    if wrong is not None:
        raise ValueError(f"{wrong}; copy or train it again, or delete its {MANIFEST_FILE} if it was changed on purpose")


def load_checkpoint(folder: Path, *, num_clips: int | None = None, num_crops: int | None = None) -> Checkpoint:
    """Load a model that ``save_checkpoint`` wrote, to be used on as many views of a video as are wanted now.

    Args:
        folder: The checkpoint.
        num_clips: Clips a video; ``None`` for as many as in training's evaluation.
        num_crops: Crops a clip; ``None`` for as many as in training's evaluation.

    Raises:
        ValueError: A number of views below one, or ``folder`` is not such a checkpoint, or a damaged one. Where it has
            a manifest, any change of any file since is damage.
    """
    for name, number in {"num_clips": num_clips, "num_crops": num_crops}.items():
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: give at least 1, or leave it out for that of training's evaluation")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {CONFIG_FILE}; give the best/ or last/ folder of a training run, or one "
            "that tools/convert.py wrote"
        )
    _refuse_damaged(folder)
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(config, dict) or not isinstance(config.get(RECIPE_KEY), dict) or "label_names" not in config:
        raise ValueError(
            f"{path} does not say how videos become clips (keys {RECIPE_KEY!r} and 'label_names'), "
            "so it was not written by tools/train.py, nor is it the conversion of a checkpoint whose recipe is known; "
            "load it with timm.create_model instead"
        )
    recipe = _read_recipe(config[RECIPE_KEY], path)
    recipe = dataclasses.replace(
        recipe,
        num_clips=recipe.num_clips if num_clips is None else num_clips,
        num_crops=recipe.num_crops if num_crops is None else num_crops,
    )
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, ValueError, SafetensorError) as error:  # no weights, half of them, or those of another model
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
