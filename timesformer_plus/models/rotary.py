"""Rotary positions: how queries and keys are turned by the places of their tokens."""

from __future__ import annotations

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from .tokens import LETTERS, Grid

__all__ = ["only_letters_of_time", "rotary_1d", "rotate"]


def rotate(x: Tensor, rope: Tensor, half: bool, num_prefix: int = 0) -> Tensor:
    """Turn the channels of every patch token by the angles of its place; prefix tokens have none and stay.

    Args:
        x: Queries or keys, (B, P + N, heads, d).
        rope: Sines in front of cosines, (N, 2*d), or (heads, N, 2*d) for angles that differ by head. Channels that are
            not to be turned have sine 0 and cosine 1.
        half: Whether channel i is paired with i + d/2 (timm's ``rotate_half``), or with its neighbour.
        num_prefix: P.

    Returns:
        Same shape and type as ``x``.

    Raises:
        ValueError: Angles for another number of tokens, channels or heads.
    """
    N, heads, d = x.shape[1] - num_prefix, *x.shape[2:]
    if rope.shape not in ((N, 2 * d), (heads, N, 2 * d)):
        raise ValueError(
            f"rope must be (N, 2*d) = {(N, 2 * d)} or (heads, N, 2*d) = {(heads, N, 2 * d)} for {N} patch tokens of "
            f"{heads} heads, got {tuple(rope.shape)}"
        )
    rope = rope.unsqueeze(1) if rope.ndim == 2 else rope.transpose(0, 1)
    turned: Tensor = apply_rot_embed_cat(x[:, num_prefix:], rope, half=half)
    turned = turned.type_as(x)
    return torch.cat([x[:, :num_prefix], turned], dim=1) if num_prefix else turned


def only_letters_of_time(rope: Tensor, letters: tuple[str, ...], num_heads: int) -> Tensor | None:
    """Restrict angles of time to the heads whose letters let frames meet.

    Inside a frame all angles of time are equal, which changes nothing between patch tokens. Between them and a prefix
    token, which is not turned, it would: a class token would see every frame differently.

    Args:
        rope: (N, 2*d).
        letters: Letters of an attention, which share its heads evenly.
        num_heads: Heads of the attention.

    Returns:
        ``rope`` if all letters use time, ``None`` if none does, else (heads, N, 2*d) with no turn for the others.
    """
    uses = [LETTERS[letter].uses_time for letter in letters]
    if all(uses) or not any(uses):
        return rope if uses[0] else None
    sine, cosine = rope.chunk(2, dim=-1)
    still = torch.cat([torch.zeros_like(sine), torch.ones_like(cosine)], dim=-1)
    share = num_heads // len(letters)
    return torch.stack([rope if used else still for used in uses for _ in range(share)])


def rotary_1d(
    grid: Grid, head_dim: int, half: bool, temperature: float = 10000.0, device: torch.device | str | None = None
) -> Tensor:
    """Compute angles along time: moment t turns channel pair i by t * temperature^(-2i/d) (RoFormer, arXiv 2104.09864).

    Args:
        grid: Token counts.
        head_dim: Channels d of a head, even.
        half: Pairs of channels as in ``rotate``.
        temperature: Base of the frequencies.
        device: Where to compute.

    Returns:
        (T*H*W, 2*d), sines in front of cosines, float32, equal at all places of a moment.

    Raises:
        ValueError: An odd number of channels.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions turn pairs of channels, got {head_dim=}; choose another num_heads")
    rate = temperature ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(grid.t, device=device, dtype=torch.float32)[:, None] * rate
    angle = angle.repeat(1, 2) if half else angle.repeat_interleave(2, dim=-1)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).repeat_interleave(grid.h * grid.w, dim=0)
