"""The decoder contract: frame i is the i-th frame of one sequential decode, or the file is refused."""

import importlib.util
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from installed_decoders import DECODERS, INSTALLED, NAMES
from numbered_videos import (
    MID_GOP,
    number_of,
    numbered_frame,
    rotate_by_matrix,
    sequential_numbers,
    write_numbered,
)

from timesformer_plus.data.decoders import DecodeError, open_video, resolve_decoder

GROUPS = {"options": {"g": "12"}}
X265 = {"codec": "libx265", "options": {"x265-params": "keyint=10:open-gop=0:log-level=none"}}
X265_OPEN = {"codec": "libx265", "options": {"x265-params": "keyint=10:log-level=none"}}
OPEN = {"options": {"g": "10", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}}
UNEVEN = {"times": [40 * i + 11 * (i % 3) for i in range(40)]}

# name -> (file name, how to write it, who reads it); whoever does not has to refuse it
FILES = {
    "plain": ("a.mp4", GROUPS, NAMES),
    "every frame a key frame": ("a.mp4", {"options": {"g": "1", "bf": "0"}}, NAMES),
    "index first": ("a.mp4", {"container_options": {"movflags": "faststart"}} | GROUPS, NAMES),
    "fragments": ("a.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}} | GROUPS, NAMES),
    "full colour": ("a.mp4", {"pix_fmt": "yuv444p"}, NAMES),
    "odd size": ("a.mp4", {"size": (51, 67), "pix_fmt": "yuv444p"}, NAMES),
    "one frame": ("a.mp4", {"count": 1}, NAMES),
    "three frames": ("a.mp4", {"count": 3}, NAMES),
    "uneven times": ("a.mp4", UNEVEN, NAMES),
    "mov": ("a.mov", GROUPS, NAMES),
    "matroska": ("a.mkv", GROUPS, NAMES),
    "h265": ("a.mp4", X265, NAMES),
    "vp9": ("a.webm", VP9, NAMES),
    "wrong suffix": ("a.avi", {"container_format": "mp4"} | GROUPS, NAMES),
    "h264 with open groups": ("a.mp4", OPEN, ("pyav", "pytorchvideo", "torchcodec")),
    "h265 with open groups": ("a.mp4", X265_OPEN, ("pyav", "pytorchvideo", "torchcodec")),
    "edit list": ("a.mp4", {"hide": MID_GOP} | GROUPS, ("pyav", "pytorchvideo", "torchcodec")),
    "avi": ("a.avi", {"codec": "mpeg4"}, ("pyav",)),
    "transport stream": ("a.ts", GROUPS, ("pyav",)),
    "program stream": ("a.mpg", {"codec": "mpeg2video"}, ("pyav",)),
    "flash": ("a.flv", GROUPS, ("pyav",)),
}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Write each file once: name -> path."""
    paths = {}

    def write(name):
        if name not in paths:
            file, arguments, _ = FILES[name]
            paths[name] = write_numbered(tmp_path_factory.mktemp("video") / file, **arguments)
        return paths[name]

    return write


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", FILES)
def test_every_decoder_shows_the_same_frames_or_refuses(name, decoder, written):
    path = written(name)
    if decoder not in FILES[name][2]:
        with pytest.raises(DecodeError, match=r"would return wrong frames.*use decoder='pyav'"):
            open_video(path, decoder)
        return
    truth = sequential_numbers(path)
    video = open_video(path, decoder)
    assert video.num_frames == len(truth)
    assert video.fps > 0
    everything = video.read(range(len(truth)))
    assert everything.dtype == np.uint8
    assert everything.shape == (len(truth), *video.size, 3)
    assert [number_of(frame) for frame in everything] == truth
    # last, first, duplicates, backwards, and again: the order asked for is the order given
    chance = random.Random(name)
    asked = [len(truth) - 1, 0, *(chance.randrange(len(truth)) for _ in range(6)), len(truth) - 1]
    for _ in range(2):
        assert [number_of(frame) for frame in video.read(asked)] == [truth[i] for i in asked]
        asked.reverse()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(asked=st.lists(st.integers(0, 39), min_size=1, max_size=9))
@pytest.mark.parametrize("decoder", DECODERS)
def test_any_list_of_indices(decoder, asked, written):
    frames = open_video(written("plain"), decoder).read(asked)
    assert [number_of(frame) for frame in frames] == asked


@pytest.mark.parametrize("name", ["plain", "full colour", "odd size", "vp9"])
def test_decoders_agree_to_the_pixel(name, written):
    frames = [open_video(written(name), decoder).read([3, 17]) for decoder in INSTALLED]
    assert len(frames) > 1
    assert all(np.array_equal(frames[0], others) for others in frames[1:])


def test_colours_are_red_green_blue(tmp_path):
    import av

    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[..., 0] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    for decoder in INSTALLED:
        red, green, blue = open_video(path, decoder).read([0])[0, 16, 16]
        assert red > 245
        assert max(green, blue) < 10


@pytest.mark.parametrize("decoder", DECODERS)
def test_turned_videos_are_upright(decoder, tmp_path):
    """A phone stores the picture lying down, and how to turn it; frames come as players show them."""
    plain = write_numbered(tmp_path / "plain.mp4", 5, size=(64, 128))
    turned = rotate_by_matrix(plain, tmp_path / "turned.mp4")
    video = open_video(turned, decoder)
    assert video.size == (128, 64)
    upright = video.read([0, 4])
    assert upright.shape == (2, 128, 64, 3)
    assert np.array_equal(np.rot90(upright, 1, (1, 2)), open_video(plain, decoder).read([0, 4]))


@pytest.fixture
def two_videos(tmp_path):
    """A small video, numbers from 0, and behind it a large one, numbers from 100."""
    import av

    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for scale, stream in enumerate(streams, start=1):
            stream.height, stream.width, stream.pix_fmt = 48 * scale, 64 * scale, "yuv420p"
        for i in range(10):
            for first, stream in zip((0, 100), streams, strict=True):
                picture = numbered_frame(first + i, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_first_of_several_videos_is_read(decoder, two_videos):
    if decoder == "decord":
        with pytest.raises(DecodeError, match=r"would return wrong frames, of its 2 videos.*use decoder='pyav'"):
            open_video(two_videos, decoder)
        return
    video = open_video(two_videos, decoder)
    assert video.size == (48, 64)
    assert [number_of(frame) for frame in video.read([0, 7])] == [0, 7]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_cover_is_not_another_video(decoder, tmp_path):
    import av

    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        stream, cover = container.add_stream("libx264", rate=25), container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        cover.height, cover.width, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered_frame(200, 96, 96), format="rgb24")
        container.mux(cover.encode(picture))
        for i in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(i), format="rgb24")))
        container.mux(stream.encode())
        container.mux(cover.encode())
    assert [number_of(frame) for frame in open_video(path, decoder).read([9, 0])] == [9, 0]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("indices", [[40], [-1], [0, 41], []])
def test_indices_outside_are_refused(decoder, indices, written):
    video = open_video(written("plain"), decoder)
    with pytest.raises(IndexError, match="allowed are 0 to 39"):
        video.read(indices)


@pytest.fixture
def noisy(tmp_path):
    """A file large enough to be damaged in the middle: noise does not compress."""
    import av

    path = tmp_path / "noisy.mp4"
    pictures = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "8", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(decoder, share, noisy):
    content = noisy.read_bytes()
    noisy.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=r"noisy.mp4: is cut off after \d+ of 24 frames"):
        open_video(noisy, decoder)


def overwrite(path, place):
    """Put noise over 200 bytes of the coded pictures, behind an index that stays intact; ``place`` in 0..1."""
    content = path.read_bytes()
    start = content.index(b"mdat") + 8
    at = start + int((len(content) - start) * place)
    path.write_bytes(content[:at] + random.Random(0).randbytes(200) + content[at + 200 :])


@pytest.mark.parametrize("decoder", DECODERS)
def test_damage_that_stops_the_decoder_is_an_error(decoder, noisy):
    overwrite(noisy, 0.3)
    with pytest.raises(DecodeError, match=r"noisy.mp4: "):
        open_video(noisy, decoder).read(range(24))


def test_damage_that_ffmpeg_covers_up_never_shows_a_neighbour(noisy):
    """One picture is patched up by FFmpeg: PyAV tells, the others cannot know; every other picture is its own."""
    good = open_video(noisy, "pyav").read(range(24))
    overwrite(noisy, 0.6)
    with pytest.raises(DecodeError, match="frame 14 of 24 is damaged"):
        open_video(noisy, "pyav").read(range(24))
    for decoder in set(INSTALLED) - {"pyav"}:
        frames = open_video(noisy, decoder).read(range(24))
        assert [i for i in range(24) if not np.array_equal(frames[i], good[i])] == [14]


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_index_that_is_cut_off_is_refused(decoder, written, tmp_path):
    path = tmp_path / "half.mp4"
    content = written("plain").read_bytes()  # the index comes last
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match=r"half.mp4: is damaged"):
        open_video(path, decoder)


BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, this is no video\n", "is no video"),
    "playlist": (b"ffconcat version 1.0\nfile /etc/hostname\n", "is no video"),
    "stream list": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n", "is no video"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(600), "is no video"),
    "sound": (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(600), "is no video"),
    "promise": (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp42" + bytes(900), "is damaged"),
    "zeros": (bytes(4096), "is no video"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_video(decoder, name, tmp_path):
    content, message = BAD[name]
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=f"bad.mp4: {message}") as caught:
        open_video(path, decoder)
    assert caught.value.path == path
    assert message in caught.value.reason


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_no_file(decoder, tmp_path):
    with pytest.raises(DecodeError, match=r"gone.mp4: there is no such file"):
        open_video(tmp_path / "gone.mp4", decoder)
    with pytest.raises(DecodeError, match="is not a regular file"):
        open_video(tmp_path, decoder)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match="is not a regular file"):
        open_video(tmp_path / "pipe.mp4", decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_sound_alone_is_no_video(decoder, tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DecodeError, match="holds no video stream"):
        open_video(path, decoder)


def test_decode_error_survives_the_way_back_from_a_worker():
    import pickle

    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "is damaged")))
    assert str(error) == "a.mp4: is damaged"
    assert error.reason == "is damaged"


@pytest.fixture
def missing(monkeypatch):
    """Make modules look not installed."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else find(name, *rest)
        )

    return hide


