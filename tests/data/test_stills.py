"""Folders of frame images and .npy clips: the same promise as for video files, and what is refused."""

import os
import pickle
import struct
import zlib

import numpy as np
import pytest
from numbered_videos import number_of, numbered_frame
from PIL import Image

from timesformer_plus.data.containers import Limits
from timesformer_plus.data.decoders import DecodeError, open_video


def write_images(folder, names, numbers=None, **how):
    folder.mkdir(exist_ok=True)
    for number, name in zip(numbers or range(len(names)), names, strict=True):
        Image.fromarray(numbered_frame(number)).save(folder / name, **how)
    return folder


NAMES = {
    "plain numbers": ["00001.jpg", "00002.jpg", "00003.jpg"],
    "from anywhere": ["image_0417.jpg", "image_0418.jpg", "image_0419.jpg"],
    "by number, not by letter": ["frame_9.png", "frame_10.png", "frame_11.png"],
    "the last number counts": ["cam2_1.bmp", "cam2_2.bmp", "cam2_3.bmp"],
    "something behind it": ["f8-left.JPG", "f9-left.JPG", "f10-left.JPG"],
    "webp": ["0.webp", "1.webp", "2.webp"],
}


@pytest.mark.parametrize("name", NAMES)
def test_images_come_in_the_order_of_their_numbers(name, tmp_path):
    folder = write_images(tmp_path / "clip", NAMES[name])
    # not frames: hidden files, labels, folders of other names
    (folder / ".00009.jpg").write_text("no image")
    (folder / "labels.txt").write_text("1")
    (folder / "Thumbs.db").write_bytes(b"x")
    video = open_video(folder, fps=10)
    assert (video.name, video.num_frames, video.fps, video.size) == ("images", 3, 10, (48, 64))
    assert list(video.times) == [0, 0.1, 0.2]
    assert [number_of(frame) for frame in video.read([2, 0, 0, 1])] == [2, 0, 0, 1]
    assert video.read([1]).dtype == np.uint8
    with pytest.raises(IndexError, match="allowed are 0 to 2"):
        video.read([3])


@pytest.mark.parametrize("kind", ["images", "array"])
def test_without_a_frame_rate_there_are_frames_but_no_times(kind, tmp_path):
    if kind == "images":
        path = write_images(tmp_path / "clip", NAMES["plain numbers"])
    else:
        path = tmp_path / "clip.npy"
        np.save(path, np.stack([numbered_frame(i) for i in range(3)]))
    video = open_video(path)
    assert video.fps == 0
    assert len(video.read([0, 2])) == 2
    with pytest.raises(DecodeError, match=r"have no times; give data\.image_fps"):
        video.times  # noqa: B018


@pytest.mark.parametrize("fps", [29.97, 30000 / 1001, 12.5])
def test_times_of_a_given_frame_rate(fps, tmp_path):
    video = open_video(write_images(tmp_path / "clip", NAMES["plain numbers"]), fps=fps)
    assert list(video.times) == pytest.approx([0, 1 / fps, 2 / fps], rel=1e-9)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "1", "CMYK", "RGB"])
