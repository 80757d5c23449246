"""Key tables of TimeSformer: transformers' names."""

from __future__ import annotations

from .families import Family

__all__ = ["FAMILIES"]

TRANSFORMERS = Family(
    name="TimeSformer (transformers)",
    anchor=r"^(timesformer\.)?encoder\.layer\.\d+\.attention\.attention\.qkv\.",
    rows=(
        (r"^(?:timesformer\.)?embeddings\.cls_token$", "cls_token"),
        (r"^(?:timesformer\.)?embeddings\.position_embeddings$", "pos_embed"),
        (r"^(?:timesformer\.)?embeddings\.time_embeddings$", "time_embed"),
        (r"^(?:timesformer\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.temporal_layernorm\.", r"blocks.\1.added.t.norm."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.temporal_attention\.attention\.", r"blocks.\1.added.t.attn."),
        (
            r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.temporal_attention\.output\.dense\.",
            r"blocks.\1.added.t.attn.proj.",
        ),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.temporal_dense\.", r"blocks.\1.added.t.attn.fc."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (r"^(?:timesformer\.)?encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
        (r"^(?:timesformer\.)?layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ),
)
"""``TimesformerForVideoClassification`` and the bare ``TimesformerModel``, patterns ``ts``, ``s`` and ``j``."""

FAMILIES: tuple[Family, ...] = (TRANSFORMERS,)
