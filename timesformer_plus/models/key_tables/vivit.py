"""Key table of ViViT's model 1 (arXiv 2103.15691, section 3.3): transformers."""

from __future__ import annotations

from .families import Family
from .fused import join_qkv

__all__ = ["FAMILIES"]

_LAYER = r"^(?:vivit\.)?(?:encoder\.layer|layers)\.(\d+)\."

TRANSFORMERS = Family(
    name="ViViT (transformers)",
    anchor=r"^(?:vivit\.)?embeddings\.position_embeddings$|^vivit\.",
    rows=(
        (r"^(?:vivit\.)?embeddings\.cls_token$", "cls_token"),
        (r"^(?:vivit\.)?embeddings\.position_embeddings$", "pos_embed"),
        (r"^(?:vivit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
        # names of the files on the hub, then those of transformers since version 5
        (_LAYER + r"attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r"blocks.\1.attn.\2."),
        (_LAYER + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (_LAYER + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
        (_LAYER + r"attention\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
        (_LAYER + r"attention\.o_proj\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"mlp\.fc([12])\.", r"blocks.\1.mlp.fc\2."),
        (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
        (r"^(?:vivit\.)?layernorm\.", "norm."),
        (r"^classifier\.", "head."),
    ),
    ignored=((r"^(?:vivit\.)?pooler\.dense\.", "a pooler of VivitModel that its classifier does not use"),),
    convert=join_qkv,
)
"""``VivitForVideoClassification`` and ``VivitModel``."""

FAMILIES: tuple[Family, ...] = (TRANSFORMERS,)
