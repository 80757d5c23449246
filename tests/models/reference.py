"""Slow, obvious attention: who sees whom written out token by token, without the package's table of letters."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

Place = tuple[int, int, int]
PREFIX_STAYS_OUT = {"t", "c"}


def places(grid: tuple[int, int, int]) -> list[Place]:
    """All (t, h, w), time-major, width fastest."""
    return list(itertools.product(*map(range, grid)))


def same_group(letter: str, a: Place, b: Place, grid: tuple[int, int, int]) -> bool:
    """Whether two places are in one group: the README's table in plain words."""
    if letter in "tc":
        return a[1] == b[1] and a[2] == b[2]
    if letter == "h":
        return a[0] == b[0] and a[2] == b[2]
    if letter == "w":
        return a[0] == b[0] and a[1] == b[1]
    if letter == "s":
        return a[0] == b[0]
    if letter == "j":
        return True
    if letter == "l":
        return (2 * a[1] >= grid[1]) == (2 * b[1] >= grid[1]) and (2 * a[2] >= grid[2]) == (2 * b[2] >= grid[2])
    if letter == "g":
        return all((i - j) % 2 == 0 for i, j in zip(a, b, strict=True))
    raise AssertionError(letter)


def sees(letter: str, query: Place, key: Place, grid: tuple[int, int, int]) -> bool:
    """Whether the key's place is in the query's softmax."""
    return same_group(letter, query, key, grid) and not (letter == "c" and key[0] > query[0])


def groups(letter: str, grid: tuple[int, int, int]) -> list[list[int]]:
    """Token indices of every group."""
    everyone = places(grid)
    found: list[list[int]] = []
    for a in everyone:
        group = [i for i, b in enumerate(everyone) if same_group(letter, a, b, grid)]
        if group not in found:
            found.append(group)
    return found


def softmax_over(q: Tensor, keys: list[int], k: Tensor, v: Tensor) -> Tensor:
    """One query (B, d) over chosen keys of (B, N, d)."""
    scores = torch.stack([(q * k[:, i]).sum(-1) for i in keys], dim=-1) / q.shape[-1] ** 0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return sum(weights[:, [n]] * v[:, i] for n, i in enumerate(keys))


def attend(letter: str, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], per_frame: bool = False) -> Tensor:
    """One head, (B, N, d) each, to (B, N, d); a prefix token that stays out gets zero."""
    everyone = places(grid)
    P = q.shape[1] - len(everyone)
    joins = letter not in PREFIX_STAYS_OUT
    frames = grid[0] if per_frame else 1
    copies = P // frames

    def prefix_of(t: int) -> list[int]:
        """Prefix tokens in the groups of frame t."""
        first = (t if per_frame else 0) * copies
        return list(range(first, first + copies)) if joins else []

    out = []
    for p in range(P):
        if not joins:
            out.append(torch.zeros_like(q[:, p]))
            continue
        t = p // copies if per_frame else 0
        mine = [g for g in groups(letter, grid) if not per_frame or everyone[g[0]][0] == t]
        updates = [softmax_over(q[:, p], prefix_of(t) + [P + i for i in g], k, v) for g in mine]
        out.append(sum(updates) / len(updates))
    for i, a in enumerate(everyone):
        keys = prefix_of(a[0]) + [P + j for j, b in enumerate(everyone) if sees(letter, a, b, grid)]
        out.append(softmax_over(q[:, P + i], keys, k, v))
    return torch.stack(out, dim=1)


def turned(x: Tensor, rope: Tensor, num_prefix: int, half: bool) -> Tensor:
    """One head (B, N, d) with every patch token turned by its own angles (its row of sines, then cosines)."""
    d = x.shape[-1]
    first = [i for i in range(d) if (i < d // 2 if half else i % 2 == 0)]
    partner = {i: i + (d // 2 if half else 1) for i in first}
    tokens = [x[:, p] for p in range(num_prefix)]
    for token, angles in zip(x[:, num_prefix:].unbind(1), rope, strict=True):
        sine, cosine = angles[:d], angles[d:]
        channels = list(token.unbind(-1))
        for i, j in partner.items():
            a, b = channels[i], channels[j]
            channels[i], channels[j] = a * cosine[i] - b * sine[i], b * cosine[j] + a * sine[j]
        tokens.append(torch.stack(channels, dim=-1))
    return torch.stack(tokens, dim=1)


def projected(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, (B, N, heads*d) each; those of keys and values have their own, fewer heads."""
    if layer.qkv is None:
        return layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    if getattr(layer, "q_bias", None) is not None:
        q, v = q + layer.q_bias, v + layer.v_bias
    return q, k, v


def attention(
    layer: torch.nn.Module,
    x: Tensor,
    grid: tuple[int, int, int],
    rope: Tensor | None = None,
    time_rope: Tensor | None = None,
) -> Tensor:
    """What an attention in groups without dropout has to compute from (B, P + T*H*W, C), by its weights."""
    H, d = layer.num_heads, layer.head_dim
    P = x.shape[1] - len(places(grid))
    q, k, v = projected(layer, x)
    share = H // len(layer.letters)
    heads = []
    for h in range(H):
        letter = layer.letters[h // share]
        served = h // (q.shape[-1] // k.shape[-1])  # the head of keys and values for this head of queries
        mine, theirs = slice(h * d, (h + 1) * d), slice(served * d, (served + 1) * d)
        queries, keys = layer.q_norm(q[..., mine]), layer.k_norm(k[..., theirs])
        angles = [] if rope is None else [rope if rope.ndim == 2 else rope[h]]
        if time_rope is not None and letter not in "shw":
            angles.append(time_rope)
        for angle in angles:
            half = getattr(layer, "rotate_half", False)
            queries, keys = turned(queries, angle, P, half), turned(keys, angle, P, half)
        heads.append(attend(letter, queries, keys, v[..., theirs], grid, layer.per_frame_prefix))
    y = layer.norm(torch.cat(heads, dim=-1))
    if getattr(layer, "gate", None) is not None:
        y = y / (1 + torch.exp(-layer.gate(x)))
    y = layer.proj(y)
    if layer.fc is not None:
        y = layer.fc(y)
    if all(letter in PREFIX_STAYS_OUT for letter in layer.letters):
        y = torch.cat([torch.zeros_like(y[:, :P]), y[:, P:]], dim=1)
    return y


def reach(letter: str, grid: tuple[int, int, int], num_prefix: int, per_frame: bool = False) -> Tensor:
    """Which inputs (columns) a block with one letter lets into which outputs (rows), its residual included."""
    everyone = places(grid)
    joins = letter not in PREFIX_STAYS_OUT
    copies = num_prefix // (grid[0] if per_frame else 1)
    frame = [p // copies if per_frame else None for p in range(num_prefix)] + [a[0] for a in everyone]

    def meet(a: int, b: int) -> bool:
        if a >= num_prefix and b >= num_prefix:
            return sees(letter, everyone[a - num_prefix], everyone[b - num_prefix], grid)
        return joins and (not per_frame or frame[a] == frame[b])

    n = num_prefix + len(everyone)
    return torch.tensor([[a == b or meet(a, b) for b in range(n)] for a in range(n)])
