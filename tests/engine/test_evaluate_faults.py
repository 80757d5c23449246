"""Evaluation of videos that cannot be read, are not there, are left out, or are too short."""

import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import tiny_checkpoint
from tiny_runs import tiny_run
from torch import nn

from timesformer_plus.data.clip_reader import ClipReader
from timesformer_plus.data.containers import Limits
from timesformer_plus.data.dataset import Clip
from timesformer_plus.data.decoders import DecodeError
from timesformer_plus.data.manifests import Manifest, Sample
from timesformer_plus.data.scan_table import ScanRow, write_scan
from timesformer_plus.engine import evaluate as evaluate_module
from timesformer_plus.engine import train as train_module
from timesformer_plus.engine import views as views_module
from timesformer_plus.engine.clip_loading import UnreadableVideosError, read_batches, read_clips
from timesformer_plus.engine.config import dump_config
from timesformer_plus.engine.evaluate import evaluate_checkpoint
from timesformer_plus.engine.evaluation import evaluate
from timesformer_plus.engine.metrics import UNREADABLE
from timesformer_plus.engine.predictions import load_predictions
from timesformer_plus.engine.protocols import Protocol
from timesformer_plus.engine.score_tables import print_videos
from timesformer_plus.engine.views import ViewBatches, predict_views

TOOLS = Path(__file__).parents[2] / "tools"
TWO_VIEWS = Protocol(
    "by hand", 2, 1, "probabilities", 2, "stride", 1, None, "repeat", (4, 4), None, None, (0.5,) * 3, (0.5,) * 3
)


class Faulty(torch.utils.data.Dataset):
    """``faults`` says which ``(index, view)`` raise what, ``short`` which are of a video with too few frames."""

    def __init__(self, num_videos, *, faults=None, short=(), num_views=2, pairs="", labels=None):
        samples = tuple(
            Sample(
                f"val/{i}.mp4",
                Path(f"/videos/val/{i}.mp4"),
                i % 2 if labels is None else labels[i],
                pairs[i : i + 1].strip("."),
            )
            for i in range(num_videos)
        )
        self.manifest = Manifest(samples, ("a", "b"), multi_label=labels is not None)
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
        label = torch.tensor(self.manifest.samples[index].label)
        return Clip(video, label, index, view, index, "", "", (index, view) in self.short)


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
    batches = ViewBatches(range(4), 2, batch_size=2)
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
        next(read_clips(dataset, ViewBatches(range(1), 1, batch_size=1), num_workers=num_workers))
    assert str(caught.value) == "[Errno 5] Input/output error: '/videos/val/0.mp4'"
    assert (caught.value.errno, caught.value.filename) == (5, "/videos/val/0.mp4")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_mistakes_of_ours_are_not_taken_for_bad_videos(num_workers):
    dataset = Faulty(1, faults={(0, 0): KeyError("views")})
    with pytest.raises(KeyError, match="views"):
        next(read_batches(dataset, ViewBatches(range(1), 1, batch_size=1), num_workers=num_workers))


def test_the_rest_of_a_batch_is_read():
    dataset = Faulty(3, faults={(1, 0): damaged(1)}, num_views=1)
    (batch,) = read_batches(dataset, ViewBatches(range(3), 1, batch_size=3))
    assert batch.clips.index.tolist() == [0, 2]
    assert [failure.key for failure in batch.unread] == [(0, 1, 0)]
    dataset = Faulty(2, faults={(0, 0): damaged(0), (1, 0): damaged(1)}, num_views=1)
    (batch,) = read_batches(dataset, ViewBatches(range(2), 1, batch_size=2))
    assert batch.clips is None
    assert len(batch.unread) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_videos_are_wrong_and_named(num_workers):
    disk = OSError(5, "Input/output error")
    faults = {(1, 1): damaged(1, "is cut off;\ncopy it"), (3, 0): damaged(3), (3, 1): damaged(3), (6, 0): disk}
    model, dataset, counts = Constant().train(), Faulty(7, faults=faults, pairs="pp..pq.q"), []
    scored = evaluate(
        model,
        dataset,
        as_they_are,
        protocol=TWO_VIEWS,
        batch_size=4,
        num_workers=num_workers,
        on_batch=counts.append,
    )
    assert scored.unreadable == {
        "val/1.mp4": "is cut off; copy it",
        "val/3.mp4": "frame 3 of 9 could not be read",
        "val/6.mp4": "[Errno 5] Input/output error",
    }
    # progress counts every clip, the model sees those that could be read and is handed back as it was
    assert counts == [0, 4, 4, 4, 2]
    assert model.clips == 10
    assert model.training
    # all is taken for class a: of videos 0 2 4 6 of that class the last could not be read
    metrics = scored.metrics
    assert metrics["top1"] == 3 / 7
    assert metrics["per_class"] == {"a": 0.75, "b": 0.0}
    assert metrics["mean_class_accuracy"] == 0.375
    assert scored.confusion == {"a": {"a": 3, UNREADABLE: 1}, "b": {"a": 1, UNREADABLE: 2}}
    # what is about probabilities is about those that there are: of videos 0 2 4, right, and 5, wrong
    chance = torch.sigmoid(torch.tensor(2.0).double()).item()
    assert metrics["loss"] == pytest.approx(-(3 * math.log(chance) + math.log(1 - chance)) / 4)
    assert metrics["ece"] == pytest.approx(abs(0.75 - chance))
    assert metrics["pair"] == 0.0


