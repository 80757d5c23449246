"""Key tables of VideoMAE (arXiv 2203.12602, 2303.16727): transformers, and the original repositories of both versions.

Fine-tuned files of the original repositories have our names already. The table of positions is in none of the files.
"""

from __future__ import annotations

from torch import Tensor, nn

from .families import Family
from .fused import join_qkv

__all__ = ["ORIGINAL", "TRANSFORMERS"]

_DECODER = "of the decoder that pre-training reconstructs pixels with; the encoder has no use for it"
_LAYER = r"^(?:videomae\.)?encoder\.layer\.(\d+)\."


def _join(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Join q, k and v; refuse a model with other positions, since the file has none that could be missed."""
    has = getattr(model, "pos_embed_type", "learn")
    if has != "sincos":
        raise ValueError(
            f"VideoMAE has pos_embed='sincos', the model pos_embed={has!r}, with which its weights "
            "mean nothing; create it with pos_embed='sincos'"
        )
    return join_qkv(state_dict, model)


TRANSFORMERS = Family(
    name="VideoMAE (transformers)",
    anchor=r"^(?:videomae\.)?encoder\.layer\.\d+\.attention\.attention\.query\.weight$",
    rows=(
        (r"^(?:videomae\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (_LAYER + r"layernorm_before\.", r"blocks.\1.norm1."),
        # written apart up to transformers 4, as biases of the projections since; the hub has the former
        (_LAYER + r"attention\.attention\.([qv])_bias$", r"blocks.\1.attn.\2_bias"),
        (_LAYER + r"attention\.attention\.query\.", r"blocks.\1.attn.q."),
        (_LAYER + r"attention\.attention\.key\.", r"blocks.\1.attn.k."),
        (_LAYER + r"attention\.attention\.value\.", r"blocks.\1.attn.v."),
        (_LAYER + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"layernorm_after\.", r"blocks.\1.norm2."),
        (_LAYER + r"intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
        (_LAYER + r"output\.dense\.", r"blocks.\1.mlp.fc2."),
        (r"^(?:videomae\.)?layernorm\.", "norm."),
        (r"^fc_norm\.", "fc_norm."),
        (r"^classifier\.", "head."),
    ),
    ignored=((r"^(decoder\.|encoder_to_decoder\.|mask_token$|position_embeddings$)", _DECODER),),
    convert=_join,
)
"""``VideoMAEForVideoClassification``, ``VideoMAEForPreTraining`` (its encoder) and ``VideoMAEModel``.

Models without mean pooling end in a norm, and are ours with ``global_pool="avg", fc_norm=False``; their classifier in
transformers reads the first patch token where ours reads the mean.
"""

ORIGINAL = Family(
    name="VideoMAE (original repository)",
    anchor=r"^(?:encoder|model|module|backbone)\.blocks\.\d+\.attn\.q_bias$",
    rows=((r"^(?:encoder|model|module|backbone)\.(.+)$", r"\1"), (r"^((?:head|fc_norm|norm)\..+)$", r"\1")),
    ignored=((r"^(?:module\.)?(decoder\.|encoder_to_decoder\.|mask_token$)", _DECODER),),
    convert=_join,
)
"""Files of pre-training, whose encoder has a prefix, and models inside a wrapper; versions 1 and 2."""
