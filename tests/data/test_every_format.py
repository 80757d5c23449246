"""What every format must do, asked of a small set of each."""

import pytest
from small_sets import SETS, SHOWN, SmallSet

from timesformer_plus.data.catalogues import READERS, read_manifest
from timesformer_plus.data.manifests import Manifest

NAMES = ["Walk", "Run", "Jump"]
TEXT = (".csv", ".txt", ".json")


def names_of(manifest: Manifest) -> list[list[str]]:
    """The names of every sample's classes."""
    marked = [[s.label] if isinstance(s.label, int) else [i for i, mark in enumerate(s.label) if mark]
              for s in manifest.samples]  # fmt: skip
    return [sorted(manifest.classes[i] for i in labels) for labels in marked]


def read(small: SmallSet, split: str = "train", **more) -> Manifest:
    return read_manifest(getattr(small, split), **{**small.options, **more})


def test_there_is_a_set_of_every_format(tmp_path):
    assert {SETS[name](tmp_path / name, NAMES).options["format"] for name in SETS} == set(READERS)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("order", [NAMES, ["Jump", "Walk", "Run"]])
def test_the_labels_are_those_that_the_files_mean(tmp_path, name, order):
    small = SETS[name](tmp_path, order)
    for split, shown in SHOWN.items():
        manifest = read(small, split)
        assert manifest.missing == ()
        found = [next(label for label in NAMES if label in "".join(names)) for names in names_of(manifest)]
        assert sorted(found) == sorted(shown)


@pytest.mark.parametrize("name", SETS)
def test_classes_of_training_mean_the_same_in_validation(tmp_path, name):
    """Validation lacks a class, so that a format without a file of names would number the others anew."""
    small = SETS[name](tmp_path, NAMES)
    train, alone = read(small), read(small, "val")
    val = read(small, "val", classes=train.classes)
    assert val.classes == train.classes
    assert [s.id for s in val.samples] == [s.id for s in alone.samples]
    assert names_of(val) == names_of(alone)
    assert read(small, classes=train.classes).samples == train.samples


@pytest.mark.parametrize("name", SETS)
def test_given_classes_in_another_order_keep_their_names(tmp_path, name):
    """Numbers count the file that lies with them, not the classes that some model was trained with."""
    small = SETS[name](tmp_path, NAMES)
    for split in SHOWN:
        alone = read(small, split)
        given = (*alone.classes[1:], "Nothing of it", *alone.classes[:1])
        other = read(small, split, classes=given)
        assert other.classes == given
        assert names_of(other) == names_of(alone)
        assert [s.path for s in other.samples] == [s.path for s in alone.samples]


@pytest.mark.parametrize("name", SETS)
def test_classes_that_were_not_given_are_refused(tmp_path, name):
    """Also where their number would fit."""
    small = SETS[name](tmp_path, NAMES)
    classes = [label if "Jump" not in label else f"No {label.lower()}" for label in read(small).classes]
    with pytest.raises(ValueError, match=r"Jump.* is not one of|which is not one of the|no action c156"):
        read(small, classes=classes)


@pytest.mark.parametrize("name", SETS)
def test_byte_order_marks_carriage_returns_and_blank_lines(tmp_path, name):
    small = SETS[name](tmp_path, NAMES)
    plain = {split: read(small, split) for split in SHOWN}
    files = [path for path in tmp_path.rglob("*") if path.suffix in TEXT and path.is_file()]
    for path in files:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert files or name == "folder"
    assert {split: read(small, split) for split in SHOWN} == plain


@pytest.mark.parametrize("evil", ["../../secret", "/secret", "..", "a/../../../b", "C:/x", "\\\\host\\x", "..\\x"])
@pytest.mark.parametrize("name", [name for name in SETS if name not in ("folder", "webdataset", "hmdb51")])
def test_no_path_or_name_leaves_the_videos(tmp_path, name, evil):
    small = SETS[name](tmp_path / "set", NAMES)
    (tmp_path / "secret").write_bytes(b"x")
    whole = small.train.read_text()
    for text in small.paths:
        assert text in whole
        small.train.write_text(whole.replace(text, evil.replace("\\", "\\\\") if '"' in whole else evil))
        with pytest.raises(ValueError, match=r"(row|entry) [23]: .*(leaves|is not a number)"):
            read(small)


@pytest.mark.parametrize("evil", ["../../secret", "/secret"])
def test_names_in_split_files_do_not_leave_the_videos_either(tmp_path, evil):
    """HMDB51's names are put behind that of a class, so that an absolute one is below it."""
    small = SETS["hmdb51"](tmp_path / "set", NAMES)
    with (tmp_path / "set/splits/Run_test_split1.txt").open("a") as file:
        file.write(f"{evil}.avi 1\n")
    if evil[0] == ".":
        with pytest.raises(ValueError, match="leaves"):
            read(small)
    else:
        assert read(small).missing == (str(small.options["videos"] / "Run/secret.avi"),)


def test_samples_lie_below_the_folder_of_the_videos(tmp_path):
    for name in SETS:
        small = SETS[name](tmp_path / name, NAMES)
        root = small.options.get("videos", tmp_path / name)
        assert all(root in s.path.parents and s.path.exists() for s in read(small).samples)
