"""How the runs of a suite were trained and scored, and on what, read from their folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .findings import Report, SuiteReport
from .json_files import read_json
from .page_data import Evidence, Geometry, read_yaml

OPTION = "model option "
# options of the augmentation that say how, not whether -> those without which they are nothing
DETAILS = {
    "ratio": ("scale",),
    "erasing_mode": ("erasing",),
    "mix_prob": ("mixup", "cutmix"),
    "mix_switch": ("cutmix",),
}


def read_protocol(report: Report, suite: SuiteReport, evidence: Mapping[str, Evidence]) -> dict[str, str]:
    """The protocol of the finished runs of a suite.

    Args:
        report: The sweep's.
        suite: The comparison.
        evidence: Variant -> what its folders hold.

    Returns:
        Name -> value; all values, with " / " between them, where runs differ.
    """
    runs = [
        dict(_facts(suite, report.output / suite.name / row.variant / f"seed={seed}", evidence[row.variant].geometry))
        for row in suite.rows
        for seed in row.scores
    ]
    names = dict.fromkeys(name for facts in runs for name in facts)
    values: dict[str, dict[str, None]] = {name: {} for name in names}
    for facts in runs:
        for name in names:
            # an option that only some variants have is not the same for all
            lacks = "not set" if name.startswith(OPTION) and "model" in facts else None
            value = facts.get(name, lacks)
            if value is not None:
                values[name][value] = None
    return {name: " / ".join(found) for name, found in values.items()}


def _facts(suite: SuiteReport, folder: Path, geometry: Geometry | None) -> Iterator[tuple[str, str]]:
    result = read_json(folder / "result.json") or {}
    config = read_yaml(folder / "config.yaml")
    environment = read_json(folder / "environment.json") or {}
    yield "score", f"{suite.suite.metric} on the {suite.suite.split} split"
    if config:
        every = (config.get("evaluation") or {}).get("every", 1)
        yield "weights scored", "of the best epoch on the val split" if every else "of the last epoch"
        yield "data", str((config.get("data") or {}).get("root"))
    if digests := environment.get("data"):
        yield "data digests", ", ".join(f"{split} {str(digest)[:12]}" for split, digest in digests.items())
    yield from _of_result(result)
    if config:
        yield from _of_model(config, geometry)
        yield from _of_training(config)
    yield from _of_machine(environment)


def _of_result(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split, counts in (result.get("videos") or {}).items():
        parts = [f"{counts.get('expected', '?')} expected", f"{counts.get('found', '?')} found"]
        parts += [
            f"{counts[kind]} {kind}" for kind in ("missing", "unreadable", "excluded", "short") if counts.get(kind)
        ]
        yield f"{split} videos", ", ".join(parts)
    if protocol := result.get("protocol"):
        views = f"{protocol['num_clips']} x {protocol['num_crops']} (clips x crops), {protocol['average']} averaged"
        yield "views a video", views
        rate = f"{protocol['target_fps']} fps" if protocol.get("target_fps") else f"stride {protocol.get('stride')}"
        yield "frames", f"{protocol['num_frames']}, sampled by {protocol['sampling']}, {rate}"
        yield "size", " x ".join(map(str, protocol["img_size"])) + " pixels"
        yield "precision", str(protocol.get("precision"))


def _of_model(config: Mapping[str, Any], geometry: Geometry | None) -> Iterator[tuple[str, str]]:
    model = config.get("model") or {}
    options = dict(model.get("args") or {})
    yield "model", str(model.get("name"))
    yield "weights at the start", "pretrained" if model.get("pretrained") else "from scratch"
    depth = options.pop("depth", geometry.depth if geometry else None)
    if depth is not None:
        yield "depth", f"{depth} blocks"
    patch = options.pop("patch_size", None)
    if patch is not None:
        yield "patch size", " x ".join(map(str, patch if isinstance(patch, list) else [patch, patch])) + " pixels"
    if geometry:
        yield "tokens of a clip", " x ".join(map(str, geometry.grid)) + " (time x height x width)"
    for name, value in options.items():
        yield OPTION + name, _spell(value)


def _of_training(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    optim = config.get("optim") or {}
    yield "epochs", str(config.get("epochs"))
    yield "batch", f"{config.get('batch_size')} clips"
    rate = f"learning rate {optim.get('lr')}, weight decay {optim.get('weight_decay')}"
    further = [f"{name} {_spell(optim[name])}" for name in ("layer_decay", "args") if optim.get(name)]
    yield "optimiser", ", ".join([f"{optim.get('name')}, {rate}", *further])
    if schedule := config.get("schedule"):
        yield "schedule", _schedule(schedule)
    if "augment" in config:
        yield "augmentation", _augmentation(config["augment"] or {})
    also = {name: config.get(name) for name in ("clip_grad", "label_smoothing", "only")}
    also["ema"] = (config.get("ema") or {}).get("decay")
    also["accumulate"] = config.get("accumulate") if config.get("accumulate") != 1 else None
    if said := [f"{name} {_spell(value)}" for name, value in also.items() if value]:
        yield "also in training", ", ".join(said)


def _schedule(schedule: Mapping[str, Any]) -> str:
    name, warmup = str(schedule.get("name")), schedule.get("warmup_epochs")
    said = [name, f"warm-up of {warmup} epochs from {schedule.get('warmup_lr')}" if warmup else "no warm-up"]
    if name in ("step", "multistep"):
        said.append(f"times {schedule.get('decay_rate')}")
    elif name != "constant":
        said.append(f"down to {schedule.get('min_lr')}")
    said += [
        f"{detail} {_spell(schedule[detail])}" for detail in ("milestones", "decay_epochs") if schedule.get(detail)
    ]
    return ", ".join(said)


def _augmentation(augment: Mapping[str, Any]) -> str:
    on = [
        f"{name} {_spell(value)}"
        for name, value in augment.items()
        if value and (name, value) != ("repeats", 1) and (name not in DETAILS or any(map(augment.get, DETAILS[name])))
    ]
    return ", ".join(["crops at random places", *on])  # there is no training without the first


def _of_machine(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hardware = environment.get("hardware") or {}
    if hardware.get("cpu"):
        yield "CPU", f"{hardware['cpu']}, {hardware.get('cores_usable')} of {hardware.get('cores')} cores usable"
    if hardware.get("memory_gb"):
        yield "memory", f"{hardware['memory_gb']} GB"
    if "gpus" in hardware:
        gpus = Counter(f"{gpu.get('name')} ({gpu.get('memory_gb')} GB)" for gpu in hardware["gpus"])
        yield "GPUs", ", ".join(f"{count} x {gpu}" for gpu, count in gpus.items()) or "none"
    if numerics := environment.get("numerics"):
        yield "numerics", ", ".join(f"{name} {_spell(value)}" for name, value in numerics.items())


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")
