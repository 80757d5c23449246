"""The folder of decoded videos: the same clips as without it, of the file as it is now, within its limit."""

import errno
import itertools
import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
import torch
from numbered_videos import write_numbered

from timesformer_plus.data import ClipReader, Limits, read_csv
from timesformer_plus.data.clip_reader import open_video
from timesformer_plus.data.decoded import Decoded, DecodedFolder
from timesformer_plus.data.decoders import DecodeError, DecordDecoder
from timesformer_plus.data.manifests import Member, Sample

FRAME = 48 * 64 * 3
LENGTHS = (30, 12, 7, 20)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i, length in enumerate(LENGTHS):
        write_numbered(folder / f"{i}.mp4", length, options={"g": "6"})
    (folder / "train.csv").write_text("path,label,start,end\n0.mp4,0,0.2,1\n1.mp4,0,,\n2.mp4,0,,\n3.mp4,0,,\n")
    return read_csv(folder / "train.csv").samples


def clip(reader, sample, seed=0):
    return reader.read(sample, generator=torch.Generator().manual_seed(seed)).frames


def make(**arguments):
    return ClipReader(4, stride=2, training=True, **arguments)


@pytest.mark.parametrize("sampling", [{}, {"sampling": "segments"}, {"sampling": "seconds", "target_fps": 10}])
@pytest.mark.parametrize("room", [10, FRAME * 44 / 1e6], ids=["for all", "for some"])
def test_it_changes_no_clip(samples, room, sampling, tmp_path):
    plain = ClipReader(4, training=True, **sampling)
    stored = ClipReader(4, training=True, cache_dir=tmp_path, cache_mb=room, **sampling)
    for turn, sample in itertools.product(range(2), samples):
        assert torch.equal(clip(plain, sample, turn), clip(stored, sample, turn))


def test_each_video_is_decoded_once_for_all_processes_and_runs(samples, tmp_path, monkeypatch):
    opened = []

    def noted(path, *arguments, **options):
        opened.append(path.name)
        return open_video(path, *arguments, **options)

    monkeypatch.setattr("timesformer_plus.data.clip_reader.open_video", noted)
    # in order, video 0 (30 frames) takes most of it, 1 (12) does not fit any more, 2 (7) does; a little for the times
    room = (FRAME * 38 + 2700) / 1e6
    for _ in range(2):
        reader = make(cache_dir=tmp_path, cache_mb=room)
        for sample in samples:
            clip(reader, sample)
    assert opened == ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "1.mp4", "3.mp4"]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) <= room * 1e6


def test_decoder_and_size_have_copies_of_their_own(samples, tmp_path):
    small = make(cache_dir=tmp_path, cache_mb=10, decode_size=24)
    assert clip(small, samples[0]).shape == (4, 24, 32, 3)
    assert clip(make(cache_dir=tmp_path, cache_mb=10), samples[0]).shape == (4, 48, 64, 3)
    clip(make(cache_dir=tmp_path, cache_mb=10, decoder="pyav"), samples[0])
    assert len(list(tmp_path.glob("*.npy"))) == 3


def frames_of(value, count=2):
    return Decoded(np.full((count, 8, 8, 3), value, np.uint8), [0.0, 0.5][:count])


def sample_at(path, **arguments):
    return Sample(path.name, path, 0, **arguments)


def test_the_frames_are_a_map_and_not_in_memory(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"one")
    folder = DecodedFolder(tmp_path / "decoded", recipe="pyav", limit_mb=1)
    folder.store(sample_at(tmp_path / "a.mp4"), frames_of(1))
    loaded = folder.load(sample_at(tmp_path / "a.mp4"))
    assert isinstance(loaded.frames.base, np.memmap)
    assert not loaded.frames.flags.writeable
    assert loaded.times == [0.0, 0.5]


def test_a_copy_for_another_process_is_small(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"one")
    folder = DecodedFolder(tmp_path / "decoded", recipe="pyav", limit_mb=1)
    folder.store(sample_at(tmp_path / "a.mp4"), Decoded(np.zeros((99, 8, 8, 3), np.uint8), [0.0] * 99))
    folder.load(sample_at(tmp_path / "a.mp4"))
    copy = pickle.dumps(folder)
    assert len(copy) < 1000
    assert len(pickle.loads(copy).load(sample_at(tmp_path / "a.mp4")).frames) == 99


