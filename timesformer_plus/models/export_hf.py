"""TimeSformer the other way: a model of ours as ``transformers``' TimesformerForVideoClassification.

Theirs holds the plain model in its three published forms: divided (pattern ``ts``), joint (``j``) and space-only
(``s``). The first two answer with the same logits. The third is the same network up to its last step: theirs norms and
classifies the class token of every frame and returns (B*T, classes), ours averages the class tokens over the frames
first, as the published code does, and returns (B, classes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from timm.layers import GELU, GELUTanh, LayerNorm, LayerNormFp32, QuickGELU
from torch import Tensor, nn

from .layers import AxisAttention, SpaceTimeBlock
from .pattern import format_block
from .video_transformer import VideoTransformer

__all__ = ["ATTENTION_TYPES", "export_timesformer", "unsupported_by_timesformer"]

ATTENTION_TYPES = {"ts": "divided_space_time", "s": "space_only", "j": "joint_space_time"}
"""Patterns that ``transformers`` has, by its names."""

_ACTIVATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (GELU, "gelu"),
    (GELUTanh, "gelu_pytorch_tanh"),
    (QuickGELU, "quick_gelu"),
    (nn.SiLU, "silu"),
    (nn.ReLU, "relu"),
)

_LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNormFp32)

_KEYS: tuple[tuple[str, str], ...] = (
    (r"cls_token", "timesformer.embeddings.cls_token"),
    (r"pos_embed", "timesformer.embeddings.position_embeddings"),
    (r"time_embed", "timesformer.embeddings.time_embeddings"),
    (r"patch_embed\.proj\.(\w+)", r"timesformer.embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.added\.t\.norm\.(\w+)", r"timesformer.encoder.layer.\1.temporal_layernorm.\2"),
    (
        r"blocks\.(\d+)\.added\.t\.attn\.qkv\.(\w+)",
        r"timesformer.encoder.layer.\1.temporal_attention.attention.qkv.\2",
    ),
    (
        r"blocks\.(\d+)\.added\.t\.attn\.proj\.(\w+)",
        r"timesformer.encoder.layer.\1.temporal_attention.output.dense.\2",
    ),
    (r"blocks\.(\d+)\.added\.t\.attn\.fc\.(\w+)", r"timesformer.encoder.layer.\1.temporal_dense.\2"),
    (r"blocks\.(\d+)\.norm1\.(\w+)", r"timesformer.encoder.layer.\1.layernorm_before.\2"),
    (r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"timesformer.encoder.layer.\1.attention.attention.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"timesformer.encoder.layer.\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.norm2\.(\w+)", r"timesformer.encoder.layer.\1.layernorm_after.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"timesformer.encoder.layer.\1.intermediate.dense.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"timesformer.encoder.layer.\1.output.dense.\2"),
    (r"norm\.(\w+)", r"timesformer.layernorm.\1"),
    (r"head\.(\w+)", r"classifier.\1"),
)


def export_timesformer(
    model: nn.Module, classes: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Say a model in ``transformers``' words.

    Args:
        model: A ``VideoTransformer`` of plain TimeSformer's making.
        classes: Names of its classes; numbered if there are none.

    Returns:
        The content of config.json; the tensors by their names; and what became of every key of ours.

    Raises:
        ValueError: Something of the model has no counterpart there; every such thing is listed.
    """
    reasons = unsupported_by_timesformer(model)
    if reasons:
        raise ValueError(
            "transformers' TimesformerForVideoClassification cannot hold this model: " + "; ".join(reasons)
        )
    model = cast(VideoTransformer, model)
    state: dict[str, Tensor] = model.state_dict()
    renamed = {key: _rename(key) for key in state}
    return _config(model, classes), {renamed[key]: value for key, value in state.items()}, renamed


def unsupported_by_timesformer(model: nn.Module) -> list[str]:
    """List what keeps a model from being ``transformers``' TimeSformer.

    Args:
        model: Any model.

    Returns:
        One clause a reason; empty if there is none. What acts in training alone (dropout, stochastic depth) is none.
    """
    if type(model) is not VideoTransformer:
        return [f"it is a {type(model).__name__}, not a VideoTransformer"]
    plans = {format_block(plan.steps) + " |" * plan.starts_stage for plan in model.plan}
    found = []
    if len(plans) > 1 or not plans <= ATTENTION_TYPES.keys():
        found.append(f"pattern {model.pattern!r} is none of {', '.join(map(repr, ATTENTION_TYPES))}")
    found += _of_embedding(model) + _of_blocks(model) + _of_head(model)
    return found or _unknown_differences(model)


