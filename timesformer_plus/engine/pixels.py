"""What pixels a model's weights expect: mean, std and channel order, from the weights themselves unless stated.

mean and std come with the weights in timm's ``pretrained_cfg``, of which ``pretrained_cfg_overlay`` states others. timm
has no word for the order of the channels: it is kept with the published name of the weights, and with a checkpoint in
the recipe of its clips.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import download_from_hf

from timesformer_plus.data.transforms import ChannelOrder
from timesformer_plus.engine.config import TrainConfig
from timesformer_plus.models.registry import published

CONFIG_FILE = "config.json"
RECIPE_KEY = "clips"


def channel_order_of(cfg: Mapping[str, Any]) -> ChannelOrder:
    """The order in which a model that timm has made takes red, green and blue.

    Args:
        cfg: Its ``pretrained_cfg``. For a ``local-dir:`` or ``hf-hub:`` model the recipe in its config.json says it,
            where there is one; else what is published under its architecture and tag.
    """
    stored: Mapping[str, Any] | None = None
    if cfg.get("source") == "local-dir":
        stored = _read(Path(cfg["file"]) / CONFIG_FILE)
    elif cfg.get("source") == "hf-hub":
        stored = _read(Path(download_from_hf(cfg["hf_hub_id"], CONFIG_FILE)))  # timm has just fetched it
    recipe = None if stored is None else stored.get(RECIPE_KEY)
    if isinstance(recipe, Mapping):
        order: ChannelOrder = recipe.get("channel_order", "rgb")
        return order
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    checkpoint = published(name) if cfg.get("tag") else None
    return "rgb" if checkpoint is None else checkpoint.channel_order


def _read(path: Path) -> Mapping[str, Any] | None:
    content = json.loads(path.read_text()) if path.is_file() else None
    return content if isinstance(content, Mapping) else None


def describe_pixels(config: TrainConfig, cfg: Mapping[str, Any], channel_order: ChannelOrder) -> str:
    """What the pixels of a run become, and whether that is what its first weights expect; a line for people.

    Args:
        config: The run.
        cfg: The model's ``pretrained_cfg``.
        channel_order: What the run's clips have.
    """
    used = {"mean": tuple(cfg["mean"]), "std": tuple(cfg["std"]), "channel order": channel_order}
    line = "pixels: " + _text(used)
    if not config.model.pretrained:
        return line
    overlay = dict(config.model.args.get("pretrained_cfg_overlay") or {})
    name = str(config.model.args.get("image_model") or config.model.name)
    # under an architecture alone a file may be anything; under a tag it is a copy of what was published there
    if "file" in overlay and ":" not in name and "." not in name:
        if {"mean", "std"} <= overlay.keys():
            return f"{line}, as stated for {overlay['file']}"
        return (
            f"{line}; nobody says what the weights in {overlay['file']} were trained with: if with something else, "
            "state it in model.args.pretrained_cfg_overlay (mean, std) and data.channel_order"
        )
    other = {key: value for key, value in _own(name).items() if used[key] != value}
    return f"{line}, as stated here; the weights of {name} were trained with {_text(other)}" if other else line


def _own(name: str) -> dict[str, Any]:
    """What a name of timm's says about its weights, whatever is stated on top of it; empty where nobody knows."""
    source, _, place = name.partition(":")
    own: Mapping[str, Any] | None = None
    if source == "local-dir":
        stored = _read(Path(place) / CONFIG_FILE) or {}
        own = {**stored.get("pretrained_cfg", {}), "source": source, "file": place}
    elif not place:
        found = timm.get_pretrained_cfg(name)
        own = None if found is None else found.to_dict()
    if own is None or "mean" not in own or "std" not in own:
        return {}
    return {"mean": tuple(own["mean"]), "std": tuple(own["std"]), "channel order": channel_order_of(own)}


def _text(said: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in said.items()
    )
