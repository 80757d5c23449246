"""Dropout and stochastic depth whose masks belong to the clip, whatever batch, process or micro-batch it is in.

torch draws the masks of a batch from one stream, so they change with the number of processes and of micro-batches.
Here a mask is a hash of (the clip's seed, the layer's name, the element): no generator has a state that would have to
be saved, activation checkpointing finds the same mask again, ``torch.compile`` sees integer arithmetic, and every
device computes the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.layers import DropBlock2d, DropPath, PatchDropout
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

BITS = 0xFFFFFFFF


class Draws:
    """What the layers of one network draw their masks from.

    Attributes:
        names: int64 (2, layers, 1): two words of 32 bits that stand for the name of each layer.
        words: int64 (3, layers, B), on the device of the clips: two words of 32 bits that key a clip's masks in a
            layer, and the one that decides about its first element. ``None`` while there are no clips.
    """

    names: Tensor
    words: Tensor | None = None

    def of(self, layer: int, x: Tensor) -> Tensor:
        """A layer's words for the clips that ``x`` is of, (3, B)."""
        if self.words is None:
            raise RuntimeError(_UNSEEDED)
        words = self.words[:, layer].to(x.device)
        if x.shape[0] % words.shape[1]:
            raise ValueError(f"{x.shape[0]} rows are not those of {words.shape[1]} clips, for which there are seeds")
        return words

    def check(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Refuse a batch of other clips than there are seeds for: half as many would pass for groups of the clips."""
        if not network.training or not inputs or not isinstance(inputs[0], Tensor):
            return
        if self.words is None:
            raise RuntimeError(_UNSEEDED)
        if self.words.shape[2] != inputs[0].shape[0]:
            raise ValueError(f"there are {self.words.shape[2]} seeds for a batch of {inputs[0].shape[0]} clips")


_UNSEEDED = "no seeds to draw masks from: call SampleDropout.seed before a forward pass in training"


class PerSampleDropout(nn.Dropout):
    """``nn.Dropout`` with the masks of the clips.

    Args:
        p: Probability of an element to be zeroed.
        draws: Where the masks come from.
        layer: Number of this layer in it.
    """

    def __init__(self, p: float, draws: Draws, layer: int) -> None:
        super().__init__(p)
        self.draws = draws
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements of (B, ...), or of (B*G, ...) with the groups of a clip together; scale the others."""
        if not self.training or self.p == 0:
            return x
        words = self.draws.of(self.layer, x)
        kept = _hash_elements(words, x.numel() // words.shape[1]) >= _threshold(self.p)
        # what is kept for the backward pass is the mask, a byte an element
        return x * kept.view(x.shape) * (1 / (1 - self.p) if self.p < 1 else 0.0)


class PerSampleDropPath(DropPath):  # type: ignore[misc]  # timm is untyped
    """timm's ``DropPath`` with the masks of the clips.

    Args:
        drop_prob: Probability of a row to be zeroed.
        scale_by_keep: Whether to scale the others by ``1 / (1 - drop_prob)``.
        draws: Where the masks come from.
        layer: Number of this layer in it.
    """

    def __init__(self, drop_prob: float, scale_by_keep: bool, draws: Draws, layer: int) -> None:
        super().__init__(drop_prob, scale_by_keep)
        self.draws = draws
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Zero rows of (B, ...), or of (B*G, ...) with the groups of a clip together; scale the others."""
        if not self.training or not self.drop_prob:
            return x
        words = self.draws.of(self.layer, x)
        rows = x.shape[0] // words.shape[1]
        numbers = words[2] if rows == 1 else _hash_elements(words, rows).flatten()
        mask = (numbers >= _threshold(self.drop_prob)).to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        if self.scale_by_keep and self.drop_prob < 1:
            mask = mask / (1 - self.drop_prob)
        return x * mask


class SampleDropout:
    """What gives the dropout and the stochastic depth of a network their seeds; ``per_sample_dropout`` makes it.

    Attributes:
        layers: Names of the layers whose masks are those of the clips.
        notes: What had to be changed about the network for it, a sentence each.
    """

    def __init__(self, network: nn.Module, draws: Draws, layers: tuple[str, ...], notes: tuple[str, ...]) -> None:
        self.layers = layers
        self.notes = notes
        self._network = network
        self._draws = draws

    def seed(self, seeds: Sequence[int]) -> None:
        """Say which clips come next. Their masks stay the same until the next call.

        Call it before every forward pass in training, and not before the backward pass of the one before: activation
        checkpointing computes masks a second time.

        Args:
            seeds: One for each clip, in the order of the batch: what a clip's masks are a function of, such as
                ``mix_seed(seed, "dropout", *key)``.

        Raises:
            ValueError: There is none, or one outside ``range(2**63)``.
        """
        if not seeds or not all(0 <= seed < 1 << 63 for seed in seeds):
            raise ValueError(f"seeds={list(seeds)}: give every clip of the batch one in 0..2**63-1")
        numbers = torch.tensor(seeds, dtype=torch.int64)
        low, high = numbers & BITS, numbers >> 32
        first, second = self._draws.names
        keys = torch.stack([_hash(_hash(low, first), high), _hash(_hash(high, second), low)])
        words = torch.cat([keys, _hash(torch.zeros_like(keys[0]), *keys)[None]])
        device = next((parameter.device for parameter in self._network.parameters()), words.device)
        # a new tensor every time: what compiled code may keep of the old one for its backward pass stays as it was
        self._draws.words = words.to(device, non_blocking=True)


def per_sample_dropout(network: nn.Module) -> SampleDropout | None:
    """Make the masks of a network's dropout and stochastic depth functions of the clip, in place.

    Every ``nn.Dropout`` and timm ``DropPath`` with a rate above zero gives way to one of the same rate. The names of
    parameters stay, and so does what the network computes in evaluation. A layer that is called several times in a
    forward pass uses the same mask each time. Call it before the network is compiled or spread over processes; call it
    again for a copy that is to be trained as well.

    Args:
        network: Anything whose layers keep the clips in the first dimension, or the groups of each clip together in it.

    Returns:
        What has to be told the clips' seeds before every forward pass in training; ``None`` if nothing is random.

    Raises:
        ValueError: A layer is random in a way that cannot be made the clips' own.
    """
    _refuse_others(network)
    named = list(network.named_modules(remove_duplicate=False))
    active: dict[nn.Module, str] = {}
    for name, layer in named:
        if _rate(layer) > 0:
            active.setdefault(layer, name)
    if not active:
        return None
    draws = next((layer.draws for layer in active if isinstance(layer, (PerSampleDropout, PerSampleDropPath))), None)
    if draws is None:
        draws = Draws()
        network.register_forward_pre_hook(draws.check)
    draws.names, draws.words = _name_words(active.values()), None
    new = {layer: _replacement(layer, draws, number) for number, layer in enumerate(active)}
    for name, layer in named:
        if layer in new:
            network.set_submodule(name, new[layer])
    return SampleDropout(network, draws, tuple(active.values()), _unfuse_attention(network))


def _rate(layer: nn.Module) -> float:
    if type(layer) in (nn.Dropout, PerSampleDropout):
        return float(layer.p)  # type: ignore[arg-type]
    if type(layer) in (DropPath, PerSampleDropPath):
        return float(layer.drop_prob or 0.0)  # type: ignore[arg-type]
    return 0.0


def _replacement(layer: nn.Module, draws: Draws, number: int) -> nn.Module:
    if isinstance(layer, nn.Dropout):
        return PerSampleDropout(layer.p, draws, number).train(layer.training)
    made = PerSampleDropPath(layer.drop_prob, layer.scale_by_keep, draws, number)  # type: ignore[arg-type]
    made.train(layer.training)
    return made


# layers that are random in other ways, and what says how much
_OTHERS: tuple[tuple[type[nn.Module], str], ...] = (
    (_DropoutNd, "p"),
    (DropPath, "drop_prob"),
    (DropBlock2d, "drop_prob"),
    (PatchDropout, "prob"),
    (StochasticDepth, "p"),
    (nn.MultiheadAttention, "dropout"),
    (nn.RNNBase, "dropout"),
)


def _refuse_others(network: nn.Module) -> None:
    ours = (nn.Dropout, DropPath, PerSampleDropout, PerSampleDropPath)
    for name, layer in network.named_modules():
        for kind, attribute in _OTHERS:
            if isinstance(layer, kind) and type(layer) not in ours and getattr(layer, attribute):
                raise ValueError(
                    f"{name} ({type(layer).__name__}) is random with {attribute}={getattr(layer, attribute)}, by masks "
                    "that would change with the number of processes; set it to 0 and use drop_path_rate, "
                    "proj_drop_rate or drop_rate"
                )


def _unfuse_attention(network: nn.Module) -> tuple[str, ...]:
    # torch's fused attention draws masks of its own, from a generator
    fused = [
        layer
        for layer in network.modules()
        if getattr(layer, "fused_attn", False) and _rate(getattr(layer, "attn_drop", nn.Identity())) > 0
    ]
    for layer in fused:
        layer.fused_attn = False  # type: ignore[assignment]
    if not fused:
        return ()
    return (
        f"attn_drop_rate is above 0, so {len(fused)} layers do without torch's fused attention, whose dropout cannot "
        "be made the clips' own; they take more memory and time",
    )


def _name_words(names: Iterable[str]) -> Tensor:
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return torch.tensor([[int.from_bytes(digest[i : i + 4], "big") for digest in digests] for i in (0, 4)])[..., None]


def _threshold(rate: float) -> int:
    """Below it lies that share of all words."""
    return round(rate * (BITS + 1))


def _hash_elements(words: Tensor, count: int) -> Tensor:
    """Words of elements 0 to ``count`` of every clip, (B, count), from its keys, (3, B)."""
    if count > BITS:
        raise ValueError(f"{count} elements of a clip are more than there are words of 32 bits to tell them apart")
    return _hash(torch.arange(count, device=words.device), words[0, :, None], words[1, :, None])


def _hash(x: Tensor, first: Tensor, second: Tensor | None = None) -> Tensor:
    """Words of 32 bits, evenly spread, from words of 32 bits and one or two keys of 32 bits; all int64.

    The rounds are those of ``triple32`` (C. Wellons, "Prospecting for hash functions", 2018), a bijection; a key goes
    in before the first, another before the second. Factors are at most 2**31 in size (those above as their difference
    to 2**32), so no product overflows and nothing depends on what a device or a compiler makes of an overflow.
    """
    x = x ^ first
    x ^= x >> 17
    x *= 0xED5AD4BB - (1 << 32)
    x &= BITS
    x ^= x >> 11
    if second is not None:
        x ^= second
    x *= 0xAC4C1B51 - (1 << 32)
    x &= BITS
    x ^= x >> 15
    x *= 0x31848BAB
    x &= BITS
    x ^= x >> 14
    return x
