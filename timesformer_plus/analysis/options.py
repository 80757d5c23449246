"""Options of a training as a sweep handles them: nested as in YAML, laid over each other, named by their difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, get_loader

from ..engine.config import TrainConfig, train_parser
from ..engine.option_names import OptionParser

Options = dict[str, Any]


def merge(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> Options:
    """Lay overrides over options.

    Args:
        options: Nested as in YAML.
        overrides: Nested or with dotted keys; a mapping is laid over a mapping, anything else replaces what was there.

    Returns:
        New nested options.

    Raises:
        ValueError: A dotted key goes through something that is no mapping.
    """
    merged = deepcopy(dict(options))
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        place = merged
        for depth, key in enumerate(path):
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                at = ".".join(path[: depth + 1])
                raise ValueError(f"override {dotted!r}: {at} is {place!r}, which has no {last!r} in it")
        both = isinstance(value, Mapping) and isinstance(place.get(last), Mapping)
        place[last] = merge(place[last] if both else {}, value) if isinstance(value, Mapping) else deepcopy(value)
    return merged


def read_options(path: Path) -> Options:
    """Read a YAML file as jsonargparse does (``1e-4`` is a number), with dotted keys spelt out.

    Raises:
        ValueError: The file holds no mapping.
    """
    loaded = get_loader("yaml")(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds {type(loaded).__name__}, not `option: value` lines")
    return merge({}, loaded)


def parse_options(options: Mapping[str, Any]) -> TrainConfig:
    """Read options as the trainer will.

    Args:
        options: Complete, ``output`` included.

    Raises:
        ValueError: One of them is unknown, mistyped or out of range.
    """
    parser = _parser()
    try:
        made = parser.instantiate(parser.parse_object(dict(options)))
        return TrainConfig(**{name: made[name] for name in TrainConfig.__dataclass_fields__})
    except ArgumentError as error:
        raise ValueError(str(error)) from None


@lru_cache
def _parser() -> OptionParser:
    parser = train_parser()
    parser.exit_on_error = False
    return parser


def name_difference(changes: Mapping[str, Any]) -> str:
    """Name of a variant by what it changes: ``"pattern=ts,depth=4"``.

    Only the last word of an option is written, the whole of it where two options of the variant end in the same word.
    """
    ends = [key.rpartition(".")[2] for key in changes]
    words = [end if ends.count(end) == 1 else key for key, end in zip(changes, ends, strict=True)]
    return ",".join(f"{word}={_plain(value)}" for word, value in zip(words, changes.values(), strict=True))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def flatten(options: Mapping[str, Any]) -> Options:
    """Options with dotted keys: ``{"optim.lr": 0.001}``; an empty mapping stays one."""
    return dict(_leaves(options, ""))


def _leaves(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
