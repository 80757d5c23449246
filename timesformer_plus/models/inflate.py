"""An image transformer of timm's made into a video model: names or objects, and how what is new begins."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal, get_args

import timm
import torch
from timm.models import adapt_input_conv
from timm.models.eva import Eva, EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from .adopt import make_video
from .origin import NAME, Origin
from .rotary_video_transformer import RotaryVideoTransformer
from .video_transformer import VideoTransformer

__all__ = ["VIDEO_OPTIONS", "Init", "TubeletInit", "check_inflatable", "inflate", "make_inflated", "replace_head"]

Init = Literal["zero", "copy", "random"]
TubeletInit = Literal["central", "average", "random"]

VIDEO_OPTIONS = ("input_format", "dynamic_num_frames", "time_embed_std", "time_rope")
"""What ``make_video`` takes beside pattern, frames and tubelets."""


def inflate(
    image_model: str | nn.Module,
    pattern: str = "ts",
    num_frames: int = 8,
    *,
    tubelet_size: int = 1,
    init: Init = "zero",
    tubelet_init: TubeletInit = "central",
    pretrained: bool = True,
    num_classes: int | None = None,
    global_pool: str | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> VideoTransformer | RotaryVideoTransformer:
    """Make a video model of an image transformer.

    The image model's weights become those of the primary attention of every block (see ``SpaceTimeBlock``), of the
    MLPs, the norms, the stem, the positions and the head, under the names that they had. With ``init="zero"`` the new
    attentions change nothing at first: a clip that stands still is scored as its picture is by the image model, in
    every pattern of ``s`` with ``t`` or ``c``.

    Args:
        image_model: A name of timm's, with or without a tag, or a model. A model is copied, with its weights and its
            head, and left as it is.
        pattern: The interleaving, or the name of a scheme (see ``parse_pattern``).
        num_frames: Frames of a clip.
        tubelet_size: Frames of a token.
        init: Every added attention is drawn by timm's rule and ends in a zero ``fc`` (``"zero"``); has the weights of
            its block's image attention, its norm too, and ends in a zero ``fc`` (``"copy"``); or is drawn by timm's
            rule with its ``fc`` (``"random"``), which changes the scores from the first clip on.
        tubelet_init: How the stem reads a tubelet (ViViT section 3.4): its central frame (``"central"``), the mean of
            its frames (``"average"``), or by a kernel drawn anew (``"random"``), which forgets the image stem.
        pretrained: Whether to load the weights that timm has for the name; a model brings its own.
        num_classes: Classes of a new head; the image model's head if ``None``.
        global_pool: Pooling in front of the head; the image model's if ``None``.
        in_chans: Channels of a frame; the stem is adapted as timm adapts it for images.
        img_size: Height and width of a frame in pixels; positions are resampled as timm does.
        **options: ``input_format``, ``dynamic_num_frames``, ``time_embed_std`` and ``time_rope`` of the video model;
            for a name also what timm's ``create_model`` takes (``drop_path_rate``, ``dynamic_img_size``,
            ``pretrained_cfg_overlay``, ``cache_dir`` ...).

    Returns:
        The video model. One made of a name is what ``timm.create_model("timesformer_from_image", image_model=...)``
        gives, so it can be saved and loaded again; one made of a model can if timm made that model.

    Raises:
        ValueError: A model that cannot be inflated, with the reason; options that do not fit it.
    """
    wanted: dict[str, Any] = {
        "pattern": pattern,
        "num_frames": num_frames,
        "tubelet_size": tubelet_size,
        "init": init,
        "tubelet_init": tubelet_init,
    }
    changed: dict[str, Any] = {
        "num_classes": num_classes,
        "global_pool": global_pool,
        "in_chans": in_chans,
        "img_size": img_size,
    }
    if isinstance(image_model, str) and not image_model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        named: VideoTransformer | RotaryVideoTransformer = timm.create_model(
            NAME,
            pretrained=pretrained,
            image_model=image_model,
            **wanted,
            **{key: value for key, value in changed.items() if value is not None},
            **options,
        )
        return named
    video_options = {key: options.pop(key) for key in VIDEO_OPTIONS if key in options}
    if isinstance(image_model, str):
        image = timm.create_model(image_model, pretrained=pretrained, **options)
    elif options:
        raise ValueError(
            f"{sorted(options)} are arguments of timm.create_model, and the image model exists already; create it with "
            "them, or pass its name"
        )
    else:
        check_inflatable(image_model)
        image = copy.deepcopy(image_model)
    check_inflatable(image)
    _adapt_image(image, **changed)
    origin = Origin(image)
    model = make_inflated(image, **wanted, **video_options)
    origin.record(model, {**wanted, **video_options})
    return model


def check_inflatable(image: Any) -> None:
    """Refuse what is no plain image transformer of timm's.

    Args:
        image: Any model.

    Raises:
        ValueError: It is none, and why.
    """
    name = type(image).__name__
    wanted = (
        "inflate takes timm's VisionTransformer (its vision_transformer and deit modules) and Eva (its eva module), "
        "whose tokens are patches of one picture and whose blocks are alike"
    )
    if type(image) not in (VisionTransformer, Eva):
        reason = f"a {name} is neither"
        if isinstance(image, (VisionTransformer, Eva)):
            reason = f"{name} changes what they compute"
            if getattr(image, "dist_token", None) is not None:
                reason = f"a {name} has a second class token with a head of its own"
            elif hasattr(image, "pattern"):
                reason = "this model is a video model already"
        elif "naflex" in name.lower():
            reason = f"a {name} takes sequences of any length, which say no height and width"
        raise ValueError(f"{wanted}; {reason}")
    embed = type(image.patch_embed)
    if embed is not timm.layers.PatchEmbed:
        raise ValueError(
            f"{wanted}; the stem of this {name} is a {embed.__name__}, and only timm's PatchEmbed, one convolution "
            "over a patch, becomes a stem that reads tubelets"
        )


def make_inflated(
    image: Any,
    *,
    init: Init = "zero",
    tubelet_init: TubeletInit = "central",
    **options: Any,
) -> VideoTransformer | RotaryVideoTransformer:
    """Turn an image model into a video model in place; what is new begins as asked.

    Args:
        image: A model that ``check_inflatable`` lets pass.
        init: See ``inflate``.
        tubelet_init: See ``inflate``.
        **options: Of ``make_video``.

    Raises:
        ValueError: An unknown choice, or what ``make_video`` refuses.
    """
    for name, choice, choices in (
        ("init", init, get_args(Init)),
        ("tubelet_init", tubelet_init, get_args(TubeletInit)),
    ):
        if choice not in choices:
            raise ValueError(f"{name}={choice!r} must be one of {', '.join(map(repr, choices))}")
    model = make_video(image, **options)
    for block, branch in _added_attentions(model):
        if init == "copy":
            if not isinstance(block, (ResPostBlock, EvaBlockPostNorm)):  # theirs normalises updates, not tokens
                _copy_weights(block.norm1, branch["norm"])
            _copy_weights(block.attn, branch["attn"], but=("fc.weight", "fc.bias"))
        elif init == "random":
            _draw_linear(branch["attn"].fc)
    stem: Any = model.patch_embed.proj
    if tubelet_init == "random":
        stem.reset_parameters()  # as timm leaves a new one
    elif tubelet_init == "average" and options.get("tubelet_size", 1) > 1:
        _average_frames(stem, options["tubelet_size"])
    return model


def replace_head(image: Any, num_classes: int | None, global_pool: str | None) -> None:
    """Change classes or pooling of an image model in place; a new head is drawn by timm's rule.

    Args:
        image: timm's VisionTransformer or Eva.
        num_classes: Of the head; unchanged if ``None``, and then the head keeps its weights.
        global_pool: Unchanged if ``None``.

    Raises:
        ValueError: A pooling that this model cannot have.
    """
    old_classes, old_pool = image.num_classes, image.global_pool
    if global_pool is not None and global_pool != old_pool:
        head = image.head
        try:
            image.reset_classifier(old_classes, global_pool)
        except AssertionError as error:
            raise ValueError(f"{global_pool=} does not fit this {type(image).__name__}: {error}") from error
        image.head = head
    if num_classes is not None and num_classes != old_classes:
        image.reset_classifier(num_classes)
        if isinstance(image.head, nn.Linear):
            _draw_linear(image.head)
            with torch.no_grad():
                image.head.weight.mul_(getattr(image, "head_init_scale", None) or 1.0)


def _adapt_image(
    image: Any,
    num_classes: int | None,
    global_pool: str | None,
    in_chans: int | None,
    img_size: int | tuple[int, int] | None,
) -> None:
    """Give an image model other sizes; what fits keeps its weights."""
    replace_head(image, num_classes, global_pool)
    if img_size is not None:
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        image.set_input_size(img_size=size)
    old = image.patch_embed.proj
    if in_chans is None or in_chans == old.in_channels:
        return
    if old.in_channels != 3:
        raise ValueError(
            f"a stem for {old.in_channels} channels cannot be adapted to {in_chans}: timm's rule repeats, sums or "
            "drops red, green and blue; start from a model of 3 channels"
        )
    weight = adapt_input_conv(in_chans, old.weight.detach())
    stem = nn.utils.skip_init(
        nn.Conv2d,
        in_chans,
        old.out_channels,
        kernel_size=old.kernel_size,
        stride=old.stride,
        bias=old.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        stem.weight.copy_(weight)
        if stem.bias is not None:
            stem.bias.copy_(old.bias)
    image.patch_embed.proj = stem
    image.in_chans = in_chans
    image._model_args = {**getattr(image, "_model_args", {}), "in_chans": in_chans}


def _added_attentions(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every block with each of its added branches: norm, attention that ends in ``fc``."""
    for block in model.blocks:
        for branch in block.added.values():
            yield block, branch


@torch.no_grad()
def _copy_weights(source: nn.Module, target: nn.Module, but: tuple[str, ...] = ()) -> None:
    """Copy every tensor; the two hold the same ones apart from those in ``but``."""
    old = source.state_dict()
    new = {key: tensor for key, tensor in target.state_dict().items() if key not in but}
    if old.keys() != new.keys():
        raise ValueError(
            f"init='copy' needs an added attention that is made as the image attention is; they differ in "
            f"{sorted(old.keys() ^ new.keys())}"
        )
    for key, tensor in new.items():
        tensor.copy_(old[key])


def _draw_linear(layer: nn.Linear) -> None:
    """Draw weights by timm's rule for a Linear of its transformers."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def _average_frames(stem: nn.Conv3d, tubelet_size: int) -> None:
    """Spread the one frame that a stem (C, in_chans, tubelet_size, h, w) reads over all of them."""
    stem.weight.copy_(stem.weight.sum(dim=2, keepdim=True).expand_as(stem.weight) / tubelet_size)
