"""The videos of a run: found, counted, refused."""

import os
from pathlib import Path

import pytest

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.scan import scan_settings
from timesformer_plus.data.scan_table import ScanRow, write_scan
from timesformer_plus.engine.build_splits import SplitCounts, build_splits
from timesformer_plus.engine.data_config import DataConfig


def test_splits_share_the_classes_of_the_training_split(tmp_path):
    for name, rows in {"train": "a.mp4,cat\nb.mp4,dog\n", "val": "c.mp4,dog\n"}.items():
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    for name in "abc":
        (tmp_path / f"{name}.mp4").touch()
    splits = build_splits(DataConfig(root=tmp_path, test=None))
    assert splits.train.classes == splits.val.classes == ("cat", "dog")
    assert splits.val.samples[0].label == 1
    assert splits.test is None


def test_label_that_training_does_not_have(tmp_path):
    for name, rows in {"train": "a.mp4,cat\n", "val": "c.mp4,dog\n"}.items():
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    for name in "ac":
        (tmp_path / f"{name}.mp4").touch()
    with pytest.raises(ValueError, match=r"val.csv, row 2: label 'dog' is not one of the 1 classes"):
        build_splits(DataConfig(root=tmp_path, test=None))


def write_splits(folder, *, train=6, val=2):
    """Files that hold their names: finding them is all that is asked here."""
    for name, first, count in (("train", 0, train), ("val", train, val)):
        names = [f"{i}.mp4" for i in range(first, first + count)]
        for video in names:
            (folder / video).write_text(video)
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(f"{video},a\n" for video in names))
    return DataConfig(root=folder, test=None)


def with_options(data, **options):
    return DataConfig(root=data.root, test=None, **options)


def ids(manifest):
    return [sample.id for sample in manifest.samples]


def test_missing_videos_are_counted_and_refused_above_the_threshold(tmp_path):
    data = write_splits(tmp_path)
    assert build_splits(data).report == (
        "train: 6 expected, 6 found, 0 missing",
        "val: 2 expected, 2 found, 0 missing",
    )
    (tmp_path / "3.mp4").unlink()
    with pytest.raises(ValueError, match=r"train: 6 expected, 5 found, 1 missing.*3\.mp4"):
        build_splits(data)
    splits = build_splits(with_options(data, max_missing=0.2))
    assert ids(splits.train) == ["0.mp4", "1.mp4", "2.mp4", "4.mp4", "5.mp4"]
    assert splits.report[0] == "train: 6 expected, 5 found, 1 missing"


