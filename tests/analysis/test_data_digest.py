"""Digests of what describes the data."""

import hashlib

import pytest

from timesformer_plus.analysis.data_digest import data_digests, why_unusable
from timesformer_plus.analysis.sweep import plan_runs


def test_manifests_classes_and_specification_count_and_videos_do_not(tmp_path):
    for name in ("a.csv", "val.csv", "classes.txt", "dataset.json", "test.csv", "clip.mp4"):
        (tmp_path / name).write_text(name)
    digests = data_digests({"data": {"root": str(tmp_path), "train": "a.csv", "test": None}})
    names = ["a.csv", "val.csv", "classes.txt", "dataset.json"]
    assert digests == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


def test_classes_lie_beside_the_training_manifest(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "classes.txt").write_text("left")
    assert list(data_digests({"data": {"root": str(tmp_path), "train": "lists/train.csv"}})) == ["lists/classes.txt"]


def test_of_folders_and_shards_names_and_sizes_count(tmp_path):
    for name in ("train/run/a.mp4", "train/walk/b.mp4", "val-0.tar", "val-1.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    options = {"data": {"root": str(tmp_path), "train": "train", "val": "val-{0..1}.tar", "test": None}}
    assert why_unusable(options) is None
    first = data_digests(options)
    assert list(first) == ["train", "val-{0..1}.tar"]
    (tmp_path / "train" / "run" / "a.mp4").write_text("longer than before")
    second = data_digests(options)
    assert [second[name] == first[name] for name in first] == [False, True]
    (tmp_path / "val-1.tar").rename(tmp_path / "val-2.tar")
    assert "has no val-{0..1}.tar" in why_unusable(options)


def test_the_split_files_of_hmdb51_count(tmp_path):
    (tmp_path / "splits").mkdir()
    file = tmp_path / "splits" / "run_test_split1.txt"
    file.write_text("a.avi 1\n")
    options = {
        "data": {"root": str(tmp_path), "train": "splits/split1/train", "val": "splits/split1/test", "test": None}
    }
    assert why_unusable(options) is None
    first = data_digests(options)
    assert list(first) == ["splits/split1/train", "splits/split1/test"]
    file.write_text("a.avi 1\nb.avi 2\n")
    assert data_digests(options) != first
    file.unlink()
    assert "has no splits/split1/train" in why_unusable(options)


def test_what_leaves_videos_out_counts(tmp_path):
    for name in ("train.csv", "scan.csv", "bad.txt"):
        (tmp_path / name).write_text(name)
    options = {"root": str(tmp_path), "exclude": str(tmp_path / "bad.txt")}
    assert list(data_digests({"data": options})) == ["train.csv", "scan.csv", str(tmp_path / "bad.txt")]
    assert "scan.csv" not in data_digests({"data": options | {"scan": "none"}})
    elsewhere = tmp_path / "other.csv"
    elsewhere.write_text("other")
    assert str(elsewhere) in data_digests({"data": options | {"scan": str(elsewhere)}})


@pytest.mark.parametrize("options", [{}, {"data": 3}, {"data": {}}, {"data": {"root": None}}])
def test_options_without_a_root_have_no_digests(options):
    assert data_digests(options) is None
    assert why_unusable(options) is None


def test_missing_root_is_a_sentence(tmp_path):
    options = {"data": {"root": str(tmp_path / "none")}}
    assert data_digests(options) is None
    assert "none is no folder; make or mount the data" in why_unusable(options)


@pytest.mark.parametrize(
    ("stored", "changes"),
    [
        (None, ["data.json is missing, which would tell what the run was trained on"]),
        ("{}", ["train.csv is new"]),
        ('{"train.csv": "0", "val.csv": "1"}', ["train.csv differs", "val.csv is gone"]),
    ],
)
def test_changes_name_the_files(make_sweep, tmp_path, stored, changes):
    (tmp_path / "train.csv").write_text("path,label")
    run = plan_runs(make_sweep({"s": {"data.root": str(tmp_path)}}, seeds=(0,)))[0]
    run.folder.mkdir(parents=True)
    run.write_inputs()
    assert run.changes() == {}
    file = run.folder / "data.json"
    file.unlink() if stored is None else file.write_text(stored)
    assert run.changes() == {"data": changes}
