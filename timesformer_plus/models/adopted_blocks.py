"""timm's own blocks, attentions and stems, turned in place into those of a video model.

The class of a module is exchanged and nothing else, as ``torch.nn.utils.parametrize`` does: parameters, their names and
values, norms, MLPs and whatever else timm built stay. What a space-time block has beyond timm's is added.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, PatchEmbed, trunc_normal_
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from .embed import TubeletEmbed
from .group_attention import GroupAttention, check_letters
from .layers import AxisAttention, SpaceTimeBlock, name_attentions
from .pattern import BlockPlan
from .tokens import Grid

__all__ = [
    "AxisAttentionRope",
    "AxisEvaAttention",
    "EvaPostNormSpaceTimeBlock",
    "EvaSpaceTimeBlock",
    "ResPostSpaceTimeBlock",
    "make_space_time",
]


class AxisEvaAttention(GroupAttention, EvaAttention):  # type: ignore[misc]  # timm is untyped
    """timm's ``EvaAttention`` within the groups of a letter; made from one, not constructed."""

    def reset_parameters(self) -> None:
        """Zero ``fc`` and what timm zeroes."""
        super().reset_parameters()
        self.reset_fc()


class AxisAttentionRope(GroupAttention, AttentionRope):  # type: ignore[misc]  # timm is untyped
    """timm's ``AttentionRope`` within the groups of a letter; made from one, not constructed."""

    def reset_parameters(self) -> None:
        """Zero ``fc``."""
        self.reset_fc()


class ResPostSpaceTimeBlock(SpaceTimeBlock, ResPostBlock):  # type: ignore[misc]  # timm is untyped
    """timm's ``ResPostBlock``, which normalises updates instead of tokens; made from one, not constructed.

    Added attentions normalise the tokens they read, here as well: ``fc`` starts at zero, and a norm of zeros would have
    no useful gradient.
    """

    _normalises_tokens = False

    def _primary_update(self, x: Tensor, grid: Grid, how: dict[str, Any]) -> Tensor:
        update: Tensor = self.drop_path1(self.norm1(self.attn(x, grid, **how)))
        return update

    def _mlp_update(self, x: Tensor) -> Tensor:
        update: Tensor = self.drop_path2(self.norm2(self.mlp(x)))
        return update


class EvaPostNormSpaceTimeBlock(ResPostSpaceTimeBlock, EvaBlockPostNorm):  # type: ignore[misc]  # timm is untyped
    """timm's ``EvaBlockPostNorm`` with the attentions of a block of a pattern; made from one, not constructed."""

    def init_weights(self) -> None:
        """Leave norms as they are: this block has no LayerScale to put into them."""


class EvaSpaceTimeBlock(SpaceTimeBlock, EvaBlock):  # type: ignore[misc]  # timm is untyped
    """timm's ``EvaBlock`` with the attentions of a block of a pattern; made from one, not constructed."""

    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def _primary_update(self, x: Tensor, grid: Grid, how: dict[str, Any]) -> Tensor:
        y: Tensor = self.attn(self.norm1(x), grid, **how)
        update: Tensor = self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)
        return update

    def _mlp_update(self, x: Tensor) -> Tensor:
        y: Tensor = self.mlp(self.norm2(x))
        update: Tensor = self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)
        return update


_BLOCKS: dict[type[nn.Module], type[SpaceTimeBlock]] = {
    Block: SpaceTimeBlock,
    ResPostBlock: ResPostSpaceTimeBlock,
    EvaBlock: EvaSpaceTimeBlock,
    EvaBlockPostNorm: EvaPostNormSpaceTimeBlock,
}
_ATTENTIONS: dict[type[nn.Module], type[GroupAttention]] = {
    Attention: AxisAttention,
    EvaAttention: AxisEvaAttention,
    AttentionRope: AxisAttentionRope,
}
_REASONS = {
    "ParallelThingsBlock": "it runs several attentions side by side, none of which is the one to be cut into groups",
    "ParallelScalingBlock": "attention and MLP are one piece, and no attention can be put in front of that MLP",
    "DiffParallelScalingBlock": "attention and MLP are one piece, and no attention can be put in front of that MLP",
    "DiffAttention": "it subtracts one softmax from another, which attention within groups does not do",
}


