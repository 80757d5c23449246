"""Published checkpoints in prediction and evaluation: how their authors cut clips, and what the classes are called.

A checkpoint is named as timm names it, ``timesformer_base_patch16_224.fb_k400``. What its file does not say (frames,
stride, mean, std, channel order, views) is in the ``Published`` of its family's module; a name without one has no
recipe, and is refused instead of being fed clips of which nobody knows whether it was trained on such.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import timm

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.data.vocabulary import names_in
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.checkpoint import Checkpoint, load_checkpoint
from timesformer_plus.engine.data_config import require
from timesformer_plus.engine.protocols import PROTOCOLS
from timesformer_plus.models.registry import Published, published

# protocols with a name, by the first part of an architecture's
FAMILY_PROTOCOLS = {
    "timesformer": ("paper_timesformer",),
    "videomae": ("videomae", "videomae_ssv2"),
    "videomaev2": ("videomae", "videomae_ssv2"),
    "vivit": ("vivit",),
}
NEAR = 5
MODEL_HELP = (
    "Checkpoint folder, such as RUN/best or what tools/convert.py wrote, or the registered name of a published "
    "checkpoint, such as timesformer_base_patch16_224.fb_k400."
)


def recipe_of(name: str, checkpoint: Published) -> ClipRecipe:
    """How the authors of a published checkpoint cut and scored the clips of its published accuracy.

    Args:
        name: Its registered name.
        checkpoint: What is known of it.
    """
    family = name.partition("_")[0]
    views = (checkpoint.num_clips, checkpoint.num_crops, checkpoint.average)
    side = checkpoint.img_size
    return ClipRecipe(
        num_frames=checkpoint.num_frames,
        stride=checkpoint.stride,
        sampling=checkpoint.sampling,
        img_size=(side, side),
        mean=checkpoint.mean,
        std=checkpoint.std,
        multi_label=False,
        num_clips=checkpoint.num_clips,
        num_crops=checkpoint.num_crops,
        short_side=checkpoint.short_side,
        average=checkpoint.average,
        protocol_name=next((key for key in FAMILY_PROTOCOLS.get(family, ()) if PROTOCOLS[key][:3] == views), None),
        channel_order=checkpoint.channel_order,
    )


def class_names(checkpoint: Published) -> tuple[str, ...]:
    """What the classes of a published checkpoint are called; their numbers from 0 where no installed package says.

    Those of Kinetics-400 come with torchvision's own video models, and are in alphabetical order. So are the labels of
    the published files: transformers' example for ViViT answers "eating spaghetti" with the number 116, its place.
    """
    if checkpoint.dataset == "kinetics400":
        from torchvision.models.video import R3D_18_Weights

        names = tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
        if len(names) == checkpoint.num_classes:
            return names
    return numbered_classes(checkpoint.num_classes)


def numbered_classes(count: int) -> tuple[str, ...]:
    """Classes without names: ``("0", "1", …)``."""
    return tuple(map(str, range(count)))


def load_published(name: str, weights: Path | None = None) -> Checkpoint:
    """Load a published checkpoint with the recipe of its authors.

    Args:
        name: Its registered name with a tag, or an architecture whose default tag is published.
        weights: A local copy of its file; ``None`` fetches it from where it was published.

    Raises:
        ValueError: There is no such name, nothing is published under it, it has no classes, or its weights are not to
            be had or are not what the name says.
    """
    checkpoint = _published(name)
    require(weights is None or weights.is_file(), f"there is no file {weights} with the weights of {name}")
    overlay = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    try:
        model = timm.create_model(name, pretrained=True, **overlay)
    except (RuntimeError, OSError, ValueError) as error:
        advice = "" if weights is not None else "; of a file that is here already say where: --weights FILE"
        raise ValueError(f"{name} cannot be loaded: {error}{advice}") from error
    return Checkpoint(model, class_names(checkpoint), recipe_of(name, checkpoint))


def _published(name: str) -> Published:
    if not timm.is_model(name):
        known = timm.list_models(pretrained=True, module="timesformer")
        near = difflib.get_close_matches(name, known, n=NEAR) or known[:NEAR]
        raise ValueError(
            f"{name} is neither a folder nor a model that timm knows; give the best/ or last/ folder of a training "
            f"run, one that tools/convert.py wrote, or a published name such as {', '.join(near)}"
        )
    checkpoint = published(name)
    if checkpoint is None:
        others = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise ValueError(
            f"{name} has no published recipe: nobody says what clips it was trained on"
            + (" (an image model has seen none)" if name.startswith("timesformer_from_image") else "")
            + ("; published are " + ", ".join(others) if others else "; train it, and give the run's best/ folder")
        )
    require(
        checkpoint.num_classes > 0,
        f"{name} gives features, not classes; train a head on it (tools/train.py --model.name {name} "
        "--model.pretrained true), and give that run's best/ folder",
    )
    return checkpoint


def open_model(
    model: str | Path, *, weights: Path | None = None, classes: Path | None = None
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Load what a command was given as its model.

    Args:
        model: A checkpoint folder, or the registered name of a published checkpoint.
        weights: For a registered name: a local copy of its file.
        classes: For a model whose classes have no names: a file with them in the order of their numbers, one a line, or
            an object from name to number as Something-Something's labels.json.

    Returns:
        The model with its recipe, and what people should know of it, a line each.

    Raises:
        ValueError: It is neither, cannot be loaded, or an option does not fit it.
    """
    folder = Path(model)
    if folder.is_dir() or folder.is_file() or folder.is_absolute() or len(folder.parts) > 1:
        require(weights is None, f"weights={weights} is for a registered name; {folder} has its own")
        checkpoint = load_checkpoint(folder)
    else:
        checkpoint = load_published(str(model), weights)
    count = len(checkpoint.classes)
    are_numbers = checkpoint.classes == numbered_classes(count)
    if classes is not None:
        require(are_numbers, f"classes={classes}: the classes of {model} have names; leave it out")
        checkpoint = checkpoint._replace(classes=_names(classes, count, model))
    elif are_numbers:
        note = f"the names of the {count} classes of {model} are not known here: numbers stand for them, from 0"
        return checkpoint, (f"{note} (--classes FILE names them, one a line)",)
    return checkpoint, ()


def _names(file: Path, count: int, model: str | Path) -> tuple[str, ...]:
    names: Sequence[str] = names_in(file)
    require(len(names) == count, f"{file} names {len(names)} classes, and {model} has {count}; give a file of its own")
    return tuple(names)
