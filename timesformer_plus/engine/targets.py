"""Which model a checkpoint is converted to, and how its clips are cut: by the source's own word, or by a name's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
from timm.models import model_entrypoint
from torch import Tensor, nn

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.checkpoint import RECIPE_KEY
from timesformer_plus.engine.published import class_names, recipe_of
from timesformer_plus.engine.sources import Source
from timesformer_plus.models.registry import Published, published
from timesformer_plus.models.transformers_config import (
    TransformersModel,
    read_preprocessor_config,
    read_transformers_config,
)
from timesformer_plus.models.weights import find_family

MOST_NAMES = 12
_PACKAGE = "timesformer_plus."


class Target(NamedTuple):
    """A model that waits for weights.

    Attributes:
        model: The model.
        classes: Names of its classes; empty if nobody knows them.
        recipe: How its clips are cut.
        license: Of the weights; ``None`` if nobody knows.
        notes: What was assumed, a line each.
    """

    model: nn.Module
    classes: tuple[str, ...]
    recipe: ClipRecipe
    license: str | None
    notes: tuple[str, ...]


def choose_target(
    source: Source,
    tensors: Mapping[str, Tensor],
    *,
    name: str | None,
    args: Mapping[str, Any],
    clips: Mapping[str, Any],
) -> Target:
    """Build the model that a source is meant for.

    Args:
        source: Where the weights were found.
        tensors: The weights; of a file without a name their shapes say which names are possible.
        name: Registered name that was asked for, with or without a tag.
        args: Its arguments, which go before what the source says.
        clips: Fields of ``ClipRecipe``, which go before what source and name say.

    Raises:
        ValueError: Nobody says what model it is, or an argument is unknown or impossible.
    """
    if name is not None and not _is_ours(name):
        near = ", ".join(_our_names()[:MOST_NAMES])
        raise ValueError(f"--model {name} is no video model; choose among {near} and so on")
    said = read_transformers_config(source.config) if source.kind == "transformers" else None
    given = {**(said.model_args if said else {}), **args}
    if source.kind == "timm" and name is None:
        return _of_timm_folder(source, args, clips)
    if name is None and said is None:
        raise ValueError(
            f"{source.path} does not say which model it is; name it with --model. {describe_tensors(tensors)}"
        )
    if name is None:
        assert said is not None
        name = _nearest_name(said.family, given)
    model = _create(name, given)
    known = published(name)
    recipe, notes = _recipe(model, name, known, source, said, clips)
    labels = said.classes if said is not None else _labels_of(source)
    if source.kind == "timm" and len(labels) != model.num_classes:
        labels = ()  # of another head than the one that was asked for
    classes = labels or (class_names(known) if known is not None else ())
    stored = source.config.get("pretrained_cfg") or {}
    return Target(model, classes, recipe, known.license if known else stored.get("license"), notes)


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Say what the shapes of a file's tensors tell about its model, and which registered names fit them.

    Args:
        tensors: Of any project.

    Returns:
        A sentence or two.
    """
    family = find_family(list(tensors))
    seen = _sizes_of(tensors)
    facts = ", ".join(f"{key} {value}" for key, value in seen.items()) or "nothing of its shapes is familiar"
    names = family.name if family is not None else "timm, or of nobody known"
    fitting = [name for name in _our_names(family.name if family else "") if _agrees(_sizes_of_name(name), seen)]
    tagged = [tag for name in fitting for tag in (timm.list_models(f"{name}.*", pretrained=True) or [name])]
    several = ", ".join(tagged[:MOST_NAMES]) + (" and others" if len(tagged) > MOST_NAMES else "")
    advice = (
        f"candidates: {several}"
        if tagged
        else "no registered name has these sizes: give one of the family, and its sizes with --args.embed_dim and so on"
    )
    return f"Its names are those of {names}; its shapes say: {facts}; {advice}"


def _of_timm_folder(source: Source, args: Mapping[str, Any], clips: Mapping[str, Any]) -> Target:
    architecture = str(source.config["architecture"])
    if not _is_ours(architecture):
        raise ValueError(
            f"{source.path} is timm's {architecture}, not a video model; say with --model which one it becomes, "
            "such as timesformer_base_patch16_224"
        )
    model = _create(f"local-dir:{source.path}", args)
    stored = source.config.get("pretrained_cfg") or {}
    tagged = f"{architecture}.{stored.get('tag', '')}"
    recipe, notes = _recipe(model, tagged, published(tagged), source, None, clips)
    return Target(model, _labels_of(source), recipe, stored.get("license"), notes)


def _labels_of(source: Source) -> tuple[str, ...]:
    """Class names in a config.json of timm's."""
    return tuple(map(str, source.config.get("label_names") or ()))


