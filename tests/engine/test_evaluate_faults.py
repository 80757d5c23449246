"""Evaluation of videos that cannot be read, are not there, are left out, or are too short."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run
from torch import nn

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.scan_table import ScanRow, write_scan
from timesformer_plus.engine import evaluate as evaluate_module
from timesformer_plus.engine import train as train_module
from timesformer_plus.engine.batches import EvaluationBatches
from timesformer_plus.engine.clip_loading import UnreadableVideosError, read_batches, read_clips
from timesformer_plus.engine.config import dump_config
from timesformer_plus.engine.evaluate import evaluate, evaluate_checkpoint, predict_views, print_videos

TOOLS = Path(__file__).parents[2] / "tools"


class Faulty(torch.utils.data.Dataset):
    """``faults`` says which ``(index, view)`` raise what, ``short`` which are of a video with too few frames."""

    def __init__(self, num_videos, *, faults=None, short=(), num_views=2):
        samples = tuple(Sample(f"val/{i}.mp4", Path(f"/videos/val/{i}.mp4"), i % 2) for i in range(num_videos))
        self.manifest = Manifest(samples, ("a", "b"), multi_label=False)
        self.num_views = num_views
        self.faults = faults or {}
        self.short = short
        self.asked = []

    def __len__(self):
        return len(self.manifest.samples)

    def __getitem__(self, key):
        self.asked.append(key)
        _, index, view = key
        if (index, view) in self.faults:
            raise self.faults[index, view]
        video = torch.full((3, 2, 4, 4), 100, dtype=torch.uint8)
        return Clip(video, torch.tensor(index % 2), index, view, index, "", "", (index, view) in self.short)


class Constant(nn.Module):
    """The same for every clip."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))
        self.clips = 0

    def forward(self, x):
        self.clips += len(x)
        return self.weight.expand(len(x), 2)


def as_they_are(video, dtype):
    """In the place of ``Normalize``."""
    return video.to(dtype)


def damaged(index, reason="frame 3 of 9 could not be read"):
    return DecodeError(f"/videos/val/{index}.mp4", reason, "damaged")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_arrives_as_it_was_raised(num_workers):
    dataset = Faulty(4, faults={(2, 0): damaged(2), (2, 1): damaged(2)})
    batches = EvaluationBatches(4, 2, batch_size=2)
    clips = read_clips(dataset, batches, num_workers=num_workers)
    assert [next(clips).index.tolist() for _ in range(2)] == [[0, 0], [1, 1]]
    with pytest.raises(DecodeError) as caught:
        next(clips)
    error = caught.value
    assert str(error) == "/videos/val/2.mp4: frame 3 of 9 could not be read"
    assert (error.path, error.reason, error.kind) == (
        Path("/videos/val/2.mp4"), "frame 3 of 9 could not be read", "damaged"
    )  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 1])
def test_error_of_the_system_arrives_as_it_was_raised(num_workers):
    dataset = Faulty(1, faults={(0, 0): OSError(5, "Input/output error", "/videos/val/0.mp4")})
    with pytest.raises(OSError, match="Input/output error") as caught:
        next(read_clips(dataset, EvaluationBatches(1, 1, batch_size=1), num_workers=num_workers))
    assert str(caught.value) == "[Errno 5] Input/output error: '/videos/val/0.mp4'"
    assert (caught.value.errno, caught.value.filename) == (5, "/videos/val/0.mp4")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_mistakes_of_ours_are_not_taken_for_bad_videos(num_workers):
    dataset = Faulty(1, faults={(0, 0): KeyError("views")})
    with pytest.raises(KeyError, match="views"):
        next(read_batches(dataset, EvaluationBatches(1, 1, batch_size=1), num_workers=num_workers))


