"""Manifests: what a CSV means, and every way it can be wrong."""

import errno
import json
import ntpath
import os
import posixpath
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timesformer_plus.data import inventory, vocabulary
from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.inventory import Inventory
from timesformer_plus.data.manifests import read_csv, read_jsonl


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


# ------------------------------------------------------------------------------------- parts, groups, bad bytes, JSONL


def test_parts_of_videos_and_groups(folder):
    text = "path,label,start,end,group\na.mp4,run,,,\na.mp4,walk,1.5,4,day 1\na.mp4,run,4,,day 1\nb.mp4,run,,2,\n"
    manifest = read_csv(write(folder, text))
    assert [(s.id, s.start, s.end, s.group) for s in manifest.samples] == [
        ("a.mp4", 0.0, None, ""),
        ("a.mp4#t=1.5,4", 1.5, 4.0, "day 1"),
        ("a.mp4#t=4,", 4.0, None, "day 1"),
        ("b.mp4#t=0,2", 0.0, 2.0, ""),
    ]
    with pytest.raises(ValueError, match=r"row 3: 'a\.mp4#t=1,2' stands in row 2 already"):
        read_csv(write(folder, "path,label,start,end\na.mp4,run,1,2\na.mp4,walk,1.0,2.00\n"))


@pytest.mark.parametrize(
    ("start", "end"),
    [("2", "1"), ("1", "1"), ("-1", "2"), ("x", ""), ("nan", "1"), ("0", "nan"), ("0", "inf"), ("inf", "")],
)
def test_parts_that_are_none(folder, start, end):
    with pytest.raises(ValueError, match=r"row 2: start .* and end .*; give seconds, 0 <= start < end"):
        read_csv(write(folder, f"path,label,start,end\na.mp4,run,{start},{end}\n"))


@pytest.mark.parametrize(
    "text", ["a\0.mp4", "\0", "\\\\host\\x.mp4", "..\\x.mp4", "a\\..\\..\\x.mp4", "D:", "./C:/x", "/", "a/../.."]
)
def test_more_paths_that_leave_the_root(folder, text):
    with pytest.raises(ValueError, match=r"row 1: path .* (leaves|holds a NUL)"):
        inventory.inside(text, folder, "list, row 1")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a.mp4", "a.mp4"), ("./a.mp4", "a.mp4"), ("a//b/./c.mp4", "a/b/c.mp4"), ("a/", "a"), ("a/../b", "b"),
        ("..a/.b", "..a/.b"), ("a..", "a.."), ("...", "..."), ("bc: d", "bc: d"), ("ab:c", "ab:c"), (" a", " a"),
    ],
)  # fmt: skip
def test_paths_in_normal_form(folder, text, normal):
    assert inventory.inside(text, folder, "list, row 1") == normal


@settings(max_examples=500)
@given(st.lists(st.sampled_from(["a", ".", "..", "", " ", "b.mp4", "C:", "c\\d", "..\\e", ".f", "g.."]), max_size=5))
def test_no_path_leaves_the_root(parts):
    """Whatever passes is the path that the system's own rules give, and lies below the root by both systems' rules."""
    text = "/".join(parts)
    try:
        passed = inventory.inside(text, Path("root"), "")
    except ValueError:
        return
    assert passed == os.path.normpath(text)
    for rules, root in ((posixpath, "/r"), (ntpath, "C:\\r")):
        full = rules.normpath(rules.join(root, passed))
        assert full == root or full.startswith(root + rules.sep)


def test_crlf_blank_lines_and_a_byte_order_mark(folder):
    path = folder / "train.csv"
    path.write_bytes("\ufeffpath,label\r\n\r\na.mp4,run\r\nb.mp4,walk\r\n\r\n\r\n".encode())
    assert [s.id for s in read_csv(path).samples] == ["a.mp4", "b.mp4"]


def test_jsonl(folder):
    rows = [
        {"path": "a.mp4", "label": "run", "pair": "p", "group": 7, "note": "ignored"},
        {"path": "./b.mp4", "label": 1, "pair": "p", "start": 1, "end": 2.5},
        {"path": "no, really.mp4", "label": "walk", "pair": None, "start": None},
        {"path": "gone.mp4", "label": "walk"},
    ]
    text = "\ufeff" + "\r\n\r\n".join(map(json.dumps, rows)) + "\r\n"
    manifest = read_jsonl(write(folder, text, "train.jsonl"), classes=["run", "walk"])
    assert [(s.id, s.label, s.pair, s.group) for s in manifest.samples] == [
        ("a.mp4", 0, "p", "7"),
        ("b.mp4#t=1,2.5", 1, "p", ""),
        ("no, really.mp4", 1, "", ""),
    ]
    assert manifest.missing == (str(folder / "gone.mp4"),)