def scan_as_bad(path, **changes):
    facts = path.stat()
    known = {"size_bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "kind": "damaged", "reason": "says the scan"}
    return ScanRow(path.name, **(known | changes))


def test_what_the_scan_could_not_read_counts_as_missing(tmp_path):
    data = write_splits(tmp_path)
    write_scan([scan_as_bad(tmp_path / "2.mp4"), ScanRow("4.mp4", verdict="ok")], tmp_path / "scan.csv")
    with pytest.raises(ValueError, match=r"5 found, 1 missing.*2\.mp4 \(damaged: says the scan\)"):
        build_splits(data)
    assert ids(build_splits(with_options(data, max_missing=0.2)).train) == [f"{i}.mp4" for i in (0, 1, 3, 4, 5)]
    assert len(build_splits(with_options(data, scan="none")).train.samples) == 6
    elsewhere = tmp_path / "scans" / "of_today.csv"
    elsewhere.parent.mkdir()
    (tmp_path / "scan.csv").rename(elsewhere)
    assert len(build_splits(data).train.samples) == 6
    with pytest.raises(ValueError, match="1 missing"):
        build_splits(with_options(data, scan=str(elsewhere)))
    with pytest.raises(ValueError, match=r"there is no such file; make it with tools/scan\.py"):
        build_splits(with_options(data, scan=str(tmp_path / "scan.csv")))


def test_what_the_scan_could_not_read_stays_in_a_split_that_is_scored(tmp_path):
    data = write_splits(tmp_path)
    (tmp_path / "val.csv").write_text("path,label,pair\n6.mp4,a,p\n7.mp4,a,p\n")
    write_scan([scan_as_bad(tmp_path / "7.mp4")], tmp_path / "scan.csv")
    splits = build_splits(DataConfig(root=data.root, test="val.csv"))
    for split in (splits.val, splits.test):
        assert ids(split) == ["6.mp4", "7.mp4"]
        assert split.unreadable == {"7.mp4": "damaged: says the scan"}
        assert [sample.pair for sample in split.samples] == ["p", "p"]
    assert splits.counts["val"] == SplitCounts(expected=2, found=2, missing=0, unreadable=1, excluded=0)
    scan = tmp_path / "scan.csv"
    assert splits.report[1] == f"val: 2 expected, 2 found, 0 missing; 1 of those found count as wrong, by {scan}"
    # files that are not there are another matter
    (tmp_path / "6.mp4").unlink()
    with pytest.raises(ValueError, match=r"val: 2 expected, 1 found, 1 missing"):
        build_splits(data)
    with pytest.raises(ValueError, match=r"calls all of them bad, so there is nothing to score"):
        build_splits(with_options(data, max_missing=0.5))


def test_a_file_that_changed_after_the_scan_is_not_judged_by_it(tmp_path):
    data = write_splits(tmp_path)
    write_scan([scan_as_bad(tmp_path / "2.mp4")], tmp_path / "scan.csv")
    os.utime(tmp_path / "2.mp4", ns=(1, 1))
    assert len(build_splits(data).train.samples) == 6


def test_excluded_videos_are_left_out_of_every_split_and_counted(tmp_path):
    data = write_splits(tmp_path)
    (tmp_path / "bad.txt").write_text("# by hand\n1.mp4\n7.mp4\n")
    splits = build_splits(with_options(data, exclude=tmp_path / "bad.txt"))
    assert ids(splits.train) == [f"{i}.mp4" for i in (0, 2, 3, 4, 5)]
    assert ids(splits.val) == ["6.mp4"]
    assert splits.report[0] == "train: 5 expected, 5 found, 0 missing; 1 more are excluded"
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read"):
        build_splits(with_options(data, exclude=tmp_path / "none.txt"))


def test_a_video_in_two_splits_is_refused_unless_allowed(tmp_path):
    data = write_splits(tmp_path)
    with (tmp_path / "val.csv").open("a") as file:
        file.write("0.mp4,a\n")
    with pytest.raises(ValueError, match=r"1 leaks between splits: .*0\.mp4 is in train and val"):
        build_splits(data)
    assert build_splits(with_options(data, allow_leaks=True)).report[-1] == "1 videos or recordings are in two splits"


def test_one_list_for_val_and_test_is_said(tmp_path):
    data = write_splits(tmp_path)
    splits = build_splits(DataConfig(root=data.root, test="val.csv"))
    assert splits.test == splits.val
    assert splits.report[-1].startswith("val and test are both val.csv")


def test_annotations_and_videos_in_folders_of_their_own(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "lists").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "videos" / name).write_text(name)
    (tmp_path / "lists" / "one.jsonl").write_text('{"path": "a.mp4", "label": "x"}\n')
    (tmp_path / "lists" / "two.jsonl").write_text('{"path": "b.mp4", "label": "x"}\n')
    data = DataConfig(root=tmp_path, videos=Path("videos"), train="lists/one.jsonl", val="lists/two.jsonl", test=None)
    assert [split.samples[0].path.name for split in build_splits(data)[:2]] == ["a.mp4", "b.mp4"]


def test_every_video_is_accounted_for(tmp_path):
    data = write_splits(tmp_path)
    write_scan([scan_as_bad(tmp_path / "2.mp4")], tmp_path / "scan.csv")
    (tmp_path / "3.mp4").unlink()
    (tmp_path / "bad.txt").write_text("./4.mp4\n")
    splits = build_splits(with_options(data, max_missing=0.5, exclude=tmp_path / "bad.txt"))
    assert splits.counts["train"] == SplitCounts(expected=5, found=3, missing=1, unreadable=1, excluded=1)
    assert splits.counts["val"] == SplitCounts(expected=2, found=2, missing=0, unreadable=0, excluded=0)
    assert ids(splits.train) == ["0.mp4", "1.mp4", "5.mp4"]