def test_pictures_of_all_kinds_become_rgb(mode, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(2):
        picture = Image.fromarray(numbered_frame(i)).convert(mode)
        if "A" in mode:
            picture.putalpha(0)  # transparent: dropped, not mixed with a background
        picture.save(folder / (f"{i}.jpg" if mode == "CMYK" else f"{i}.png"))
    frames = open_video(folder).read([0, 1])
    assert frames.shape == (2, 48, 64, 3)
    assert [number_of(frame) for frame in frames] == [0, 1]


def test_how_a_camera_was_held_is_left_out_of_account(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    video = open_video(write_images(tmp_path / "clip", NAMES["plain numbers"], exif=exif))
    assert video.size == (48, 64)
    assert [number_of(frame) for frame in video.read([1])] == [1]


def test_smaller_frames(tmp_path):
    folder = write_images(tmp_path / "clip", NAMES["plain numbers"])
    array = tmp_path / "clip.npy"
    np.save(array, open_video(folder).read(range(3)))
    small = open_video(folder, short_side=24)
    assert small.size == (24, 32)
    assert np.array_equal(small.read([2, 1]), open_video(array, short_side=24).read([2, 1]))


REFUSED = {
    "a gap": (["1.jpg", "2.jpg", "4.jpg"], "cut off", r"frame 3 is missing between '1.jpg' and '4.jpg'"),
    "the same number": (["1.jpg", "01.jpg"], "unsupported", "holds several series of images, '01.jpg' and '1.jpg'"),
    "two series": (["x_1.jpg", "y_2.jpg"], "unsupported", "holds several series of images, 'x_1.jpg' and 'y_2.jpg'"),
    "two formats": (["1.jpg", "2.png"], "unsupported", "holds several series of images"),
    "no number": (["cover.jpg"], "unsupported", "'cover.jpg' has no number; name frames like 00001.jpg"),
    "nothing": ([], "not a file", "is a folder without frame images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_are_no_video(name, tmp_path):
    names, kind, message = REFUSED[name]
    with pytest.raises(DecodeError, match=message) as caught:
        open_video(write_images(tmp_path / "clip", names))
    assert caught.value.kind == kind


def test_images_of_several_sizes_are_refused_when_read(tmp_path):
    folder = write_images(tmp_path / "clip", NAMES["plain numbers"])
    Image.fromarray(numbered_frame(1, 60, 80)).save(folder / "00002.jpg")
    video = open_video(folder, short_side=24)
    assert len(video.read([0, 2])) == 2
    with pytest.raises(DecodeError, match="frame 1 is 60x80 pixels, the first is 48x64"):
        video.read([0, 1])


def test_an_image_that_is_none(tmp_path):
    folder = write_images(tmp_path / "clip", NAMES["plain numbers"])
    whole = (folder / "00002.jpg").read_bytes()
    (folder / "00002.jpg").write_text("<svg/>")
    with pytest.raises(DecodeError, match=r"00002.jpg: is no JPEG, PNG, WEBP, BMP image") as caught:
        open_video(folder).read([1])
    assert caught.value.kind == "not a video"
    (folder / "00002.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"00002.jpg: is damaged") as caught:
        open_video(folder).read([1])
    assert caught.value.kind == "damaged"
    (folder / "00002.jpg").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"00002.jpg: the file is empty"):
        open_video(folder).read([1])
    (folder / "00002.jpg").unlink()
    os.mkfifo(folder / "00002.jpg")
    with pytest.raises(DecodeError, match=r"00002.jpg: is not a regular file"):
        open_video(folder).read([1])


def test_pictures_of_more_than_eight_bits_are_refused(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    Image.fromarray(np.full((48, 64), 40_000, np.uint16)).save(folder / "0.png")
    with pytest.raises(DecodeError, match="more than 8 bits"):
        open_video(folder).read([0])


def test_an_image_beyond_the_limits_is_not_decoded(tmp_path):
    folder = write_images(tmp_path / "clip", NAMES["plain numbers"])
    with pytest.raises(DecodeError, match=r"48x64 pixels, above data.limits.max_pixels") as caught:
        open_video(folder, limits=Limits(max_pixels=1000))
    assert caught.value.kind == "too large"
    with pytest.raises(DecodeError, match=r"3 images or more, above data.limits.max_frames=2"):
        open_video(folder, limits=Limits(max_frames=2))
    # 30,000 x 30,000 pixels by its header, beyond what PIL opens
    Image.new("L", (1, 1)).save(folder / "00001.png")
    content = bytearray((folder / "00001.png").read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "00001.png").write_bytes(content)
    for file in folder.glob("*.jpg"):
        file.unlink()
    with pytest.raises(DecodeError, match="is too large") as caught:
        open_video(folder)
    assert caught.value.kind == "too large"


def save(path, array):
    np.save(path, array)
    return path


def test_an_array_is_mapped_not_loaded(tmp_path):
    frames = np.stack([numbered_frame(i) for i in range(40)])
    video = open_video(save(tmp_path / "clip.npy", frames), fps=25)
    assert (video.name, video.num_frames, video.fps, video.size) == ("array", 40, 25, (48, 64))
    assert isinstance(video._array, np.memmap)
    read = video.read([39, 0, 39])
    assert np.array_equal(read, frames[[39, 0, 39]])
    assert type(read) is np.ndarray
    read[:] = 0  # a copy, of which the file knows nothing
    assert np.array_equal(video.read([39])[0], frames[39])


class Trap:
    """Runs when unpickled."""

    def __reduce__(self):
        return os.abort, ()


FRAMES = np.zeros((4, 6, 8, 3), np.uint8)
ARRAYS = {
    "floats": (FRAMES.astype(np.float32), "unsupported", "holds float32 of shape"),
    "channels first": (FRAMES.transpose(0, 3, 1, 2), "unsupported", r"must be uint8 of shape \(N, height, width, 3\)"),
    "grey": (FRAMES[..., 0], "unsupported", r"holds uint8 of shape \(4, 6, 8\)"),
    "alpha": (np.zeros((4, 6, 8, 4), np.uint8), "unsupported", r"holds uint8 of shape \(4, 6, 8, 4\)"),
    "nothing": (FRAMES[:0], "empty|damaged", "holds no frame|is no whole"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_frames(name, tmp_path):
    array, kind, message = ARRAYS[name]
    with pytest.raises(DecodeError, match=message) as caught:
        open_video(save(tmp_path / "clip.npy", array))
    assert caught.value.kind in kind.split("|")


def test_files_that_are_no_array(tmp_path):
    path = save(tmp_path / "clip.npy", FRAMES)
    content = path.read_bytes()
    bad = {
        "cut off": content[:-1],
        "no header": content[:40],
        "text": b"hello",
        "a video": b"\0\0\0\x18ftypisom" + bytes(64),
        "code": b"\x93NUMPY\x01\x00v\x00" + b"__import__('os').abort()".ljust(117) + b"\n",
        "a size beyond any file": content.replace(b"(4, 6, 8, 3)", b"(9**9, 6, 8)"),
        "a huge array": content.replace(b"(4, 6, 8, 3), ", b"(40000,6,8,3),"),
        "pickle": pickle.dumps(Trap()),
    }
    for name, changed in bad.items():
        path.write_bytes(changed)
        with pytest.raises(DecodeError, match=r"clip.npy: (is no whole \.npy file|holds )") as caught:
            open_video(path)
        assert caught.value.kind in ("damaged", "unsupported"), name
    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match=r"is no whole \.npy file of plain numbers"):
        open_video(path)
    np.savez(tmp_path / "clip.npz", FRAMES)
    os.replace(tmp_path / "clip.npz", path)
    with pytest.raises(DecodeError, match=r"is no whole \.npy file"):
        open_video(path)


def test_an_array_beyond_the_limits(tmp_path):
    path = save(tmp_path / "clip.npy", FRAMES)
    for limits, name in ((Limits(max_pixels=47), "max_pixels"), (Limits(max_frames=3), "max_frames")):
        with pytest.raises(DecodeError, match=f"data.limits.{name}"):
            open_video(path, limits=limits)
    with pytest.raises(DecodeError, match=r"data.limits.max_file_bytes"):
        open_video(path, limits=Limits(max_file_bytes=100))
    with pytest.raises(DecodeError, match=r"data.limits.max_read_bytes"):
        open_video(path, limits=Limits(max_read_bytes=287)).read([0, 1])
