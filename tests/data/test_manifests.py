"""Manifests: what a CSV means, and every way it can be wrong."""

import os
from pathlib import Path

import pytest

from timesformer_plus.data import vocabulary
from timesformer_plus.data.manifests import read_csv


@pytest.fixture
def folder(tmp_path):
    """A folder with five files to list; a manifest needs them to be there, not to be videos."""
    for name in ("a.mp4", "b.mp4", "c.mp4", "sub/a.mp4", "no, really.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str, name: str = "train.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_names_are_sorted_and_paths_resolved(folder):
    manifest = read_csv(write(folder, "path,label\nb.mp4,walk\na.mp4,run\n./sub//a.mp4,walk\n"))
    assert manifest.classes == ("run", "walk")
    assert not manifest.multi_label
    assert [s.id for s in manifest.samples] == ["b.mp4", "a.mp4", "sub/a.mp4"]
    assert [s.label for s in manifest.samples] == [1, 0, 1]
    assert [s.path for s in manifest.samples] == [folder / "b.mp4", folder / "a.mp4", folder / "sub/a.mp4"]
    assert {s.pair for s in manifest.samples} == {""}


def test_root_columns_quotes_and_byte_order_mark(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    path = elsewhere / "train.csv"
    path.write_bytes('\ufeffnote,label,path,pair\n,0,"no, really.mp4",x\n"two\nlines",1,a.mp4,x\n'.encode())
    manifest = read_csv(path, root=folder)
    assert [(s.id, s.label, s.pair) for s in manifest.samples] == [("no, really.mp4", 0, "x"), ("a.mp4", 1, "x")]


def test_classes_file_beside_the_csv(folder):
    (folder / "classes.txt").write_text("walk\nrun\n\njump\n")
    manifest = read_csv(write(folder, "path,label\na.mp4,jump\nb.mp4,0\n"))
    assert manifest.classes == ("walk", "run", "jump")
    assert [s.label for s in manifest.samples] == [2, 0]


def test_given_classes_win_over_the_file(folder):
    (folder / "classes.txt").write_text("walk\nrun\n")
    manifest = read_csv(write(folder, "path,label\na.mp4,run\n"), classes=["run", "walk"])
    assert manifest.samples[0].label == 0


def test_a_class_named_by_a_number_is_meant_before_the_number(folder):
    manifest = read_csv(write(folder, "path,label\na.mp4,2\nb.mp4,0\n"), classes=["2", "1", "0"])
    assert [s.label for s in manifest.samples] == [0, 2]


def test_numbers_stay_what_they_are(folder):
    """A split that happens to lack class 1 must not call class 2 by its number."""
    manifest = read_csv(write(folder, "path,label\na.mp4,10\nb.mp4,2\n"))
    assert manifest.classes == tuple(map(str, range(11)))
    assert [s.label for s in manifest.samples] == [10, 2]


def test_multi_label(folder):
    manifest = read_csv(
        write(folder, "path,label,pair\na.mp4,run; jump,p\nb.mp4,,p\nc.mp4,2,\n"),
        classes=["walk", "run", "jump"],
        multi_label=True,
    )
    assert manifest.multi_label
    assert [s.label for s in manifest.samples] == [(0, 1, 1), (0, 0, 0), (0, 0, 1)]


def test_a_link_inside_the_root_may_lead_out(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("storage")
    (outside / "v.mp4").write_bytes(b"x")
    (folder / "linked").symlink_to(outside)
    assert read_csv(write(folder, "path,label\nlinked/v.mp4,0\n")).samples[0].id == "linked/v.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column 'path' among \[\]"),
        ("file,label\na.mp4,0\n", r"no column 'path' among \['file', 'label'\]"),
        ("path,class\na.mp4,0\n", "no column 'label'"),
        ("a.mp4 0\nb.mp4 1\n", "no column 'path'"),
        ("path,label\n", "lists no video"),
        ("path,label\na.mp4,0\nb.mp4\n", "row 3: expected the 2 fields"),
        ("path,label\nno, really.mp4,0\n", "row 2: expected the 2 fields.*quote a comma"),
        ("path,label\na.mp4,0\n,1\n", "row 3: the path is empty"),
        ("path,label\na.mp4,0\nb.mp4,0\nsub/../a.mp4,1\n", "row 4: 'a.mp4' stands in row 2 already"),
        ("path,label\n/etc/passwd,0\n", "row 2: path '/etc/passwd' leaves"),
        ("path,label\nsub/../../x.mp4,0\n", "row 2: path .* leaves"),
        ("path,label\n..,0\n", "row 2: path '..' leaves"),
        ("path,label\nC:\\x.mp4,0\n", "row 2: path .* leaves"),
        ("path,label,pair\na.mp4,0,p\nb.mp4,0,p\nc.mp4,1,q\n", "row 4: pair 'q' has no second row"),
        ("path,label\na.mp4,100000000\n", "class number 100000000 without class names"),
        ('path,label\n"a.mp4,0\n', "not a CSV file"),
    ],
)
def test_what_is_wrong_is_named(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(write(folder, text))


@pytest.mark.parametrize("label", ["fly", "3", "-1", "1.0", "", "٣"])
def test_label_outside_the_classes(folder, label):
    path = write(folder, f"path,label\na.mp4,0\nb.mp4,{label}\n")
    with pytest.raises(ValueError, match=r"row 3: label .* is not one of the 3 classes \('walk', 'run', 'jump'"):
        read_csv(path, classes=["walk", "run", "jump"])


def test_what_is_not_there_is_collected(folder):
    """Neither a folder without images, nor a pipe, nor a link to nowhere is a video."""
    (folder / "frames").mkdir()
    (folder / "frames" / "00001.JPG").write_bytes(b"x")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "broken.mp4").symlink_to(folder / "nowhere")
    names = ["a.mp4", "gone.mp4", "sub", "frames", "pipe.mp4", "broken.mp4", "none/a.mp4", "a.mp4/b.mp4"]
    manifest = read_csv(write(folder, "path,label\n" + "".join(f"{name},0\n" for name in names)))
    assert [s.id for s in manifest.samples] == ["a.mp4", "frames"]
    assert manifest.missing == tuple(str(folder / name) for name in names if name not in ("a.mp4", "frames"))


def test_row_numbers_are_line_numbers(folder):
    path = write(folder, "path,label\n\na.mp4,0\n\nb.mp4,fly\n")
    with pytest.raises(ValueError, match="row 5: label 'fly'"):
        read_csv(path, classes=["walk"])


def test_no_label_at_all(folder):
    with pytest.raises(ValueError, match="no class name"):
        read_csv(write(folder, "path,label\na.mp4,\n"), multi_label=True)


def test_class_listed_twice(folder):
    with pytest.raises(ValueError, match="class 'run' is listed twice"):
        read_csv(write(folder, "path,label\na.mp4,run\n"), classes=["run", "walk", "run"])


def test_missing_manifest(tmp_path):
    with pytest.raises(ValueError, match="there is no such manifest"):
        read_csv(tmp_path / "train.csv")


def test_manifest_that_is_a_video(folder):
    (folder / "train.csv").write_bytes(b"\x00\x00\x00\x20ftyp\xff\xfe")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        read_csv(folder / "train.csv")


def test_limit_on_unnamed_classes_is_not_off_by_one(folder, monkeypatch):
    monkeypatch.setattr(vocabulary, "MAX_UNNAMED_CLASSES", 3)
    assert len(read_csv(write(folder, "path,label\na.mp4,2\n")).classes) == 3
    with pytest.raises(ValueError, match="class number 3"):
        read_csv(write(folder, "path,label\na.mp4,3\n"))
