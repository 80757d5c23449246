"""A sweep over a trainer that trains nothing, and stand-ins for measured costs."""

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from timesformer_plus.analysis.ablation import run_ablation
from timesformer_plus.analysis.cost import Cost, Speed
from timesformer_plus.analysis.sweep import Suite, Sweep

FAKE_TRAINER = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """Make a sweep of one suite: ``make_sweep({"s": {"fake.score": 0.5}}, seeds=(0, 1))``."""

    def make(
        variants: Mapping[str, Mapping[str, Any]], *, suite: Mapping[str, Any] | None = None, **options: Any
    ) -> Sweep:
        base = tmp_path / "base.yaml"
        base.write_text(yaml.safe_dump({"model": {"pattern": "s"}, "fake": {"score": 0.5}}))
        spec = {"reference": next(iter(variants)), **(suite or {})}
        return Sweep(
            suites={"task": Suite(base=base, variants={k: dict(v) for k, v in variants.items()}, **spec)},
            **{"output": tmp_path / "out", "seeds": (0, 1), **options},
        )

    return make


class FakeMeasure:
    """Counts how often it is asked, and gives every model a cost of its own."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, folders: Mapping[str, Path], threads: int) -> dict[str, tuple[Cost, Speed]]:
        assert all(folder.is_dir() for folder in folders.values())
        self.asked.append(list(folders))
        return {
            name: (Cost(1000, 0.5 * (1 + index)), Speed(100.0 / (1 + index), 8, 11, threads, "test <cpu>"))
            for index, name in enumerate(folders)
        }


@pytest.fixture
def measure() -> FakeMeasure:
    return FakeMeasure()


@pytest.fixture
def run(measure: FakeMeasure) -> Callable[..., tuple[int, str]]:
    """Run a sweep on the fake trainer; gives exit status and what was printed."""

    def run_(sweep: Sweep, **options: Any) -> tuple[int, str]:
        text = io.StringIO()
        console = Console(file=text, width=200, force_terminal=False)
        status = run_ablation(sweep, **{"trainer": FAKE_TRAINER, "measure": measure, "console": console, **options})
        return status, text.getvalue()

    return run_
