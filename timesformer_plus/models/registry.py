"""How a video model of any family is made from what timm's ``create_model`` was given."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from timm.models import (
    build_model_with_cfg,
    get_pretrained_cfg,
    is_model,
    list_models,
    load_custom_pretrained,
    model_entrypoint,
    resolve_pretrained_cfg,
)
from timm.models._hub import download_cached_file, download_from_hf, load_state_dict_from_path
from torch import Tensor, nn

from .weight_files import read_weights
from .weights import Misfit, filter_checkpoint

__all__ = ["Published", "clip_cfg", "create_video_model", "published", "published_cfg", "read_pretrained"]

Model = TypeVar("Model", bound=nn.Module)

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository of the hub calls its weights, in the order of preference."""


def clip_cfg(**kwargs: Any) -> dict[str, Any]:
    """Fill in a pretrained cfg of timm's for a model of 400 classes on frames of 224 px."""
    return {
        "num_classes": 400,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",  # what data.transforms does
        "fixed_input_size": True,
        # the normalisation that TimeSformer's recipe uses for every channel
        "mean": (0.45, 0.45, 0.45),
        "std": (0.225, 0.225, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **kwargs,
    }


@dataclass(frozen=True)
class Published:
    """One published checkpoint: where it is, the clips that it was trained on, what it scored.

    The family's module keeps it in ``PUBLISHED`` under ``"architecture.tag"``, the name of timm's that loads it.

    Attributes:
        hf_hub_id: Repository on the Hugging Face hub; ``None`` for a file that lies elsewhere.
        hf_hub_filename: File in it; ``None`` for the hub's usual name.
        url: Address of the file, where it is not on the hub.
        sha256: The file's digest in hexadecimal, or its first digits, if it is known.
        dataset: Whose labels the head gives, by the name that ``data`` uses; ``None`` without a head.
        num_classes: Their number, 0 without a head.
        num_frames: Frames of a clip.
        sampling: ``"stride"``, or ``"segments"`` for one frame from each of ``num_frames`` equal parts of a video.
        stride: Source frames from one frame of a clip to the next; 1, and without a meaning, for segments.
        img_size: Side of a frame in pixels.
        short_side: Pixels that the short side is scaled to before the crop.
        num_clips: Clips of a video whose scores are averaged in ``top1``.
        num_crops: Crops of each.
        average: Of what: ``"logits"`` or ``"probabilities"``.
        mean: Of the normalisation, in RGB order.
        std: Likewise.
        channel_order: Of the pixels that the weights expect: ``"rgb"`` or ``"bgr"``.
        license: Of the weights.
        top1: Published accuracy in percent; ``None`` where none is published.
        source: Where ``top1`` stands: a paper's table, a model card.
        note: What else a user has to know, in a sentence.
        model_args: Arguments of the registered name that these weights need.
    """

    hf_hub_id: str | None = None
    hf_hub_filename: str | None = None
    url: str | None = None
    sha256: str | None = None
    dataset: Literal["kinetics400", "kinetics600", "something_v2", "howto100m", "diving48"] | None = None
    num_classes: int = 400
    num_frames: int = 8
    sampling: Literal["stride", "segments"] = "stride"
    stride: int = 32
    img_size: int = 224
    short_side: int = 224
    num_clips: int = 1
    num_crops: int = 3
    average: Literal["logits", "probabilities"] = "probabilities"
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    license: str = "apache-2.0"
    top1: float | None = None
    source: str = ""
    note: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)


def published_cfg(checkpoint: Published, **kwargs: Any) -> dict[str, Any]:
    """Write timm's pretrained cfg of a published checkpoint.

    Args:
        checkpoint: What was published.
        **kwargs: Fields of the cfg that go before what ``checkpoint`` says.
    """
    said = {
        "hf_hub_id": checkpoint.hf_hub_id,
        "hf_hub_filename": checkpoint.hf_hub_filename,
        "url": checkpoint.url or "",
        "num_classes": checkpoint.num_classes,
        "input_size": (3, checkpoint.img_size, checkpoint.img_size),
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "license": checkpoint.license,
    }
    return clip_cfg(**{**said, **kwargs})


