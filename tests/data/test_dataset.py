"""The data set: clips depend on their key and nothing else."""

import errno
import importlib.util
import itertools
import pickle

import numpy as np
import pytest
import torch
from installed_decoders import DECODERS
from numbered_videos import BITS, write_numbered
from torch.utils.data import DataLoader

from timesformer_plus.data import Clip, EvalTransform, TrainTransform, VideoDataset, read_csv
from timesformer_plus.data.decoded import DecodedFolder
from timesformer_plus.data.decoders import DecodeError, open_video

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LENGTHS = (30, 12, 7, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four numbered videos of different lengths, the third shorter than the clips below."""
    path = tmp_path_factory.mktemp("videos")
    for i, length in enumerate(LENGTHS):
        write_numbered(path / f"{i}.mp4", length, options={"g": "6"})
    (path / "train.csv").write_text("path,label\n0.mp4,walk\n1.mp4,run\n2.mp4,run\n3.mp4,walk\n")
    (path / "bits.csv").write_text("path,label\n0.mp4,run;walk\n1.mp4,run\n2.mp4,\n3.mp4,walk\n")
    return path


@pytest.fixture(scope="module")
def manifest(folder):
    return read_csv(folder / "train.csv")


def numbers(clip: Clip) -> list[int]:
    """The numbers that the frames of an uncropped clip carry."""
    frames = clip.video[0, :, 20:44]
    centres = [(2 * bit + 1) * frames.shape[-1] // (2 * BITS) for bit in range(BITS)]
    bits = frames[..., centres].mean(dim=1) > 0.5
    return [int(sum(int(on) << (BITS - 1 - bit) for bit, on in enumerate(row))) for row in bits]


def make(manifest, **arguments):
    defaults = {"num_frames": 4, "stride": 3, "training": False, "transform": EvalTransform((48, 64), **PLAIN)}
    return VideoDataset(manifest, **(defaults | arguments))


def augmented(manifest, **arguments):
    transform = TrainTransform(24, hflip=0.5, **PLAIN)
    return make(manifest, **({"training": True, "transform": transform, "seed": 3} | arguments))


def test_a_clip(manifest):
    clip = make(manifest)[(0, 3, 0)]
    assert clip.video.shape == (3, 4, 48, 64)
    assert clip.video.dtype == torch.float32
    assert clip.target.dtype == torch.int64
    assert clip.target.shape == ()
    assert (clip.target.item(), clip.index, clip.view) == (1, 3, 0)
    assert numbers(clip) == [5, 8, 11, 14]


def test_views_are_clips_in_time_by_crops_in_space(manifest):
    dataset = make(manifest, num_clips=2, num_crops=3, transform=EvalTransform(48, **PLAIN))
    assert dataset.num_views == 6
    assert len(dataset) == 4
    views = [dataset[(0, 0, v)].video for v in range(6)]
    wide = make(manifest, num_clips=2)
    for clip, crop in itertools.product(range(2), range(3)):
        whole = wide[(0, 0, clip)]
        assert numbers(whole)[0] == (0, 20)[clip]
        left = (0, 8, 16)[crop]
        assert torch.equal(views[3 * clip + crop], whole.video[..., left : left + 48])


def test_short_videos_repeat_their_last_frame(manifest):
    assert numbers(make(manifest)[(0, 2, 0)]) == [0, 3, 6, 6]


def test_training_starts_anywhere_but_evaluation_never_moves(manifest):
    training, testing = make(manifest, training=True), make(manifest)
    starts = {numbers(training[(epoch, 3, 0)])[0] for epoch in range(80)}
    assert starts == set(range(11))  # 20 frames, span 10
    assert {numbers(testing[(epoch, 3, 0)])[0] for epoch in range(3)} == {5}


def test_segments(manifest):
    assert numbers(make(manifest, sampling="segments")[(0, 3, 0)]) == [2, 7, 12, 17]
    drawn = [numbers(make(manifest, sampling="segments", training=True)[(e, 3, 0)]) for e in range(5)]
    assert len({tuple(row) for row in drawn}) > 1
    assert all(5 * i <= number < 5 * i + 5 for row in drawn for i, number in enumerate(row))


def test_the_key_decides_everything(manifest):
    keys = [(epoch, index, 0) for epoch in range(2) for index in range(4)]
    forwards = {key: augmented(manifest)[key].video for key in keys}
    dataset = augmented(manifest)
    for key in reversed(keys):
        torch.rand(5)  # whatever else draws from the global generator
        assert torch.equal(dataset[key].video, forwards[key])


def test_epoch_seed_index_and_view_all_matter(manifest):
    dataset = augmented(manifest, num_clips=2)
    base = dataset[(0, 0, 0)].video
    assert not torch.equal(base, dataset[(1, 0, 0)].video)
    assert not torch.equal(base, dataset[(0, 0, 1)].video)
    assert not torch.equal(base, augmented(manifest, num_clips=2, seed=4)[(0, 0, 0)].video)
    places = {tuple(numbers(make(manifest, training=True)[(e, i, 0)])) for e in range(3) for i in (0, 0)}
    assert len(places) == 3


def test_loading_leaves_the_global_generators_alone(manifest):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    augmented(manifest)[(0, 0, 0)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(manifest, workers):
    keys = [(epoch, index, 0) for epoch in range(2) for index in (2, 0, 3, 1)]
    alone = [augmented(manifest)[key] for key in keys]
    dataset = augmented(manifest, cache_mb=1)
    loader = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=workers, persistent_workers=True)
    for _ in range(2):
        batches = list(loader)
        assert isinstance(batches[0], Clip)
        assert torch.equal(torch.cat([b.video for b in batches]), torch.stack([c.video for c in alone]))
        assert torch.equal(torch.cat([b.target for b in batches]), torch.stack([c.target for c in alone]))
        assert torch.cat([b.index for b in batches]).tolist() == [c.index for c in alone]


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_are_interchangeable(manifest, decoder):
    reference, other = augmented(manifest, decoder="pyav"), augmented(manifest, decoder=decoder)
    assert other.decoder == decoder
    for index in range(4):
        assert torch.equal(reference[(0, index, 0)].video, other[(0, index, 0)].video)


@pytest.mark.parametrize(("installed", "settled"), [({"decord", "av"}, "decord"), ({"av"}, "pyav")])
def test_auto_is_settled_once(manifest, installed, settled, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
        dataset = make(manifest)
    assert dataset.decoder == settled
    # a worker does not settle it anew
    assert pickle.loads(pickle.dumps(dataset)).decoder == settled


@pytest.mark.parametrize("cache_mb", [10, 48 * 64 * 3 * 31 / 1e6])
def test_the_cache_changes_nothing(manifest, cache_mb):
    """Room for all, and room for the first video and one frame of the next."""
    plain, cached = augmented(manifest), augmented(manifest, cache_mb=cache_mb)
    for _, index, epoch in itertools.product(range(2), range(4), range(2)):
        assert torch.equal(plain[(epoch, index, 0)].video, cached[(epoch, index, 0)].video)


def test_what_is_cached_is_not_read_again(manifest, monkeypatch):
    opened = []

    def noted(path, decoder):
        opened.append(path.name)
        return open_video(path, decoder)

    monkeypatch.setattr("timesformer_plus.data.dataset.open_video", noted)
    # in order, video 0 (30 frames) fills most of it, 1 (12) does not fit any more, 2 (7) does
    dataset = make(manifest, cache_mb=48 * 64 * 3 * 38 / 1e6)
    for _ in range(2):
        for index in range(4):
            dataset[(0, index, 0)]
    assert sorted(opened) == ["0.mp4", "1.mp4", "1.mp4", "2.mp4", "3.mp4", "3.mp4"]
    copy = pickle.loads(pickle.dumps(dataset))
    copy[(0, 0, 0)]
    assert opened[-1] == "0.mp4"


def test_decoded_videos_are_kept_for_later_runs(manifest, monkeypatch, tmp_path):
    room = 48 * 64 * 3 * 38 / 1e6  # as above: video 1 does not fit behind video 0
    plain = [make(manifest)[(0, index, 0)].video for index in range(4)]
    first = make(manifest, cache_mb=room, cache_dir=tmp_path / "decoded")
    assert all(torch.equal(first[(0, index, 0)].video, plain[index]) for index in range(4))
    kept = sorted((tmp_path / "decoded").iterdir())
    assert [path.suffix for path in kept] == [".npy", ".npy"]

    opened = []
    monkeypatch.setattr(
        "timesformer_plus.data.dataset.open_video",
        lambda path, decoder: opened.append(path.name) or open_video(path, decoder),
    )
    second = make(manifest, cache_mb=room, cache_dir=tmp_path / "decoded")
    assert all(torch.equal(second[(0, index, 0)].video, plain[index]) for index in range(4))
    assert opened == ["1.mp4", "3.mp4"]


def test_a_folder_that_cannot_be_written_stops_nothing(manifest, monkeypatch, tmp_path):
    """A full disk, as the first write meets it: said once, nothing half written left behind, every clip as ever."""
    attempts = []

    def full(*_, **__):
        attempts.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = make(manifest)
    dataset = make(manifest, cache_mb=10, cache_dir=tmp_path / "decoded")
    monkeypatch.setattr(np, "save", full)
    with pytest.warns(
        UserWarning, match=r"decoded: decoded videos are not kept.*No space left.*data\.cache_dir"
    ) as told:
        clips = [dataset[(0, index, 0)].video for index in range(4)]
    assert len(told) == 1
    assert len(attempts) == 1
    assert list((tmp_path / "decoded").iterdir()) == []
    assert all(torch.equal(clip, plain[(0, index, 0)].video) for index, clip in enumerate(clips))


def test_a_folder_that_cannot_be_made_stops_nothing(manifest, tmp_path):
    (tmp_path / "file").write_text("where the folder should be")
    dataset = make(manifest, cache_mb=10, cache_dir=tmp_path / "file" / "decoded")
    with pytest.warns(UserWarning, match="decoded videos are not kept") as told:
        clips = [dataset[(0, index, 0)] for index in range(4)]
    assert len(told) == 1
    assert [clip.index for clip in clips] == list(range(4))


def test_what_a_folder_holds_is_read_although_it_is_full(manifest, monkeypatch, tmp_path):
    make(manifest, cache_mb=10, cache_dir=tmp_path)[(0, 3, 0)]
    dataset = make(manifest, cache_mb=10, cache_dir=tmp_path)
    monkeypatch.setattr(DecodedFolder, "store", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    with pytest.warns(UserWarning, match="read-only"):
        dataset[(0, 0, 0)]
    monkeypatch.delattr("timesformer_plus.data.dataset.open_video")
    assert numbers(dataset[(0, 3, 0)]) == [5, 8, 11, 14]


def test_a_stored_video_is_forgotten_when_its_file_changes_or_its_copy_is_cut_short(tmp_path):
    video, frames = tmp_path / "a.mp4", np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    video.write_bytes(b"one")
    folder = DecodedFolder(tmp_path / "decoded", "pyav")
    assert folder.load(video) is None
    folder.store(video, frames)
    assert np.array_equal(folder.load(video), frames)
    assert DecodedFolder(tmp_path / "decoded", "decord").load(video) is None
    (stored,) = (tmp_path / "decoded").iterdir()
    whole = stored.read_bytes()
    for length in (0, 40, len(whole) - 1):
        stored.write_bytes(whole[:length])
        assert folder.load(video) is None
    stored.write_bytes(whole)
    video.write_bytes(b"another")
    assert folder.load(video) is None


def test_multi_label_targets(folder):
    dataset = make(read_csv(folder / "bits.csv", multi_label=True))
    assert dataset.manifest.classes == ("run", "walk")
    targets = torch.stack([dataset[(0, i, 0)].target for i in range(4)])
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_video_is_named(tmp_path, workers):
    write_numbered(tmp_path / "good.mp4", 8)
    (tmp_path / "bad.mp4").write_bytes(b"this is no video")
    (tmp_path / "train.csv").write_text("path,label\ngood.mp4,0\nbad.mp4,0\n")
    dataset = make(read_csv(tmp_path / "train.csv"))
    loader = DataLoader(dataset, sampler=[(0, 0, 0), (0, 1, 0)], num_workers=workers)
    with pytest.raises(DecodeError, match=r"bad\.mp4"):
        list(loader)


def test_a_plain_number_is_no_key(manifest):
    with pytest.raises(TypeError, match=r"looked up by \(epoch, index, view\)"):
        make(manifest)[0]


@pytest.mark.parametrize("key", [(0, 4, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (-1, 0, 0)])
def test_keys_outside(manifest, key):
    with pytest.raises(IndexError, match="4 videos with 1 views"):
        make(manifest)[key]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames=0"),
        ({"stride": 0}, "stride=0"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"num_crops": 0}, "num_crops=0"),
        ({"sampling": "dense"}, "sampling='dense' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"cache_mb": -1}, "cache_mb=-1"),
        ({"decoder": "opencv"}, "decoder='opencv' is unknown"),
    ],
)
def test_nonsense_is_refused(manifest, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(manifest, **arguments)
