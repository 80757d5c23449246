"""Who looks at whom: the attention weights of a video model as maps over a clip, and their rollout through all layers.

Inside the model a layer only holds the weights within its groups, one small matrix a group. Here they are put back
where they belong: one matrix a head over all tokens of the clip, query by key, zero between tokens that do not meet.
That matrix times the values *is* what the layer computes, prefix tokens and the averaging of their copies included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.group_attention import GroupAttention
from ..models.layers import SpaceTimeBlock
from ..models.pattern import BlockPlan
from ..models.tokens import LETTERS, Grid, fold
from ..models.video_transformer import VideoTransformer
from .cost import evaluating


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights of one attention of a model.

    Attributes:
        block: Index of its block.
        letters: Its letters; the heads are shared out among them in this order.
        grid: Counts of the patch tokens it runs on.
        num_prefix: Prefix tokens in front of them; T sets where each frame has its own.
        weights: (B, heads, N, N) with N = ``num_prefix`` + T*H*W; ``weights[b, k, q]`` says where token q takes its
            update from. A row sums to one, or is zero for a prefix token that the letter leaves out.
    """

    block: int
    letters: tuple[str, ...]
    grid: Grid
    num_prefix: int
    weights: Tensor

    def between_places(self) -> Tensor:
        """Weights between patch tokens alone, (B, heads, T, H, W, T, H, W): query place, then key place."""
        patches = self.weights[:, :, self.num_prefix :, self.num_prefix :]
        return patches.reshape(*patches.shape[:2], *self.grid, *self.grid)


def attention_maps(model: VideoTransformer, clips: Tensor, blocks: Sequence[int] | None = None) -> list[AttentionMap]:
    """Run clips through a model and return the weights of every attention in the chosen blocks.

    A map has N*N numbers a head, 9.8 MB for 8 x 224 px under patches of 16: choose blocks for large models.

    Args:
        model: The model; evaluated as in test, and left as it was.
        clips: As the model takes them, (B, C, T, H, W).
        blocks: Indices of blocks, negative ones from the end; all for None.

    Returns:
        The maps in the order in which the model runs its attentions.

    Raises:
        ValueError: A block that the model does not have.
    """
    depth = len(model.blocks)
    wanted = range(depth) if blocks is None else blocks
    if any(not -depth <= block < depth for block in wanted):
        raise ValueError(f"blocks={list(wanted)}: the model has blocks 0 to {depth - 1}")
    chosen = sorted({block % depth for block in wanted})
    return [_as_map(record) for record in _record(model, clips, chosen)]


def rollout(
    model: VideoTransformer,
    clips: Tensor,
    query: Literal["pooled"] | tuple[int, int, int] = "pooled",
) -> Tensor:
    """Where in the clip a model's answer comes from, by attention rollout (Abnar and Zuidema, arXiv 2005.00928).

    Every step of a block passes on half of what was there (its residual) and half of what its attention, averaged over
    the heads, brings in; steps multiply, through all blocks. Parallel attentions of a step (``+``) weigh one third
    each beside the residual, and so on. Where a pattern reduces a frame to one token (``|``), its weights go to the
    tokens that it was made from. Rollout knows nothing of values, MLPs and learned scales: it shows what could have
    flowed, not what mattered.

    Args:
        model: The model; evaluated as in test, and left as it was.
        clips: As the model takes them, (B, C, T, H, W).
        query: ``"pooled"``: what the head reads, the class token or the mean of the patch tokens; or the place
            (t, h, w) of one token of the last block.

    Returns:
        (B, T, H, W) over the token grid of the input, zero or more, summing to one a clip.

    Raises:
        ValueError: The model pools in another way and ``query`` is ``"pooled"``; a place outside the grid; or a
            pattern under which nothing of the clip reaches what is read.
    """
    records = _record(model, clips, range(len(model.blocks)))
    grid = first_grid = records[0].grid
    before: BlockPlan = model.plan[0]
    flow = _identity(records[0].num_prefix + grid.num_tokens, clips)
    for block, plan in zip(_blocks(model), model.plan, strict=True):
        if plan.starts_stage:
            flow = _reduction(model, grid, before, plan, flow) @ flow
            grid = Grid(grid.t, 1, 1)
        for step in block.steps:
            attentions = [_as_map(records.pop(0)).weights.mean(dim=1) for _ in step.attentions]
            mixed = _identity(flow.shape[-2], clips) + sum(attentions[1:], attentions[0])
            # a prefix token that the step leaves alone has only its residual, hence the sum and not a count
            flow = (mixed / mixed.sum(dim=-1, keepdim=True)) @ flow
        before = plan
    read = _read_out(model, query, grid, flow.shape[-2] - grid.num_tokens, before)
    heat = (read.to(flow) @ flow)[:, -first_grid.num_tokens :]
    total = heat.sum(dim=-1, keepdim=True)
    if not total.all():
        raise ValueError(f"pattern {model.pattern!r} lets nothing of the clip reach what is read ({query=})")
    return (heat / total).reshape(-1, *first_grid)


@dataclass
class _Record:
    block: int
    attention: GroupAttention
    grid: Grid
    num_prefix: int
    rows: list[Tensor] = field(default_factory=list)  # (B*G, heads, L, L), one a letter


def _blocks(model: VideoTransformer) -> list[SpaceTimeBlock]:
    return list(model.blocks)


