"""Memory stays flat however many videos are opened: a frame kept of each would end every long training."""

import ctypes
import gc
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from forks import answers, serve
from installed_decoders import DECODERS, INSTALLED
from numbered_videos import write_numbered

from timesformer_plus.data.decoders import DecodeError, open_video

# kB for 100 opens. A frame kept of each would be 900, a decoder several times that. pytorchvideo leaves its reading of
# packets unfinished, of which PyAV loses 150 bytes each time.
ALLOWED = {"decord": 60, "pyav": 60, "pytorchvideo": 200, "torchcodec": 60}


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Have processes read videos: decoder -> kB for 100 opens, once warm, by malloc and by the system; MB at last."""
    folder = tmp_path_factory.mktemp("videos")
    files = [
        write_numbered(folder / "a.mp4", options={"g": "10"}),
        write_numbered(folder / "b.mp4", codec="libx265", options={"x265-params": "log-level=none:open-gop=0"}),
        write_numbered(folder / "c.mov", codec="mjpeg", pix_fmt="yuvj420p"),
    ]
    # what is refused must not be kept either
    half = folder / "half.mp4"
    half.write_bytes(files[0].read_bytes()[: files[0].stat().st_size // 2])
    paths = [str(file) for file in (*files, half)]

    @cache
    def measure(opens):
        slopes = {}
        for name, [sizes] in answers(__file__, {name: [[name, opens, paths]] for name in INSTALLED}, 600).items():
            warm = np.array(sizes[len(sizes) // 3 :])
            used, resident = np.polyfit(np.arange(len(warm)) / 10, warm, 1)[0] / 1000
            slopes[name] = used, resident, sizes[-1][1] / 1e6
        return slopes

    return measure


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux and its libc tell it")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("opens", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_is_flat(decoder, opens, grown):
    used, resident, last = grown(opens)[decoder]
    print(f"{decoder}, {opens} opens: {used:+.1f} kB in use, {resident:+.1f} kB resident for 100 opens; {last:.0f} MB")
    assert used < 60
    # so few opens are still warming up: libraries that allocate differently sized blocks leave holes at first
    assert resident < (1 if opens >= 2000 else 10) * ALLOWED[decoder]


class Mallinfo(ctypes.Structure):
    """What glibc tells of its heap: fields of ``struct mallinfo2``."""

    _names = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def read_again_and_again(decoder, opens, files):
    """Bytes in use and resident after every ten opens."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    gc.freeze()  # else every collection goes through all of torch
    sizes = []
    for i in range(opens):
        try:
            video = open_video(files[i % len(files)], decoder)
            video.read([0, video.num_frames // 2, video.num_frames - 1])
            del video
        except DecodeError:
            assert files[i % len(files)].endswith("half.mp4")
        if i % 10 == 9:
            gc.collect()
            heap = libc.mallinfo2()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            sizes.append((heap.uordblks + heap.hblkhd, resident))
    return sizes


if __name__ == "__main__":
    serve(read_again_and_again)