def make_space_time(
    model: Any,
    plan: tuple[BlockPlan, ...],
    *,
    num_frames: int,
    tubelet_size: int = 1,
    input_format: str | None = None,
    dynamic_num_frames: bool = False,
) -> None:
    """Turn the stem and the blocks of one of timm's image models into those of a video model.

    The stem reads the central frame of every tubelet. The attention of an image block becomes the primary one of the
    block's plan. Added ones are of its class and sizes, newly initialised by timm's rule for its transformers, and end
    in an ``fc`` of zeros.

    Args:
        model: The image model; its ``patch_embed`` and ``blocks`` are changed in place.
        plan: One plan a block.
        num_frames: Frames of a clip, a multiple of ``tubelet_size``.
        tubelet_size: Frames of a token.
        input_format: As in ``TubeletEmbed``.
        dynamic_num_frames: As in ``TubeletEmbed``.

    Raises:
        ValueError: A stem, block or attention of a kind that cannot be changed so, letters that heads cannot be shared
            out among, sizes that do not divide, or an unknown format. Nothing was changed.
    """
    for block, block_plan in zip(model.blocks, plan, strict=True):
        _check_block(block, block_plan)
    stem = model.patch_embed
    if type(stem) is not PatchEmbed:
        raise ValueError(
            f"the stem is a {type(stem).__name__}, which cannot be run on tubelets; only timm's PatchEmbed, one "
            "convolution over a patch, can"
        )
    if input_format not in (None, "NCTHW", "NTCHW"):
        raise ValueError(f"{input_format=} must be 'NCTHW', 'NTCHW' or None")
    if num_frames < 1 or tubelet_size < 1 or num_frames % tubelet_size:
        raise ValueError(f"{num_frames=} is not a positive multiple of {tubelet_size=}")
    embed: Any = stem
    embed.__class__ = TubeletEmbed
    embed.tubelet_size, embed.input_format, embed.dynamic_num_frames = tubelet_size, input_format, dynamic_num_frames
    embed.set_num_frames(num_frames)
    if tubelet_size > 1:
        embed.proj = _read_central_frame(embed.proj, tubelet_size)
    for block, block_plan in zip(model.blocks, plan, strict=True):
        _change_block(block, block_plan)


def _read_central_frame(image: nn.Conv2d, tubelet_size: int) -> nn.Conv3d:
    """Stem of ViViT section 3.4, equation 9: zero but for the central frame."""
    height, width = image.kernel_size
    kernel = (tubelet_size, height, width)
    like: dict[str, Any] = {"device": image.weight.device, "dtype": image.weight.dtype}
    stem = nn.Conv3d(
        image.in_channels, image.out_channels, kernel, stride=kernel, bias=image.bias is not None, **like
    ).train(image.training)
    with torch.no_grad():
        stem.weight.zero_()
        stem.weight[:, :, tubelet_size // 2] = image.weight
        stem.weight.requires_grad_(image.weight.requires_grad)
    stem.bias = image.bias
    return stem


def _check_block(block: nn.Module, plan: BlockPlan) -> None:
    for kind, module, known in (("block", block, _BLOCKS), ("attention", getattr(block, "attn", None), _ATTENTIONS)):
        if type(module) not in known:
            name = type(module).__name__
            reason = _REASONS.get(name, f"{kind}s of this class are not known here")
            allowed = ", ".join(sorted(cls.__name__ for cls in known))
            raise ValueError(f"{kind} {name} cannot be cut into groups of tokens: {reason}; those that can: {allowed}")
    attn: Any = block.attn
    for step in plan.steps:
        for letters in step.attentions:
            check_letters(letters, attn.num_heads, plan.per_frame_prefix)


def _change_block(block: Any, plan: BlockPlan) -> None:
    names, primary = name_attentions(plan.steps)
    per_frame = plan.per_frame_prefix
    added = nn.ModuleDict()
    for name, letters in names:
        if name is not None:
            norm, attn, drop_path = copy.deepcopy((block.norm1, block.attn, block.drop_path1))
            _initialise(norm, attn)
            _make_grouped(attn, letters, per_frame, zero_fc=True)
            added[name] = nn.ModuleDict({"norm": norm, "attn": attn, "drop_path": drop_path})
    _make_grouped(block.attn, primary, per_frame, zero_fc=False)
    block.__class__ = _BLOCKS[type(block)]
    block.steps, block._names, block.added = plan.steps, tuple(name for name, _ in names), added.train(block.training)


def _make_grouped(attn: Any, letters: tuple[str, ...], per_frame_prefix: bool, *, zero_fc: bool) -> None:
    attn.__class__ = _ATTENTIONS[type(attn)]
    attn.set_groups(letters, per_frame_prefix=per_frame_prefix, zero_fc=zero_fc)


def _initialise(*modules: nn.Module) -> None:
    """Initialise as timm's vision transformers do by default."""
    for module in modules:
        parts: list[Any] = list(module.modules())
        for part in reversed(parts):  # a module after its children, as timm does
            if isinstance(part, nn.Linear):
                trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif hasattr(part, "reset_parameters"):
                part.reset_parameters()
        module.requires_grad_()
