"""Checkpoints of other projects as folders that timm loads, plain TimeSformers as folders that ``transformers`` loads.

    python tools/convert.py SOURCE OUTPUT [--model NAME] [--args.pattern ts] [--allow REGEX ...] [--to timm|hf]

What comes out is what a training run's best/ is, so tools/predict.py, tools/evaluate.py and
``timm.create_model("local-dir:OUTPUT", pretrained=True)`` take it; its config.json says under ``origin`` where it came
from. Every tensor of the source and of the model is accounted for in a table; whatever is left over on either side and
not excused by name is an error, and then there is no OUTPUT.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentError
from safetensors.torch import save_file
from torch import Tensor, nn

from timesformer_plus.data.vocabulary import names_in
from timesformer_plus.engine.atomic_folder import new_folder
from timesformer_plus.engine.build_data import ClipRecipe
from timesformer_plus.engine.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, save_checkpoint
from timesformer_plus.engine.option_names import OptionParser
from timesformer_plus.engine.published import numbered_classes
from timesformer_plus.engine.sources import PREPROCESSOR_FILE, find_source, read_source
from timesformer_plus.engine.targets import Target, choose_target
from timesformer_plus.engine.training_state import unshared
from timesformer_plus.models.export_hf import export_timesformer
from timesformer_plus.models.weights import Misfit, fit_checkpoint

ORIGIN_KEY = "origin"


class Converted(NamedTuple):
    """What a conversion did.

    Attributes:
        output: The folder.
        table: What became of every tensor, for people.
        notes: What else a user should know, a line each.
    """

    output: Path
    table: str
    notes: tuple[str, ...]


class MisfitError(ValueError):
    """The weights are not those of the model; ``table`` says which."""

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


def convert(
    source: Path,
    output: Path,
    *,
    model: str | None = None,
    args: Mapping[str, Any] | None = None,
    clips: Mapping[str, Any] | None = None,
    classes: Path | None = None,
    license: str | None = None,  # timm's word
    allow: Sequence[str] = (),
    sha256: str | None = None,
    released_resize: bool = False,
    tensors_only: bool = False,
    to: Literal["timm", "hf"] = "timm",
) -> Converted:
    """Turn a checkpoint into a folder that timm, or transformers, loads.

    Args:
        source: A file of weights in a published format, a folder of transformers, a folder that timm loads, or the
            best/ or last/ of a training run.
        output: The folder to write; it must not exist.
        model: Registered name of the model, with a tag if it is a published checkpoint. A folder names its own.
        args: Arguments of that name, such as pattern or num_frames.
        clips: How clips are cut, before what the source or the name's tag says: sampling, stride, mean, std,
            channel_order, short_side, num_clips, num_crops and so on, as under "clips" in config.json. Their size
            is the model's.
        classes: File with the names of the classes, one a line; null for those that the source or the tag knows.
        license: Of the weights; null for what the source or the tag says.
        allow: Regular expressions of tensors, by their name in the file or in the model, that may be left over, missing
            or different. One that excuses nothing is an error.
        sha256: Digest of the file, or its first 8 or more digits, to be held against it.
        released_resize: Resize position embeddings as the code that was released with them, instead of along their true
            axes.
        tensors_only: Take the tensors out of a pickle that holds other objects too, in a process of its own. No code of
            the file is run: stand-ins take the place of the objects.
        to: timm writes what timm.create_model("local-dir:OUTPUT", pretrained=True) loads, hf what
            TimesformerForVideoClassification.from_pretrained does.

    Raises:
        MisfitError: The weights do not fit the model, or ``allow`` has an entry that excuses nothing.
        ValueError: The output exists, the source cannot be read, nobody says what it is, an argument is unknown, or
            transformers has no such model.
        OSError: The output cannot be written.
    """
    if output.exists() or output.is_symlink():
        raise ValueError(f"{output} exists and will not be replaced; move it away or choose another output")
    _check_regexes(allow)
    found = find_source(source)
    tensors, digests = read_source(found, sha256=sha256, tensors_only=tensors_only)
    target = choose_target(found, tensors, name=model, args=args or {}, clips=clips or {})
    family, table = _fill(target.model, tensors, allow=allow, released_resize=released_resize, source=source)
    names = _class_names(target, classes)
    terms = license or target.license
    notes = list(target.notes)
    if terms is None:
        notes.append("nobody says under which licence the weights are; --license says it")
    origin = {
        "files": digests,
        "names": family or "timm",
        "license": terms or "unknown",
        "versions": {package: version(package) for package in ("timesformer-plus", "timm", "torch")},
    }
    checkpoint = Checkpoint(target.model, names, target.recipe)
    if to == "hf":
        renamed, more = _write_hf(output, checkpoint, origin)
        notes += more
        table += f"\nwritten with the names of transformers ({len(renamed)})"
        table += "".join(f"\n  {ours} -> {theirs}" for ours, theirs in renamed.items())
    else:
        save_checkpoint(
            output,
            target.model,
            classes=names,
            recipe=target.recipe,
            license=terms or "unknown",
            details={ORIGIN_KEY: origin},
        )
    return Converted(output, table, tuple(notes))


def _check_regexes(allow: Sequence[str]) -> None:
    regex = ""
    try:
        for regex in allow:
            re.compile(regex)
    except re.error as error:
        raise ValueError(f"--allow {regex!r} is no regular expression ({error}); correct it") from error


def _fill(
    model: nn.Module, tensors: dict[str, Tensor], *, allow: Sequence[str], released_resize: bool, source: Path
) -> tuple[str | None, str]:
    """Load the weights; say whose names they had, and what became of each."""
    try:
        fitted, report = fit_checkpoint(tensors, model, allow=allow, released_resize=released_resize)
    except Misfit as error:
        raise MisfitError(f"{source} {error}", error.report.table() if error.report else "") from error
    reasons = [*report.ignored.values(), *report.initial.values()]
    idle = [regex for regex in allow if not any(reason.startswith(f"allowed by {regex!r}") for reason in reasons)]
    if idle:
        raise MisfitError(
            f"--allow {' '.join(idle)} excuses nothing of {source}; correct it, or leave it out", report.table()
        )
    model.load_state_dict(fitted, strict=True)
    return report.family, report.table()


def _class_names(target: Target, classes: Path | None) -> tuple[str, ...]:
    count = int(target.model.num_classes)  # type: ignore[arg-type]
    names = names_in(classes) if classes is not None else target.classes or numbered_classes(count)
    if len(names) != count:
        where = f"{classes} names" if classes is not None else "its source names"
        raise ValueError(
            f"{where} {len(names)} classes, and the model has {count}; --classes FILE names them, one a line"
        )
    return names


def _write_hf(output: Path, checkpoint: Checkpoint, origin: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Write a folder of ``transformers``; say what every tensor is called there, and what is not the same."""
    model, classes, recipe = checkpoint
    if classes == numbered_classes(len(classes)):
        classes = ()  # theirs numbers them too
    config, state, renamed = export_timesformer(model, classes)
    notes = []
    if recipe.channel_order == "bgr":
        # their processor knows no order of the channels, so the stem takes them in the other one
        stem = "timesformer.embeddings.patch_embeddings.projection.weight"
        state[stem] = state[stem].flip(1)  # mean and std belong to the colours, and stay theirs
        notes.append("the weights expect blue first: the stem's input channels were reversed, so that it takes RGB")
    if config["attention_type"] == "space_only":
        notes.append(
            "transformers' space-only TimeSformer gives logits of every frame, (B*T, classes); ours averages the class "
            "tokens over the frames before the last norm, and gives those of the clip, (B, classes)"
        )
    if recipe.multi_label:
        config["problem_type"] = "multi_label_classification"
    with new_folder(output) as staged:
        _write_json(staged / CONFIG_FILE, {**config, ORIGIN_KEY: origin})
        _write_json(staged / PREPROCESSOR_FILE, _preprocessor(recipe))
        save_file(unshared(state), staged / WEIGHTS_FILE, metadata={"format": "pt"})
    return renamed, notes


