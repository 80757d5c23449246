"""Every kind of bad file, with every decoder: an error or the right frames; no hang, no crash, no other file opened."""

import ctypes
import os
import resource
import signal
import time
from pathlib import Path

import av
import forks
import pytest
from bad_files import BAD, Place, write_decoy, write_good
from forks import answers, serve
from installed_decoders import DECODERS, INSTALLED
from numbered_videos import number_of

from timesformer_plus.data.decoders import DecodeError, open_video

SECONDS_A_FILE = 20
MAX_BYTES = 2 * 10**9


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """All bad files and the decoy: name -> path, and the decoy's folder."""
    root = tmp_path_factory.mktemp("bad")
    good, secret = root / "good", root / "secret"
    good.mkdir(), secret.mkdir()
    write_good(good)
    decoy = write_decoy(secret / "decoy.mp4")
    paths = {}
    for i, (name, bad) in enumerate(BAD.items()):
        (root / str(i)).mkdir()
        paths[name] = bad.make(Place(root / str(i), good, decoy))
    return paths, secret


class Watch:
    """Tells which files of a folder were opened, by the system's own account (Linux)."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(os.O_NONBLOCK)
        in_open = 0x20
        assert self._queue >= 0
        assert self._libc.inotify_add_watch(self._queue, os.fsencode(folder), in_open) >= 0

    def opened(self):
        try:
            return os.read(self._queue, 4096)
        except BlockingIOError:
            return b""

    def close(self):
        os.close(self._queue)


@pytest.fixture(scope="module")
def found(planted):
    """What comes of every file with every decoder, and which other files were opened on the way."""
    paths, secret = planted
    work = {name: [[name, os.fspath(path)] for path in paths.values()] for name in INSTALLED}
    watch = Watch(secret)
    read = answers(__file__, work, SECONDS_A_FILE)
    opened = watch.opened()
    watch.close()
    return {decoder: dict(zip(paths, listed, strict=True)) for decoder, listed in read.items()}, opened


def fault(answer, bad):
    """What is wrong with a decoder's answer; empty if nothing is."""
    if "died" in answer or "other" in answer:
        return str(answer)
    if answer["bytes"] > MAX_BYTES or answer["seconds"] > SECONDS_A_FILE:
        return f"took {answer['bytes']:,} bytes, {answer['seconds']} s"
    if "kind" in answer:
        return "" if answer["kind"] in bad.kinds else f"{answer['kind']}: {answer['reason']}"
    if not bad.numbers:
        return f"was opened: {answer['frames']}"
    wrong = [
        (i, found)
        for i, found in enumerate(answer["frames"])
        if found not in bad.kinds and found not in bad.numbers[i : i + 1] and i not in bad.patched
    ]
    return f"wrong frames {wrong} of {len(answer['frames'])}" if wrong else ""


@pytest.mark.parametrize("decoder", DECODERS)
def test_bad_files_end_in_an_error_or_in_the_right_frames(decoder, found):
    faults = {name: fault(found[0][decoder][name], bad) for name, bad in BAD.items()}
    assert not any(faults.values()), "\n".join(f"{name}: {what}" for name, what in faults.items() if what)


def test_no_other_file_is_opened(found):
    assert found[1] == b""


def test_a_crash_or_a_hang_would_be_found_out():
    """The test's own tool: what comes after them in the same group is dealt with all the same."""
    listed = [[how] for how in ("fine", "crash", "hang", "chatter", "fine", "crash")]
    read = answers(forks.__file__, {"a": listed, "b": [["fine"]]}, 1)
    dead = [{"died": -signal.SIGABRT}, {"died": -signal.SIGALRM}]
    assert read == {"a": ["fine", *dead, "chatter", "fine", dead[0]], "b": ["fine"]}
    assert fault(dead[0], BAD["text"])


def test_there_are_enough_kinds():
    assert len(BAD) >= 35


def test_the_watch_sees_what_an_unguarded_library_opens(planted):
    paths, secret = planted
    watch = Watch(secret)
    # what FFmpeg does with two of the files when it is left alone
    options = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(paths["data in another file"]), options=options) as container:
        assert next(container.demux(video=0)).size
    assert watch.opened() != b""
    with av.open(str(paths["playlist of ffmpeg"]), options={"safe": "0"}) as container:
        assert number_of(next(container.decode(video=0)).to_ndarray(format="rgb24")) == 200
    assert watch.opened() != b""
    watch.close()


def read_all(path, decoder):
    """What comes of a file: the kind of error, or of every frame its number or the kind of error."""
    try:
        video = open_video(path, decoder)
    except DecodeError as error:
        return {"kind": error.kind, "reason": error.reason}
    return {"frames": [read_one(video, i) for i in range(video.num_frames)]}


def read_one(video, i):
    try:
        return number_of(video.read([i])[0])
    except DecodeError as error:
        return error.kind


def examine(decoder, path):
    """What comes of a file, how long that takes, and the most memory that the process ever had."""
    start = time.monotonic()
    try:
        answer = read_all(Path(path), decoder)
    except Exception as error:
        answer = {"other": f"{type(error).__name__}: {error}"}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return answer | {"seconds": time.monotonic() - start, "bytes": most}


if __name__ == "__main__":
    serve(examine)