def test_the_rest_of_a_batch_is_read():
    dataset = Faulty(3, faults={(1, 0): damaged(1)}, num_views=1)
    (batch,) = read_batches(dataset, EvaluationBatches(3, 1, batch_size=3))
    assert batch.clips.index.tolist() == [0, 2]
    assert [failure.key for failure in batch.unread] == [(0, 1, 0)]
    dataset = Faulty(2, faults={(0, 0): damaged(0), (1, 0): damaged(1)}, num_views=1)
    (batch,) = read_batches(dataset, EvaluationBatches(2, 1, batch_size=2))
    assert batch.clips is None
    assert len(batch.unread) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_unreadable_videos_are_named(num_workers):
    disk = OSError(5, "Input/output error")
    faults = {(1, 1): damaged(1, "is cut off;\ncopy it"), (3, 0): damaged(3), (3, 1): damaged(3), (6, 0): disk}
    model, counts = Constant().train(), []
    with pytest.raises(UnreadableVideosError) as caught:
        predict_views(
            model, Faulty(7, faults=faults), as_they_are, batch_size=4, num_workers=num_workers, on_batch=counts.append
        )
    assert str(caught.value) == (
        "3 of 7 videos cannot be read: val/1.mp4 (is cut off; copy it); val/3.mp4 (frame 3 of 9 could not be read); "
        "val/6.mp4 ([Errno 5] Input/output error); evaluation replaces none: get them again, or name them in a list to "
        "exclude"
    )
    assert list(caught.value.errors) == ["val/1.mp4", "val/3.mp4", "val/6.mp4"]
    assert caught.value.errors["val/3.mp4"].kind == "damaged"
    # progress counts every clip; nothing is computed for a score that will not be; the model is handed back as it was
    assert counts == [4, 4, 4, 2]
    assert model.clips == 0
    assert model.training


def test_ten_are_named_and_the_others_counted():
    with pytest.raises(DecodeError) as caught:
        evaluate(Constant(), Faulty(20, faults={(i, 0): damaged(i) for i in range(3, 15)}), as_they_are, batch_size=3)
    text = str(caught.value)
    assert text.startswith("12 of 20 videos cannot be read: val/3.mp4 (")
    assert text.count(".mp4") == 10
    assert "val/12.mp4" in text
    assert "; and 2 more; evaluation" in text
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == text
    assert (again.total, len(again.errors)) == (20, 12)


def test_short_videos_are_counted_once_whatever_their_views():
    dataset = Faulty(5, short={(1, 0), (1, 1), (4, 1)})
    assert evaluate(Constant(), dataset, as_they_are, batch_size=3).short_videos == 2
    assert predict_views(Constant(), dataset, as_they_are, batch_size=3).short.tolist() == [0, 1, 0, 0, 1]
    assert evaluate(Constant(), Faulty(5), as_they_are, batch_size=3).short_videos == 0


@pytest.fixture
def videos(five_videos, tmp_path):
    """Five videos of the test split and their manifest, to be spoiled."""
    folder = tmp_path / "data"
    (folder / "test").mkdir(parents=True)
    shutil.copy(five_videos, folder / "five.csv")
    paths = [line.split(",")[0] for line in five_videos.read_text().splitlines()[1:]]
    for path in paths:
        shutil.copy(five_videos.parent / path, folder / path)
    return folder, [folder / path for path in paths]


def spoil(path):
    path.write_bytes(path.read_bytes()[:200])