def _preprocessor(recipe: ClipRecipe) -> dict[str, Any]:
    height, width = recipe.img_size
    return {
        "image_processor_type": "VideoMAEImageProcessor",  # TimeSformer has none of its own there
        "do_resize": True,
        "size": {"shortest_edge": recipe.short_side or min(height, width)},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(recipe.mean),
        "image_std": list(recipe.std),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line of ``tools/convert.py``."""
    parser = OptionParser(
        prog="convert", description="Turn a published checkpoint into a folder that timm loads.", allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="A file of weights, a folder of transformers or timm, or RUN/best.")
    parser.add_argument("output", type=Path, help="The folder to write; it must not exist.")
    own: set[str | int] = {"source", "output", "args", "clips", "allow"}
    parser.add_function_arguments(convert, skip=own, as_group=False)
    parser.add_argument("--args", type=dict[str, Any], default={}, help="Arguments of the model: --args.pattern ts.")
    parser.add_argument(
        "--clips", type=dict[str, Any], default={}, help="How clips are cut, as in config.json: --clips.stride 8."
    )
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="REGEX", help="Tensors that may be left over, missing or different."
    )
    options = parser.parse_args()
    try:
        options = parser.instantiate(options)
    except (ValueError, ArgumentError) as error:
        parser.error(str(error))
    try:
        done = convert(**options.as_dict())
    except MisfitError as error:
        print(error.table, end="\n" * bool(error.table))
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except (ValueError, ImportError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    print(done.table)
    for note in done.notes:
        print(f"note: {note}")
    loader = (
        f'TimesformerForVideoClassification.from_pretrained("{done.output}")'
        if options.to == "hf"
        else f'timm.create_model("local-dir:{done.output}", pretrained=True)'
    )
    print(f"{done.output} is written; {loader} loads it")
