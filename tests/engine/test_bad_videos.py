"""Two hundred videos, every tenth of which is bad: what training, a scan and training after the scan make of them."""

import csv
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import finish, start, tiny_run

from timesformer_plus.data.scan import scan_videos
from timesformer_plus.engine.bad_videos import BadVideos, BadVideosError, default_max_bad
from timesformer_plus.engine.train import train

COUNT = 200
BAD = {
    "empty": lambda _: b"",
    "not a video": lambda _: b"<html>404 not found</html>" * 20,
    "cut off": lambda good: good[: len(good) // 2],
}


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def planted(direction, tmp_path_factory):
    """The folder, and what is wrong with which file. Validation and test videos are all good."""
    folder = tmp_path_factory.mktemp("planted") / "data"
    shutil.copytree(direction, folder)
    with (direction / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = {}
    lines = ["path,label"]
    for i in range(COUNT):
        row = rows[i % len(rows)]
        good = (direction / row["path"]).read_bytes()
        name = f"many/{i}.mp4"
        (folder / "many").mkdir(exist_ok=True)
        if i % 10 == 3:
            kind = list(BAD)[i // 10 % len(BAD)]
            good, wrong[name] = BAD[kind](good), kind
        (folder / name).write_bytes(good)
        lines.append(f"{name},{row['label']}")
    (folder / "many.csv").write_text("\n".join(lines) + "\n")
    assert len(wrong) == COUNT // 10
    return folder, wrong


def run_of(output, folder, **data):
    return tiny_run(output, folder, data={"train": "many.csv", **data})


def listed(output):
    with (output / "bad_videos.csv").open(newline="") as file:
        return {row["path"]: row["kind"] for row in csv.DictReader(file)}


def test_the_limit_is_a_thousandth_of_the_split_but_at_least_ten():
    assert [default_max_bad(n) for n in (1, 200, 10_000, 10_001, 240_000)] == [10, 10, 10, 11, 240]


def test_an_error_counts_and_names_what_the_epoch_met():
    """Not what an earlier epoch did, whose videos may be read by now."""
    bad = BadVideos(limit=1)

    def see(*indices):
        kinds = ["damaged"] * len(indices)
        reasons = [f"v{i}: bad" for i in (*indices, 9)]
        # the last clip is there for company only, and does not count
        clip = SimpleNamespace(wanted=torch.tensor([*indices, 9]), problem=[*kinds, "damaged"], reason=reasons)
        bad.see(clip, len(indices))
        new = bad.gather()
        bad.check()
        return [video.index for video in new]

    assert see(3) == [3]
    bad.start_epoch()
    assert see(3) == []  # named once
    with pytest.raises(BadVideosError, match=r"^2 videos of this epoch.*\(2 damaged\).*They are: v3: bad; v5: bad$"):
        see(5)
    assert bad.kinds == {"damaged": 3}


def test_training_stops_at_the_default_limit_and_says_why(planted, tmp_path):
    folder, wrong = planted
    with pytest.raises(BadVideosError) as caught:
        train(run_of(tmp_path / "run", folder))
    text = str(caught.value)
    assert "data.max_bad=10" in text
    assert "tools/scan.py" in text
    named = listed(tmp_path / "run")
    assert named.items() <= wrong.items()
    # every clip of an update is counted before it stops
    assert 11 <= len(named) <= 11 + 8
    assert sum(name in text for name in named) >= 10
    assert not (tmp_path / "run" / "result.json").exists()


def test_with_a_raised_limit_it_goes_to_the_end_and_counts(planted, tmp_path, capsys):
    folder, wrong = planted
    config = run_of(tmp_path / "run", folder, max_bad=20)
    result = train(tiny_run(config.output, folder, data={"train": "many.csv", "max_bad": 20}, progress=True))
    assert result["status"] == "finished"
    # 25 updates of 8 clips are the whole split, twice
    assert [line["bad_videos"] for line in events(config.output, "epoch")] == [20, 20]
    assert result["videos"]["train"]["found"] == COUNT
    assert result["bad_videos"] == {kind: 2 * count for kind, count in Counter(wrong.values()).items()}
    assert listed(config.output) == wrong
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unreadable, another video")]
    assert len(said) == len(wrong)  # each once, not once an epoch
    assert all(any(name in line for line in said) for name in wrong)


def test_processes_and_workers_count_together(planted, tmp_path):
    folder, wrong = planted
    config = run_of(tmp_path / "run", folder, max_bad=20, num_workers=1)
    code, output = finish(start(config, processes=2))
    assert code == 0, output
    assert json.loads((config.output / "result.json").read_text())["bad_videos"] == {
        kind: 2 * count for kind, count in Counter(wrong.values()).items()
    }
    assert listed(config.output) == wrong


def test_all_processes_stop_together_with_one_line(planted, tmp_path):
    folder, _ = planted
    code, output = finish(start(run_of(tmp_path / "run", folder), processes=2))
    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all("more than data.max_bad=10" in line for line in lines)


def test_after_a_scan_the_bad_ones_might_as_well_not_be_there(planted, tmp_path):
    folder, wrong = planted
    scan = scan_videos(folder, tmp_path / "scan.csv", progress=False)
    assert {row.path: row.kind for row in scan.rows if row.verdict == "bad"} == wrong
    scanned = run_of(tmp_path / "scanned", folder, scan=str(tmp_path / "scan.csv"), max_missing=0.1, max_bad=0)

    without = tmp_path / "without"
    shutil.copytree(folder, without)
    for name in wrong:
        (without / name).unlink()
    with (folder / "many.csv").open() as file:
        kept = [line for line in file if line.split(",")[0] not in wrong]
    (without / "many.csv").write_text("".join(kept))
    clean = run_of(tmp_path / "clean", without, max_bad=0)

    results = [train(config) for config in (scanned, clean)]
    losses = [[line["loss"] for line in events(config.output, "step")] for config in (scanned, clean)]
    assert len(losses[0]) == 2 * 180 // 8 - 1
    assert losses[0] == losses[1]
    weights = [(config.output / "last" / "model.safetensors").read_bytes() for config in (scanned, clean)]
    assert weights[0] == weights[1]
    assert results[0]["test"] == results[1]["test"]
    report = events(scanned.output, "data")[0]["report"]
    assert report[0] == f"train: 200 expected, 180 found, 20 missing (20 of them by {tmp_path / 'scan.csv'})"
    counts = {"expected": 200, "found": 180, "missing": 0, "unreadable": 20, "excluded": 0, "short": 0}
    assert results[0]["videos"]["train"] == counts