def _record(model: VideoTransformer, clips: Tensor, blocks: Sequence[int]) -> list[_Record]:
    """Run the model with the weights of the chosen blocks in the open; a record for every attention, in their order."""
    records: list[_Record] = []
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(evaluating(model))
        for name in ("frames_apart", "fused"):  # tokens of a clip stay together, and all of them ask
            stack.callback(setattr, model, name, getattr(model, name))
            setattr(model, name, False)
        for index in blocks:
            block = _blocks(model)[index]
            num_prefix: list[int] = []  # of the block: an attention that leaves prefix tokens out never sees them
            stack.enter_context(_noting_prefix(block, num_prefix))
            for module in block.modules():
                if isinstance(module, GroupAttention):
                    stack.enter_context(_recording(module, index, num_prefix, records))
        model(clips)
    return records


@contextmanager
def _noting_prefix(block: SpaceTimeBlock, num_prefix: list[int]) -> Iterator[None]:
    def note_call(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        x, grid = arguments[:2]
        num_prefix[:] = [x.shape[1] - grid.num_tokens]

    hook = block.register_forward_pre_hook(note_call)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _recording(attention: GroupAttention, block: int, num_prefix: list[int], records: list[_Record]) -> Iterator[None]:
    def note_call(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        records.append(_Record(block, attention, arguments[1], num_prefix[0]))

    def note_weights(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        records[-1].rows.append(arguments[0])

    # Fused attention never holds its weights; the explicit path hands them to its dropout, letter by letter.
    fused, attention.fused_attn = attention.fused_attn, False
    hooks = [
        attention.register_forward_pre_hook(note_call),
        attention.attn_drop.register_forward_pre_hook(note_weights),
    ]
    try:
        yield
    finally:
        attention.fused_attn = fused
        for hook in hooks:
            hook.remove()


def _as_map(record: _Record) -> AttentionMap:
    letters = record.attention.letters
    weights = [_ungroup(rows, record, letter) for rows, letter in zip(record.rows, letters, strict=True)]
    return AttentionMap(record.block, letters, record.grid, record.num_prefix, torch.cat(weights, dim=1))


def _ungroup(rows: Tensor, record: _Record, letter: str) -> Tensor:
    """Weights within groups, (B*G, heads, L, L), to weights between all tokens, (B, heads, N, N)."""
    grid, num_prefix = record.grid, record.num_prefix
    places = torch.arange(grid.num_tokens, device=rows.device)
    tokens = num_prefix + fold(places.view(1, -1, 1), grid, letter).squeeze(-1)  # (G, L): who is who in a group
    groups = len(tokens)
    frames = grid.t if record.attention.per_frame_prefix else 1
    copies = num_prefix // frames if LETTERS[letter].prefix else 0
    if copies:
        frame = torch.arange(groups, device=rows.device) // (groups // frames)  # groups come frame by frame
        prefix = frame.view(-1, 1) * copies + torch.arange(copies, device=rows.device)
        tokens = torch.cat([prefix, tokens], dim=1)
    N = num_prefix + grid.num_tokens
    weights = rows.reshape(-1, groups, *rows.shape[1:]).transpose(1, 2).clone()  # (B, heads, G, L, L)
    weights[..., :copies, :] /= groups // frames  # the copies of a prefix token are averaged
    cells = tokens.unsqueeze(2) * N + tokens.unsqueeze(1)
    full = weights.new_zeros(*weights.shape[:2], N * N)
    return full.index_add_(2, cells.flatten(), weights.flatten(2)).reshape(*full.shape[:2], N, N)


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, device=like.device).unsqueeze(0)


def _reduction(model: VideoTransformer, grid: Grid, before: BlockPlan, after: BlockPlan, flow: Tensor) -> Tensor:
    """What the ``|`` of a pattern does, as a matrix: tokens behind it by tokens before it."""
    places, N = grid.h * grid.w, flow.shape[-2]
    cut = N - grid.num_tokens
    frames = flow.new_zeros(grid.t, N)
    for t in range(grid.t):
        if before.class_token_holds_frame and model.has_class_token:
            frames[t, t * (cut // grid.t)] = 1
        else:
            frames[t, cut + t * places : cut + (t + 1) * places] = 1 / places
    prefix = torch.eye(cut, N, device=flow.device)
    if before.per_frame_prefix and not after.per_frame_prefix and cut:
        prefix = prefix.reshape(grid.t, -1, N).mean(dim=0)
    return torch.cat([prefix, frames]).unsqueeze(0)


def _read_out(
    model: VideoTransformer,
    query: Literal["pooled"] | tuple[int, int, int],
    grid: Grid,
    num_prefix: int,
    plan: BlockPlan,
) -> Tensor:
    """How much of every token behind the last block is read, (N,)."""
    read = torch.zeros(num_prefix + grid.num_tokens)
    if query != "pooled":
        if not all(0 <= place < side for place, side in zip(query, grid, strict=True)):
            raise ValueError(f"{query=} is no place (t, h, w) of the last block's {grid}")
        t, h, w = query
        read[num_prefix + (t * grid.h + h) * grid.w + w] = 1
    elif model.global_pool == "token" and model.has_class_token:
        sets = grid.t if plan.per_frame_prefix else 1  # class tokens of the frames are averaged
        read[: num_prefix : num_prefix // sets] = 1 / sets
    elif model.global_pool == "avg":
        read[num_prefix:] = 1 / grid.num_tokens
    else:
        raise ValueError(
            f"what global_pool={model.global_pool!r} reads is no fixed mean of tokens; give query=(t, h, w), a place"
        )
    return read