def test_it_follows_the_content(tmp_path):
    """Another content of the same size and date is another content; what was stored of the old one makes room."""
    path, decoded = tmp_path / "a.mp4", tmp_path / "decoded"
    path.write_bytes(b"one")
    date = path.stat().st_mtime_ns

    def folder():
        # as another run has it: within a run the content is looked up once
        return DecodedFolder(decoded, recipe="pyav", limit_mb=1)

    assert folder().load(sample_at(path)) is None
    folder().store(sample_at(path), frames_of(1))
    assert folder().load(sample_at(path)).frames.max() == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(date, date))
    assert folder().load(sample_at(path)) is None
    folder().store(sample_at(path), frames_of(2))
    assert folder().load(sample_at(path)).frames.max() == 2
    assert len(list(decoded.glob("*.npy"))) == 1
    assert DecodedFolder(decoded, recipe="decord", limit_mb=1).load(sample_at(path)) is None


def test_members_of_one_shard_are_told_apart(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(2000))
    folder = DecodedFolder(tmp_path / "decoded", recipe="pyav", limit_mb=1)
    members = [sample_at(path, member=Member(f"{i}.mp4", 512 * i, 512)) for i in range(2)]
    for i, member in enumerate(members):
        folder.store(member, frames_of(i + 1))
    assert [folder.load(member).frames.max() for member in members] == [1, 2]


def test_a_folder_of_images_is_known_by_its_files(tmp_path):
    images = tmp_path / "clip"
    images.mkdir()
    (images / "1.jpg").write_bytes(b"1")
    DecodedFolder(tmp_path / "decoded", recipe="", limit_mb=1).store(sample_at(images), frames_of(1))
    assert DecodedFolder(tmp_path / "decoded", recipe="", limit_mb=1).load(sample_at(images)) is not None
    (images / "2.jpg").write_bytes(b"2")
    assert DecodedFolder(tmp_path / "decoded", recipe="", limit_mb=1).load(sample_at(images)) is None


def test_a_copy_cut_short_is_made_anew(tmp_path):
    sample = sample_at(tmp_path / "a.mp4")
    sample.path.write_bytes(b"one")
    folder = DecodedFolder(tmp_path / "decoded", recipe="pyav", limit_mb=1)
    folder.store(sample, frames_of(1))
    (stored,) = (tmp_path / "decoded").glob("*.npy")
    whole = stored.read_bytes()
    for length in (0, 40, len(whole) - 1):
        stored.write_bytes(whole[:length])
        assert folder.load(sample) is None
    assert folder.store(sample, frames_of(1))
    assert folder.load(sample).frames.max() == 1
    assert stored.read_bytes() == whole


def fill(arguments):
    """In a process of its own: store twenty videos, all of which some other process stores too or instead."""
    path, first = arguments
    folder = DecodedFolder(path.parent / "decoded", recipe="pyav", limit_mb=0.01)
    kept = 0
    for i in range(20):
        member = Member("", 8 * ((first + i) % 30), 8)
        kept += folder.store(Sample("", path, 0, member=member), frames_of((first + i) % 30))
        loaded = folder.load(Sample("", path, 0, member=member))
        assert loaded is None or loaded.frames.min() == loaded.frames.max() == (first + i) % 30
    return kept


def test_processes_keep_to_the_limit_together(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(240)))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        kept = pool.map(fill, [(path, 7 * i) for i in range(4)])
    held = list((tmp_path / "decoded").glob("*.npy"))
    facts = list((tmp_path / "decoded").glob("*.json"))
    # 384 bytes of pixels, 128 of header and about 70 of facts each
    assert 10 < len(held) == len(facts) < 20
    assert sum(path.stat().st_size for path in held) + sum(path.stat().st_size for path in facts) <= 0.01e6
    assert min(kept) > 0


def test_what_a_dead_process_left_half_written_is_removed(tmp_path):
    sample = sample_at(tmp_path / "a.mp4")
    sample.path.write_bytes(b"one")
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "tmp123.part").write_bytes(bytes(1000))
    DecodedFolder(tmp_path / "decoded", recipe="", limit_mb=1).store(sample, frames_of(1))
    assert not list((tmp_path / "decoded").glob("*.part"))


def test_a_stored_video_is_refused_by_limits_as_one_that_is_not(samples, tmp_path):
    clip(make(cache_dir=tmp_path, cache_mb=10), samples[0])
    with pytest.raises(DecodeError, match=r"is too large.*max_pixels=100"):
        clip(make(cache_dir=tmp_path, cache_mb=10, limits=Limits(max_pixels=100)), samples[0])


def test_a_long_video_is_not_decoded_whole_for_one_clip(samples, tmp_path, monkeypatch):
    monkeypatch.setattr("timesformer_plus.data.clip_reader.MAX_KEPT_BYTES", FRAME * 25)
    reader = make(cache_dir=tmp_path, cache_mb=10)
    for sample in samples:
        clip(reader, sample)
    assert len(list(tmp_path.glob("*.npy"))) == 3  # not the one of 30 frames