def test_an_unreadable_partner_makes_its_pair_wrong():
    dataset = Faulty(3, pairs="p.p")
    assert evaluate(Constant(), dataset, as_they_are, protocol=TWO_VIEWS, batch_size=4).metrics["pair"] == 1.0
    dataset.faults = {(2, 1): damaged(2)}
    assert evaluate(Constant(), dataset, as_they_are, protocol=TWO_VIEWS, batch_size=4).metrics["pair"] == 0.0


def test_unreadable_videos_are_wrong_in_every_class_of_many(tmp_path):
    dataset = Faulty(4, faults={(3, 0): damaged(3)}, labels=[(1, 0), (1, 1), (0, 0), (1, 1)])
    file = tmp_path / "val.npz"
    metrics = evaluate(Constant(), dataset, as_they_are, protocol=TWO_VIEWS, batch_size=3, predictions=file).metrics
    # a is said of all, b of none; nothing at all of the last video
    assert (metrics["accuracy/a"], metrics["accuracy/b"], metrics["accuracy"]) == (0.5, 0.5, 0.5)
    # a: 2 of the first 3, then 3 of 4; b: 1 of 3, then 2 of 4
    assert metrics["average_precision"] == pytest.approx({"a": 2 / 3 * 2 / 3 + 1 / 3 * 3 / 4, "b": (1 / 3 + 1 / 2) / 2})
    assert metrics["mean_average_precision"] == pytest.approx(sum(metrics["average_precision"].values()) / 2)
    chance = torch.sigmoid(torch.tensor(1.0).double()).item()
    said = [chance, chance, chance, 1 - chance, 1 - chance, chance]  # of the right answers: a yes, b no, ...
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, said)) / 6)


def test_where_nothing_can_be_read_there_is_no_score():
    faults = {(i, 1): damaged(i) for i in range(12)}
    with pytest.raises(UnreadableVideosError) as caught:
        predict_views(Constant(), Faulty(12, faults=faults), as_they_are, protocol=TWO_VIEWS, batch_size=3)
    text = str(caught.value)
    assert text.startswith("12 of 12 videos cannot be read: val/0.mp4 (frame 3 of 9 could not be read); val/1.mp4 (")
    assert text.count(".mp4") == 10
    assert "; and 2 more; evaluation" in text
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == text
    assert (again.total, len(again.errors)) == (12, 12)


def test_short_videos_are_counted_once_whatever_their_views():
    dataset = Faulty(5, short={(1, 0), (1, 1), (4, 1)})
    assert evaluate(Constant(), dataset, as_they_are, protocol=TWO_VIEWS, batch_size=3).short_videos == 2
    said = predict_views(Constant(), dataset, as_they_are, protocol=TWO_VIEWS, batch_size=3)
    assert said.short.tolist() == [0, 1, 0, 0, 1]
    assert evaluate(Constant(), Faulty(5), as_they_are, protocol=TWO_VIEWS, batch_size=3).short_videos == 0


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
def test_unreadable_videos_are_printed_listed_and_told_by_the_exit_code(
    checkpoint, direction, videos, num_workers, monkeypatch, capfd, tmp_path
):
    folder, paths = videos
    spoil(paths[1])
    paths[4].write_text("dear reader")
    output, file = tmp_path / "result.json", tmp_path / "five.npz"
    words = [folder / "five.csv", "--model", checkpoint, "--num_workers", num_workers]
    code, printed, error = run_main(monkeypatch, capfd, *words, "--output", output, "--predictions", file)
    assert (code, error) == (3, "")
    result = json.loads(output.read_text())
    assert result["status"] == "some unreadable"
    assert "1 process\n" in printed
    names = [f"test/{paths[i].name}" for i in (1, 4)]
    assert list(result["unreadable"]) == names
    assert "is no video" in result["unreadable"][names[1]]
    lines = [line for line in printed.splitlines() if line.startswith("could not be read, counts as wrong: ")]
    assert [line.split(": ", 1)[1].split(" (")[0] for line in lines] == names
    assert load_predictions(file).unreadable == result["unreadable"]
    # the others are scored as if nothing were the matter: to the last bits, as their batch is another
    whole = tmp_path / "whole.npz"
    evaluate_checkpoint(direction / "five.csv", model=checkpoint, predictions=whole)
    both = [load_predictions(path) for path in (file, whole)]
    rest = [i for i, name in enumerate(both[0].ids) if name not in names]
    torch.testing.assert_close(both[0].logits[rest], both[1].logits[rest], rtol=1e-4, atol=1e-4)
    assert both[0].read.tolist() == [[name not in names] * 2 for name in both[0].ids]