def _of_embedding(model: VideoTransformer) -> list[str]:
    size, patch = tuple(model.patch_embed.img_size), tuple(model.patch_embed.patch_size)
    tokens = (not model.has_class_token, model.num_reg_tokens > 0, model.pos_embed is None)
    checks = {
        f"tubelet_size={model.tubelet_size}: its patches are of single frames": model.tubelet_size > 1,
        f"frames of {size[0]}x{size[1]} pixels or patches of {patch[0]}x{patch[1]} are not square": (
            len(set(size)) > 1 or len(set(patch)) > 1
        ),
        "it has no class token, which is what theirs classifies": tokens[0],
        f"it has {model.num_reg_tokens} register tokens": tokens[1],
        "it has no learned position embedding of a frame": tokens[2],
        "its position embedding leaves out the class token (no_embed_class)": model.no_embed_class and not tokens[0],
        "it normalises before the first block (pre_norm)": _is_there(model.norm_pre),
        "it normalises patches (patch_norm)": _is_there(model.patch_embed.norm),
        "its patch embedding has no bias": model.patch_embed.proj.bias is None,
    }
    return [reason for reason, holds in checks.items() if holds]


def _of_blocks(model: VideoTransformer) -> list[str]:
    blocks = [block for block in model.blocks if isinstance(block, SpaceTimeBlock)]
    if len(blocks) < len(model.blocks):
        return [f"its blocks are {', '.join(sorted({type(block).__name__ for block in model.blocks}))}"]
    attentions = [part for part in model.modules() if isinstance(part, AxisAttention)]
    norms = [part for name, part in model.named_modules() if name.rpartition(".")[2] in ("norm", "norm1", "norm2")]
    norms = [norm for norm in norms if _is_there(norm)]
    # by class, for timm's LayerNorm2d is one too; one whose bias is missing has a missing key as well
    plain = [norm for norm in norms if type(norm) in _LAYER_NORMS and norm.elementwise_affine]
    others = sorted({type(norm).__name__ for norm in norms if norm not in plain})
    acts = {_activation(block.mlp) for block in blocks}
    checks = {
        "LayerScale (init_values)": any(_is_there(part) for block in blocks for part in (block.ls1, block.ls2)),
        "norms of queries and keys (qk_norm)": any(_is_there(a.q_norm) or _is_there(a.k_norm) for a in attentions),
        "norms inside the attention or the MLP (scale_attn_norm, scale_mlp_norm)": any(
            _is_there(part)
            for part in (*(a.norm for a in attentions), *(getattr(block.mlp, "norm", None) for block in blocks))
        ),
        "projections without bias (proj_bias=False)": any(a.proj.bias is None for a in attentions),
        f"an MLP of another kind ({type(blocks[0].mlp).__name__}, activation {acts})": None in acts or len(acts) > 1,
        f"norms other than LayerNorm with weight and bias: {', '.join(others)}": bool(others),
        "norms with different eps": len({norm.eps for norm in plain}) > 1,
        "some attentions with and some without qkv_bias": len({a.qkv is None or a.qkv.bias is None for a in attentions})
        > 1,
        "biases of queries and values without those of keys (k_bias=False)": any(
            getattr(a, "q_bias", None) is not None for a in attentions
        ),
    }
    return [reason for reason, holds in checks.items() if holds]


def _of_head(model: VideoTransformer) -> list[str]:
    checks = {
        f"global_pool={model.global_pool!r}: theirs classifies the class token": model.global_pool != "token",
        "a norm behind the pooling (fc_norm)": _is_there(model.fc_norm),
        "no norm behind the last block": not _is_there(model.norm),
        "no classifier (num_classes=0)": not isinstance(model.head, nn.Linear),
    }
    return [reason for reason, holds in checks.items() if holds]


