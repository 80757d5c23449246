"""The whole path once: video files, the real trainer as processes of their own, costs, report."""

import io
import json

import yaml
from rich.console import Console

from timesformer_plus.analysis.ablation import run_ablation
from timesformer_plus.analysis.sweep import Suite, Sweep, plan_runs
from timesformer_plus.data.motion import write_motion


def test_two_variants_of_a_tiny_recipe(tmp_path):
    data = write_motion("lattice", tmp_path / "data", train=16, val=16, test=16, size=32, num_frames=4, progress=False)
    base = tmp_path / "base.yaml"
    recipe = {
        "data": {"root": str(data), "multi_label": True, "num_frames": 4, "img_size": 32},
        "model": {"name": "timesformer_test_patch8_32", "args": {"depth": 1, "embed_dim": 16, "global_pool": "avg"}},
        "epochs": 1,
        "batch_size": 8,
    }
    base.write_text(yaml.safe_dump(recipe))
    variants = {"t": {"model.pattern": "t"}, "h": {"model.pattern": "h"}}
    suite = Suite(base=base, variants=variants, reference="t", metric="pair", readable={"t": ["time"], "h": ["height"]})
    sweep = Sweep(suites={"lattice": suite}, output=tmp_path / "out", seeds=(0,), jobs=2)
    text = io.StringIO()
    console = Console(file=text, width=100)

    status = run_ablation(sweep, console=console)

    assert status == 0, text.getvalue()
    report = json.loads((sweep.output / "results.json").read_text())
    rows = report["suites"]["lattice"]["rows"]
    assert [row["variant"] for row in rows] == ["t", "h"]
    for row in rows:
        assert 0 <= row["score"]["mean"] <= 1
        assert set(row["parts"]) == {"time", "height", "width"}
        assert row["params"] > 0
        assert row["gflops"] > 0
        assert row["measured"]["clips_per_second"] > 0
        assert row["measured"]["train_seconds"] > 0
    # h has a class token a frame to look at its columns; t has a time embedding and leaves the class token out
    assert rows[0]["gflops"] != rows[1]["gflops"]
    assert {"commit", "torch", "timm"} <= report["environment"].keys()

    logs = {run.name: run.log.stat().st_mtime_ns for run in plan_runs(sweep)}
    costs = (sweep.output / "lattice" / "t" / "cost.json").read_text()
    assert run_ablation(sweep, console=console) == 0
    assert logs == {run.name: run.log.stat().st_mtime_ns for run in plan_runs(sweep)}
    assert costs == (sweep.output / "lattice" / "t" / "cost.json").read_text()
