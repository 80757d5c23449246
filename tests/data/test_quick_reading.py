"""What PyAV's quick way leaves out: no pixel of a frame wanted; and it is given up where it does not find them."""

from __future__ import annotations

import os
import sys

import av
import numpy as np
import pytest
from numbered_videos import write_numbered
from opens import counted_opens

from timesformer_plus.data import containers, pyav_decoder
from timesformer_plus.data.decoders import DecodeError, PyAVDecoder, open_video

CLOSED = "scenecut=0"
X264 = {
    "as it comes": {},
    "no B-frames": {"bf": "0"},
    "many B-frames, no pyramid": {"bf": "8", "x264-params": f"{CLOSED}:b-pyramid=none:b-adapt=0"},
    "strict pyramid": {"bf": "5", "x264-params": f"{CLOSED}:b-pyramid=strict:b-adapt=0"},
    "normal pyramid": {"bf": "5", "x264-params": f"{CLOSED}:b-pyramid=normal:b-adapt=0:weightb=1:ref=6"},
    "one reference": {"bf": "3", "refs": "1"},
    "slices": {"bf": "3", "x264-params": f"{CLOSED}:slices=4"},
    "open groups": {"bf": "3", "x264-params": f"{CLOSED}:open-gop=1"},
    "temporal direct": {"bf": "3", "x264-params": f"{CLOSED}:direct=temporal:b-adapt=0"},
    "fields": {"bf": "3", "flags": "+ildct+ilme", "x264-params": f"{CLOSED}:tff=1"},
}


def write_moving(path, *, count=90, size=(64, 96), codec="libx264", options=None):
    """Coloured texture that moves, under fresh noise: prediction has something to do, and something left to code."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.uniform(40, 215, (40, 40, 3)), np.ones((6, 6, 1)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(count):
            seen = texture[i : i + size[0], (3 * i) // 2 : (3 * i) // 2 + size[1]]
            picture = np.clip(seen + rng.normal(0, 6, (*size, 1)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def in_order(path):
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def decoded(monkeypatch):
    """Count the frames that come out of the decoder."""
    seen = []
    matched = PyAVDecoder._matched

    def counting(self, frames, wanted):
        return matched(self, (seen.append(1) or frame for frame in frames), wanted)

    monkeypatch.setattr(PyAVDecoder, "_matched", counting)
    return seen


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("how", X264)
def test_what_is_left_out_changes_no_pixel(how, suffix, tmp_path):
    path = write_moving(tmp_path / f"a.{suffix}", options={"g": "30", "x264-params": CLOSED} | X264[how])
    truth = in_order(path)
    assert len(truth) == 90
    video = open_video(path, "pyav")
    rng = np.random.default_rng(1)
    asked = [sorted(rng.choice(90, size, replace=False).tolist()) for size in (1, 1, 1, 2, 3, 8) for _ in range(5)]
    asked += [list(range(start, start + 57, 8)) for start in range(0, 33, 5)] + [[i] for i in range(0, 90, 4)]
    for indices in asked:
        for i, frame in zip(indices, video.read(indices), strict=True):
            assert np.array_equal(frame, truth[i]), (indices, i)
    # fields are read the slow way, and everything else the quick one
    assert (video._index in pyav_decoder._SLOW) == (how == "fields")


def test_frames_that_nobody_refers_to_are_not_decoded(decoded, tmp_path):
    pyramid = {"g": "90", "bf": "3", "x264-params": f"{CLOSED}:b-adapt=0:b-pyramid=none"}
    video = open_video(write_moving(tmp_path / "a.mp4", options=pyramid), "pyav")
    video.read([80])
    # of the 80 before it, the key frame and every fourth
    assert len(decoded) <= 1 + 80 / 4 + 1


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9"])
def test_of_other_codecs_all_frames_are_decoded(codec, decoded, tmp_path):
    options = {
        "libx265": {"x265-params": "keyint=40:log-level=none"},
        "libvpx-vp9": {"g": "40", "deadline": "realtime", "cpu-used": "8"},
    }
    path = write_moving(tmp_path / "a.mkv", codec=codec, options=options[codec])
    truth = in_order(path)
    frame = open_video(path, "pyav").read([35])[0]
    assert np.array_equal(frame, truth[35])
    assert len(decoded) == 36


def test_a_frame_that_the_quick_way_loses_is_found_without_it(monkeypatch, tmp_path):
    """A decoder that was not told how far frames are out of order may drop some: here it drops every second one."""
    path = write_moving(tmp_path / "a.mp4", options={"g": "30"})
    truth = in_order(path)
    needed = PyAVDecoder._needed
    quick = []

    def dropping(self, *arguments):
        quick.append(1)
        return (frame for i, frame in enumerate(needed(self, *arguments)) if i % 2)

    monkeypatch.setattr(PyAVDecoder, "_needed", dropping)
    indices = [2, 10, 18, 41, 42, 43, 80]
    frames = open_video(path, "pyav").read(indices)
    assert all(np.array_equal(frame, truth[i]) for frame, i in zip(frames, indices, strict=True))
    # and it is not tried on this file again
    before = len(quick)
    open_video(path, "pyav").read(indices)
    assert len(quick) == before > 0


def test_a_damaged_frame_is_still_an_error(tmp_path):
    path = write_moving(tmp_path / "a.mp4", options={"g": "30", "bf": "0", "x264-params": CLOSED})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    place, size = packets[40]
    content[place + 4 : place + size] = bytes(size - 4)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"damaged|could not be decoded"):
        open_video(path, "pyav").read([40])
    # in another group of pictures nothing is amiss
    assert len(open_video(path, "pyav").read([5, 70])) == 2


@pytest.mark.parametrize("rate", ["constant", "variable"])
def test_reading_begins_at_the_last_key_frame(rate, decoded, tmp_path):
    """Sought by the time of decoding, an mp4 with B-frames leads one group of pictures too far back."""
    how = {"options": {"g": "50", "bf": "2", "x264-params": CLOSED}}
    if rate == "variable":
        how["times"] = [40 * i + 11 * (i % 3) for i in range(200)]
    video = open_video(write_numbered(tmp_path / "a.mp4", 200, **how), "pyav")
    video.read([105])
    # the key frame is frame 100
    assert len(decoded) <= 8


@pytest.mark.skipif(sys.platform != "linux", reason="opens are counted by inotify")
def test_a_file_is_opened_once_a_clip(tmp_path, monkeypatch):
    path = write_moving(tmp_path / "a.mp4")
    monkeypatch.setattr(containers, "_INDICES", type(containers._INDICES)(max_frames=1000))
    # the first time it is looked at, its frames are listed, and it is decoded
    with counted_opens(path) as opens:
        open_video(path).read([3, 11, 60])
    assert opens == [3]
    with counted_opens(path) as opens:
        open_video(path).read([5, 70])
    assert opens == [1]


def test_a_file_of_the_same_size_and_date_in_its_place_is_another(tmp_path):
    path = write_moving(tmp_path / "a.mp4", count=40)
    other = write_moving(tmp_path / "b.mp4", count=30)
    size, facts = max(path.stat().st_size, other.stat().st_size), path.stat()
    for file in (path, other):
        with file.open("ab") as end:
            # a box of padding, so that both are equally long
            free = size + 16 - file.stat().st_size
            end.write(free.to_bytes(4, "big") + b"free" + bytes(free - 8))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert open_video(path).num_frames == 40
    other.replace(path)
    assert open_video(path).num_frames == 30
