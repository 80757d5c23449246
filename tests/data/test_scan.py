"""The scan: what is planted is found, nothing stops it, nothing is done twice, and the table says it all."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import odd_checks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_videos import numbered_frame, write_numbered
from PIL import Image

from timesformer_plus.data import scan as scan_module
from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.guard import Limits
from timesformer_plus.data.manifest_files import make_manifest
from timesformer_plus.data.scan import (
    ScanRow,
    find_videos,
    main,
    read_exclude,
    read_scan,
    scan_videos,
    write_exclude,
)
from timesformer_plus.data.scan_table import COLUMNS, Journal, write_scan
from timesformer_plus.engine.build_splits import build_splits
from timesformer_plus.engine.data_config import DataConfig

GOOD_NAMES = (
    "plain.mp4", "a, b.mp4", 'say "hi".mp4', " spaces .mp4", "two\nlines.mp4", "old\rmac.mp4", "ünïcödé 東京 🎬.mp4",
    "#first.mp4", "UPPER.MP4", "sub/deep/plain.mp4", "=1+1.mp4",
)  # fmt: skip


def damaged(content: bytes) -> bytes:
    """Overwrite some of a file's pictures; the header of the whole stays."""
    start = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 3
    return content[:start] + bytes(i * 7 % 256 for i in range(600)) + content[start + 600 :]