def test_training_says_in_one_line_what_a_worker_cannot_read(direction, tmp_path, capfd):
    data = tmp_path / "data"
    shutil.copytree(direction, data)
    bad = sorted((data / "train").glob("*.mp4"))[3]
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
    assert f"train/{bad.name}" in error


def test_two_processes_say_what_one_says(checkpoint, videos, tmp_path):
    folder, paths = videos
    spoil(paths[1])  # the first process's
    spoil(paths[4])  # the second one's
    results = []
    # as users start it: one process with all the threads there are, two with one each
    for name, launcher in {
        "alone": [],
        "two": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }.items():
        words = [TOOLS / "evaluate.py", folder / "five.csv", "--model", checkpoint, "--batch_size", 4]
        words += ["--output", tmp_path / f"{name}.json", "--predictions", tmp_path / f"{name}.npz"]
        environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_CBWR")}
        done = subprocess.run(
            [sys.executable, *launcher, *map(str, words)],
            env={**environment, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.stdout.count("could not be read, counts as wrong: ") == 2, done.stderr
        assert "timesformer_plus/engine" not in done.stderr  # no traceback of ours
        results.append((done.returncode, "exitcode  : 3" in done.stderr))
    # a launcher has a code of its own, and names that of the process
    assert results == [(3, False), (1, True)]
    for suffix in ("json", "npz"):
        assert (tmp_path / f"alone.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    assert len(json.loads((tmp_path / "two.json").read_text())["unreadable"]) == 2


def test_scan_and_exclusions_are_those_of_training(checkpoint, videos, tmp_path, monkeypatch, capfd):
    folder, paths = videos
    spoil(paths[1])
    facts = paths[1].stat()
    row = ScanRow(f"test/{paths[1].name}", size_bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, kind="damaged")
    write_scan([row], folder / "scan.csv")
    exclude = tmp_path / "exclude.txt"
    exclude.write_text(f"test/{paths[2].name}\ntrain/0000.mp4\n")
    output = tmp_path / "result.json"
    words = [folder / "five.csv", "--model", checkpoint, "--exclude", exclude, "--output", output]
    code, printed, error = run_main(monkeypatch, capfd, *words)
    assert (code, error) == (3, "")  # the scan's verdict counts
    result = json.loads(output.read_text())
    assert result["unreadable"] == {f"test/{paths[1].name}": "damaged"}
    counts = {"expected": 4, "found": 4, "missing": 0, "unreadable": 1, "excluded": 1, "short": 0}
    assert result["videos"] == counts
    lines = printed.splitlines()
    scan = folder / "scan.csv"
    assert (
        f"{folder / 'five.csv'}: 4 expected, 4 found, 0 missing; 1 of those found count as wrong, by {scan}" in lines[0]
    )
    assert lines[-7:] == [
        "videos expected: 4",
        "videos found: 4",
        "videos missing: 0",
        "videos unreadable: 1 (by the scan, counted as wrong)",
        "videos excluded: 1 (by the list, not scored)",
        "videos short: 0",
        f"could not be read, counts as wrong: test/{paths[1].name} (damaged)",
    ]
    # the score is that of an evaluation that finds out for itself
    itself = evaluate_checkpoint(folder / "five.csv", model=checkpoint, exclude=exclude, scan="none")
    told = {"videos": None, "unreadable": None}
    assert list(itself["unreadable"]) == list(result["unreadable"])
    assert itself | told == result | told
    # and a root of their own is where the scan and the list begin
    elsewhere = tmp_path / "five.csv"
    shutil.copy(folder / "five.csv", elsewhere)
    monkeypatch.chdir(folder.parent)
    moved = evaluate_checkpoint(elsewhere, model=checkpoint, root=Path(folder.name), exclude=exclude)
    assert moved == result


def test_a_folder_of_classes_is_scored_with_its_own_scan_or_that_above(checkpoint, videos, monkeypatch, tmp_path):
    folder, _ = videos
    rows = [line.split(",")[:2] for line in (folder / "five.csv").read_text().splitlines()[1:]]
    classes = tmp_path / "all" / "val"
    for path, label in rows:
        (classes / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / path, classes / label / Path(path).name)
    bad = next(classes.rglob("*.mp4"))
    facts, opened, read = bad.stat(), [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda self, s, **how: opened.append(s.path) or read(self, s, **how))
    for scanned in (classes, classes.parent):
        name = bad.relative_to(scanned).as_posix()
        scan = ScanRow(name, size_bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, kind="hangs", reason="took 60 s")
        write_scan([scan], scanned / "scan.csv")
        result = evaluate_checkpoint(classes, model=checkpoint)
        assert result["unreadable"] == {bad.relative_to(classes).as_posix(): "hangs: took 60 s"}
        assert result["videos"]["found"] == 5
        (scanned / "scan.csv").unlink()
    assert len(set(opened)) == 4
    assert bad not in opened  # it may hang the decoder here too


def test_a_signal_ends_it_with_the_code_of_the_signal(checkpoint, direction, tmp_path, monkeypatch, capfd):
    read = views_module.read_batches

    def signalled(*words, **options):
        for batch in read(*words, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(views_module, "read_batches", signalled)
    output, file = tmp_path / "result.json", tmp_path / "test.npz"
    words = [direction / "test.csv", "--model", checkpoint, "--output", output, "--predictions", file]
    code, _, error = run_main(monkeypatch, capfd, *words)
    assert code == 128 + signal.SIGTERM
    assert error.endswith("interrupted: there is no score\n")
    assert not output.exists()
    assert not file.exists()


def test_a_worker_that_is_killed_is_an_error_of_one_line(checkpoint, videos, monkeypatch, capfd):
    folder, _ = videos

    monkeypatch.setattr(
        "timesformer_plus.data.dataset.VideoDataset.__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    )
    code, _, error = run_main(
        monkeypatch, capfd, folder / "five.csv", "--model", checkpoint, "--num_workers", 1, "--timeout", 60
    )
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: ")
    assert "test/" in error or "clip" in error
    code, _, error = run_main(monkeypatch, capfd, folder / "five.csv", "--model", checkpoint, "--timeout", 0)
    assert (code, error) == (1, "error: timeout=0.0 is not a positive number of seconds\n")


def test_scan_that_is_not_there(checkpoint, videos, monkeypatch, capfd):
    folder, _ = videos
    words = [folder / "five.csv", "--model", checkpoint, "--scan", folder / "no.csv"]
    code, _, error = run_main(monkeypatch, capfd, *words)
    assert (code, error.count("\n")) == (1, 1)
    assert "no.csv: there is no such file" in error


def test_limits_hold_in_evaluation(checkpoint, videos, monkeypatch, capfd):
    folder, _ = videos
    words = [folder / "five.csv", "--model", checkpoint]
    code, _, error = run_main(monkeypatch, capfd, *words, "--limits.max_pixels", 100)
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: 5 of 5 videos cannot be read: ")
    assert "limits.max_pixels=100" in error
    code, _, error = run_main(monkeypatch, capfd, *words, "--limits.max_pixels", 0)
    assert code == 2
    assert "limits.max_pixels=0: must be above 0" in error
    with pytest.raises(UnreadableVideosError, match=r"limits\.max_frames=3"):
        evaluate_checkpoint(folder / "five.csv", model=checkpoint, limits=Limits(max_frames=3))


def test_short_videos_are_in_the_result(direction, tmp_path):
    model = tiny_checkpoint(tmp_path / "best", direction, stride=2)  # 15 of 8 frames
    result = evaluate_checkpoint(direction / "test.csv", model=model)
    assert result["videos"]["short"] == result["videos"]["found"] == 8
    assert result["protocol"]["stride"] == 2


def test_counts_are_printed_a_line_each(capsys):
    print_videos(
        {"expected": 3, "found": 2, "missing": 1, "unreadable": 0, "excluded": 0, "short": 2}, {"a b.mp4": "is cut off"}
    )
    assert capsys.readouterr().out.splitlines() == [
        "videos expected: 3",
        "videos found: 2",
        "videos missing: 1 (not there, not scored)",
        "videos unreadable: 0",
        "videos excluded: 0",
        "videos short: 2 (scored, but with frames that come again)",
        "could not be read, counts as wrong: a b.mp4 (is cut off)",
    ]


def test_places_that_cannot_be_written_are_told_before_anything_is_scored(checkpoint, videos, monkeypatch, capfd):
    folder, _ = videos
    monkeypatch.setattr(evaluate_module, "evaluate", lambda *_, **__: pytest.fail("videos were scored"))
    words = [folder / "five.csv", "--model", checkpoint]
    for option in ("--output", "--predictions", "--confusion"):
        for wrong in (folder, folder / "five.csv" / "x"):
            code, _, error = run_main(monkeypatch, capfd, *words, option, wrong)
            assert (code, error.count("\n")) == (1, 1)
            assert error.startswith(f"error: {wrong} ")
    code, _, error = run_main(monkeypatch, capfd, *words, "--world_size", 2)
    assert (code, error.count("\n")) == (1, 1)
    assert "world_size is 2, but 1 process runs" in error
