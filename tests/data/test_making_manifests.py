"""A folder of one's own becomes splits that share no recording, and a named data set a CSV."""

import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.manifest_files import make_manifest, write_manifests
from timesformer_plus.data.manifests import Manifest, Sample, read_csv
from timesformer_plus.data.splits import check_leaks
from timesformer_plus.data.splitting import same_content, split_manifest

TOOL = Path(__file__).parents[2] / "tools" / "make_manifest.py"


def fill(root: Path, counts: dict[str, int]) -> Path:
    """A folder per class, with files of different bytes."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03d}.mp4").write_text(f"{root.name}/{name} {i}")
    return root


def splits_of(root: Path, names=("train", "val", "test")) -> dict[str, Manifest]:
    return {name: read_csv(root / f"{name}.csv") for name in names}


def per_class(manifest: Manifest) -> list[int]:
    counts = Counter(sample.label for sample in manifest.samples)
    return [counts[i] for i in range(len(manifest.classes))]


def test_a_folder_per_class(tmp_path, capsys):
    root = fill(tmp_path / "my videos", {"walk": 20, "run, fast": 3, "[b]jump": 100})
    make_manifest(root)
    splits = splits_of(root)
    assert splits["train"].classes == ("[b]jump", "run, fast", "walk")
    assert (root / "classes.txt").read_text() == "[b]jump\nrun, fast\nwalk\n"
    assert {name: per_class(split) for name, split in splits.items()} == {
        "train": [70, 1, 14],
        "val": [15, 1, 3],
        "test": [15, 1, 3],
    }
    everything = [sample.id for split in splits.values() for sample in split.samples]
    assert len(everything) == len(set(everything)) == 123
    check_leaks(splits)
    printed = capsys.readouterr().out
    assert "123 expected, 123 found, 0 missing" in printed
    row = next(line for line in printed.splitlines() if "[b]jump" in line)
    assert [int(word) for word in row.split() if word.isdecimal()] == [70, 15, 15, 100]


def test_the_division_is_a_function_of_the_seed(tmp_path):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        root = fill(tmp_path / name / "v", {"walk": 20, "run": 30})
        make_manifest(root, seed=seed)
        texts.append([(root / f"{split}.csv").read_text() for split in ("train", "val", "test")])
    assert texts[0] == texts[1] != texts[2]


def test_what_is_there_already_is_not_replaced(tmp_path):
    root = fill(tmp_path / "v", {"walk": 5, "run": 5})
    make_manifest(root)
    before = (root / "train.csv").read_text()
    with pytest.raises(ValueError, match=r"train\.csv, .*val\.csv, .*test\.csv: there already; .*--overwrite"):
        make_manifest(root, seed=1)
    assert (root / "train.csv").read_text() == before
    make_manifest(root, seed=1, overwrite=True)
    assert (root / "train.csv").read_text() != before


def test_the_order_of_classes_txt_is_kept(tmp_path):
    root = fill(tmp_path / "v", {"walk": 5, "run": 5})
    (root / "classes.txt").write_text("walk\nrun\n")
    make_manifest(root)
    assert splits_of(root)["train"].classes == ("walk", "run")
    (root / "jump").mkdir()
    (root / "jump/0.mp4").write_text("0")
    with pytest.raises(ValueError, match=r"label 'jump' is not one of the 2 classes .*classes\.txt.*add it there"):
        make_manifest(root, overwrite=True)


def test_copies_stay_in_one_split(tmp_path):
    """Ten files, each there three times under other names, one of them as a folder of frames with a copy."""
    root = tmp_path / "v"
    for name in ("walk", "run"):
        (root / name).mkdir(parents=True)
        for i in range(10):
            for copy in "abc":
                (root / name / f"{copy}{i}.mp4").write_text(f"{name} {i}")
        for copy in "xyz":
            (root / name / copy).mkdir()
            (root / name / copy / "1.jpg").write_text(name)
            (root / name / copy / "2.jpg").write_text("2" if copy != "z" else "3")
    make_manifest(root)
    splits = splits_of(root)
    owner = {s.path: split for split, manifest in splits.items() for s in manifest.samples}
    for name in ("walk", "run"):
        for i in range(10):
            assert len({owner[root / name / f"{copy}{i}.mp4"] for copy in "abc"}) == 1
        assert owner[root / name / "x"] == owner[root / name / "y"]
    alike = same_content(s for manifest in splits.values() for s in manifest.samples)
    assert sorted(map(len, alike)) == [2] * 2 + [3] * 20


def test_one_file_under_two_labels_is_refused(tmp_path):
    root = fill(tmp_path / "v", {"walk": 5, "run": 5})
    (root / "run/copy.mp4").write_bytes((root / "walk/000.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"run/copy\.mp4 \(run\) and walk/000\.mp4 \(walk\) hold the same bytes"):
        make_manifest(root)


@pytest.mark.parametrize(
    ("shares", "splits"),
    [((0.5, 0.5, 0.0), ("train", "val")), ((1.0, 0.0, 0.0), ("train",)), ((0.9, 0.0, 0.1), ("train", "test"))],
)
def test_a_split_with_share_0_is_left_out(tmp_path, shares, splits):
    root = fill(tmp_path / "v", {"walk": 4, "run": 4})
    make_manifest(root, shares=shares)
    assert sorted(path.stem for path in root.glob("*.csv")) == sorted(splits)
    assert sum(len(split.samples) for split in splits_of(root, splits).values()) == 8


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none(tmp_path, shares):
    with pytest.raises(ValueError, match="give those of train, val and test"):
        make_manifest(fill(tmp_path / "v", {"walk": 5}), shares=shares)


def test_a_class_too_small_for_three_splits(tmp_path):
    with pytest.raises(
        ValueError, match="class 'run' has 2 videos from 2 recordings, too few for one in each of train"
    ):
        make_manifest(fill(tmp_path / "a", {"walk": 5, "run": 2}))
    root = fill(tmp_path / "b", {"walk": 5})
    rows = "".join(f"walk/{i:03d}.mp4,walk,{'day' if i < 4 else 'night'}\n" for i in range(5))
    (root / "all.csv").write_text("path,label,group\n" + rows)
    with pytest.raises(ValueError, match="class 'walk' has 5 videos from 2 recordings"):
        make_manifest(root / "all.csv")


def test_a_list_with_groups_and_pairs_is_divided_beside_itself(tmp_path):
    root = fill(tmp_path / "v", {"walk": 12, "run": 12})
    rows = "".join(
        f"{name}/{i:03d}.mp4,{name},p{i // 2}{name},g{i // 4}\n" for name in ("walk", "run") for i in range(12)
    )
    (root / "all.csv").write_text("path,label,pair,group\n" + rows)
    make_manifest(root / "all.csv")
    splits = splits_of(root)
    check_leaks(splits)
    assert {name: per_class(split) for name, split in splits.items()} == {name: [4, 4] for name in splits}
    assert {s.pair for s in splits["train"].samples} != {""}


def test_an_existing_division_is_kept(tmp_path, capsys):
    for name, counts in (("train", {"walk": 3, "run": 2}), ("validation", {"run": 1}), ("test", {"walk": 1})):
        fill(tmp_path / name, counts)
    make_manifest(tmp_path)
    splits = splits_of(tmp_path)
    assert {name: per_class(split) for name, split in splits.items()} == {
        "train": [2, 3],
        "val": [1, 0],
        "test": [0, 1],
    }
    assert [s.id for s in splits["val"].samples] == ["validation/run/000.mp4"]
    assert "run" in capsys.readouterr().out


def test_an_existing_division_that_shares_a_file_is_refused(tmp_path):
    for name in ("train", "val"):
        fill(tmp_path / name, {"walk": 2})
    (tmp_path / "val/walk/000.mp4").write_bytes((tmp_path / "train/walk/001.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"train/walk/001\.mp4 and .*val/walk/000\.mp4 hold the same bytes"):
        make_manifest(tmp_path)


def test_a_class_that_training_lacks(tmp_path):
    fill(tmp_path / "train", {"walk": 2})
    fill(tmp_path / "val", {"wlak": 2})
    with pytest.raises(ValueError, match=r"label 'wlak' .*did you mean 'walk'"):
        make_manifest(tmp_path)


def test_a_named_set_becomes_one_csv(tmp_path, capsys):
    names = [f"Archery/v_Archery_g0{i}_c01.avi" for i in range(3)]
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 Typing\n")
    (tmp_path / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names))
    (tmp_path / "UCF-101/Archery").mkdir(parents=True)
    for name in names[:2]:
        (tmp_path / "UCF-101" / name).write_bytes(b"x")
    options = {"format": "ucf101", "videos": tmp_path / "UCF-101", "output": tmp_path / "lists/train.csv"}
    with pytest.raises(ValueError, match="3 expected, 2 found, 1 missing"):
        make_manifest(tmp_path / "trainlist01.txt", **options)
    (tmp_path / "lists").mkdir()
    make_manifest(tmp_path / "trainlist01.txt", max_missing=0.5, **options)
    assert f"paths are relative to {tmp_path / 'UCF-101'}" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "lists/train.csv", videos=tmp_path / "UCF-101")
    original = read_manifest(tmp_path / "trainlist01.txt", format="ucf101", videos=tmp_path / "UCF-101")
    assert manifest.samples == original.samples
    assert manifest.classes == original.classes == ("Archery", "Typing")


def test_parts_and_many_labels_survive_the_round_trip(tmp_path):
    for name in ("a, b.mp4", "c.mp4"):
        (tmp_path / name).write_text(name)
    samples = (
        Sample(
            "a, b.mp4#t=0.1,0.30000000000000004", tmp_path / "a, b.mp4", (1, 0, 1), group="g", start=0.1, end=0.1 + 0.2
        ),
        Sample("a, b.mp4#t=2,", tmp_path / "a, b.mp4", (0, 0, 0), group="g", start=2.0),
        Sample("c.mp4", tmp_path / "c.mp4", (0, 1, 0)),
    )
    for classes in (("x", "y", "z"), ("x;y", "z", "w")):
        write_manifests(
            {tmp_path / "m.csv": Manifest(samples, classes, multi_label=True)}, root=tmp_path, overwrite=True
        )
        back = read_csv(tmp_path / "m.csv", multi_label=True)
        assert back.classes == classes
        assert [(s.path, s.label, s.group, s.start, s.end) for s in back.samples] == [
            (s.path, s.label, s.group, s.start, s.end) for s in samples
        ]


def test_what_has_no_place_in_a_csv(tmp_path):
    root = fill(tmp_path / "v", {"walk ": 3})
    with pytest.raises(ValueError, match="class name 'walk ' begins or ends with a blank"):
        make_manifest(root)
    both = Manifest((Sample("a", tmp_path / "a", (1, 0)),), ("x;y", "0"), multi_label=True)
    with pytest.raises(ValueError, match="class names hold a ';' and others are numbers; rename one kind"):
        write_manifests({tmp_path / "m.csv": both}, root=tmp_path)
    sample = Sample("a", tmp_path / "a\udcff.mp4", 0)
    with pytest.raises(ValueError, match="is not text in UTF-8; rename the file"):
        write_manifests({tmp_path / "m.csv": Manifest((sample,), ("walk",), multi_label=False)}, root=tmp_path)
    assert not (tmp_path / "m.csv").exists()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=9, max_size=40),
    st.integers(0, 3),
    st.sampled_from([(0.7, 0.15, 0.15), (0.4, 0.3, 0.3), (0.8, 0.2, 0.0)]),
)
def test_every_division_is_whole_and_apart(tmp_path_factory, videos, seed, shares):
    """Any labels and groups (0: none): nothing lost, no group torn, every class in every split, or a clear refusal."""
    folder = tmp_path_factory.getbasetemp() / "some"
    folder.mkdir(exist_ok=True)
    for i in range(len(videos)):
        (folder / f"{i}.mp4").write_text(str(i))
    samples = tuple(
        Sample(f"{i}.mp4", folder / f"{i}.mp4", label, group=f"g{group}" if group else "")
        for i, (label, group) in enumerate(videos)
    )
    manifest = Manifest(samples, ("a", "b", "c"), multi_label=False)
    try:
        dealt = split_manifest(manifest, shares, seed=seed)
    except ValueError as error:
        if "too few for one in each" not in str(error) and "bound to other" not in str(error):
            raise
        return
    assert sorted(s.id for part in dealt.values() for s in part) == sorted(s.id for s in samples)
    check_leaks({name: Manifest(tuple(part), manifest.classes, multi_label=False) for name, part in dealt.items()})
    for part in dealt.values():
        assert {s.label for s in part} == {label for label, _ in videos}


def test_the_command(tmp_path, monkeypatch, capsys):
    fill(tmp_path / "v", {"walk": 5, "run": 5})

    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "v"), "--shares", "[0.6,0.2,0.2]", *options])
        runpy.run_path(str(TOOL), run_name="__main__")

    run()
    assert "paths are relative to" in capsys.readouterr().out
    assert per_class(splits_of(tmp_path / "v")["train"]) == [3, 3]
    with pytest.raises(SystemExit, match=r"error: .*there already; .*--overwrite true"):
        run()
    run("--overwrite", "true")
