"""Lists of very many videos: read in time that grows with their number, with every folder listed once."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from timesformer_plus.data.catalogues import read_manifest

FILES = {"train.csv": "csv", "official.csv": "kinetics", "train.txt": "list", "train.jsonl": "jsonl"}


def seconds_for(folder: Path, rows: int, files: int) -> dict[str, float]:
    """CPU time to read lists of so many rows, of which so many videos are there, in folders of a hundred classes."""
    for i in range(100):
        (folder / f"class {i}").mkdir()
    for i in range(files):
        (folder / f"class {i % 100}" / f"{i:08d}.mp4").touch()
    with (folder / "train.csv").open("w") as file:
        file.write("path,label\n")
        file.writelines(f"class {i % 100}/{i:08d}.mp4,class {i % 100}\n" for i in range(rows))
    with (folder / "official.csv").open("w") as file:
        file.write("label,youtube_id,time_start,time_end,split\n")
        file.writelines(f"class {i % 100},{i:08d},10,20,train\n" for i in range(rows))
    with (folder / "train.txt").open("w") as file:
        file.writelines(f"class {i % 100}/{i:08d}.mp4 {i % 100}\n" for i in range(rows))
    with (folder / "train.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"path": f"class {i % 100}/{i:08d}.mp4", "label": i % 100}) + "\n" for i in range(rows)
        )
    seconds = {}
    for name, format in FILES.items():
        start = time.process_time()
        manifest = read_manifest(folder / name, format=format)
        seconds[format] = time.process_time() - start
        assert (len(manifest.samples), len(manifest.missing)) == (files, rows - files)
    return seconds


def test_fifty_thousand_rows(tmp_path, monkeypatch):
    """The bound is there for what grows with the square of the rows, not for a machine."""
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    seconds = seconds_for(tmp_path, 50_000, files=2_000)
    assert max(Counter(map(str, listed)).values()) == len(FILES)  # once by each of the readers
    assert max(seconds.values()) < 30


@pytest.mark.slow
def test_a_million_rows(tmp_path, capsys):
    seconds = seconds_for(tmp_path, 1_000_000, files=10_000)
    with capsys.disabled():
        print("\n10^6 rows, CPU seconds:", ", ".join(f"{format} {value:.1f}" for format, value in seconds.items()))
    assert max(seconds.values()) < 300
