"""What the options of a training come to: the model that they make, its parameters, its arithmetic.

Options are JSON texts here, so that what was made of them once is remembered. Nothing is trained or downloaded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from torch import nn

from ..engine.build import build_model, build_on_meta
from ..engine.config import TrainConfig
from .cost import clip_shape, count_multiply_adds
from .options import merge, parse_options

# the usual count: a backward pass takes two products where the forward pass takes one
PASSES_OF_TRAINING = 3
GREATEST_EPOCHS = 10**6

Countable = Literal["params", "flops", "train_flops"]


def count_quantity(options: str, quantity: Countable, classes: int | None) -> int:
    """Count what a training is made of.

    Args:
        options: Of the training.
        quantity: params; flops, the multiply-adds of one clip view; or train_flops, those of training on one video.
        classes: Number of classes; None where it makes no difference.

    Raises:
        ValueError: The options make no model.
    """
    if quantity == "params":
        return _params(_model_options(options), classes)
    flops = multiply_adds(options, classes)
    if quantity == "flops":
        return flops
    config = config_of(options)
    return PASSES_OF_TRAINING * flops * config.epochs * config.augment.repeats


def multiply_adds(options: str, classes: int | None) -> int:
    """Multiply-adds of a forward pass on one clip view.

    Raises:
        ValueError: The options make no model.
    """
    return _multiply_adds(_model_options(options), classes)


def _model_options(options: str) -> str:
    """Those that a model follows from: it is the same whatever the epochs are."""
    loaded = json.loads(options)
    return json.dumps({key: loaded[key] for key in ("model", "data") if key in loaded})


@lru_cache(maxsize=4096)
def _params(options: str, classes: int | None) -> int:
    return sum(parameter.numel() for parameter in network_of(options, classes).parameters())


@lru_cache(maxsize=4096)
def _multiply_adds(options: str, classes: int | None) -> int:
    network = network_of(options, classes)
    return count_multiply_adds(network, (1, *clip_shape(network)))


def network_of(options: str, classes: int | None) -> nn.Module:
    """The model without weights; without a number of classes it has two.

    Raises:
        ValueError: The options make no model.
    """
    config = config_of(options)
    try:
        return build_on_meta(config.model, config.data, classes or 2)
    except ValueError as error:
        raise _cannot_be_made(error) from None


def network_on_cpu(options: str, classes: int | None) -> nn.Module:
    """The model with random weights, on the CPU.

    Raises:
        ValueError: The options make no model.
    """
    config = config_of(options)
    try:
        return build_model(replace(config.model, pretrained=False), config.data, classes or 2)
    except ValueError as error:
        raise _cannot_be_made(error) from None


def config_of(options: str) -> TrainConfig:
    """The options as the trainer reads them.

    Raises:
        ValueError: One of them is unknown, mistyped or out of range.
    """
    loaded = json.loads(options)
    model, epochs = loaded.get("model"), loaded.get("epochs")
    args = model.get("args") if isinstance(model, dict) else None
    # reading takes longer than making a model: what a search changes is put in afterwards
    if isinstance(args, dict):
        del model["args"]
    if type(epochs) is int:
        loaded["epochs"] = GREATEST_EPOCHS
    try:
        config = _parse(json.dumps(loaded))
        config = replace(config, model=replace(config.model, args=args)) if isinstance(args, dict) else config
        return replace(config, epochs=epochs) if type(epochs) is int else config
    except ValueError as error:
        raise _cannot_be_made(error) from None


@lru_cache(maxsize=256)
def _parse(options: str) -> TrainConfig:
    return parse_options({"output": ".", **json.loads(options)})


def replaced(options: str, key: str, value: float) -> str:
    """The same options but for one, whose key is dotted."""
    return json.dumps(merge(json.loads(options), {key: value}))


def _cannot_be_made(error: ValueError) -> ValueError:
    return ValueError(f"equal budgets: a model with these options cannot be made: {error}")
