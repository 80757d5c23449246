"""Folders that are whole or not there: damage of any kind is named, a kill at any moment leaves the old or the new."""

import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_writers import recover_folder, run, write_folder

from timesformer_plus.engine.atomic_folder import MANIFEST_FILE, damage, new_folder, recover, seal, unfinished

FILES = {"weights.bin": bytes(range(256)) * 3, "config.json": b'{"depth": 12}\n', "inner/part 0": b"x", "empty": b""}


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def write(target, files=FILES):
    with new_folder(target) as staged:
        fill(staged, files)


def read(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole")
    return tmp_path / "whole"


def test_manifest_lists_every_file_with_size_and_sha256(whole):
    manifest = json.loads((whole / MANIFEST_FILE).read_text())
    assert manifest["format"] == 1
    assert manifest["files"] == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in FILES.items()
    }
    assert read(whole) == FILES
    assert damage(whole) is None
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


def test_an_older_folder_is_replaced_with_all_its_files(whole):
    write(whole, {"other": b"new"})
    assert read(whole) == {"other": b"new"}
    assert damage(whole) is None
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_folder_and_nothing_else(whole, error):

    def fail(target):
        with new_folder(target) as staged:
            fill(staged, {"half": b"written"})
            raise error("stop")

    for target in (whole, whole.parent / "another"):
        with pytest.raises(error, match="stop"):
            fail(target)
    assert read(whole) == FILES
    assert damage(whole) is None
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_brings_the_old_folder_back(whole, monkeypatch, failing):
    """The first rename moves the old folder aside, the second puts the new one in its place."""
    rename = Path.rename
    calls = []

    def rename_once_not(path, to):
        calls.append(path)
        if len(calls) == failing:
            raise PermissionError(13, "Permission denied")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", rename_once_not)
    with pytest.raises(
        OSError, match=r"whole cannot be written \(Permission denied\); what was there before is untouch"
    ):
        write(whole, {"new": b""})
    assert len(calls) == 2 * failing - 1
    assert read(whole) == FILES
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o777])
def test_readable_for_everybody_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "run" / "checkpoints" / "step")
    finally:
        os.umask(before)
    paths = list((tmp_path / "run").rglob("*"))
    assert len(paths) == 2 + 1 + len(FILES) + 1
    for path in (tmp_path / "run", *paths):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_folder_that_was_there_keeps_its_mode(tmp_path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    run_folder.chmod(0o700)
    write(run_folder / "best")
    assert run_folder.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="notes is a file and will not be replaced by a folder; move it away"):
        write(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(OSError, match=r"step cannot be written \(File exists: .*notes\)"):
        write(tmp_path / "notes" / "run" / "step")


def test_a_link_to_another_disk_stays_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / "best"
    link.symlink_to(tmp_path / "scratch" / "best")
    write(link)
    write(link, {"second": b""})
    assert link.is_symlink()
    assert read(tmp_path / "scratch" / "best") == {"second": b""}
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["best"]


def test_everything_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    seen = []
    force, rename = os.fsync, Path.rename

    def note(descriptor):
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        force(descriptor)

    def note_rename(path, to):
        seen.append((path, to))
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", note_rename)
    write(tmp_path / "folder")
    [at] = [index for index, what in enumerate(seen) if isinstance(what, tuple)]
    staged, target = seen[at]
    assert target == tmp_path / "folder"
    assert set(seen[:at]) == {staged, staged / "inner", staged / MANIFEST_FILE, *(staged / name for name in FILES)}
    assert seen[at + 1 :] == [tmp_path]


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "a bit flipped": lambda file: file.write_bytes(bytes([file.read_bytes()[0] ^ 4]) + file.read_bytes()[1:]),
    "deleted": lambda file: file.unlink(),
    "a folder instead": lambda file: (file.unlink(), file.mkdir()),
    "a pipe instead": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("name", ["weights.bin", "config.json", MANIFEST_FILE])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_names_the_file_and_what_is_wrong(whole, name, kind):
    DAMAGES[kind](whole / name)
    line = damage(whole)
    assert line is not None
    assert line.startswith(f"{whole}: {name} ")
    assert "\n" not in line
    if name != MANIFEST_FILE:
        wrong = {"zeroed": "(sha256)", "a bit flipped": "(sha256)", "emptied": "has 0 bytes instead of "}
        assert wrong.get(kind, "is missing" if line.endswith("missing") else " bytes instead of ") in line


def test_a_file_in_a_folder_of_the_folder_counts_too(whole):
    (whole / "inner" / "part 0").write_bytes(b"y")
    assert damage(whole) == f"{whole}: inner/part 0 has another content than was written (sha256)"


def test_files_that_are_not_listed_are_nobodys_business(whole):
    (whole / "notes.txt").write_text("best so far")
    assert damage(whole) is None


def test_what_is_no_such_folder(tmp_path):
    assert damage(tmp_path / "nothing") == f"{tmp_path / 'nothing'} is not a folder"
    (tmp_path / "plain").mkdir()
    assert damage(tmp_path / "plain") == f"{tmp_path / 'plain'}: manifest.json is missing"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"format": 2, "files": {}},
        {"format": 1, "files": ["a"]},
        {"format": 1, "files": {"a": "b"}},
        {"format": 1, "files": {"a": {"size": 1}}},
        {"format": 1, "files": {"a": {"size": "1", "sha256": ""}}},
        {"format": 1, "files": {"../whole/weights.bin": {"size": 768, "sha256": ""}}},
        {"format": 1, "files": {"/dev/zero": {"size": 0, "sha256": ""}}},
    ],
)
def test_manifests_of_another_form_or_that_point_outside(whole, content):
    (whole / MANIFEST_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    assert damage(whole) == f"{whole}: manifest.json is damaged, or of another format than 1"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A folder to be damaged and mended again."""
    folder = tmp_path_factory.mktemp("sealed")
    fill(folder, {name: content for name, content in FILES.items() if content})
    seal(folder)
    return folder


@given(data=st.data())
def test_no_bit_of_any_file_changes_unseen(sealed, data):
    """Also of the manifest: its one canonical form has no bits that do not matter."""
    file = sealed / data.draw(st.sampled_from([*(name for name, content in FILES.items() if content), MANIFEST_FILE]))
    good = file.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                good[:place],
                good[:place] + bytes([good[place] ^ 1 << data.draw(st.integers(0, 7))]) + good[place + 1 :],
                good[:place] + bytes(len(good) - place),
                good[:place] + good[place + 1 :],
                good + good[:place],
            ]
        )
    )
    try:
        file.write_bytes(bad)
        assert (damage(sealed) is None) == (bad == good)
    finally:
        file.write_bytes(good)
    assert damage(sealed) is None


def names_aside(target, token="abcd1234"):
    return (target.with_name(f".{target.name}.{kind}-{token}") for kind in ("unfinished", "replaced"))


def test_killed_while_it_was_filled(whole):
    new, _ = names_aside(whole)
    new.mkdir()
    (new / "half").touch()
    assert unfinished(whole.parent) == [whole]
    recover(whole)
    assert read(whole) == FILES
    assert unfinished(whole.parent) == []
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


def test_killed_between_the_renames_the_new_folder_takes_its_place(whole):
    new, old = names_aside(whole)
    write(new, {"new": b"1"})
    whole.rename(old)
    recover(whole)
    assert read(whole) == {"new": b"1"}
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


def test_killed_between_the_renames_and_the_new_folder_lost_something(whole):
    new, old = names_aside(whole)
    shutil.copytree(whole, new)
    (new / "config.json").unlink()
    whole.rename(old)
    recover(whole)
    assert read(whole) == FILES
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


def test_killed_while_the_old_folder_was_removed(whole):
    _, old = names_aside(whole)
    old.mkdir()
    (old / "rest").touch()
    recover(whole)
    assert read(whole) == FILES
    assert [path.name for path in whole.parent.iterdir()] == ["whole"]


def test_recovering_leaves_other_folders_alone(whole):
    others = [".whole", ".whole.unfinished-abc", ".whole.other-abcd1234", ".wholesome.unfinished-abcd1234"]
    for name in others:
        (whole.parent / name).mkdir()
    recover(whole)
    assert {path.name for path in whole.parent.iterdir()} == {"whole", *others}
    assert unfinished(whole.parent) == [whole.parent / "wholesome"]
    recover(whole.parent / "nothing" / "here")


@pytest.fixture
def unforced(monkeypatch):
    """Nothing waits for the disk: a kill takes what is in memory from a process, not from the system."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize("replaces", [False, True])
def test_kill_at_every_touch_of_the_file_system_leaves_the_old_or_the_new(tmp_path, replaces):
    """The process is killed before its 1st, 2nd, 3rd … system call on files, until it gets to the end."""
    target = tmp_path / "target"
    old = dict.fromkeys(("a", "b", "inner/c"), b"old") if replaces else None
    new = dict.fromkeys(("a", "b", "inner/c"), b"new")
    seen = []
    for number in range(1, 200):
        if replaces:
            write(target, old)
        else:
            shutil.rmtree(target, ignore_errors=True)
        code = run(write_folder, target, "new", number)
        torn = target.exists() and read(target) not in (old, new)
        assert not torn
        recover(target)
        seen.append(read(target) if target.exists() else None)
        assert seen[-1] in (old, new)
        assert seen[-1] is None or damage(target) is None
        assert {path.name for path in tmp_path.iterdir()} <= {"target"}
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert len(seen) > 20
    # at first always the old, from some moment on always the new
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert seen.count(old) > 10
    assert seen.count(new) >= 2


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize("new_is_whole", [True, False])
def test_kill_while_recovering(tmp_path, new_is_whole):
    target = tmp_path / "target"
    new, old = names_aside(target)
    for number in range(1, 200):
        shutil.rmtree(target, ignore_errors=True)
        write(old, {"a": b"old"})
        write(new, {"a": b"new"})
        if not new_is_whole:
            (new / MANIFEST_FILE).unlink()
        code = run(recover_folder, target, number)
        recover(target)
        assert read(target) == {"a": b"new" if new_is_whole else b"old"}
        assert damage(target) is None
        assert [path.name for path in tmp_path.iterdir()] == ["target"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 5


def test_names_beside_the_target_are_as_documented(tmp_path):
    with new_folder(tmp_path / "step") as staged:
        assert re.fullmatch(r"\.step\.unfinished-\w{8}", staged.name)
        assert staged.parent == tmp_path
        assert list(staged.iterdir()) == []
