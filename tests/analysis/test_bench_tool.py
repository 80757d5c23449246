"""The benchmark from its command line to its file, on the smallest model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from timesformer_plus.analysis.bench import memory, scaling
from timesformer_plus.analysis.bench.cli import main
from timesformer_plus.analysis.bench.rows import check_row
from timesformer_plus.analysis.bench.scaling import _passed, slope

ROOT = Path(__file__).parents[2]


class Said:
    def __init__(self):
        self.said = []

    def __call__(self, text):
        pass

    def say(self, text):
        self.said.append(text)


def benchmark(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "benchmark.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_a_run_from_the_command_line_to_its_file(tmp_path, capsys):
    words = ["--quick", "true", "--sizes", "test", "--rounds", "1", "--threads", "1", "--output", str(tmp_path)]
    done = benchmark("model", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*.json")
    run = json.loads(file.read_text())
    assert run["finished"] == ["model"]
    assert run["threads"] == 1
    assert run["versions"]["torch"]
    assert run["machine"]["cpu"]
    assert run["command"].startswith("python tools/benchmark.py model --quick true")
    assert any(text.startswith("no GPU") for text in run["said"])
    assert "no GPU" in done.stdout
    rows = [check_row(row) for row in run["rows"]]
    names = {(row["table"], row["name"], row["unit"]) for row in rows}
    assert len(names) == len(rows)
    for pattern in ("s", "ts", "lg"):
        for what in ("forward", "training"):
            assert ("model", f"test 8x32 {pattern} {what}: of the limit", "percent") in names
            assert ("model", f"test 8x32 {pattern} {what}: speed over fold by copies", "ratio") in names
            is_theirs = pattern != "lg"
            assert (("model", f"test 8x32 {pattern} {what}: speed over transformers", "ratio") in names) == is_theirs
    assert f"{len(rows)} rows in {file}" in done.stdout

    assert main(["compare", str(file), str(file)]) == 0
    assert f"{len(rows)} rows compared: 0 worse beyond noise, 0 better; 0 vanished" in capsys.readouterr().out


def test_a_table_that_fails_leaves_the_others_and_is_told(tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("no luck")

    rows = [scaling.make_row("scaling", "a row", [1.0], target=2.0)]
    monkeypatch.setattr(memory, "measure", fail)
    monkeypatch.setattr(scaling, "measure", lambda **_: rows)
    assert main(["memory", "scaling", "--threads", "1", "--output", str(tmp_path), "--device", "cpu"]) == 1
    assert "memory: not measured: RuntimeError: no luck" in capsys.readouterr().out
    (file,) = tmp_path.glob("*.json")
    run = json.loads(file.read_text())
    assert run["finished"] == ["scaling"]
    assert run["rows"] == rows


def test_an_interrupted_run_keeps_what_was_finished(tmp_path, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "measure", lambda **_: [memory.make_row("memory", "a row", [1.0])])
    monkeypatch.setattr(scaling, "measure", interrupt)
    assert main(["memory", "scaling", "--threads", "1", "--output", str(tmp_path), "--device", "cpu"]) == 130
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["finished"] == ["memory"]


def test_growth_comes_as_exponents(monkeypatch):
    monkeypatch.setattr(scaling, "PATTERNS", ("s", "j"))
    rows = scaling.measure(rounds=1, quick=True, progress=Said(), sizes=["test"])
    assert [(row["name"], row["unit"]) for row in rows] == [
        (f"test {pattern}, time against {what}", "exponent") for pattern in "sj" for what in ("frames", "side")
    ]
    counted = {row["name"]: row["detail"]["of_counted_multiply_adds"] for row in rows}
    assert counted["test s, time against frames"] == pytest.approx(1, abs=0.01)
    assert 1.2 < counted["test j, time against frames"] < 2
    assert 2.5 < counted["test j, time against side"] < 4
    assert all(set(row["detail"]["seconds"]) == {"4", "8", "16", "32"} for row in rows[::2])


def test_peaks_come_from_processes_and_one_that_fails_leaves_the_others(monkeypatch):
    monkeypatch.setattr(memory, "_ON_CPU", {"test": (("ts", "twh"), 8)})
    monkeypatch.setattr(memory, "_who", lambda _: ["ours", "transformers"])
    progress = Said()
    rows = memory.measure(rounds=1, quick=False, progress=progress, sizes=["test"])
    assert [(row["name"].removeprefix("test 8x32 "), row["unit"]) for row in rows] == [
        ("ts, batch 8, forward and backward: peak over transformers", "ratio"),
        ("ts, batch 8, forward and backward: peak of ours", "MB"),
        ("ts, batch 8, training step: peak over transformers", "ratio"),
        ("ts, batch 8, training step: peak of ours", "MB"),
        ("twh, batch 8, forward and backward: peak of ours", "MB"),
        ("twh, batch 8, training step: peak of ours", "MB"),
    ]
    assert all(check_row(row)["median"] > 0 for row in rows)
    (failure,) = progress.said
    assert failure.startswith("memory of test 8x32 twh, transformers: ValueError: transformers' Timesformer")


def test_exponents_of_a_power_law():
    x = [4.0, 8.0, 16.0, 32.0]
    exponent, error = slope(x, [3 * value**1.7 for value in x])
    assert exponent == pytest.approx(1.7)
    assert error == pytest.approx(0.0, abs=1e-9)


def test_where_memory_runs_out_is_extrapolated_as_it_grows():
    frames = np.array([4, 8, 16, 32, 64])
    quadratic = dict(zip(frames.tolist(), (100 + 5 * frames + 2 * frames**2).tolist(), strict=True))
    assert "at about 100 frames (quadratic, extrapolated from 64)" in _passed(quadratic, 100 + 500 + 20000)
    linear = dict(zip(frames.tolist(), (100 + 5 * frames).tolist(), strict=True))
    assert "at about 1000 frames (linear" in _passed(linear, 5100)