def test_jsonl_with_several_labels(folder):
    text = (
        '{"path": "a.mp4", "label": ["run", "a;b"]}\n{"path": "b.mp4", "label": []}\n{"path": "c.mp4", "label": [0]}\n'
    )
    manifest = read_jsonl(write(folder, text, "train.jsonl"), classes=["a;b", "walk", "run"], multi_label=True)
    assert [s.label for s in manifest.samples] == [(1, 0, 1), (0, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "row 1: not JSON"),
        ("[" * 100_000, "row 1: not JSON"),
        ("[]", "row 1: expected an object such as"),
        ('{"path": "a.mp4"}', "row 1: expected an object such as"),
        ('{"label": 0}', "row 1: expected an object such as"),
        ('{"path": 3, "label": 0}', "row 1: expected an object such as"),
        ('{"path": "a.mp4", "label": ["run"]}', "row 1: label .* must be one label; set multi_label"),
        ('{"path": "a.mp4", "label": null}', "row 1: label None must be a class name or a number"),
        ('{"path": "a.mp4", "label": 1.5}', "row 1: label 1.5 must be a class name or a number"),
        ('{"path": "a.mp4", "label": true}', "row 1: label True must be a class name or a number"),
        ('{"path": "a.mp4", "label": "rum"}', "row 1: label 'rum' is not one of .*did you mean 'run'"),
        ('{"path": "a.mp4", "label": -1}', "row 1: label '-1' is not one of"),
        ('{"path": "a.mp4", "label": "run", "start": "x"}', "row 1: start 'x'"),
        ('{"path": "a.mp4", "label": "run", "end": [1]}', r"row 1: start None and end \[1\]"),
        ('{"path": "a.mp4", "label": "run", "start": 1e999}', "row 1: start inf"),
        ('{"path": "/a.mp4", "label": "run"}', "row 1: path '/a.mp4' leaves"),
        ("", "lists no video"),
    ],
)
def test_bad_jsonl(folder, line, message):
    with pytest.raises(ValueError, match=message):
        read_jsonl(write(folder, line + "\n", "a.jsonl"), classes=["run", "walk"])


# -------------------------------------------------------------------------------------------------- a folder per class


def test_a_folder_per_class(folder):
    root = folder / "videos"
    names = ["walk/b.MP4", "walk/a.mp4", "run/day 1/x.webm", "run/frames/2.jpg", "run/frames/1.jpg", "run/notes.txt",
             "run/.hidden.mp4", "run/.cache/y.mp4", ".git/z.mp4", "readme.txt"]  # fmt: skip
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    manifest = read_manifest(root)
    assert manifest.classes == ("run", "walk")
    assert [(s.id, s.label) for s in manifest.samples] == [
        ("run/day 1/x.webm", 0),
        ("run/frames", 0),
        ("walk/a.mp4", 1),
        ("walk/b.MP4", 1),
    ]
    assert [s.path for s in manifest.samples] == [root / s.id for s in manifest.samples]
    assert [s.label for s in read_manifest(root, classes=["walk", "jump", "run"]).samples] == [2, 2, 0, 0]
    assert read_manifest(root, videos=folder).samples == manifest.samples
    (root / "classes.txt").write_text("walk\njump\nrun\n")
    assert read_manifest(root).classes == ("walk", "jump", "run")


def test_folders_that_are_no_classes(folder):
    root = folder / "videos"
    root.mkdir()
    with pytest.raises(ValueError, match="there is no folder in it; make one for each class"):
        read_manifest(root)
    (root / "walk").mkdir()
    with pytest.raises(ValueError, match=r"walk: there is no video in it \(a file ending in \.mp4"):
        read_manifest(root)
    (root / "walk/a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"label 'walk' is not one of the 1 classes .*did you mean 'talk'"):
        read_manifest(root, classes=["talk"])
    with pytest.raises(ValueError, match="is not in `videos`"):
        read_manifest(root, videos=folder / "sub")
    (root / "walk").rename(root / "train")
    with pytest.raises(ValueError, match=r"its folders \['train'\] are splits, not classes; give one of them"):
        read_manifest(root)


def test_folders_linked_in_a_circle(folder):
    (folder / "videos/walk").mkdir(parents=True)
    (folder / "videos/walk/a.mp4").write_bytes(b"x")
    (folder / "videos/walk/again").symlink_to(folder / "videos/walk")
    with pytest.raises(ValueError, match="walk/again: is a link back to a folder above it; remove it"):
        read_manifest(folder / "videos")
    (folder / "videos/walk/again").unlink()
    (folder / "videos/walk/b.mp4").symlink_to(folder / "videos/walk/b.mp4")  # to itself: no video, and no trouble
    assert [s.id for s in read_manifest(folder / "videos").samples] == ["walk/a.mp4"]


def test_names_too_long_for_the_disk_are_missing(folder):
    assert len(read_csv(write(folder, f"path,label\na.mp4,0\n{'x' * 300}/b.mp4,0\n{'y' * 300}.mp4,0\n")).missing) == 2


def test_a_folder_that_cannot_be_listed_is_an_error(folder, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ValueError, match=r"sub: cannot be listed \(Permission denied\)"):
        read_csv(write(folder, "path,label\nsub/a.mp4,0\n"))


@pytest.mark.parametrize("path", ["../x", "..", "/etc/passwd", "a/../../x", "sub/../a.mp4", "C:/x", "a\\..\\x"])
def test_the_inventory_itself_does_not_leave_its_folder(folder, path):
    """Whatever a reader forgot; `sub/../a.mp4` lies elsewhere where `sub` is a link."""
    for ask in (Inventory.names, Inventory.holds, Inventory.holds_frames):
        with pytest.raises(ValueError, match=r"leaves|is not in normal form"):
            ask(Inventory(folder / "sub"), path)
    for folders, stems in (((path,), ("a",)), (("",), (path,)), (("sub",), ("b", path))):
        with pytest.raises(ValueError, match=r"leaves|is not in normal form"):
            Inventory(folder).find(folders, stems)
