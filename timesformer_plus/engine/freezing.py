"""Training a part of a network: kinds of layers, or regular expressions on the names of parameters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from torch import nn

from timesformer_plus.models.group_attention import GroupAttention
from timesformer_plus.models.layers import SpaceTimeBlock
from timesformer_plus.models.tokens import LETTERS

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
_EMBED = r"(patch_embed|pos_embed|time_embed|cls_token|reg_token|rope)(\.|$)"
_HEAD = r"(head|fc_norm|attn_pool)(\.|$)"


def train_only(network: nn.Module, only: Sequence[str]) -> str:
    """Let these parts of a network learn and freeze the rest; call it before the optimizer is made.

    A kind of layer is the name of an attention (``time``, ``causal time``, ``height``, ``width``, ``space``, ``joint``,
    ``local``, ``sparse global``, or its letter), ``mlp``, ``norm``, ``embed`` or ``head``. An attention and an MLP come
    with the norm in front and the LayerScale behind; ``time`` and ``causal time`` with the time embedding too, without
    which attention over time cannot tell before from after; ``head`` is everything behind the last norm. Heads shared
    by two letters belong to the kinds of both. What is frozen keeps its dropout and its stochastic depth.

    Args:
        network: The network.
        only: Kinds of layers, and regular expressions that match the names of parameters from the start, such as
            ``blocks[.]1[01][.]``; all together are trained. Empty for everything as it is.

    Returns:
        A line for people: ``trains 1.2M of 30.7M parameters: time 1.1M, head 0.1M``.

    Raises:
        ValueError: An entry matches nothing, or is not a regular expression.
    """
    total = sum(parameter.numel() for parameter in network.parameters())
    if not only:
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        return f"trains all {_count(total)} parameters" if trained == total else _line(trained, total, "")
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    kinds = kinds_of_layers(network)
    chosen: set[str] = set()
    parts = []
    for entry in only:
        names = kinds.get(LETTERS[entry].name if entry in LETTERS else entry) or _matching(entry, sizes, kinds)
        parts.append(f"{entry} {_count(sum(sizes[name] for name in names))}")
        chosen |= names
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)
    return _line(sum(sizes[name] for name in chosen), total, ", ".join(parts))


def kinds_of_layers(network: nn.Module) -> dict[str, set[str]]:
    """Sort the parameters of a network by the kind of layer they belong to; a norm belongs to two.

    Args:
        network: The network.

    Returns:
        Kind -> names of its parameters, of those kinds that the network has. A block's primary attention, which has
        timm's name ``blocks.N.attn``, is of the kind that its letters say.
    """
    kinds: dict[str, set[str]] = {}

    def put(kind: str, names: Iterator[str]) -> None:
        found = set(names)
        if found:
            kinds.setdefault(kind, set()).update(found)

    for name, module in network.named_modules():
        if isinstance(module, SpaceTimeBlock):
            for kind, part in _branches(module):
                put(kind, _below(network, f"{name}.{part}"))
        if isinstance(module, _NORMS):
            put("norm", _below(network, name))
    names = [name for name, _ in network.named_parameters()]
    put("embed", (name for name in names if re.match(_EMBED, name)))
    put("head", (name for name in names if re.match(_HEAD, name)))
    for kind in {"time", "causal time"} & set(kinds):
        put(kind, (name for name in names if name == "time_embed"))
    return kinds


def _branches(block: SpaceTimeBlock) -> Iterator[tuple[str, str]]:
    """Kinds of layers in a block, with the names of the modules that they are made of."""
    for name, branch in block.added.items():
        attention = branch.get_submodule("attn")
        assert isinstance(attention, GroupAttention)
        yield from ((LETTERS[letter].name, f"added.{name}") for letter in attention.letters)
    for letter in block.attn.letters:
        yield from ((LETTERS[letter].name, part) for part in ("norm1", "attn", "ls1", "gamma_1"))
    yield from (("mlp", part) for part in ("norm2", "mlp", "ls2", "gamma_2"))


def _below(network: nn.Module, module: str) -> Iterator[str]:
    """Names of the parameters of a module, or of a parameter, if there is one of that name."""
    return (name for name, _ in network.named_parameters() if name == module or name.startswith(f"{module}."))


def _matching(entry: str, sizes: dict[str, int], kinds: dict[str, set[str]]) -> set[str]:
    try:
        expression = re.compile(entry)
    except re.error as error:
        raise ValueError(
            f"only: {entry!r} is neither a kind of layer nor a regular expression ({error}); "
            f"this model has {_listed(kinds)}"
        ) from error
    names = {name for name in sizes if expression.match(name)}
    if names:
        return names
    if entry in LETTERS or entry in {row.name for row in LETTERS.values()}:
        raise ValueError(f"only: this model has no layer of the kind {entry!r}; it has {_listed(kinds)}")
    near = difflib.get_close_matches(entry, [*kinds, *sizes], n=3, cutoff=0.5)
    tip = f"did you mean {' or '.join(map(repr, near))}?" if near else f"a parameter is called {min(sizes)!r}, say;"
    raise ValueError(
        f"only: {entry!r} is no kind of layer and matches no parameter's name from its start; {tip} "
        f"this model has {_listed(kinds)}"
    )


def _listed(kinds: dict[str, set[str]]) -> str:
    return "the kinds " + ", ".join(sorted(kinds))


def _line(trained: int, total: int, parts: str) -> str:
    return f"trains {_count(trained)} of {_count(total)} parameters" + (f": {parts}" if parts else "")


def _count(number: int) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.1f}K" if number >= 1e3 else str(number)
