"""Memory stays flat however many videos are opened: a frame kept of each would end every long training."""

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installed_decoders import DECODERS
from numbered_videos import write_numbered

from timesformer_plus.data.decoders import DecodeError, open_video

# kB for 100 opens. A frame kept of each would be 900, a decoder several times that. pytorchvideo leaves its reading of
# packets unfinished, of which PyAV loses 150 bytes each time.
ALLOWED = {"decord": 60, "pyav": 60, "pytorchvideo": 600, "torchcodec": 60}


def grown(decoder, opens, folder):
    """Have a child process read videos: kB for 100 opens, once warm, by malloc and by the system; MB in the end."""
    files = [
        write_numbered(folder / "a.mp4", options={"g": "10"}),
        write_numbered(folder / "b.mp4", codec="libx265", options={"x265-params": "log-level=none:open-gop=0"}),
        write_numbered(folder / "c.mov", codec="mjpeg", pix_fmt="yuvj420p"),
    ]
    # what is refused must not be kept either
    half = folder / "half.mp4"
    half.write_bytes(files[0].read_bytes()[: files[0].stat().st_size // 2])
    work = json.dumps([decoder, opens, [str(file) for file in (*files, half)]])
    done = subprocess.run([sys.executable, __file__], input=work, capture_output=True, text=True, check=True)
    sizes = np.array(json.loads(done.stdout))
    warm = sizes[len(sizes) // 3 :]
    slopes = np.polyfit(np.arange(len(warm)) / 10, warm, 1)[0] / 1000
    return slopes[0], slopes[1], sizes[-1, 1] / 1e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux and its libc tell it")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("opens", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_is_flat(decoder, opens, tmp_path):
    used, resident, last = grown(decoder, opens, tmp_path)
    print(f"{decoder}, {opens} opens: {used:+.1f} kB in use, {resident:+.1f} kB resident for 100 opens; {last:.0f} MB")
    assert used < 60
    # so few opens are still warming up: libraries that allocate differently sized blocks leave holes at first
    assert resident < (1 if opens >= 2000 else 10) * ALLOWED[decoder]


class Mallinfo(ctypes.Structure):
    """What glibc tells of its heap: fields of ``struct mallinfo2``."""

    _names = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def main():
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    decoder, opens, files = json.load(sys.stdin)
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
    print(json.dumps(sizes))


if __name__ == "__main__":
    main()
