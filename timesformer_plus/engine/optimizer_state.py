"""An optimizer's state as named tensors and JSON, without pickles.

torch numbers an optimizer's parameters; here they go by their names in the model, so that state cannot be given to
another parameter unnoticed. Beside tensors, timm's optimizers keep lists of tensors (Kron's preconditioners), numbers
(LaProp, NAdam), types (AdafactorBigVision), tensors among the options of a group (LAMB's step), the state of a
generator (Kron) or, beside what they count as their state, a generator and an attribute of the parameters
(AdaHessian): all of it survives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from timm.optim import Adahessian, Lookahead
from torch import Tensor, nn

_SHOWN = 3


def pack_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take an optimizer's state apart.

    Args:
        optimizer: Any optimizer of torch or timm, wrapped by accelerate or by timm's ``Lookahead`` or not.
        network: The model whose parameters it has.

    Returns:
        The tensors, not copied, and the rest, as JSON has it.

    Raises:
        ValueError: A parameter is not the model's, or a value cannot be written without a pickle.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    parameters = _parameters(optimizer)
    foreign = [index for index, parameter in enumerate(parameters) if id(parameter) not in names]
    if foreign:
        raise ValueError(f"parameters {foreign[:_SHOWN]} of the optimizer are not of the model")
    ordered = [names[id(parameter)] for parameter in parameters]
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    states = {ordered[index]: _pack(value, ordered[index], tensors) for index, value in state.pop("state").items()}
    groups = [
        {
            "params": [ordered[index] for index in group["params"]],
            "options": _pack({k: v for k, v in group.items() if k != "params"}, f"group {number}", tensors),
        }
        for number, group in enumerate(state.pop("param_groups"))
    ]
    record = {
        "optimizer": _kind(optimizer),
        "parameters": {name: _describe(parameter) for name, parameter in zip(ordered, parameters, strict=True)},
        "groups": groups,
        "states": states,
        "more": _pack(state, "more", tensors),
        "hidden": _pack(_hidden(optimizer, names), "hidden", tensors),
    }
    return tensors, record


def unpack_optimizer(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Give an optimizer the state that ``pack_optimizer`` took apart, bit for bit.

    The options of its groups (learning rate, weight decay, …) become those of the state, too.

    Args:
        optimizer: Made as the packed one was.
        network: The model whose parameters it has.
        tensors: As packed; copied.
        record: As packed, also after a way through JSON.

    Raises:
        ValueError: The state is of another optimizer, or of another model. The optimizer is untouched.
    """
    if record["optimizer"] != _kind(optimizer):
        raise ValueError(
            f"the state is of the optimizer {record['optimizer']}, not of {_kind(optimizer)}; take the optimizer of "
            "the run that is continued"
        )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    own = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    parameters = dict(zip((name for group in own for name in group), _parameters(optimizer), strict=True))
    _require_same(record["parameters"], {name: _describe(parameter) for name, parameter in parameters.items()})
    stored = [group["params"] for group in record["groups"]]
    if stored != own:
        raise ValueError(
            f"the state has its parameters in groups of {[len(group) for group in stored]}, the optimizer in groups "
            f"of {[len(group) for group in own]}, or in another order; take weight decay, layer decay and freezing of "
            "the run that is continued"
        )
    number = {name: index for index, name in enumerate(parameters)}
    states = {name: _unpack(value, tensors) for name, value in record["states"].items()}
    groups = [
        {**_unpack(group["options"], tensors), "params": [number[name] for name in group["params"]]}
        for group in record["groups"]
    ]
    more = _unpack(record["more"], tensors)
    optimizer.load_state_dict(
        {"state": {number[name]: value for name, value in states.items()}, "param_groups": groups, **more}
    )
    # torch gives state the type of its parameter (a momentum in bf16 would become float32): put the bits back
    held = _bare(optimizer).state
    for name, value in states.items():
        held[parameters[name]] = {key: _like(item, held[parameters[name]][key]) for key, item in value.items()}
    _put_hidden(optimizer, parameters, _unpack(record["hidden"], tensors))