def test_a_pair_that_loses_a_partner_is_none(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "train.csv").write_text("path,label,pair\n0.mp4,a,p\n1.mp4,a,p\n2.mp4,a,q\n3.mp4,a,q\n")
    write_scan([scan_as_bad(tmp_path / "2.mp4")], tmp_path / "scan.csv")
    splits = build_splits(DataConfig(root=tmp_path, test=None, max_missing=0.5))
    assert {sample.id: sample.pair for sample in splits.train.samples} == {"0.mp4": "p", "1.mp4": "p", "3.mp4": ""}


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("exclude", "elsewhere/1.mp4\n", r"none of its 1 paths is in a split; they are relative to .*, as in 0\.mp4"),
        ("scan", [ScanRow("elsewhere/1.mp4", verdict="ok")], "knows none of the videos"),
    ],
)
def test_a_list_that_was_named_and_fits_no_video_is_refused(tmp_path, option, content, message):
    data = write_splits(tmp_path)
    file = tmp_path / "list"
    file.write_text(content) if isinstance(content, str) else write_scan(content, file)
    with pytest.raises(ValueError, match=message):
        build_splits(with_options(data, **{option: str(file) if option == "scan" else file}))


def test_a_scan_that_knows_some_of_the_videos_says_so(tmp_path):
    data = write_splits(tmp_path)
    write_scan([ScanRow(f"{i}.mp4", verdict="ok") for i in range(5)], tmp_path / "scan.csv")
    assert build_splits(data).report[-1] == f"{tmp_path / 'scan.csv'} does not know 3 of 8 videos"


def test_what_another_decoder_could_not_read_is_not_bad_for_this_one(tmp_path):
    data = write_splits(tmp_path)
    bad = scan_as_bad(tmp_path / "2.mp4", kind="unsupported", settings=scan_settings("decord", Limits()))
    write_scan([bad], tmp_path / "scan.csv")
    splits = build_splits(with_options(data, decoder="pyav"))
    assert len(splits.train.samples) == 6
    assert any(
        "calls 1 videos bad for a decoder or limits other than those of this run" in line for line in splits.report
    )
    with pytest.raises(ValueError, match="1 missing"):
        build_splits(with_options(data, decoder="decord"))
    # what is wrong with the file itself is wrong for all
    write_scan([scan_as_bad(tmp_path / "2.mp4", kind="cut off", settings="another")], tmp_path / "scan.csv")
    with pytest.raises(ValueError, match="1 missing"):
        build_splits(with_options(data, decoder="pyav"))


def test_a_copy_in_another_split_is_a_leak(tmp_path):
    data = write_splits(tmp_path)
    (tmp_path / "7.mp4").write_bytes((tmp_path / "2.mp4").read_bytes())
    with pytest.raises(
        ValueError, match=r"1 leaks between splits: the content of .*2\.mp4 and .*7\.mp4 is in train and"
    ):
        build_splits(data)
    assert build_splits(with_options(data, allow_leaks=True)).report[-1] == "1 videos or recordings are in two splits"
    # what a split holds twice is its own affair
    (tmp_path / "7.mp4").write_text("7")
    (tmp_path / "3.mp4").write_bytes((tmp_path / "2.mp4").read_bytes())
    build_splits(data)


def test_a_scan_saves_reading_unless_a_file_has_changed(tmp_path):
    data = write_splits(tmp_path)
    rows = []
    for i in range(8):
        facts = (tmp_path / f"{i}.mp4").stat()
        known = {"size_bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
        rows.append(ScanRow(f"{i}.mp4", verdict="ok", sha256="same" if i in (2, 7) else str(i), **known))
    write_scan(rows, tmp_path / "scan.csv")
    with pytest.raises(ValueError, match="1 leaks between splits"):
        build_splits(data)
    os.utime(tmp_path / "7.mp4", ns=(1, 1))
    build_splits(data)
