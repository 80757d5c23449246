"""Every kind of bad file, with every decoder: an error or the right frames; no hang, no crash, no other file opened."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from bad_files import BAD, Place, write_decoy, write_good
from installed_decoders import DECODERS
from numbered_videos import number_of

from timesformer_plus.data.decoders import DecodeError, open_video

# the child does all files; one that hangs or kills it costs its own answer, and another child goes on behind it
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


def answers(decoder, paths):
    """Have a child process read all files: name -> what came of it."""
    found, left = {}, dict(paths)
    while left:
        work = json.dumps([[name, os.fspath(path)] for name, path in left.items()])
        child = subprocess.Popen(
            [sys.executable, __file__, decoder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        child.stdin.write(work.encode())
        child.stdin.close()
        for line in child.stdout:
            answer = json.loads(line)
            found[answer.pop("name")] = answer
        status = child.wait()
        child.stdout.close()
        left = {name: path for name, path in left.items() if name not in found}
        if status:
            # it dies in the middle of the file after the last one that it has answered
            lost = next(iter(left))
            found[lost] = {"died": status}
            del left[lost]
    return found


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
def test_bad_files_end_in_an_error_or_in_the_right_frames(decoder, planted):
    paths, secret = planted
    watch = Watch(secret)
    found = answers(decoder, paths)
    assert found.keys() == BAD.keys()
    faults = {name: fault(found[name], bad) for name, bad in BAD.items()}
    assert not any(faults.values()), "\n".join(f"{name}: {what}" for name, what in faults.items() if what)
    assert watch.opened() == b""
    watch.close()


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


def main(decoder):
    """Read the files named on the standard input, and print a line for each."""
    resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
    for name, path in json.load(sys.stdin):
        # the system's own way: a hang inside of a library takes no notice of Python
        signal.alarm(SECONDS_A_FILE)
        start = time.monotonic()
        try:
            answer = read_all(Path(path), decoder)
        except Exception as error:
            answer = {"other": f"{type(error).__name__}: {error}"}
        answer |= {"seconds": time.monotonic() - start}
        answer |= {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps({"name": name} | answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