def run_main(monkeypatch, capfd, *words):
    """What the command line prints, workers included: exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, words), "--threads", "1"])
    code = 0
    try:
        evaluate_module.main()
    except SystemExit as stop:
        code = stop.code
    printed = capfd.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_says_in_one_line_what_cannot_be_read(finished_run, videos, num_workers, monkeypatch, capfd):
    folder, paths = videos
    spoil(paths[1])
    paths[4].write_text("dear reader")
    words = [folder / "five.csv", "--model", finished_run[0] / "best", "--num_workers", num_workers]
    code, _, error = run_main(monkeypatch, capfd, *words)
    assert code == 1
    assert error.count("\n") == 1
    assert error.startswith(f"error: 2 of 5 videos cannot be read: test/{paths[1].name} (")
    assert f"test/{paths[4].name} (is no video" in error


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_says_in_one_line_what_a_worker_cannot_read(direction, split, tmp_path, capfd):
    data = tmp_path / "data"
    shutil.copytree(direction, data)
    bad = sorted((data / split).glob("*.mp4"))[3]
    spoil(bad)
    config = tiny_run(tmp_path / "run", data, epochs=1, data={"max_bad": 0, "num_workers": 1})
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    with pytest.raises(SystemExit) as stop:
        train_module.main(["--config", str(file)])
    assert stop.value.code == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert f"{split}/{bad.name}" in error


def test_every_process_names_the_unreadable_videos_of_all(finished_run, videos):
    folder, paths = videos
    spoil(paths[1])  # the second process's
    spoil(paths[4])  # the first one's
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(TOOLS / "evaluate.py"), str(folder / "five.csv"), "--model", str(finished_run[0] / "best")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) in (1, 2), done.stderr  # torchrun ends the others when it sees the first one gone
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"error: 2 of 5 videos cannot be read: test/{paths[1].name} (")
    assert f"test/{paths[4].name} (" in errors[0]
    # no traceback of ours: what else there is comes from the launcher
    assert "timesformer_plus/engine" not in done.stderr
    assert "gather" not in done.stderr


def test_scan_and_exclusions_are_those_of_training(finished_run, videos, tmp_path, monkeypatch, capfd):
    folder, paths = videos
    spoil(paths[1])
    facts = paths[1].stat()
    row = ScanRow(f"test/{paths[1].name}", size_bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, kind="damaged")
    write_scan([row], folder / "scan.csv")
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(f"test/{paths[2].name}\ntrain/0000.mp4\n")
    output = tmp_path / "result.json"
    words = [folder / "five.csv", "--model", finished_run[0] / "best", "--exclude", exclude, "--output", output]
    code, _, error = run_main(monkeypatch, capfd, *words)
    assert code == 1
    assert "4 expected, 3 found, 1 missing" in error  # the scan's verdict counts
    assert error.count("\n") == 1
    code, printed, error = run_main(monkeypatch, capfd, *words, "--max_missing", 0.3)
    assert (code, error) == (0, "")
    result = json.loads(output.read_text())
    counts = {"expected": 4, "found": 3, "missing": 0, "unreadable": 1, "excluded": 1, "short": 0}
    assert result["videos"] == counts
    lines = printed.splitlines()
    assert f"{folder / 'five.csv'}: 4 expected, 3 found, 1 missing" in lines[0]
    assert lines[-6:] == [
        "videos expected: 4",
        "videos found: 3",
        "videos missing: 0",
        "videos unreadable: 1 (by the scan, not scored)",
        "videos excluded: 1 (by the list, not scored)",
        "videos short: 0",
    ]
    # the three that are left score as if nothing else had ever been listed
    names = {f"test/{paths[i].name}" for i in (0, 3, 4)}
    rows = [line for line in (folder / "five.csv").read_text().splitlines() if line.split(",")[0] in names]
    (folder / "three.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    alone = evaluate_checkpoint(folder / "three.csv", model=finished_run[0] / "best", scan="none")
    assert {**alone, "videos": None} == {**result, "videos": None}
    # and a root of their own is where the scan and the list begin
    elsewhere = tmp_path / "five.csv"
    shutil.copy(folder / "five.csv", elsewhere)
    monkeypatch.chdir(folder.parent)
    moved = evaluate_checkpoint(
        elsewhere, model=finished_run[0] / "best", root=Path(folder.name), exclude=exclude, max_missing=0.3
    )
    assert moved == result


def test_scan_that_is_not_there(finished_run, videos, monkeypatch, capfd):
    folder, _ = videos
    words = [folder / "five.csv", "--model", finished_run[0] / "best", "--scan", folder / "no.csv"]
    code, _, error = run_main(monkeypatch, capfd, *words)
    assert (code, error.count("\n")) == (1, 1)
    assert "no.csv: there is no such file" in error


def test_limits_hold_in_evaluation(finished_run, videos, monkeypatch, capfd):
    folder, _ = videos
    words = [folder / "five.csv", "--model", finished_run[0] / "best"]
    code, _, error = run_main(monkeypatch, capfd, *words, "--limits.max_pixels", 100)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: 5 of 5 videos cannot be read: ")
    assert "limits.max_pixels=100" in error
    code, _, error = run_main(monkeypatch, capfd, *words, "--limits.max_pixels", 0)
    assert code == 2
    assert "limits.max_pixels=0: must be above 0" in error
    with pytest.raises(UnreadableVideosError, match=r"limits\.max_frames=3"):
        evaluate_checkpoint(folder / "five.csv", model=finished_run[0] / "best", limits=Limits(max_frames=3))


def test_short_videos_are_in_the_result(direction, tmp_path):
    config = tiny_run(tmp_path / "run", direction, epochs=1, data={"stride": 2})  # 15 of 8 frames
    train_module.train(config)
    result = evaluate_checkpoint(direction / "test.csv", model=tmp_path / "run" / "best")
    assert result["videos"]["short"] == result["videos"]["found"] == 8


def test_counts_are_printed_a_line_each(capsys):
    print_videos({"expected": 3, "found": 2, "missing": 1, "unreadable": 0, "excluded": 0, "short": 2})
    assert capsys.readouterr().out.splitlines() == [
        "videos expected: 3",
        "videos found: 2",
        "videos missing: 1 (not there, not scored)",
        "videos unreadable: 0",
        "videos excluded: 0",
        "videos short: 2 (scored, but with frames that come again)",
    ]