def _recipe(
    model: nn.Module,
    name: str,
    known: Published | None,
    source: Source,
    said: TransformersModel | None,
    clips: Mapping[str, Any],
) -> tuple[ClipRecipe, tuple[str, ...]]:
    """How clips are cut: as stated, else by the source's own recipe, the name's, or what can be done with any video."""
    cfg: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    height, width = model.patch_embed.img_size  # type: ignore[union-attr, misc]
    sizes: dict[str, Any] = {"num_frames": int(model.num_frames), "img_size": (int(height), int(width))}  # type: ignore[arg-type]
    pixels = read_preprocessor_config(source.preprocessor)
    if pixels.get("short_side") == min(sizes["img_size"]):
        del pixels["short_side"]  # what None stands for
    notes: list[str] = []
    stored = source.config.get(RECIPE_KEY)
    if isinstance(stored, Mapping):
        recipe = _with(None, {**stored, **sizes}, str(source.path))
    elif known is not None:
        recipe = dataclasses.replace(recipe_of(name, known), **sizes)
        for key, value in pixels.items():
            if key in ("mean", "std") and value != getattr(recipe, key):
                notes.append(f"{source.path} says {key} {value}, {name} {getattr(recipe, key)}, which was taken")
    else:
        recipe = ClipRecipe(
            stride=1,
            sampling="segments",
            multi_label=said is not None and said.multi_label,
            **sizes,
            **{"mean": tuple(cfg["mean"]), "std": tuple(cfg["std"]), **pixels},
        )
        if "sampling" not in clips:
            notes.append(
                "nobody says how clips were cut: frames are taken from equal parts of the video; state it with "
                "--clips.sampling stride --clips.stride N, or name a published checkpoint with --model"
            )
        if not {"mean", "std"} <= pixels.keys() | clips.keys():
            notes.append(f"nobody says how pixels were normalised: mean {recipe.mean}, std {recipe.std} are of {name}")
    fixed = sorted(sizes.keys() & clips.keys())
    if fixed:
        raise ValueError(
            f"--clips.{fixed[0]}: clips are of the size that the model takes; say it with --args.{fixed[0]}"
        )
    return _with(recipe, clips, "--clips"), tuple(notes)


def _with(recipe: ClipRecipe | None, values: Mapping[str, Any], where: str) -> ClipRecipe:
    """A recipe with some fields as stated, or one made of nothing else."""
    fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(ClipRecipe)}
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise ValueError(f"{where}: clips have no {', '.join(unknown)}; they have {', '.join(fields)}")
    missing = [name for name, is_required in fields.items() if is_required and name not in values]
    if recipe is None and missing:
        raise ValueError(f"{where}: its {RECIPE_KEY!r} lack {', '.join(missing)}; copy it again")
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return ClipRecipe(**tuples) if recipe is None else dataclasses.replace(recipe, **tuples)


def _create(name: str, args: Mapping[str, Any]) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **args)
    except (TypeError, RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name} cannot be built with {dict(args)} ({reason}); correct --args or --model") from error
    return model


def _is_ours(name: str) -> bool:
    architecture = name.partition(".")[0]
    return bool(timm.is_model(architecture)) and str(model_entrypoint(architecture).__module__).startswith(_PACKAGE)


def _our_names(family: str = "") -> list[str]:
    """Our registered names whose first word begins the name of a family of key tables; all if none does."""
    modules = {model_entrypoint(name).__module__ for name in timm.list_models() if _is_ours(name)}
    names = sorted(
        name
        for module in modules
        for name in timm.list_models(module=module.rpartition(".")[2])
        if not name.endswith("_from_image") and not module.endswith(".baselines")
    )
    plain = re.sub(r"[^a-z0-9]", "", family.partition("(")[0].lower())
    first = {name: name.partition("_")[0] for name in names}
    return [name for name in names if plain.startswith(first[name]) or first[name].startswith(plain)] or names


def _sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes that the shapes of any project's tensors give away."""
    encoder = {key: value for key, value in tensors.items() if not re.search(r"\b(decoder|predictor)\b", key)}
    sizes: dict[str, Any] = {}
    stem = next((v for key, v in encoder.items() if v.ndim in (4, 5) and key.endswith("weight")), None)
    if stem is not None:
        sizes["embed_dim"] = stem.shape[0]
    blocks = [int(found[1]) for key in encoder if (found := re.search(r"(?:layers?|blocks)\.(\d+)\.", key))]
    if blocks:
        sizes["depth"] = max(blocks) + 1
    if stem is not None:
        sizes["patch"] = "x".join(map(str, stem.shape[-2:]))
        sizes["tubelet_size"] = stem.shape[2] if stem.ndim == 5 else 1
    time = next((v for key, v in encoder.items() if re.search(r"time_embed(dings)?$", key)), None)
    if time is not None:
        sizes["num_frames"] = time.shape[1]
    return sizes


def _sizes_of_name(name: str) -> dict[str, Any]:
    return _sizes_of_model(timm.create_model(name, device="meta"))


def _sizes_of_model(model: nn.Module) -> dict[str, Any]:
    stem: Any = model.patch_embed
    return {
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),  # type: ignore[arg-type]
        "patch": "x".join(map(str, stem.patch_size)),
        "tubelet_size": stem.tubelet_size,
        "num_frames": stem.num_frames,
        "img_size": tuple(stem.img_size),
    }


def _agrees(sizes: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    return bool(seen) and all(sizes[key] == value for key, value in seen.items() if key != "num_frames")


def _nearest_name(family: str, args: Mapping[str, Any]) -> str:
    """The registered name of a family that most sizes agree with; arguments say the rest."""
    names: Sequence[str] = [name for name in _our_names(family) if name.startswith(f"{family}_")]
    if not names:
        raise ValueError(f"no {family} model is registered")
    wanted = _sizes_of_model(_create_meta(names[0], args))

    def agreement(name: str) -> tuple[int, ...]:
        sizes = _sizes_of_name(name)
        return (*(sizes[key] == wanted[key] for key in ("embed_dim", "depth", "patch", "img_size", "num_frames")),)

    return max(names, key=lambda name: (*agreement(name), "test" not in name))


def _create_meta(name: str, args: Mapping[str, Any]) -> nn.Module:
    return _create(name, {**args, "device": "meta"})
