"""What a config.json of ``transformers`` says about a video model, in our words. Read as JSON: nothing is imported.

Four architectures are known: TimeSformer, VideoMAE, ViViT (model 1) and V-JEPA 2, with a classifier or without. Keys
that a file leaves out have the defaults of their configuration classes, as ``from_pretrained`` would have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TransformersModel", "read_preprocessor_config", "read_transformers_config"]


@dataclass(frozen=True)
class TransformersModel:
    """A video model as its config.json describes it.

    Attributes:
        family: First word of the registered names that it may have: ``"timesformer"``, ``"vjepa2"`` ...
        model_args: Arguments of such a name, in timm's words, all that the file settles.
        classes: Names of the classes; empty if it has no classifier or its classes have numbers only.
        multi_label: Whether it scores every class by itself.
    """

    family: str
    model_args: dict[str, Any]
    classes: tuple[str, ...]
    multi_label: bool


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",  # one formula under three names
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

_ENCODER = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "timesformer": {**_ENCODER, "num_frames": 8, "attention_type": "divided_space_time"},
    "videomae": {
        **_ENCODER,
        "num_frames": 16,
        "tubelet_size": 2,
        "layer_norm_eps": 1e-12,
        "use_mean_pooling": True,
    },
    "vivit": {**_ENCODER, "num_frames": 32, "tubelet_size": [2, 16, 16], "hidden_act": "gelu_fast"},
    "vjepa2": {
        "crop_size": 256,
        "patch_size": 16,
        "in_chans": 3,
        "frames_per_clip": 64,
        "tubelet_size": 2,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "mlp_ratio": 4.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "num_pooler_layers": 3,
    },
}


def read_transformers_config(config: Mapping[str, Any]) -> TransformersModel:
    """Read the content of a config.json.

    Args:
        config: The parsed file.

    Raises:
        ValueError: Another architecture, or an option that no model of ours has.
    """
    family = config.get("model_type")
    if family not in _DEFAULTS:
        raise ValueError(f"model_type {family!r} is none of those that can be read: {', '.join(_DEFAULTS)}")
    said = {**_DEFAULTS[family], **{key: value for key, value in config.items() if value is not None}}
    if family == "videomae":  # renamed in transformers 5
        said["qkv_bias"] = config.get("qv_bias", said["qkv_bias"])
    # to transformers a model is what its class says; a file without it is read as the classifier
    kinds = [str(name) for name in said.get("architectures", ())]
    has_head = not kinds or any(kind.endswith("ForVideoClassification") for kind in kinds)
    labels = _labels(said) if has_head else ()
    readers: dict[str, Callable[[dict[str, Any], bool], dict[str, Any]]] = {
        "timesformer": _timesformer,
        "videomae": _videomae,
        "vivit": _vivit,
        "vjepa2": _vjepa2,
    }
    args = {**_shared(said), **readers[family](said, has_head), "num_classes": len(labels)}
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in labels)
    return TransformersModel(
        family=family,
        model_args=args,
        classes=() if unnamed else labels,
        multi_label=said.get("problem_type") == "multi_label_classification",
    )


def read_preprocessor_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a preprocessor_config.json of ``transformers`` does to pixels.

    Args:
        config: The parsed file; empty if there is none.

    Returns:
        What the file settles of ``mean`` and ``std``, for pixels in 0..1, and of ``short_side``, to which the shorter
        side of a frame is resized before the crop.
    """
    kinds = " ".join(str(config.get(f"{kind}_processor_type")) for kind in ("image", "video"))
    is_vivit = "Vivit" in kinds + str(config.get("feature_extractor_type"))
    said: dict[str, Any] = {}
    mean, std = config.get("image_mean"), config.get("image_std")
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if mean is not None and std is not None:
        # theirs scales bytes, ours numbers in 0..1; ViViT's subtracts 1 before it normalises
        factor = (
            config.get("rescale_factor", 1 / 127.5 if is_vivit else 1 / 255) if config.get("do_rescale", True) else 1
        )
        offset = 1.0 if config.get("offset", is_vivit) else 0.0
        scale = round(255 * float(factor), 6)
        said = {
            "mean": tuple((float(value) + offset) / scale for value in mean),
            "std": tuple(float(value) / scale for value in std),
        }
    size = config.get("size")
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if isinstance(side, int) and config.get("do_resize", True):
        said["short_side"] = side
    return said


