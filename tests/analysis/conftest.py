"""Sweeps over a trainer that trains nothing."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ablation_fakes import FAKE_TRAINER, FakeMeasure, FakeProbe
from rich.console import Console

from timesformer_plus.analysis.ablation import run_ablation
from timesformer_plus.analysis.sweep import Suite, Sweep


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


@pytest.fixture
def measure() -> FakeMeasure:
    return FakeMeasure()


@pytest.fixture
def probe() -> FakeProbe:
    return FakeProbe()


@pytest.fixture
def run(measure: FakeMeasure, probe: FakeProbe) -> Callable[..., tuple[int, str]]:
    """Run a sweep on the fake trainer; gives exit status and what was printed."""

    def run_(sweep: Sweep, **options: Any) -> tuple[int, str]:
        text = io.StringIO()
        console = Console(file=text, width=200, force_terminal=False)
        fakes = {"trainer": FAKE_TRAINER, "measure": measure, "probe": probe}
        status = run_ablation(sweep, **{**fakes, "console": console, **options})
        return status, text.getvalue()

    return run_
