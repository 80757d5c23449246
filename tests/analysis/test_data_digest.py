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