def _shared(said: dict[str, Any]) -> dict[str, Any]:
    act = said["hidden_act"]
    if act not in _ACTIVATIONS:
        raise ValueError(f"hidden_act {act!r} is none of those that can be read: {', '.join(_ACTIVATIONS)}")
    width = int(said["hidden_size"])
    args = {
        "embed_dim": width,
        "depth": int(said["num_hidden_layers"]),
        "num_heads": int(said["num_attention_heads"]),
        "act_layer": _ACTIVATIONS[act],
        "norm_eps": float(said["layer_norm_eps"]),
        "qkv_bias": bool(said["qkv_bias"]),
        "in_chans": int(said.get("num_channels", said.get("in_chans", 3))),
        "mlp_ratio": float(said.get("mlp_ratio", 4.0)),
    }
    if "intermediate_size" in said:
        ratio = int(said["intermediate_size"]) / width
        # the width is rounded down: what is not a multiple aims at the middle between two widths
        args["mlp_ratio"] = ratio if int(width * ratio) == said["intermediate_size"] else ratio + 0.5 / width
    return args


def _timesformer(said: dict[str, Any], has_head: bool) -> dict[str, Any]:  # noqa: ARG001
    patterns = {"divided_space_time": "ts", "joint_space_time": "j", "space_only": "s"}
    kind = said["attention_type"]
    if kind not in patterns:
        raise ValueError(f"attention_type {kind!r} is none of {', '.join(patterns)}")
    return {
        "pattern": patterns[kind],
        "img_size": _pair(said["image_size"]),
        "patch_size": _pair(said["patch_size"]),
        "num_frames": int(said["num_frames"]),
    }


def _videomae(said: dict[str, Any], has_head: bool) -> dict[str, Any]:
    mean_pooling = bool(said["use_mean_pooling"])
    if has_head and not mean_pooling:
        raise ValueError("use_mean_pooling=false classifies the first patch of the clip; no model of ours does that")
    qkv_bias = bool(said["qkv_bias"])
    return {
        "img_size": _pair(said["image_size"]),
        "patch_size": _pair(said["patch_size"]),
        "num_frames": int(said["num_frames"]),
        "tubelet_size": int(said["tubelet_size"]),
        "k_bias": not qkv_bias,  # with it theirs has biases of q and v, and none of k
        "global_pool": "avg",
        "fc_norm": has_head,
        "final_norm": has_head or not mean_pooling,
        **({"fc_norm_eps": 1e-5} if has_head else {}),  # of torch, whatever layer_norm_eps says
    }


def _vivit(said: dict[str, Any], has_head: bool) -> dict[str, Any]:  # noqa: ARG001
    tubelet, *patch = (int(value) for value in said["tubelet_size"])
    return {
        "img_size": _pair(said["image_size"]),
        "patch_size": tuple(patch),
        "num_frames": int(said["num_frames"]),
        "tubelet_size": tubelet,
    }


def _vjepa2(said: dict[str, Any], has_head: bool) -> dict[str, Any]:
    pooling: dict[str, Any] = {"global_pool": "avg", "fc_norm": False}
    if has_head:
        pooling = {
            "global_pool": "map",
            "attn_pool_type": "attentive",
            "attn_pool_depth": int(said["num_pooler_layers"]),
        }
    return {
        "img_size": _pair(said["crop_size"]),
        "patch_size": _pair(said["patch_size"]),
        "num_frames": int(said["frames_per_clip"]),
        "tubelet_size": int(said["tubelet_size"]),
        **pooling,
    }


def _labels(said: dict[str, Any]) -> tuple[str, ...]:
    given = said.get("id2label")
    if given is None:
        return tuple(f"LABEL_{i}" for i in range(int(said.get("num_labels", 2))))
    numbered = {int(i): str(name) for i, name in given.items()}
    if sorted(numbered) != list(range(len(numbered))):
        raise ValueError(f"id2label numbers its {len(numbered)} classes from {min(numbered)} to {max(numbered)}")
    return tuple(numbered[i] for i in range(len(numbered)))


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, (list, tuple)) else (value, value)
    return int(height), int(width)
