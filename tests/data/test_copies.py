"""Copies between splits are found by their bytes, and next to nothing is read for it."""

import tarfile
from pathlib import Path

import pytest

from timesformer_plus.data import copies
from timesformer_plus.data.copies import HEAD_BYTES, find_copies
from timesformer_plus.data.manifests import Manifest, Member, Sample
from timesformer_plus.data.splits import check_leaks, find_leaks


def split(*samples):
    return Manifest(tuple(samples), ("a",), multi_label=False)


def video(path, content, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Sample(path.name, path, 0, **fields)


def names(found):
    """The groups of places with one digest, by the names of their files."""
    groups = {}
    for (path, member), digest in found.items():
        groups.setdefault(digest, set()).add(path.name if member is None else member.name)
    return sorted(groups.values(), key=sorted)


@pytest.fixture
def opened(monkeypatch):
    """How many files are read, by their first bytes and whole."""
    counts = {"head": 0, "whole": 0}

    def count(place, most=None, hashed=copies._hash):
        counts["whole" if most is None else "head"] += 1
        return hashed(place, most)

    monkeypatch.setattr(copies, "_hash", count)
    return counts


def test_copies_under_other_names(tmp_path, opened):
    long = bytes(range(256)) * 1024
    train = split(
        video(tmp_path / "a", b"one"),
        video(tmp_path / "b", b"three"),  # of a size of its own
        video(tmp_path / "c", long + b"1"),
        video(tmp_path / "d", long + b"2"),
        video(tmp_path / "e", b""),
        video(tmp_path / "f", b"twice"[:4]),
        video(tmp_path / "g", b"twice"[:4]),
    )
    val = split(
        video(tmp_path / "A", b"one"),
        video(tmp_path / "C", long + b"1"),
        video(tmp_path / "E", b""),
        video(tmp_path / "X", b"two"),
        Sample("gone", tmp_path / "gone", 0),
    )
    assert len(long) > HEAD_BYTES
    assert names(find_copies({"train": train, "val": val})) == [{"A", "a"}, {"C", "c"}]
    # by size: a A X and c d C; by their first bytes: a A and c d C, of which d differs at its end
    assert opened == {"head": 6, "whole": 5}
    assert find_copies({"train": train}) == {}
    found = find_copies({"train": train, "val": val})
    with pytest.raises(ValueError, match=r"2 leaks between splits: the content of .*a and .*A is in train and val"):
        check_leaks({"train": train, "val": val}, lambda sample: found.get(copies.place_of(sample)))


def test_one_file_in_two_splits_is_not_read_for_it(tmp_path, opened):
    one = video(tmp_path / "a", b"one")
    assert find_copies({"train": split(one), "val": split(one)}) == {}
    assert opened == {"head": 0, "whole": 0}
    # but a copy of it is a leak of its own
    splits = {"train": split(one), "val": split(one, video(tmp_path / "b", b"one"))}
    found = find_copies(splits)
    assert names(found) == [{"a", "b"}]
    assert len(find_leaks(splits, lambda sample: found.get(copies.place_of(sample)))) == 2


def test_members_of_shards_and_files(tmp_path):
    shard = tmp_path / "shard.tar"
    for name, content in (("x.mp4", b"one"), ("y.mp4", b"two")):
        (tmp_path / name).write_bytes(content)
    with tarfile.open(shard, "w") as tar:
        for name in ("x.mp4", "y.mp4"):
            tar.add(tmp_path / name, arcname=name)
    with tarfile.open(shard) as tar:
        members = [Member(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    inside = [Sample(m.name, shard, 0, member=m) for m in members]
    found = find_copies({"train": split(*inside), "val": split(video(tmp_path / "z.mp4", b"two"))})
    assert names(found) == [{"y.mp4", "z.mp4"}]


def test_folders_of_frames(tmp_path):
    folders = {}
    for folder, frames in {"a": "xyz", "b": "xyz", "c": "xyw", "d": "xy"}.items():
        for number, content in enumerate(frames):
            video(tmp_path / folder / f"{number:04}.jpg", content.encode())
        (tmp_path / folder / "notes.txt").write_text(folder)
        folders[folder] = Sample(folder, tmp_path / folder, 0)
    train, val = split(folders["a"], folders["d"]), split(folders["b"], folders["c"])
    assert names(find_copies({"train": train, "val": val})) == [{"a", "b"}]


def test_parts_of_videos_are_of_their_whole_file(tmp_path):
    whole = video(tmp_path / "a", b"one")
    part = video(tmp_path / "b", b"one", start=1.0, end=2.0)
    assert names(find_copies({"train": split(whole), "val": split(part)})) == [{"a", "b"}]


def test_what_is_known_is_not_read(tmp_path, opened):
    known = {"a": "1", "b": "1", "c": "2"}
    train, val = (
        split(video(tmp_path / "a", b"one")),
        split(video(tmp_path / "b", b"two"), video(tmp_path / "c", b"six")),
    )
    splits = {"train": train, "val": val}
    assert find_copies(splits, lambda sample: known[sample.id]) == {
        (tmp_path / "a", None): "1",
        (tmp_path / "b", None): "1",
    }
    assert opened == {"head": 0, "whole": 0}
    # where one is not known all of that size are read: digests of two kinds cannot be compared
    assert find_copies(splits, lambda sample: {**known, "c": None}[sample.id]) == {}
    assert opened["head"] == 3


def test_many_files(tmp_path, opened):
    """Threads look at them, and none is lost or read for nothing."""
    train = split(*(video(tmp_path / f"t{i}", bytes(i + 1)) for i in range(200)))
    val = split(*(video(tmp_path / f"v{i}", bytes([i % 10 == 0]) * (1000 + i if i % 2 else i + 1)) for i in range(200)))
    found = find_copies({"train": train, "val": val})
    expected = [i for i in range(0, 200, 2) if i % 10]
    assert names(found) == sorted(({f"t{i}", f"v{i}"} for i in expected), key=sorted)
    assert opened == {"head": 200, "whole": 2 * len(expected)}


def test_a_disk_that_refuses_is_no_copy(tmp_path, monkeypatch):
    splits = {"train": split(video(tmp_path / "a", b"one")), "val": split(video(tmp_path / "b", b"one"))}
    assert len(find_copies(splits)) == 2

    def refuse(path, *words, before=Path.open, **more):
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *words, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert find_copies(splits) == {}