def write_tone(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def plant(root: Path) -> Counter[str]:
    """Fill a folder with good and bad videos; returns how many of each kind of bad there are, good ones as ``""``."""
    (root / "sub" / "deep").mkdir(parents=True)
    video = write_numbered(root / "plain.mp4", 30)
    for name in GOOD_NAMES[1:]:
        (root / name).write_bytes(video.read_bytes() + os.urandom(8))  # none has the content of another
    shutil.copy(video, root / "twin.mp4")
    (root / "linked.mp4").symlink_to("plain.mp4")
    write_numbered(root / "other.mkv", 20, codec="libx265", options={"x265-params": "log-level=none"})
    write_numbered(root / "old.avi", 12, codec="mpeg4")
    good = len(GOOD_NAMES) + 4

    whole = write_numbered(root / "whole", 90, container_format="mp4", container_options={"movflags": "faststart"})
    content = whole.read_bytes()
    (root / "short1.mp4").write_bytes(content[: len(content) * 2 // 3])
    (root / "short2.mp4").write_bytes(content[: len(content) - 100])
    (root / "hole.mp4").write_bytes(damaged(content))
    (root / "head.mp4").write_bytes(video.read_bytes()[:400])  # its index is at its end
    whole.unlink()
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("I am not a video")
    (root / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{video}'\n")
    Image.new("RGB", (64, 64)).save(root / "picture.mp4", "PNG")
    (root / "magic.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(1000))
    write_tone(root / "tone.mp4")
    write_numbered(root / "large.mp4", 3, size=(400, 400))
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    (root / "nowhere.mp4").symlink_to("gone/away.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    with open(os.fsencode(root) + b"/bytes \xff.mp4", "wb") as file:
        file.write(video.read_bytes())
    kinds = {
        "short1.mp4": "cut off", "short2.mp4": "cut off", "hole.mp4": "damaged", "head.mp4": "cut off",
        "empty.mp4": "empty", "text.mp4": "not a video", "concat.mp4": "not a video", "picture.mp4": "not a video",
        "magic.mkv": "damaged", "tone.mp4": "not a video", "large.mp4": "too large", "pipe.mp4": "not a file",
        "folder.mp4": "not a file", "nowhere.mp4": "missing", "loop.mp4": "no access", "bytes \\udcff.mp4": "name",
    }  # fmt: skip
    # not videos, and not looked at
    (root / "notes.txt").write_text("no video")
    (root / ".hidden.mp4").write_text("no video")
    np.save(root / "features.npy", np.zeros(3))
    return kinds, good


LIMITS = Limits(max_pixels=300 * 300)
OPTIONS = ["--limits.max_pixels=90000", "--jobs=2", "--progress=false"]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A folder of good and bad videos, scanned by the command: (folder, kinds of the bad ones, number of good ones)."""
    root = tmp_path_factory.mktemp("planted")
    kinds, good = plant(root)
    before = listing(root)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([str(root), "--exclude", str(root.with_suffix(".txt")), *OPTIONS])
    assert code == 1
    assert listing(root) == before | {"scan.csv"}  # nothing else is made, changed or removed
    return root, kinds, good, out.getvalue()


def listing(root: Path) -> set[str]:
    return {os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names}


def test_what_is_planted_is_found(scanned):
    root, kinds, good, _ = scanned
    rows = read_scan(root / "scan.csv")
    found = {path: row.kind for path, row in rows.items() if row.verdict == "bad"}
    assert found == kinds
    assert sum(row.verdict == "ok" for row in rows.values()) == good
    assert len(set(kinds.values())) >= 8
    for row in rows.values():
        assert bool(row.kind) == bool(row.reason) == (row.verdict == "bad")
        assert "\n" not in row.reason
        assert str(root) not in row.reason


def test_good_rows_tell_what_a_video_is(scanned):
    root, _, _, _ = scanned
    rows = read_scan(root / "scan.csv")
    assert set(GOOD_NAMES) <= rows.keys()
    row = rows["plain.mp4"]
    facts = (root / "plain.mp4").stat()
    assert dataclasses.replace(row, sha256="", settings="", allowance="") == ScanRow(
        "plain.mp4", facts.st_size, facts.st_mtime_ns, "h264", "mov", 48, 64, 30, 30, 25.0, 1.2, "", row.decoder, "ok"
    )
    assert row.decoder in ("decord", "pyav", "torchcodec")
    assert (rows["other.mkv"].codec, rows["other.mkv"].container) == ("hevc", "matroska")
    assert (rows["old.avi"].codec, rows["old.avi"].frames_decoded) == ("mpeg4", 12)
    assert len(row.sha256) == 64
    assert row.sha256 == rows["twin.mp4"].sha256 == rows["linked.mp4"].sha256 != rows["UPPER.MP4"].sha256
    # what was found out before a video turned out bad is kept
    hole = rows["hole.mp4"]
    assert (hole.codec, hole.frames_header, hole.height) == ("h264", 90, 48)
    assert 0 < hole.frames_decoded < 90
    assert rows["large.mp4"].sha256


def test_the_list_of_bad_paths(scanned):
    root, kinds, _, _ = scanned
    assert read_exclude(root.with_suffix(".txt")) == tuple(sorted(kinds))


def test_the_summary(scanned):
    _, kinds, good, printed = scanned
    assert f"{len(kinds) + good} videos" in printed
    assert f"{good} good, {len(kinds)} bad; {good + len(kinds)} checked now, 0 known from before" in printed
    for kind, count in Counter(kinds.values()).items():
        assert any(line.split("│")[1:3] == [f" {kind} ".ljust(len(line.split("│")[1])), f" {count}      "]
                   for line in printed.splitlines() if line.startswith("│")), kind  # fmt: skip
    assert f"h264 in mov: {good - 2}" in printed
    assert "48x64" in printed
    assert "2 videos have the content of another" in printed
    assert "linked.mp4 = plain.mp4 = twin.mp4" in printed


def test_the_advice_leads_from_a_bad_file_to_splits_that_training_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(10):  # each of another length: copies would be kept together
        path = tmp_path / "my videos" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_numbered(path, 5 + number)
    (tmp_path / "my videos" / "a" / "junk.mp4").write_bytes(b"no video" * 99)
    root = Path("my videos")
    make_manifest(root, shares=(0.5, 0.25, 0.25), seed=1)
    assert "junk" in (root / "train.csv").read_text()  # where it stops a run; in the others it counts as wrong
    manifests = {path: path.read_bytes() for path in root.glob("*.csv")}
    capsys.readouterr()
    assert main([str(root), *OPTIONS]) == 1
    advice = capsys.readouterr().out.split("1 bad")[-1]
    again, train = re.findall(r"^  (\S.*)$", advice, flags=re.MULTILINE)[-2:]
    with pytest.raises(ValueError, match=r"data\.exclude"):
        build_splits(DataConfig(root=root))
    # the commands as they stand there, with the folder's space and all options
    assert shlex.split(again)[:3] == ["python", "tools/scan.py", "my videos"]
    assert set(OPTIONS) < set(shlex.split(again))
    assert main(shlex.split(again)[2:]) == 1
    printed = capsys.readouterr().out
    assert "0 checked now" in printed
    assert train in printed  # the list is written: the same option, and nothing to scan again
    assert "tools/scan.py" not in printed
    option, path = shlex.split(train)
    assert option == "--data.exclude"
    assert read_exclude(path) == ("a/junk.mp4",)
    splits = build_splits(DataConfig(root=root, exclude=Path(path)))
    assert sum(counts.found for counts in splits.counts.values()) == 10
    assert sum(counts.excluded for counts in splits.counts.values()) == 1
    assert {path: path.read_bytes() for path in manifests} == manifests


def test_there_is_no_advice_where_all_is_well(tmp_path, capsys):
    write_numbered(tmp_path / "a.mp4", 10)
    assert main([str(tmp_path), *OPTIONS]) == 0
    assert "exclude" not in capsys.readouterr().out


def test_a_second_run_looks_at_what_has_changed_only(scanned, tmp_path, monkeypatch):
    source, kinds, good, _ = scanned
    root = tmp_path / "videos"
    shutil.copytree(source, root, symlinks=True, ignore=shutil.ignore_patterns("pipe.mp4"))
    os.mkfifo(root / "pipe.mp4")
    for path in ("pipe.mp4", "folder.mp4"):
        facts = (source / path).stat()
        os.utime(root / path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    total = good + len(kinds)
    table = root / "scan.csv"
    first = table.read_bytes()

    class NoSandbox:
        def __init__(self, *args, **options):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(scan_module, "Sandbox", NoSandbox)
        scan = scan_videos(root, limits=LIMITS, progress=False)
        assert (scan.checked, scan.left, len(scan.rows), len(scan.bad)) == (0, 0, total, len(kinds))
    assert table.read_bytes() == first  # the same, to the last byte

    content = (root / "text.mp4").read_bytes()
    shutil.copy(root / "plain.mp4", root / "text.mp4")  # replaced by a good one
    (root / "empty.mp4").unlink()
    (root / "new.mp4").write_bytes(content)
    facts = (root / "UPPER.MP4").stat()
    os.utime(root / "UPPER.MP4", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    scan = scan_videos(root, limits=LIMITS, progress=False)
    rows = {row.path: row for row in scan.rows}
    assert scan.checked == 3
    assert "empty.mp4" not in rows
    assert rows["text.mp4"].verdict == "ok"
    assert rows["new.mp4"].kind == "not a video"
    assert rows["UPPER.MP4"].mtime_ns == facts.st_mtime_ns + 1
    assert read_scan(table) == rows
    assert list(rows) == sorted(rows)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Videos on which the check itself misbehaves."""
    root = tmp_path_factory.mktemp("odd")
    for behaviour in odd_checks.BEHAVIOURS:
        (root / f"{behaviour}.mp4").write_text("x")
    for i in range(20):
        (root / f"good{i:02d}.mp4").write_text("x")
    options = {"check": odd_checks.check, "max_seconds_per_file": 2, "max_memory_mb": 200, "progress": False}
    start = time.monotonic()
    scan = scan_videos(root, jobs=3, **options)
    return root, scan, time.monotonic() - start, options


def test_nothing_that_a_file_does_stops_the_scan(odd):
    _, scan, seconds, _ = odd
    found = {row.path.removesuffix(".mp4"): row.kind for row in scan.rows if row.verdict == "bad"}
    assert found == {
        "hang": "hang", "spin": "hang", "segv": "crash", "abort": "crash", "exit": "crash", "memory": "memory",
        "killed": "memory", "raise": "error", "mute": "damaged",
    }  # fmt: skip
    assert len(scan.rows) == 20 + len(odd_checks.BEHAVIOURS)
    assert seconds < 40
    rows = {row.path.removesuffix(".mp4"): row for row in scan.rows}
    assert rows["segv"].reason == "its process died (SIGSEGV) while looking at its name; leave it out, or convert it"
    assert rows["hang"].reason.startswith("takes longer than 2 s while looking at its name; a long video may need more")
    assert rows["memory"].reason.startswith("asks for more than 200 MB of memory while")
    assert rows["raise"].reason.startswith("KeyError: 'what\\nnobody thought of' while")
    assert all(row.codec == "odd" for row in scan.rows)


def test_verdicts_that_hang_on_the_limits_are_looked_at_again_with_others(odd):
    root, scan, _, options = odd
    again = scan_videos(root, **options)
    assert (again.checked, again.rows) == (0, scan.rows)
    for path in ("hang.mp4", "spin.mp4", "memory.mp4"):
        (root / path).rename(root / path.replace(".mp4", ".gone"))
    wider = scan_videos(root, **options | {"max_memory_mb": 300})
    assert wider.checked == 1  # "killed", the last one that was bad for want of memory
    assert len(wider.rows) == len(scan.rows) - 3


def slow_videos(root: Path, count: int) -> list[Path]:
    root.mkdir()
    videos = [root / f"{i:02d}.mp4" for i in range(count)]
    for video in videos:
        video.write_text("x")
    return videos


def looked_at(videos: list[Path]) -> list[int]:
    logs = [video.with_suffix(".log") for video in videos]
    return [len(log.read_text().splitlines()) if log.exists() else 0 for log in logs]


def test_kill_9_loses_no_more_than_the_files_in_flight(tmp_path):
    videos = slow_videos(tmp_path / "videos", 40)
    journal = videos[0].parent / "scan.csv.journal"
    script = (
        "import sys, odd_checks; from timesformer_plus.data.scan import scan_videos\n"
        "scan_videos(sys.argv[1], jobs=2, progress=False, check=odd_checks.slow_check)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script, str(videos[0].parent)], env=environment)
    end = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b'"ok"') < 5:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = journal.read_bytes().count(b'"ok"')
    assert done < 40
    assert not (videos[0].parent / "scan.csv").exists()
    numbers = {int(number) for log in videos[0].parent.glob("*.log") for number in log.read_text().split()}
    from test_sandbox import gone

    assert all(gone(number) for number in numbers)  # its helper and workers end by themselves
    with journal.open("ab") as file:
        file.write(b'{"path": "torn in two by the e')
    before = looked_at(videos)
    assert sum(before) <= done + 4  # two at work, two handed over
    scan = scan_videos(videos[0].parent, jobs=2, progress=False, check=odd_checks.slow_check)
    assert (scan.checked, scan.left, len(scan.rows)) == (40 - done, 0, 40)
    assert all(row.verdict == "ok" for row in scan.rows)
    assert max(looked_at(videos)) == 2 if sum(before) > done else 1
    assert not journal.exists()
    assert len(read_scan(videos[0].parent / "scan.csv")) == 40


def test_ctrl_c_writes_what_there_is(tmp_path, monkeypatch, capsys):
    videos = slow_videos(tmp_path / "videos", 30)
    seen = []

    def step(_, row):
        seen.append(row.path)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("timesformer_plus.data.scan_summary.ScanProgress.step", step)
        scan = scan_videos(videos[0].parent, jobs=2, check=odd_checks.slow_check)
    assert "interrupted" in capsys.readouterr().err
    assert 4 <= len(scan.rows) < 30
    assert scan.left == 30 - len(scan.rows)
    assert set(read_scan(videos[0].parent / "scan.csv")) == {row.path for row in scan.rows} >= set(seen)
    assert not list(videos[0].parent.glob("*.journal"))


def test_what_manifests_list_is_scanned(tmp_path):
    root = tmp_path / "videos"
    (root / "frames").mkdir(parents=True)
    video = write_numbered(root / "clip.mp4", 10)
    for i in range(5):
        Image.fromarray(numbered_frame(i)).save(root / "frames" / f"{i:03d}.png")
    np.save(root / "array.npy", np.stack([numbered_frame(i) for i in range(7)]))
    write_numbered(root / "unlisted.mp4", 2)
    (root / "list.csv").write_text("path,label\nclip.mp4,0\nframes,1\narray.npy,0\nlost.mp4,1\n")
    with tarfile.open(root / "shard-0.tar", "w") as shard:
        for name, content in (("a.mp4", video.read_bytes()), ("a.cls", b"0"), ("b.mp4", b"no video"), ("b.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    manifests = [
        read_manifest(root / "list.csv", videos=root),
        read_manifest(root / "shard-0.tar", format="webdataset", videos=root, classes=("x", "y")),
    ]
    scan = scan_videos(root, tmp_path / "out.csv", manifests=manifests, jobs=2, progress=False)
    rows = {row.path: row for row in scan.rows}
    assert {path: row.kind for path, row in rows.items()} == {
        "clip.mp4": "", "frames": "", "array.npy": "", "lost.mp4": "missing",
        "shard-0.tar::a.mp4": "", "shard-0.tar::b.mp4": "not a video",
    }  # fmt: skip
    assert {path: row.frames_decoded for path, row in rows.items() if row.frames_decoded} == {
        "clip.mp4": 10, "frames": 5, "array.npy": 7, "shard-0.tar::a.mp4": 10,
    }  # fmt: skip
    assert (rows["frames"].container, rows["array.npy"].container) == ("images", "array")
    assert rows["shard-0.tar::a.mp4"].sha256 == rows["clip.mp4"].sha256
    assert rows["shard-0.tar::a.mp4"].size_bytes == rows["clip.mp4"].size_bytes
    assert scan_videos(root, tmp_path / "out.csv", manifests=manifests, progress=False).checked == 0


def test_links_are_followed_once(tmp_path):
    root = tmp_path / "root"
    (root / "z" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in ("root/z/one.mp4", "root/z/deep/two.mkv", "elsewhere/three.mp4"):
        (tmp_path / path).touch()
    (root / "a").symlink_to("z")  # another name of a folder inside
    (root / "z" / "deep" / "up").symlink_to(root)  # a circle
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "four.mp4").symlink_to(tmp_path / "elsewhere" / "three.mp4")
    assert [target.name for target in find_videos(root)] == ["four.mp4", "out/three.mp4", "z/deep/two.mkv", "z/one.mp4"]


def test_only_one_scan_writes_a_table(tmp_path):
    (tmp_path / "a.mp4").touch()
    journal = Journal(tmp_path / "scan.csv")
    with pytest.raises(ValueError, match="another scan is writing it"):
        scan_videos(tmp_path)
    journal.close(remove=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{root}/nowhere"], "there is no such folder"),
        (["{root}/bare"], "there is no video in it"),
        (["{root}", "--output={root}/train.csv"], "is not what this version's scan writes"),
        (["{root}", "--manifest", "lost.csv"], "lost.csv"),
        (["{root}", "--jobs=0"], "jobs=0"),
        (["{root}", "--max_seconds_per_file=0"], "max_seconds=0"),
        (["{root}", "--limits.max_frames=0"], "limits.max_frames"),
        (["{root}", "--decoder=vlc"], "decoder"),
        (["{root}", "--output=/nowhere/at/all/scan.csv"], "No such file"),
        (["{root}", "--fix"], "fix"),
    ],
)
def test_mistakes_end_in_one_line(words, message, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.csv").write_text("path,label\na.mp4,0\n")
    try:
        code = main([word.format(root=tmp_path) for word in words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "train.csv").read_text() == "path,label\na.mp4,0\n"


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=30)
counts = st.integers(0, 2**62)
numbers = st.floats(0, 1e12, allow_nan=False)
rows = st.builds(
    ScanRow,
    path=words.filter(bool), size_bytes=counts, mtime_ns=st.integers(-(2**62), 2**62), codec=words, container=words,
    height=counts, width=counts, frames_header=counts, frames_decoded=counts, fps=numbers, seconds=numbers,
    sha256=words, decoder=words, verdict=st.sampled_from(["ok", "bad"]), kind=words, reason=words, settings=words,
    allowance=words,
)  # fmt: skip


@given(st.lists(rows, max_size=5, unique_by=lambda row: row.path))
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("table") / "scan.csv"
    write_scan(given, path)
    read = read_scan(path)
    assert list(read.values()) == sorted(given, key=lambda row: row.path)
    assert all(path == row.path for path, row in read.items())
    write_scan(reversed(given), path.with_name("again.csv"))
    assert path.with_name("again.csv").read_bytes() == path.read_bytes()


@given(st.lists(words.filter(bool), max_size=8))
def test_a_list_comes_back_as_it_was_written(tmp_path_factory, given):
    path = tmp_path_factory.mktemp("list") / "exclude.txt"
    write_exclude(given, path)
    assert read_exclude(path) == tuple(sorted(set(given)))


def test_a_list_by_hand(tmp_path):
    path = tmp_path / "exclude.txt"
    path.write_bytes(b'\xef\xbb\xbf# mine\r\n\r\na.mp4\r\n  b c.mp4  \n"two\\nlines.mp4"')
    assert read_exclude(path) == ("a.mp4", "b c.mp4", "two\nlines.mp4")
    path.write_text('"unfinished\n')
    with pytest.raises(ValueError, match=r"line 1: .* is not a string in JSON"):
        read_exclude(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="text file in UTF-8"):
        read_exclude(path)
    with pytest.raises(ValueError, match="nowhere"):
        read_exclude(tmp_path / "nowhere")


def table_text(*rows: dict[str, str]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    plain = dataclasses.asdict(ScanRow("a.mp4", verdict="ok"))
    writer.writerows(plain | row for row in rows)
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first row must be path,size_bytes"),
        ("path,label\na.mp4,0\n", "the first row must be path,size_bytes"),
        (table_text({}) + "b.mp4,1,2\n", "row 3: 3 fields instead of 18"),
        (table_text({}, {}), "row 3: 'a.mp4' stands there twice"),
        (table_text({"size_bytes": "many"}), "row 2: size_bytes is 'many', which is no number"),
        (table_text({"height": "-1"}), "row 2: height is '-1', which cannot be"),
        (table_text({"fps": "nan"}), "row 2: fps is 'nan', which cannot be"),
        (table_text({"fps": "inf"}), "row 2: fps is 'inf', which cannot be"),
        (table_text({"verdict": "fine"}), "row 2: verdict 'fine' of 'a.mp4'"),
        (table_text({"path": ""}), "row 2: verdict 'ok' of ''"),
        (table_text({}) + '"b', "not a CSV file in UTF-8"),
        (table_text({}).encode() + b"\xff", "not a CSV file in UTF-8"),
        (None, "there is no such file; make it with tools/scan.py"),
    ],
)
def test_malformed_tables_are_refused(text, message, tmp_path):
    path = tmp_path / "scan.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_scan(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        read_scan(tmp_path)


def test_an_empty_table(tmp_path):
    write_scan([], tmp_path / "scan.csv")
    assert read_scan(tmp_path / "scan.csv") == {}


def test_a_cover_picture_is_not_the_video(tmp_path):
    import av

    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover, stream = container.add_stream("mjpeg", rate=25), container.add_stream("libx264", rate=25)
        cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frame(200, 96, 96), format="rgb24")))
        for i in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode())
        container.mux(cover.encode())
    (row,) = scan_videos(tmp_path, progress=False).rows
    assert (row.verdict, row.codec, row.frames_decoded, row.height) == ("ok", "h264", 10, 48), row.reason
