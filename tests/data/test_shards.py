"""Tar shards: what is read in place is what lies there, and what is not plain is refused."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from timesformer_plus.data import shards
from timesformer_plus.data.catalogues import read_manifest
from timesformer_plus.data.shards import expand, index

LONG = "deep/" * 40 + "name"  # longer than the 100 bytes of a plain header


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def video(number: int) -> bytes:
    return bytes([number]) * (700 + 13 * number)


def three(path: Path, **options) -> Path:
    members = [(f"{i}{suffix}", content) for i in range(3) for suffix, content in
               ((".mp4", video(i)), (".cls", str(i % 2).encode()))]  # fmt: skip
    return write_tar(path, members, **options)


def members_of(path: Path):
    with path.open("rb") as file:
        return list(index(path, file))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_bytes_at_the_place_are_the_file(tmp_path, format):
    names = ["0.mp4", "folder/1.MP4", "ü 2.webm"] + ([] if format == tarfile.USTAR_FORMAT else [LONG + ".mkv"])
    contents = {name: os.urandom(500 * i + 1) for i, name in enumerate(names)}
    path = write_tar(tmp_path / "a.tar", list(contents.items()), format=format, encoding="utf-8")
    found = members_of(path)
    assert [member.name for member in found] == names
    raw = path.read_bytes()
    for member in found:
        assert raw[member.offset : member.offset + member.length] == contents[member.name]


def test_samples_labels_and_groups(tmp_path):
    members = [
        ("a/0.json", json.dumps({"label": "run", "group": "day 1"}).encode()),
        ("a/0.mp4", video(0)),
        ("a/0.jpg", b"thumbnail"),
        ("1.mp4", video(1)),
        ("1.txt", "\ufeffwalk\r\n".encode()),
        ("./2.WebM", video(2)),
        ("./2.cls", b"1\n"),
        ("2b.v1.mp4.json", b"{}"),
    ]
    path = write_tar(tmp_path / "a.tar", members[:-1])
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    manifest = read_manifest(path)
    assert manifest.classes == ("walk", "run")
    assert [(s.id, s.label, s.group) for s in manifest.samples] == [
        ("a.tar/a/0", 1, "day 1"),
        ("a.tar/1", 0, ""),
        ("a.tar/2", 1, ""),
    ]
    assert {s.path for s in manifest.samples} == {path}
    assert [s.member.name for s in manifest.samples] == ["a/0.mp4", "1.mp4", "2.WebM"]
    write_tar(path, members)
    with pytest.raises(ValueError, match=r"sample '2b': expected one video among its members 2b.v1.mp4.json, found 0"):
        read_manifest(path)


def test_multi_label_and_target(tmp_path):
    members = [
        ("0.mp4", video(0)),
        ("0.json", b'{"label": ["run", "jump"], "mood": "calm"}'),
        ("1.mp4", video(1)),
        ("1.json", b'{"label": [], "mood": "wild"}'),
        ("2.mp4", video(2)),
        ("2.txt", b"jump;walk"),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    manifest = read_manifest(path, multi_label=True)
    assert manifest.classes == ("jump", "run", "walk")
    assert [s.label for s in manifest.samples] == [(1, 1, 0), (0, 0, 0), (1, 0, 1)]
    with pytest.raises(ValueError, match=r"sample '0': label \['run', 'jump'\] must be one label"):
        read_manifest(path)
    path = write_tar(tmp_path / "a.tar", members[:4])
    assert [s.label for s in read_manifest(path, target="mood").samples] == [0, 1]
    with pytest.raises(ValueError, match=r"lack 'year' in a \.json"):
        read_manifest(path, target="year")


def test_patterns_and_folders(tmp_path):
    for name in ("train-000", "train-001", "val-000"):
        three(tmp_path / f"{name}.tar")
    ids = ["train-000.tar/0", "train-000.tar/1", "train-000.tar/2", "train-001.tar/0", "train-001.tar/1"]
    assert [s.id for s in read_manifest(tmp_path / "train-{000..001}.tar").samples][:5] == ids
    assert len(read_manifest(tmp_path / "{train-001,val-000}.tar", format="webdataset").samples) == 6
    assert len(read_manifest(tmp_path).samples) == 9
    assert [p.name for p in expand(tmp_path / "{train,val}-{000..000}.tar")] == ["train-000.tar", "val-000.tar"]


def test_shards_of_one_name_in_two_folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        three(tmp_path / name / "s.tar")
    ids = [f"{name}/s.tar/{i}" for name in "ab" for i in range(3)]
    for pattern in ("{a,b}/s.tar", "{a/s,b/s}.tar"):
        assert [s.id for s in read_manifest(tmp_path / pattern).samples] == ids
    assert [s.id for s in read_manifest(tmp_path / "{a,b}/s.tar", videos=tmp_path).samples] == ids
    assert [s.id for s in read_manifest(tmp_path / "a").samples] == ["s.tar/0", "s.tar/1", "s.tar/2"]
    assert [s.id for s in read_manifest(tmp_path / "a/s.tar", videos=tmp_path).samples] == ids[:3]
    with pytest.raises(ValueError, match=r"b/s\.tar is not in `videos`"):
        read_manifest(tmp_path / "{a,b}/s.tar", videos=tmp_path / "a")


def test_class_names_of_shards_in_two_folders(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        three(tmp_path / name / "s.tar")
    (tmp_path / "classes.txt").write_text("run\nwalk\n")
    assert read_manifest(tmp_path / "{a,b}/s.tar").classes == ("run", "walk")
    (tmp_path / "b/classes.txt").write_text("run\nwalk\n")
    assert read_manifest(tmp_path / "{a,b}/s.tar").classes == ("run", "walk")
    (tmp_path / "b/classes.txt").write_text("walk\nrun\n")
    with pytest.raises(ValueError, match=r"b/classes\.txt and .*classes\.txt differ, so that a number means two"):
        read_manifest(tmp_path / "{a,b}/s.tar")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("train-{000..002}.tar", "1 of 3 shards are not there, first .*train-002.tar"),
        ("train-{2..1}.tar", "must count upwards"),
        ("train-{0..99999999}.tar", "must count upwards, to at most"),
        ("{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}.tar", "more than 100000 shards"),
        ("train-{a}.tar", "neither a range"),
        ("train-{000..001.tar", "the braces do not match"),
        ("empty", "no file ending in .tar"),
    ],
)
def test_what_is_wrong_with_a_pattern(tmp_path, pattern, message):
    (tmp_path / "empty").mkdir()
    for name in ("train-000", "train-001"):
        three(tmp_path / f"{name}.tar")
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / pattern, format="webdataset")


@pytest.mark.parametrize("address", ["pipe:touch owned", "https://x.org/a.tar", "s3://bucket/{0..9}.tar", "file:a.tar"])
def test_neither_pipes_nor_addresses(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="neither from a pipe nor from a URL"):
        read_manifest(address, format="webdataset")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc/passwd"}, "'x.mp4' is a link"),
        (tarfile.LNKTYPE, {"linkname": "0.mp4"}, "'x.mp4' is a link"),
        (tarfile.CHRTYPE, {}, "'x.mp4' is a device or pipe"),
        (tarfile.FIFOTYPE, {}, "'x.mp4' is a device or pipe"),
        (tarfile.REGTYPE, {"name": "/etc/passwd"}, "path '/etc/passwd' leaves"),
        (tarfile.REGTYPE, {"name": "a/../../x.mp4"}, "path .* leaves"),
        (tarfile.REGTYPE, {"name": "C:\\x.mp4"}, "path .* leaves"),
    ],
)
def test_members_that_are_no_plain_files(tmp_path, kind, extra, message):
    path = three(tmp_path / "a.tar")
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("x.mp4")
        info.type = kind
        for key, value in extra.items():
            setattr(info, key, value)
        tar.addfile(info)
    with pytest.raises(ValueError, match=message):
        members_of(path)


def test_folders_hidden_files_and_metadata_belong_to_no_sample(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("._0.mp4", "__index__/0.mp4", "README", "a/0.mp4"):
            tar.addfile(tarfile.TarInfo(name))
    assert [member.name for member in members_of(path)] == ["a/0.mp4"]


def test_sparse_members_are_refused(tmp_path):
    """Written by hand, as tarfile writes none: the map of one part of an old GNU sparse member."""
    info = tarfile.TarInfo("0.mp4")
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:398], header[398:410] = b"00000000000\0", b"00000001000\0"
    header[483:495] = b"00000010000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + b"x" * 512 + bytes(1024))
    with pytest.raises(ValueError, match=r"'0\.mp4' is sparse"):
        members_of(tmp_path / "a.tar")


def test_every_way_of_being_cut_off_is_seen(tmp_path):
    """To tarfile itself a shard that ends in a header, or at one, is whole."""
    whole = three(tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        starts = [member.offset for member in tar.getmembers()]
        end = tar.offset
    cuts = [0, 100, *starts[1:], starts[2] + 100, starts[2] + 512, starts[2] + 600, starts[-1] + 512, end - 512]
    for cut in cuts:
        (tmp_path / "cut.tar").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cut off"):
            members_of(tmp_path / "cut.tar")


def test_damaged_headers_are_seen(tmp_path):
    path = three(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        start = tar.getmembers()[2].offset
    raw = bytearray(path.read_bytes())
    raw[start + 3] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"cut off or damaged after byte {start}"):
        members_of(path)


def test_joined_tars_are_refused(tmp_path):
    raw = three(tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(raw + raw)
    with pytest.raises(ValueError, match="goes on after its end"):
        members_of(tmp_path / "b.tar")


def forged(size: bytes, kind: bytes) -> bytes:
    """A header with a size that tarfile would not write."""
    header = bytearray(tarfile.TarInfo("0.mp4").tobuf(tarfile.GNU_FORMAT))
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize(
    "size", [b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0", b"77777777777\0", b"\x80" + b"\x7f" * 11]
)
def test_forged_sizes_neither_hang_nor_fill_memory(tmp_path, kind, size):
    path = tmp_path / "a.tar"
    header = forged(size, kind)
    path.write_bytes(three(tmp_path / "b.tar").read_bytes()[:1536] + header + bytes(2048))
    with pytest.raises(ValueError, match=r"claims|cut off"):
        members_of(path)


@pytest.mark.parametrize(("begin", "name"), [(b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")])
def test_compressed_shards_are_refused_with_the_reason(tmp_path, begin, name):
    (tmp_path / "a.tar").write_bytes(begin + bytes(2000))
    with pytest.raises(ValueError, match=f"is compressed with {name}"):
        read_manifest(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(gzip.compress(three(tmp_path / "b.tar").read_bytes()))
    with pytest.raises(ValueError, match="is compressed with gzip"):
        read_manifest(tmp_path / "a.tar")


def test_something_else_named_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"path,label\n" * 200)
    with pytest.raises(ValueError, match="not a tar file"):
        read_manifest(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.mp4", b"x"), ("1.mp4", b"x"), ("0.cls", b"0")], "sample '0': its members 0.mp4 lack a label"),
        ([("0.mp4", b"x"), ("0.cls", b"0"), ("1.mp4", b"x"),
          ("1.cls", b"0"), ("0.json", b"{}")], "do not lie together"),
        ([("0.mp4", b"x"), ("0.mp4", b"y")], "has the member '.mp4' twice"),
        ([("0.mp4", b"x"), ("0.avi", b"y"), ("0.cls", b"0")], "expected one video .* found 2"),
        ([("0.mp4", b"x"), ("0.json", b"{")], "its .json is not JSON"),
        ([("0.mp4", b"x"), ("0.json", b"[" * 100_000)], "its .json is not JSON"),
        ([("0.mp4", b"x"), ("0.json", b'{"label": 1.5}')], "label 1.5 must be a class name or a number"),
        ([("0.mp4", b"x"), ("0.txt", b"\xff\xfe")], "is not text in UTF-8"),
        ([("0.mp4", b"x"), ("0.txt", b"a" * (1 << 21))], "too many for a label"),
        ([("0.mp4", b"x"), ("0.pyd", b"cos\nsystem\n(S'touch owned'\ntR.")], "lack a label"),
        ([], "there is no sample"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sample(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        read_manifest(write_tar(tmp_path / "a.tar", members))


def test_unknown_label(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.mp4", b"x"), ("0.txt", b"wlak")])
    with pytest.raises(ValueError, match=r"a.tar, sample '0': label 'wlak'.*did you mean 'walk'"):
        read_manifest(path, classes=["walk", "run"])


def test_the_videos_themselves_are_not_read(tmp_path, monkeypatch):
    members = [
        (f"{i}{suffix}", bytes(1 << 20 if suffix == ".mp4" else 1)) for i in range(8) for suffix in (".mp4", ".cls")
    ]
    path = write_tar(tmp_path / "a.tar", members)
    read = 0
    original = shards._Headers.read

    def counted(self, size=-1, /):
        nonlocal read
        read += size
        return original(self, size)

    monkeypatch.setattr(shards._Headers, "read", counted)
    assert len(members_of(path)) == 16
    assert 0 < read < 64 << 10


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # theirs
def test_what_the_webdataset_library_reads(tmp_path):
    """The same keys, bytes and labels, in the same order."""
    webdataset = pytest.importorskip("webdataset")
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(5):
            label = {"cls": i % 3} if i % 2 else {"json": {"label": i % 3}}
            writer.write({"__key__": f"part.{i % 2}/clip{i}", "mp4": video(i), **label})
    manifest = read_manifest(path)
    raw = path.read_bytes()
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [s.id.removeprefix("a.tar/") for s in manifest.samples] == [sample["__key__"] for sample in theirs]
    for ours, sample in zip(manifest.samples, theirs, strict=True):
        assert raw[ours.member.offset : ours.member.offset + ours.member.length] == sample["mp4"]
        assert ours.label == (int(sample["cls"]) if "cls" in sample else json.loads(sample["json"])["label"])
