"""Key tables of V-JEPA 2 (arXiv 2506.09985): transformers, and the encoders of the original repository."""

from __future__ import annotations

from torch import Tensor, nn

from .families import Family
from .fused import join_qkv

__all__ = ["FAMILIES"]

_PREDICTOR = "of the predictor that pre-training guesses hidden tokens with; the encoder has no use for it"
_LAYER = r"^(?:vjepa2\.)?encoder\.layer\.(\d+)\."
_SELF = r"^pooler\.self_attention_layers\.(\d+)\."
_CROSS = r"^pooler\.cross_attention_layer\."


def _check_rotary(model: nn.Module, wanted: str) -> None:
    """Refuse a model that would take the weights and turn queries and keys in another way, with nothing to show it."""
    has = getattr(model, "rope_type", None)
    if has != wanted:
        raise ValueError(
            f"these weights of V-JEPA are for rope_type={wanted!r}, the model has rope_type={has!r}, with which they "
            f"mean nothing; create it with rope_type={wanted!r}"
        )


def _join(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    _check_rotary(model, "vjepa2")
    return join_qkv(state_dict, model)


TRANSFORMERS = Family(
    name="V-JEPA 2 (transformers)",
    anchor=r"^(?:vjepa2\.)?encoder\.embeddings\.patch_embeddings\.proj\.|^(?:vjepa2\.)?encoder\.layer\.\d+\.norm1\.",
    rows=(
        (r"^(?:vjepa2\.)?encoder\.embeddings\.patch_embeddings\.proj\.", "patch_embed.proj."),
        (_LAYER + r"attention\.(q|k|v)(?:uery|ey|alue)\.", r"blocks.\1.attn.\2."),
        (_LAYER + r"attention\.proj\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"(norm[12]|mlp)\.", r"blocks.\1.\2."),
        (r"^(?:vjepa2\.)?encoder\.layernorm\.", "norm."),
        (_SELF + r"layer_norm([12])\.", r"attn_pool.blocks.\1.norm\2."),
        (_SELF + r"self_attn\.([qkv])_proj\.", r"attn_pool.blocks.\1.attn.\2."),
        (_SELF + r"self_attn\.out_proj\.", r"attn_pool.blocks.\1.attn.proj."),
        (_SELF + r"mlp\.", r"attn_pool.blocks.\1.mlp."),
        (r"^pooler\.query_tokens$", "attn_pool.query"),
        (_CROSS + r"layer_norm([12])\.", r"attn_pool.norm\1."),
        (_CROSS + r"cross_attn\.([qkv])_proj\.", r"attn_pool.\1."),
        (_CROSS + r"mlp\.", "attn_pool.mlp."),
        (r"^classifier\.", "head."),
    ),
    ignored=((r"^(?:vjepa2\.)?predictor\.", _PREDICTOR),),
    convert=_join,
)
"""``VJEPA2ForVideoClassification`` and ``VJEPA2Model``."""


def _fold_modality(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Add what version 2.1 adds to every token of a clip to the stem's bias, and name the norm of the last block."""
    is_newer = any(key.startswith(("norms_block.", "video_mod_embed")) for key in state_dict)
    _check_rotary(model, "vjepa2.1" if is_newer else "vjepa2")
    folded = dict(state_dict)
    modality = folded.pop("video_mod_embed", None)
    if modality is not None and "patch_embed.proj.bias" in folded:
        folded["patch_embed.proj.bias"] = folded["patch_embed.proj.bias"] + modality.flatten()
    last = max((int(key.split(".")[1]) for key in folded if key.startswith("norms_block.")), default=None)
    for kind in ("weight", "bias"):
        if f"norms_block.{last}.{kind}" in folded:
            folded[f"norm.{kind}"] = folded[f"norms_block.{last}.{kind}"]
    return {key: tensor for key, tensor in folded.items() if not key.startswith("norms_block.")}


_WRAPPED = r"^(?:module\.)?(?:backbone\.)?"
ORIGINAL = Family(
    name="V-JEPA 2 (original repository)",
    anchor=r"^(?:module\.)?backbone\.blocks\.\d+\.attn\.qkv\.",
    rows=((_WRAPPED + r"((?:patch_embed|blocks|norm|norms_block|video_mod_embed)(?:\.|$).*)", r"\1"),),
    ignored=(
        (_WRAPPED + r"pos_embed$", "a table that the encoder has and, with rotary positions, does not use"),
        (_WRAPPED + r"(patch_embed_img\.|img_mod_embed$)", "for single images, which a clip does not pass through"),
    ),
    convert=_fold_modality,
)
"""``encoder``, ``target_encoder`` or ``ema_encoder`` of the released files, versions 2 and 2.1 (without the pooler).

Version 2.1 wants ``rope_type="vjepa2.1"``. Its norms of earlier blocks, which training reads too, are left out.
"""

FAMILIES: tuple[Family, ...] = (TRANSFORMERS, ORIGINAL)
