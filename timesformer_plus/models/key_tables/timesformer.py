"""Key tables of TimeSformer (arXiv 2102.05095): the official release, transformers and mmaction2.

All three are divided (``ts``), joint (``j``) or space-only (``s``), and have the class token, the linear layer behind
time attention and, but for space-only, the time embedding of the released code.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .families import Family

__all__ = ["FAMILIES"]


def _resize_flattened(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Take the nearest entry along the flattened axis, over space and over time, as the official loader does.

    Over space this runs through the rows of the grid as if they were one line, so that positions land in rows where
    they do not belong; whoever wants the numbers of the released code wants that too.
    """
    resized = dict(state_dict)
    for key, num_prefix in (("pos_embed", 1), ("time_embed", 0)):
        theirs, ours = state_dict.get(key), getattr(model, key, None)
        if theirs is None or ours is None or theirs.ndim != 3 or theirs.shape[1] == ours.shape[1]:
            continue
        rest = theirs[:, num_prefix:].float().transpose(1, 2)
        rest = F.interpolate(rest, size=ours.shape[1] - num_prefix, mode="nearest").transpose(1, 2).to(theirs.dtype)
        resized[key] = theirs.new_empty(1, ours.shape[1], theirs.shape[2])
        resized[key][:, :num_prefix], resized[key][:, num_prefix:] = theirs[:, :num_prefix], rest
    return resized


OFFICIAL = Family(
    name="TimeSformer (official)",
    anchor=r"^model\.blocks\.\d+\.attn\.qkv\.|^(model\.)?blocks\.\d+\.temporal_attn\.",
    rows=(
        (r"^(?:model\.)?blocks\.(\d+)\.temporal_norm1\.", r"blocks.\1.added.t.norm."),
        (r"^(?:model\.)?blocks\.(\d+)\.temporal_attn\.", r"blocks.\1.added.t.attn."),
        (r"^(?:model\.)?blocks\.(\d+)\.temporal_fc\.", r"blocks.\1.added.t.attn.fc."),
        # the rest has timm's names
        (r"^(?:model\.)?(?=(?:cls_token|pos_embed|time_embed|patch_embed|blocks|norm|head)\b)", ""),
    ),
    released_resize=_resize_flattened,
)
"""``timesformer.models.vit`` of facebookresearch/TimeSformer, with and without the wrapper's ``model.``."""

_LAYER = r"^(?:timesformer\.)?encoder\.layer\.(\d+)\."
_EMBEDDINGS = r"^(?:timesformer\.)?embeddings\."
TRANSFORMERS = Family(
    name="TimeSformer (transformers)",
    anchor=r"^(timesformer\.)?encoder\.layer\.\d+\.attention\.attention\.qkv\.",
    rows=(
        (_EMBEDDINGS + r"cls_token$", "cls_token"),
        (_EMBEDDINGS + r"position_embeddings$", "pos_embed"),
        (_EMBEDDINGS + r"time_embeddings$", "time_embed"),
        (_EMBEDDINGS + r"patch_embeddings\.projection\.", "patch_embed.proj."),
        (_LAYER + r"temporal_layernorm\.", r"blocks.\1.added.t.norm."),
        (_LAYER + r"temporal_attention\.attention\.", r"blocks.\1.added.t.attn."),
        (_LAYER + r"temporal_attention\.output\.dense\.", r"blocks.\1.added.t.attn.proj."),
        (_LAYER + r"temporal_dense\.", r"blocks.\1.added.t.attn.fc."),
        (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
        (_LAYER + r"attention\.attention\.", r"blocks.\1.attn."),
        (_LAYER + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
        (_LAYER + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (_LAYER + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
        (r"^(?:timesformer\.)?layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ),
)
"""``TimesformerForVideoClassification`` and the bare ``TimesformerModel``."""

_MM_LAYER = r"^(?:backbone\.)?transformer_layers\.layers\.(\d+)\."
_MM_SHARED = (
    (r"^(?:backbone\.)?(cls_token|pos_embed|time_embed)$", r"\1"),
    (r"^(?:backbone\.)?patch_embed\.projection\.", "patch_embed.proj."),
    (_MM_LAYER + r"ffns\.0\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (_MM_LAYER + r"ffns\.0\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^(?:backbone\.)?norm\.", "norm."),
    (r"^cls_head\.fc_cls\.", "head."),
)
_MM_IGNORED = ((r"^data_preprocessor\.(mean|std)$", "normalisation, which the pretrained cfg holds"),)


def _mm_attention(index: int, ours: str) -> tuple[tuple[str, str], ...]:
    """Rows of one ``nn.MultiheadAttention``, whose stacked q, k, v are our ``qkv``."""
    theirs = _MM_LAYER + rf"attentions\.{index}\."
    return (
        (theirs + r"attn\.in_proj_(weight|bias)$", rf"blocks.\1.{ours}.qkv.\2"),
        (theirs + r"attn\.out_proj\.", rf"blocks.\1.{ours}.proj."),
    )


MMACTION_DIVIDED = Family(
    name="TimeSformer, divided (mmaction2)",
    anchor=r"^(backbone\.)?transformer_layers\.layers\.\d+\.attentions\.\d\.temporal_fc\.",
    rows=(
        *_mm_attention(0, "added.t.attn"),
        (_MM_LAYER + r"attentions\.0\.temporal_fc\.", r"blocks.\1.added.t.attn.fc."),
        (_MM_LAYER + r"attentions\.0\.norm\.", r"blocks.\1.added.t.norm."),
        *_mm_attention(1, "attn"),
        (_MM_LAYER + r"attentions\.1\.norm\.", r"blocks.\1.norm1."),
        (_MM_LAYER + r"ffns\.0\.norm\.", r"blocks.\1.norm2."),
        *_MM_SHARED,
    ),
    ignored=_MM_IGNORED,
)
"""mmaction2's ``TimeSformer`` recogniser; the first attention of a layer is over time, the second over space."""

MMACTION = Family(
    name="TimeSformer, joint or space-only (mmaction2)",
    anchor=r"^(backbone\.)?transformer_layers\.layers\.\d+\.attentions\.0\.attn\.in_proj_",
    rows=(
        *_mm_attention(0, "attn"),
        (_MM_LAYER + r"norms\.0\.", r"blocks.\1.norm1."),
        (_MM_LAYER + r"norms\.1\.", r"blocks.\1.norm2."),
        *_MM_SHARED,
    ),
    ignored=_MM_IGNORED,
)
"""The same with one attention a layer, and the norms beside it."""

FAMILIES: tuple[Family, ...] = (OFFICIAL, TRANSFORMERS, MMACTION_DIVIDED, MMACTION)
