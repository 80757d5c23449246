"""Queries, keys and values that other projects store apart, joined as timm has them, and taken apart again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["join_qkv", "split_qkv"]


def join_qkv(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Join ``*.q.*``, ``*.k.*`` and ``*.v.*`` of every attention into ``*.qkv.*``, and of a pooler k and v into ``kv``.

    A bias of queries and values without one of keys goes to ``q_bias`` and ``v_bias`` if the model has those, else to
    ``qkv.bias`` with zeros for the keys. The other way about, a bias of keys that is zero throughout may go; another is
    left where the comparison with the model will find it.

    Args:
        state_dict: Tensors by our names, but for those of queries, keys and values.
        model: The model that they are meant for.

    Returns:
        Tensors by our names.
    """
    joined = dict(state_dict)
    own = model.state_dict().keys()
    attentions = {key.removesuffix(".k.weight") for key in state_dict if key.endswith(".k.weight")}
    for attention in sorted(attentions):
        if f"{attention}.kv.weight" in own:  # a pooler: its query is another token's
            for kind in ("weight", "bias"):
                parts = [joined.pop(f"{attention}.{name}.{kind}", None) for name in "kv"]
                if parts[0] is not None and parts[1] is not None:
                    joined[f"{attention}.kv.{kind}"] = torch.cat([parts[0], parts[1]])
            continue
        names = [f"{attention}.{name}.weight" for name in "qkv"]
        if all(name in joined for name in names):
            joined[f"{attention}.qkv.weight"] = torch.cat([joined.pop(name) for name in names])
        _join_bias(joined, attention, apart=f"{attention}.q_bias" in own)
    return joined


def _join_bias(joined: dict[str, Tensor], attention: str, *, apart: bool) -> None:
    """Bring the biases of one attention to where the model has them, in place."""
    for name in "qv":  # two ways of writing the same
        if f"{attention}.{name}_bias" in joined:
            joined[f"{attention}.{name}.bias"] = joined.pop(f"{attention}.{name}_bias")
    biases = {name: joined.get(f"{attention}.{name}.bias") for name in "qkv"}
    q, k, v = biases["q"], biases["k"], biases["v"]
    if q is None or v is None or (apart and k is not None and bool(k.any())):
        return
    for name in "qkv":
        joined.pop(f"{attention}.{name}.bias", None)
    if apart:
        joined[f"{attention}.q_bias"], joined[f"{attention}.v_bias"] = q, v
    else:
        joined[f"{attention}.qkv.bias"] = torch.cat([q, torch.zeros_like(q) if k is None else k, v])


def split_qkv(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take ``qkv`` and ``kv`` apart, the way back from ``join_qkv``.

    Args:
        state_dict: Tensors by our names.

    Returns:
        The same with ``q``, ``k`` and ``v``; ``q_bias`` and ``v_bias`` become ``q.bias`` and ``v.bias``.
    """
    split: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        module, _, kind = key.rpartition(".")
        if kind in ("q_bias", "v_bias"):
            split[f"{module}.{kind[0]}.bias"] = tensor
        elif module.endswith((".qkv", ".kv")):
            attention, _, names = module.rpartition(".")
            for name, part in zip(names, tensor.chunk(len(names)), strict=True):
                split[f"{attention}.{name}.{kind}"] = part
        else:
            split[key] = tensor
    return split
