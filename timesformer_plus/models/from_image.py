"""The registered name under which any image transformer of timm's is a video model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, is_model, model_entrypoint, register_model, resolve_pretrained_cfg
from torch import Tensor, nn

from .inflate import VIDEO_OPTIONS, check_inflatable, make_inflated, replace_head
from .origin import NAME
from .registry import create_video_model, read_pretrained

__all__: list[str] = []  # register_model adds the entry point

INFLATED = ("pattern", "num_frames", "tubelet_size", "init", "tubelet_init", *VIDEO_OPTIONS)
"""Arguments of the video model; what is none of these or of timm's builder is the image model's."""
BUILDERS = ("features_only", "out_indices", "feature_cls", "pretrained_model_args")


@register_model
def timesformer_from_image(
    pretrained: bool = False,
    *,
    image_model: str | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """A video model inflated from an image transformer of timm's.

    With ``pretrained=True`` the image model's weights are loaded as timm loads them, through its own filter, and
    inflated. From ``local-dir:`` and ``hf-hub:`` it is the video model's weights that are loaded; those of the image
    model are not asked for again. A file in ``pretrained_cfg_overlay`` may hold either.

    Args:
        pretrained: Whether to load weights.
        image_model: timm's name of the image model, with or without a tag.
        pretrained_cfg: What ``local-dir:`` or ``hf-hub:`` says about weights that were saved.
        pretrained_cfg_overlay: Fields of the image model's pretrained cfg to be replaced, such as ``file``.
        cache_dir: Where timm keeps downloads.
        **kwargs: ``pattern``, ``num_frames``, ``tubelet_size``, ``init``, ``tubelet_init`` and the other options of
            ``inflate``; the rest goes to the image model.

    Raises:
        ValueError: No name, an unknown one, an image model that cannot be inflated, with the reason, or weights that
            do not fit.
    """
    name = _check_name(image_model, pretrained_cfg)
    builder = {key: kwargs.pop(key) for key in BUILDERS if key in kwargs}
    overlay = dict(pretrained_cfg_overlay or {})
    saved = _as_dict(pretrained_cfg)
    if pretrained and not saved:
        with torch.device("meta"):  # refuse before anything is read or downloaded
            _inflate_name(name, kwargs)
        overlay = _read_weights(name, overlay, cache_dir)
    is_video = bool(saved) or _is_video(overlay.get("state_dict", {}))
    source = {} if is_video else {"pretrained": pretrained, "pretrained_cfg_overlay": overlay, "cache_dir": cache_dir}
    model = _inflate_name(name, kwargs, **source)
    arguments = {key: value for key, value in kwargs.items() if key not in ("device", "dtype")}
    model._model_args = {**arguments, "image_model": name}
    cfg = {**model.pretrained_cfg, **saved, **(overlay if is_video else {}), "architecture": NAME}
    if not is_video:
        cfg.pop("state_dict", None)  # is in the model by now
    sizes = {
        "img_size": tuple(model.patch_embed.img_size),
        "in_chans": model.in_chans,
        "num_classes": model.num_classes,
    }
    given = {**sizes, **builder, "pretrained_cfg": cfg, "cache_dir": cache_dir}
    # timm's builder calls what it takes for the class: the model is there already
    built: Any = create_video_model(lambda **_: model, NAME, pretrained and is_video, {}, given)
    built.pretrained_cfg.pop("state_dict", None)
    return built  # type: ignore[no-any-return]


def _check_name(image_model: Any, pretrained_cfg: Any) -> str:
    example = "timm.create_model('timesformer_from_image', image_model='vit_base_patch16_clip_224.openai')"
    if isinstance(pretrained_cfg, str):
        raise ValueError(
            f"'{NAME}.{pretrained_cfg}': the tag belongs to the image model; write image_model="
            f"'{image_model or 'NAME'}.{pretrained_cfg}'"
        )
    if image_model is None:
        raise ValueError(f"{NAME} needs image_model, a name of timm's: {example}")
    if not isinstance(image_model, str):
        raise ValueError(
            f"image_model must be a name of timm's, {example}, got a {type(image_model).__name__}; inflate takes "
            "objects: timesformer_plus.inflate(model, pattern=...)"
        )
    if ":" in image_model or "/" in image_model:
        raise ValueError(
            f"image_model={image_model!r} is no name of timm's; inflate a folder's or repository's model with "
            f"timesformer_plus.inflate({image_model!r}, ...), or name its architecture and pass its file as "
            "pretrained_cfg_overlay={'file': ...}"
        )
    architecture, _, tag = image_model.partition(".")
    if not is_model(architecture):
        known = timm.list_models(module=["vision_transformer", "eva", "deit"])
        close = difflib.get_close_matches(architecture, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models('vit_*') shows the names"
        raise ValueError(f"timm knows no image_model {image_model!r}; {hint}")
    tagged = timm.list_models(architecture, include_tags=True)
    if tag and image_model not in tagged:
        raise ValueError(f"timm knows no weights {tag!r} of {architecture}; it has {', '.join(tagged)}")
    return image_model


def _as_dict(cfg: Any) -> dict[str, Any]:
    """A pretrained cfg that came with saved weights; empty if none did."""
    if cfg is None:
        return {}
    fields = asdict(cfg) if isinstance(cfg, PretrainedCfg) else dict(cfg)
    return {key: value for key, value in fields.items() if value is not None}


def _inflate_name(name: str, kwargs: dict[str, Any], **source: Any) -> Any:
    """Build the image model of a name, as ``source`` says with or without its weights, and inflate it."""
    options = dict(kwargs)
    video = {key: options.pop(key) for key in INFLATED if key in options}
    head = {key: options.pop(key, None) for key in ("num_classes", "global_pool")}
    is_eva = model_entrypoint(name.partition(".")[0]).__module__.endswith(".eva")
    if is_eva and "fc_norm" in options:  # one option, two names in timm
        options["use_fc_norm"] = options.pop("fc_norm")
    try:
        # with the checkpoint's own classes and pooling, so that timm's load is strict
        image = timm.create_model(name, **source, **options)
    except RuntimeError as error:
        if not source.get("pretrained"):
            raise
        raise ValueError(f"the weights given for {name} do not fit it: {error}") from error
    check_inflatable(image)
    _check_all_loaded(name, image, source)
    replace_head(image, **head)
    return make_inflated(image, **video)


def _check_all_loaded(name: str, image: Any, source: dict[str, Any]) -> None:
    """Refuse what timm's loader lets pass: it is lenient with SigLIP's weights without their pooling by attention."""
    weights = source.get("pretrained_cfg_overlay", {}).get("state_dict", {})
    if "siglip" not in name or image.global_pool == "map" or "patch_embed.proj.weight" not in weights:
        return
    own = image.state_dict().keys()
    missing = sorted(own - weights.keys())
    left_over = sorted(key for key in weights.keys() - own if not key.startswith("attn_pool."))
    if missing or left_over:
        raise ValueError(
            f"the weights given for {name} do not fit it: they lack {missing[:8]} ({len(missing)} keys of the model), "
            f"and {left_over[:8]} ({len(left_over)} keys) have no place in it"
        )


def _read_weights(name: str, overlay: dict[str, Any], cache_dir: Any) -> dict[str, Any]:
    """Put the tensors that are asked for into a pretrained cfg's overlay, safely read.

    timm reads by itself what it has readers of its own for: the original ``.npz`` files.
    """
    architecture, _, tag = name.partition(".")
    if str(overlay.get("file", "")).endswith((".npz", ".npy")):
        return {"custom_load": True, **overlay}
    cfg = resolve_pretrained_cfg(architecture, tag, overlay).to_dict()
    elsewhere = cfg.get("file") or cfg.get("state_dict")
    if not elsewhere and (cfg.get("custom_load") == "hf" or (cfg.get("custom_load") and not cfg.get("hf_hub_id"))):
        return overlay
    tensors, _ = read_pretrained(architecture, cfg, cache_dir)
    return {**overlay, "state_dict": tensors, "custom_load": False}


def _is_video(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a video model's and no image model's."""
    stem = weights.get("patch_embed.proj.weight")
    return "time_embed" in weights or any(".added." in key for key in weights) or (stem is not None and stem.ndim == 5)
