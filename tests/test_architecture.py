"""The house: imports point one way, the package is cheap to import, tools are thin."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "timesformer_plus"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What a folder may import from the rest of the package.
ALLOWED = {"models": set(), "data": set(), "engine": {"models", "data"}, "analysis": {"models", "data", "engine"}}
# Inside models: each may import those in front of it.
MODEL_ORDER = [
    "tokens",
    "pattern",
    "rotary",
    "short_attention_triton",
    "short_attention",
    "packed_flex",
    "kernel_choices",
    "kernels",
    "kernel_timing",
    "rows",
    "recomputing",
    "group_attention",
    "layers",
    "embed",
    "positions",
    "rotary_3d",
    "attentive_pool",
    "intermediates",
    "block_loop",
    "space_time",
    "adopted_blocks",
    "key_tables",
    "weight_files",
    "key_report",
    "fitting",
    "weights",
    "video_transformer",
    "rotary_video_transformer",
    "adopt",
    "origin",
    "transformers_config",
    "export_hf",
    "registry",
    "baselines",
    "timesformer",
    "videomae",
    "vivit",
    "vjepa2",
    "inflate",
    "from_image",
]
HEAVY = [
    "av",
    "decord",
    "torchcodec",
    "pytorchvideo",
    "plotly",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "transformers",
    "accelerate",
    "jsonargparse",
    "rich",
]


def imports(path: Path) -> list[str]:
    """Modules that a file imports, written out in full; those for type checkers alone left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ["timesformer_plus", *path.relative_to(PACKAGE).parts[:-1]]
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    if room not in ALLOWED:
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "timesformer_plus" and len(parts) > 1 and parts[1] in ALLOWED:
            assert parts[1] in ALLOWED[room] | {room}, f"{path.name} of {room} imports {name}"
        assert parts[0] not in ("tools", "tests"), f"{path.name} imports {name}"


@pytest.mark.parametrize("name", MODEL_ORDER)
def test_models_build_on_each_other_in_one_order(name: str) -> None:
    later = MODEL_ORDER[MODEL_ORDER.index(name) + 1 :]
    room = PACKAGE / "models" / name
    files = list(room.glob("*.py")) if room.is_dir() else [room.with_suffix(".py")]
    used = {n.split(".")[2] for f in files for n in imports(f) if n.startswith("timesformer_plus.models.")}
    assert not used & set(later)


def test_every_file_of_models_has_its_place_in_the_order() -> None:
    assert {
        path.stem for path in (PACKAGE / "models").iterdir() if path.stem not in ("__init__", "__pycache__")
    } == set(MODEL_ORDER)


def test_models_import_little_beyond_torch_timm_and_einops() -> None:
    """And numpy and safetensors for files of weights, which hold scalars of the one and are written by the other.

    Triton, which exists for some systems only, belongs to the programs written in it, and those are imported when one
    of them is asked for.
    """
    for path in (PACKAGE / "models").rglob("*.py"):
        outside = {n.split(".")[0] for n in imports(path)} - set(sys.stdlib_module_names) - {"timesformer_plus"}
        triton = {"triton"} if path.stem == "short_attention_triton" else set()
        assert outside <= {"torch", "timm", "einops", "numpy", "safetensors"} | triton, f"{path.name} imports {outside}"


IMPORTED = ("timm", "timesformer_plus", "timesformer_plus.data.dataset, timesformer_plus.data.motion")


@pytest.fixture(scope="module")
def loaded() -> list[set[str]]:
    """The modules there are after each import of ``IMPORTED``, one after the other in a new process."""
    steps = [f"import {names}; print(json.dumps(sorted(sys.modules)))" for names in IMPORTED]
    script = "; ".join(["import json, sys", *steps])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def added(before: set[str], after: set[str]) -> set[str]:
    """Packages of which something has been loaded, and nothing before."""
    return {name.split(".")[0] for name in after} - {name.split(".")[0] for name in before}


def test_importing_the_package_loads_little_beyond_timm(loaded: list[set[str]]) -> None:
    timm, package, _ = loaded
    assert not added(timm, package) & set(HEAVY), f"importing the package loads {added(timm, package) & set(HEAVY)}"
    assert "timesformer_plus.models.kernels" in package
    assert "timesformer_plus.models.short_attention_triton" not in package


def test_importing_data_loads_no_decoder(loaded: list[set[str]]) -> None:
    timm, _, data = loaded
    assert "timesformer_plus.data.dataset" in data
    assert not added(timm, data) & {"av", "decord", "torchcodec", "pytorchvideo", "sklearn", "plotly"}


def imports_of_a_tool(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_tools_are_thin() -> None:
    tools = sorted((ROOT / "tools").glob("*.py"))
    assert {p.stem for p in tools} >= {"train", "evaluate", "predict", "ablate", "make_motion"}
    # rescore is a second opinion on the package's scores: independent on purpose, so it has no package to be thin over
    assert "timesformer_plus" not in imports_of_a_tool(ROOT / "tools" / "rescore.py")
    for path in tools:
        if path.stem == "rescore":
            continue
        assert len(path.read_text().splitlines()) <= 30, f"{path.name} has outgrown a thin entry point"


def test_no_room_for_odds_and_ends() -> None:
    assert not [p for p in MODULES if p.stem in ("utils", "common", "helpers", "misc")]