@pytest.mark.parametrize(
    ("decoder", "hidden", "message"),
    [
        ("decord", ["decord"], "needs decord, not installed here; run `pip install decord`"),
        ("pyav", ["av"], "needs av, not installed here; run `pip install av`"),
        ("pytorchvideo", ["pytorchvideo"], "needs pytorchvideo, not installed here"),
        ("pytorchvideo", ["pytorchvideo", "av"], "needs pytorchvideo and av.*`pip install pytorchvideo av`"),
        ("torchcodec", ["torchcodec"], "needs torchcodec, not installed here; run `pip install torchcodec`"),
        ("auto", ["decord", "av"], "no video decoder is installed; run `pip install decord`"),
    ],
)
def test_missing_decoder(decoder, hidden, message, missing, written):
    missing(*hidden)
    with pytest.raises(ImportError, match=message):
        open_video(written("plain"), decoder)


@pytest.mark.parametrize(("installed", "settled"), [({"decord", "av"}, "decord"), ({"av"}, "pyav")])
def test_auto_takes_what_is_there(installed, settled, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in installed else None)
    assert resolve_decoder("auto") == settled


@pytest.fixture
def no_ffmpeg(monkeypatch):
    """Make torchcodec look installed, but unable to load FFmpeg: ``raises`` as before 0.17, otherwise as since."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    def fail(raises):
        def load(name):
            assert name == "torchcodec"
            if raises:
                raise RuntimeError("Could not load libtorchcodec. Likely causes:\n and so on")
            return SimpleNamespace(ffmpeg_major_version=None)

        monkeypatch.setattr(importlib, "import_module", load)

    return fail


@pytest.mark.parametrize("raises", [True, False])
def test_torchcodec_without_ffmpeg_says_what_to_install(raises, no_ffmpeg):
    no_ffmpeg(raises)
    with pytest.raises(ImportError, match=r"`pip install torchcodec`.*needs the system's FFmpeg libraries") as caught:
        resolve_decoder("torchcodec")
    assert "could not load" in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_a_torchcodec_that_does_not_turn_videos_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    old = SimpleNamespace(VideoStreamMetadata=SimpleNamespace(__dataclass_fields__={"width": None}))
    monkeypatch.setattr(importlib, "import_module", lambda _: SimpleNamespace(ffmpeg_major_version=6, decoders=old))
    with pytest.raises(ImportError, match=r"older than 0\.11 and leaves turned videos lying"):
        resolve_decoder("torchcodec")


def test_unknown_decoder(written):
    with pytest.raises(ValueError, match="decoder='opencv' is unknown; allowed are 'auto', 'decord', 'pyav'"):
        open_video(written("plain"), "opencv")


def test_the_numbers_can_be_read():
    """The test's own tool: each of the 256 numbers survives, and differs from its neighbour."""
    assert [number_of(numbered_frame(n)) for n in range(256)] == list(range(256))