def test_a_wrong_total_is_put_right_by_the_next_process(tmp_path):
    sample = sample_at(tmp_path / "a.mp4")
    sample.path.write_bytes(b"one")
    folder = tmp_path / "decoded"
    folder.mkdir()
    (folder / ".total").write_text("999999999")
    assert DecodedFolder(folder, recipe="", limit_mb=1).store(sample, frames_of(1))
    assert int((folder / ".total").read_text()) < 1000
    assert json.loads(next(folder.glob("*.json")).read_text())["times"] == [0.0, 0.5]


def test_room_that_was_made_by_hand_is_noticed(samples, tmp_path):
    """A total that says "full", in a folder that somebody has emptied: the reader that asks for room counts."""
    (tmp_path / ".total").write_text("999999999")
    reader = make(cache_mb=10, cache_dir=tmp_path)
    clip(reader, samples[2])
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert 0 < int((tmp_path / ".total").read_text()) < 10e6


def test_a_folder_that_cannot_be_written_stops_nothing(samples, monkeypatch, tmp_path):
    """A full disk, as the first write meets it: said once, nothing half written left behind, every clip as ever."""
    attempts = []

    def full(*_, **__):
        attempts.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    plain, reader = make(), make(cache_mb=10, cache_dir=tmp_path / "decoded")
    monkeypatch.setattr(np, "save", full)
    with pytest.warns(
        UserWarning, match=r"decoded: decoded videos are not kept.*No space left.*data\.cache_dir"
    ) as told:
        clips = [clip(reader, sample) for sample in samples]
    assert len(told) == 1
    assert len(attempts) == 1
    # the readers of other splits know it by then
    clip(make(cache_mb=10, cache_dir=tmp_path / "decoded"), samples[0])
    assert len(attempts) == 1
    assert not [path for path in (tmp_path / "decoded").iterdir() if not path.name.startswith(".")]
    assert all(torch.equal(frames, clip(plain, sample)) for frames, sample in zip(clips, samples, strict=True))


def test_a_folder_that_cannot_be_made_stops_nothing(samples, tmp_path):
    (tmp_path / "file").write_text("where the folder should be")
    reader = make(cache_mb=10, cache_dir=tmp_path / "file" / "decoded")
    with pytest.warns(UserWarning, match="decoded videos are not kept") as told:
        clips = [clip(reader, sample) for sample in samples]
    assert len(told) == 1
    assert len(clips) == 4


def test_what_a_folder_holds_is_read_although_it_cannot_be_written(samples, monkeypatch, tmp_path):
    clip(make(cache_mb=10, cache_dir=tmp_path), samples[3])
    reader = make(cache_mb=10, cache_dir=tmp_path)
    monkeypatch.setattr(DecodedFolder, "store", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.warns(UserWarning, match="read-only"):
        clip(reader, samples[0])
    monkeypatch.delattr("timesformer_plus.data.clip_reader.open_video")
    assert torch.equal(clip(reader, samples[3]), clip(make(cache_mb=10, cache_dir=tmp_path), samples[3]))


def test_a_video_damaged_elsewhere_fails_no_more_than_without_a_folder(samples, tmp_path, monkeypatch):
    """The whole of it cannot be stored; the clip itself can be read all the same."""
    read = DecordDecoder.read

    def damaged(self, indices):
        if max(indices) > 15:
            raise DecodeError(self.path, "damaged", kind="damaged")
        return read(self, indices)

    monkeypatch.setattr(DecordDecoder, "read", damaged)
    reader = ClipReader(4, num_clips=3, decoder="decord", cache_dir=tmp_path / "decoded", cache_mb=10)
    assert len(reader.read(samples[3], clip=0).frames) == 4
    with pytest.raises(DecodeError):
        reader.read(samples[3], clip=2)
    assert not (tmp_path / "decoded").exists()


def test_images_without_a_rate_say_what_to_give_with_and_without_a_stored_copy(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((20, 8, 8, 3), np.uint8))
    sample = sample_at(tmp_path / "a.npy")
    stored = {"cache_dir": tmp_path / "decoded", "cache_mb": 1}
    ClipReader(4, **stored).read(sample)
    assert list((tmp_path / "decoded").glob("*.npy"))
    for where in ({}, stored):
        with pytest.raises(DecodeError, match=r"give data\.image_fps"):
            ClipReader(4, sampling="seconds", target_fps=5, **where).read(sample)
    by_seconds = ClipReader(4, sampling="seconds", target_fps=5, image_fps=10, **stored)
    assert by_seconds.read(sample).frames.shape == (4, 8, 8, 3)