def _hidden(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """What decides the next updates and is not in ``state_dict()``: AdaHessian's draws and its last curvatures."""
    bare = _bare(optimizer)
    hidden: dict[str, Any] = {
        "generators": {
            name: (value.device.type, value.get_state())
            for name, value in vars(bare).items()
            if isinstance(value, torch.Generator)
        }
    }
    if isinstance(bare, Adahessian) and bare.update_each > 1:  # else it computes them anew for every update
        traces = {names[id(parameter)]: getattr(parameter, "hess", None) for parameter in _parameters(bare)}
        hidden["hess"] = {name: trace for name, trace in traces.items() if isinstance(trace, Tensor)}
    return hidden


def _put_hidden(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], hidden: Mapping[str, Any]) -> None:
    bare = _bare(optimizer)
    device = next(iter(parameters.values())).device
    for name, (kind, state) in hidden["generators"].items():
        if kind not in ("cpu", device.type):
            continue  # a GPU's generator means nothing to another device; AdaHessian seeds a new one there
        generator = torch.Generator(device if kind == device.type else kind)
        generator.set_state(state)
        setattr(bare, name, generator)
    for name, trace in hidden.get("hess", {}).items():
        parameters[name].hess = trace.to(device)  # type: ignore[attr-defined]


def _require_same(stored: Mapping[str, str], own: Mapping[str, str]) -> None:
    sides = {
        "only the state has": sorted(stored.keys() - own.keys()),
        "only the model has": sorted(own.keys() - stored.keys()),
        "differently made are": [
            f"{name} ({stored[name]} in the state, {own[name]} in the model)"
            for name in sorted(stored.keys() & own.keys())
            if stored[name] != own[name]
        ],
    }
    said = [
        f"{what} {', '.join(found[:_SHOWN])}{f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''}"
        for what, found in sides.items()
        if found
    ]
    if said:
        raise ValueError(f"the optimizer's state is of another model: {'; '.join(said)}")


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; what JSON does not have becomes an object with one key that says what it is."""
    if isinstance(value, Tensor):
        if place in tensors:
            raise ValueError(f"two tensors of the optimizer would be stored as {place!r}")
        tensors[place] = value.detach()
        return {"tensor": place}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(item, f"{place}/{index}", tensors) for index, item in enumerate(value)]}
    if isinstance(value, dict):
        # pairs, because keys of JSON are words
        return {
            "dict": [[_pack(k, f"{place}/key", tensors), _pack(v, f"{place}/{k}", tensors)] for k, v in value.items()]
        }
    raise ValueError(
        f"the optimizer has a value of type {type(value).__name__} at {place!r}, which cannot be stored without "
        "running code when it is read; choose another optimizer or option"
    )


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor" and content not in tensors:
        raise ValueError(f"the optimizer's state lacks the tensor {content!r}; its two parts are not of one state")
    made: dict[str, Callable[[], Any]] = {
        "tensor": lambda: tensors[content].clone(),
        "float": lambda: float(content),
        "dtype": lambda: getattr(torch, content),
        "list": lambda: [_unpack(item, tensors) for item in content],
        "tuple": lambda: tuple(_unpack(item, tensors) for item in content),
        "dict": lambda: {_unpack(k, tensors): _unpack(v, tensors) for k, v in content},
    }
    return made[kind]()


def _like(stored: Any, loaded: Any) -> Any:
    """The stored value where the optimizer's own loading has put it."""
    if isinstance(stored, Tensor):
        return stored.to(loaded.device)
    if isinstance(stored, (list, tuple)):
        return type(stored)(_like(*pair) for pair in zip(stored, loaded, strict=True))
    if isinstance(stored, dict):
        return {key: _like(value, loaded[key]) for key, value in stored.items()}
    return stored


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _describe(parameter: Tensor) -> str:
    return f"{str(parameter.dtype).removeprefix('torch.')} {tuple(parameter.shape)}"


def _bare(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that has the state."""
    if isinstance(optimizer, AcceleratedOptimizer):
        return _bare(optimizer.optimizer)
    return _bare(optimizer._base_optimizer) if isinstance(optimizer, Lookahead) else optimizer


def _kind(optimizer: Any) -> str:
    if isinstance(optimizer, AcceleratedOptimizer):
        return _kind(optimizer.optimizer)
    name = type(optimizer).__name__
    return f"{name} of {_kind(optimizer._base_optimizer)}" if isinstance(optimizer, Lookahead) else name