def published(name: str) -> Published | None:
    """Look up what was published under a name of timm's.

    Args:
        name: ``"architecture.tag"``, or an architecture alone for its default tag.

    Returns:
        ``None`` if no weights were published under that name.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        return None
    if not tag:
        cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
        tag = (cfg.tag if cfg is not None else None) or ""
    family = sys.modules[model_entrypoint(architecture).__module__]
    found: Mapping[str, Published] = getattr(family, "PUBLISHED", {})
    return found.get(f"{architecture}.{tag}")


def create_video_model(
    cls: Callable[..., Model], variant: str, pretrained: bool, defaults: dict[str, Any], given: dict[str, Any]
) -> Model:
    """Build a model through timm's own door, and fill it strictly.

    Where the weights are is said as everywhere in timm: a pretrained cfg with ``state_dict``, ``file``, ``hf_hub_id``
    or ``url``, a folder (``local-dir:``), or ``custom_load`` for timm's own reader of ``.npz`` files. Files are read by
    ``read_weights`` and fitted by ``filter_checkpoint``. timm's loader leaves out whatever does not fit in two cases,
    another number of classes and a stem that it cannot adapt; here only the head may differ, and only in the first.

    Args:
        cls: Its class.
        variant: The registered name.
        pretrained: Whether to load the weights that its pretrained cfg names.
        defaults: Arguments of the registered name.
        given: What the caller passed, which goes first; then what ``Published`` says that the tag needs.

    Raises:
        ValueError: There are no such weights, they cannot be had or read, or do not fit.
        FileNotFoundError: A file of weights was named that is not there.
    """
    given = dict(given)
    cfg = resolve_pretrained_cfg(variant, given.pop("pretrained_cfg", None), given.pop("pretrained_cfg_overlay", None))
    cache_dir = given.pop("cache_dir", None)
    checkpoint = published(f"{variant}.{cfg.tag}") if cfg.tag else None

    def build(**kwargs: Any) -> Model:
        model = cls(**kwargs)
        if pretrained:
            _load_pretrained(model, variant, cfg.to_dict(), cache_dir)
        return model

    model: Model = build_model_with_cfg(
        build,
        variant,
        pretrained=False,  # timm's loader is not asked
        pretrained_cfg=dataclasses.replace(cfg, state_dict=None),
        feature_cfg={"out_indices": given.pop("out_indices", 3), "feature_cls": "getter"},
        **{**defaults, **(checkpoint.model_args if checkpoint else {}), **given},
    )
    return model


def _load_pretrained(model: nn.Module, variant: str, cfg: dict[str, Any], cache_dir: Any) -> None:
    """Find, read and load what a pretrained cfg names."""
    model.pretrained_cfg = cfg  # type: ignore[assignment]  # what the filter reads sizes and classes from
    if cfg.get("custom_load"):
        load_custom_pretrained(model, cfg, cache_dir=cache_dir)
        return
    tensors, source = read_pretrained(variant, cfg, cache_dir)
    try:
        fitted = filter_checkpoint(tensors, model)
    except Misfit as error:
        raise ValueError(f"{source} {error}") from error
    model.load_state_dict(fitted)


def read_pretrained(variant: str, cfg: dict[str, Any], cache_dir: Any) -> tuple[Mapping[str, Tensor], str]:
    """Read the tensors that a pretrained cfg names, in timm's order of places; and say where they are from.

    Args:
        variant: The registered name that wants them.
        cfg: Its pretrained cfg.
        cache_dir: Where timm keeps downloads; its default if ``None``.

    Raises:
        ValueError: They cannot be had, or read.
        FileNotFoundError: A file was named that is not there.
        RuntimeError: The cfg names none.
    """
    hub, file, url = cfg.get("hf_hub_id"), cfg.get("file"), cfg.get("url")
    if cfg.get("source") == "local-dir":
        ours = Path(str(file)) / HUB_FILES[0]
        tensors: Mapping[str, Tensor] = read_weights(ours) if ours.is_file() else load_state_dict_from_path(file)
        return tensors, str(file)
    if cfg.get("source") != "hf-hub":
        if cfg.get("state_dict"):
            return cfg["state_dict"], "the state dict"
        if file:
            if not Path(file).exists():
                raise FileNotFoundError(f"there is no file {file} with weights of {variant}")
            return read_weights(file), str(file)
    if hub:
        return _read_from_hub(variant, cfg, cache_dir)
    if url:
        name = _full_name(variant, cfg)
        checkpoint = published(name)
        path = _fetch(lambda: download_cached_file(url, cache_dir=cache_dir), name, str(url), "the file")
        return read_weights(path, sha256=checkpoint.sha256 if checkpoint and checkpoint.url == url else None), path
    tags = [other for other in list_models(f"{variant}.*", pretrained=True) if other != _full_name(variant, cfg)]
    hint = f", or name those published: {', '.join(tags)}" if tags else ""
    # timm's own words and class, which its users know
    raise RuntimeError(f"No pretrained weights exist for {variant}. Use `pretrained=False` for random init{hint}.")


def _read_from_hub(variant: str, cfg: dict[str, Any], cache_dir: Any) -> tuple[Mapping[str, Tensor], str]:
    repository, said = cfg["hf_hub_id"], cfg.get("hf_hub_filename")
    names = (said,) if said else HUB_FILES
    wanted = " or ".join(names)

    def fetch() -> str:
        for candidate in names[:-1]:
            try:
                return str(download_from_hf(repository, candidate, cache_dir=cache_dir))
            except Exception as error:  # noqa: PERF203  the class is the client's, which models do not import
                if not any(cls.__name__ == "EntryNotFoundError" for cls in type(error).__mro__):
                    raise
        return str(download_from_hf(repository, names[-1], cache_dir=cache_dir))

    name = _full_name(variant, cfg)
    checkpoint = published(name)
    path = _fetch(fetch, name, f"the repository {repository} of the Hugging Face hub", wanted)
    known = checkpoint.sha256 if checkpoint and checkpoint.hf_hub_id == repository else None
    return read_weights(path, sha256=known), f"{Path(path).name} of {repository}"


def _full_name(variant: str, cfg: Mapping[str, Any]) -> str:
    return f"{variant}.{cfg['tag']}" if cfg.get("tag") else variant


def _fetch(download: Callable[[], str], name: str, place: str, wanted: str) -> str:
    """Download a file, or say which one could not be had and what to do without a network."""
    try:
        return download()
    except Exception as error:  # of the hub's client, of whichever HTTP library it uses, or of the disk
        reason = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"the weights of {name} could not be fetched from {place}, which should have {wanted} "
            f"({type(error).__name__}: {reason[0]}); without a network pass a local copy: "
            f"timm.create_model('{name}', pretrained=True, pretrained_cfg_overlay=dict(file='PATH'))"
        ) from error