def _unknown_differences(model: VideoTransformer) -> list[str]:
    """Hold a model against the plain one of its sizes, so that no option which is not listed above passes unseen."""
    config = _config(model, ())
    plain = VideoTransformer(
        pattern=format_block(model.plan[0].steps),
        num_frames=config["num_frames"],
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        in_chans=config["num_channels"],
        num_classes=len(config["id2label"]),
        embed_dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_ratio=(config["intermediate_size"] + 0.5) / config["hidden_size"],  # the width is rounded down
        qkv_bias=config["qkv_bias"],
        device="meta",
    )
    found = []
    for what, theirs, ours in (
        ("key", _shapes(plain.state_dict()), _shapes(model.state_dict())),
        ("module", _kinds(plain), _kinds(model)),
        ("scale", _scales(plain), _scales(model)),
    ):
        found += [
            f"{what} {name} is {ours.get(name)} and would have to be {theirs.get(name)}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
    arguments = {name: model._model_args.get(name) for name in ("pos_embed", "rope_type")}
    usual = (None, "", "none", "learn")
    found += [f"{name}={value!r}" for name, value in arguments.items() if value not in usual]
    return found[:8]


def _config(model: VideoTransformer, classes: tuple[str, ...]) -> dict[str, Any]:
    block = model.blocks[0]
    number = model.num_classes
    names = list(classes) or [f"LABEL_{i}" for i in range(number)]
    if len(names) != number:
        raise ValueError(f"{len(names)} class names were given for a model of {number} classes; give one a class")
    return {
        "architectures": ["TimesformerForVideoClassification"],
        "model_type": "timesformer",
        "attention_type": ATTENTION_TYPES.get(format_block(model.plan[0].steps)),
        "image_size": int(model.patch_embed.img_size[0]),
        "patch_size": int(model.patch_embed.patch_size[0]),
        "num_channels": int(model.in_chans),
        "num_frames": model.num_frames,
        "hidden_size": int(model.embed_dim),
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": int(block.attn.num_heads),
        "intermediate_size": int(block.mlp.fc1.out_features),
        "hidden_act": _activation(block.mlp),
        "layer_norm_eps": float(cast(nn.LayerNorm, model.norm).eps),
        "qkv_bias": block.attn.qkv.bias is not None,
        # of all that acts in training alone theirs has one rate for positions, projections and MLP: none is said
        # unless it is the same; its drop_path_rate is declared as an integer
        "hidden_dropout_prob": _dropout(model),
        "attention_probs_dropout_prob": float(block.attn.attn_drop.p),
        "drop_path_rate": 0,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "torch_dtype": str(model.head.weight.dtype).removeprefix("torch."),
    }


def _rename(key: str) -> str:
    for pattern, replacement in _KEYS:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    raise ValueError(f"{key!r} has no name in transformers' TimesformerForVideoClassification")


def _dropout(model: VideoTransformer) -> float:
    mlp = model.blocks[0].mlp
    rates = {model.pos_drop.p, model.blocks[0].attn.proj_drop.p, mlp.drop1.p, mlp.drop2.p}
    return float(rates.pop()) if len(rates) == 1 else 0.0


def _activation(mlp: nn.Module) -> str | None:
    """``transformers``' name of an MLP's activation; ``None`` for an MLP that is not two Linear around one."""
    act = getattr(mlp, "act", None)
    if not all(isinstance(getattr(mlp, name, None), nn.Linear) for name in ("fc1", "fc2")):
        return None
    if isinstance(act, nn.GELU):
        return "gelu" if getattr(act, "approximate", "none") == "none" else "gelu_pytorch_tanh"
    return next((name for kind, name in _ACTIVATIONS if isinstance(act, kind)), None)


def _is_there(module: nn.Module | None) -> bool:
    return module is not None and not isinstance(module, nn.Identity)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _kinds(model: nn.Module) -> dict[str, Any]:
    """Classes of all parts but activations, dropout, and subclasses of the same LayerNorm."""
    kinds: dict[str, Any] = {}
    for name, part in model.named_modules():
        last = name.rpartition(".")[2]
        if "drop" in last or last == "act":
            continue
        kinds[name] = "LayerNorm" if isinstance(part, nn.LayerNorm) else type(part).__name__
    return kinds


def _scales(model: nn.Module) -> dict[str, Any]:
    return {
        name: (part.scale, part.num_heads) for name, part in model.named_modules() if isinstance(part, AxisAttention)
    }
