"""Checkpoints to go on from: what was saved comes back, the newest whole one is taken, nothing damaged ever is."""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_writers import PROCESSES, run, save_for_ever, save_with_small_files_only

from timesformer_plus.engine.atomic_folder import new_folder, unfinished
from timesformer_plus.engine.training_state import load_state, newest_state, save_state, step_folder

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.int8,
    torch.bool,
]


def save(folder, step, keep=2, size=8):
    weights = torch.full((size,), float(step))
    tensors = {"model": {"head.weight": weights, "head.bias": weights[:1]}, "optimizer": {"momentum": -weights}}
    return save_state(folder, step, tensors, {"epoch": step // 10, "seen": [step]}, keep=keep)


def steps(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def holds(path, step):
    state = load_state(path)
    assert (state.step, state.record["epoch"], state.record["seen"]) == (step, step // 10, [step])
    assert state.tensors.keys() == {"model", "optimizer"}
    assert state.tensors["model"]["head.weight"].unique().tolist() == [step]
    assert state.tensors["optimizer"]["momentum"].unique().tolist() == [-step]


def test_files_of_a_checkpoint(tmp_path):
    path = save(tmp_path / "run" / "checkpoints", 12)
    assert path == tmp_path / "run" / "checkpoints" / "step-00000012"
    names = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}
    assert {file.name for file in path.iterdir()} == names
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}
    record = {"epoch": 1, "seen": [12]}
    written = {"format": 1, "step": 12, "groups": ["model", "optimizer"], "record": record}
    assert json.loads((path / "state.json").read_text()) == written
    holds(path, 12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_layout_survive(tmp_path, dtype):
    base = (torch.randn(6, 4) * 50).to(dtype)
    picture = (torch.randn(2, 3, 4, 5) * 50).to(dtype)
    tensors = {
        "base": base,
        "tied": base,
        "same memory, other shape": base.view(4, 6),
        "part": base[1:3],
        "column": base[:, 2],
        "transposed": base.t(),
        "every other": base[::2],
        "expanded": base[:1].expand(3, 4),
        "channels last": picture.to(memory_format=torch.channels_last),
        "scalar": base[0, 0],
        "empty": base[:0],
        "trained": torch.nn.Parameter(base, requires_grad=base.is_floating_point()),
    }
    state = load_state(save_state(tmp_path, 0, {"model": tensors, "nothing": {}}, {}, keep=1))
    assert state.tensors["nothing"] == {}
    loaded = state.tensors["model"]
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name], tensor), name
    # each is a tensor of its own
    loaded["base"].zero_()
    assert torch.equal(loaded["tied"], base)


def test_not_a_number_and_infinities_keep_their_bits(tmp_path):
    bits = torch.tensor([0x7FC00001, 0x7F800001, -0x400000, 0x7F800000, -0x80000000, 1], dtype=torch.int32)
    tensors = {"model": {"x": bits.view(torch.float32)}}
    state = load_state(save_state(tmp_path, 0, tensors, {"loss": float("inf")}, keep=1))
    assert torch.equal(state.tensors["model"]["x"].view(torch.int32), bits)
    assert state.record["loss"] == float("inf")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@settings(max_examples=30)
@given(
    record=st.dictionaries(st.text(), JSON), shapes=st.dictionaries(st.text(min_size=1), SHAPES), step=st.integers(0)
)
def test_any_names_shapes_and_record(record, shapes, step):
    named = {name: torch.randn(shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        state = load_state(save_state(Path(folder), step, {"model": named}, record, keep=1))
    assert state.step == step
    assert state.record == record
    assert repr(state.record) == repr(record)
    assert state.tensors["model"].keys() == named.keys()
    assert all(torch.equal(state.tensors["model"][name], tensor) for name, tensor in named.items())


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 120):
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [15, 120]
    save(tmp_path, 130, keep=3)
    assert steps(tmp_path) == [15, 120, 130]
    save(tmp_path, 140, keep=1)
    assert steps(tmp_path) == [140]


def test_steps_are_compared_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, keep=5)
    path, _ = newest_state(tmp_path)
    assert path == step_folder(tmp_path, 100_000_000)


def test_a_step_saved_again_replaces_it(tmp_path):
    save(tmp_path, 5)
    path = save_state(tmp_path, 5, {"ema": {"x": torch.ones(1)}}, {"second": True}, keep=2)
    assert load_state(path).record == {"second": True}
    assert steps(tmp_path) == [5]


def test_damaged_ones_do_not_count_among_the_kept(tmp_path):
    """A run that went on from update 10 keeps that until there is another whole one."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        (step_folder(tmp_path, step) / "model.safetensors").unlink()
    assert newest_state(tmp_path)[0] == step_folder(tmp_path, 10)
    save(tmp_path, 15, keep=2)  # by a signal
    assert steps(tmp_path) == [10, 15]
    for step in (20, 25):
        save(tmp_path, step, keep=4)
    (step_folder(tmp_path, 20) / "state.json").write_text("{}")
    save(tmp_path, 30, keep=3)
    assert steps(tmp_path) == [15, 25, 30]


def test_nothing_to_go_on_from(tmp_path):
    assert newest_state(tmp_path / "checkpoints") == (None, [])
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-00000001.zip").touch()
    assert newest_state(tmp_path) == (None, [])
    save(tmp_path, 3, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "step-00000001.zip", "step-00000003"}


DAMAGES = {
    "truncated": lambda content, _: content[: len(content) // 2],
    "emptied": lambda _, __: b"",
    "zeroed": lambda content, _: bytes(len(content)),
    "a bit flipped": lambda content, at: content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :],
    "deleted": None,
}
FILES = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name, kind):
    for step in (10, 20):
        save(tmp_path, step)
    newest = step_folder(tmp_path, 20)
    file = newest / name
    good = file.read_bytes()
    for at in {0, 3, len(good) // 3, len(good) // 2, len(good) - 1}:
        if DAMAGES[kind] is None:
            file.unlink()
        else:
            file.write_bytes(DAMAGES[kind](good, at))
        path, lines = newest_state(tmp_path)
        assert path == step_folder(tmp_path, 10)
        [line] = lines
        # a bit of the manifest can also make it list a file that is not there
        assert line.startswith(f"{newest}: " if name == "manifest.json" else f"{newest}: {name} ")
        assert "\n" not in line
        with pytest.raises(ValueError, match="this checkpoint cannot be used") as error:
            load_state(newest)
        assert str(error.value).startswith(line)
        file.write_bytes(good)
    holds(path, 10)
    assert newest_state(tmp_path) == (newest, [])


def test_all_of_them_damaged(tmp_path):
    for step in (10, 20):
        save(tmp_path, step)
    for step in (10, 20):
        (step_folder(tmp_path, step) / "state.json").unlink()
    path, lines = newest_state(tmp_path)
    assert path is None
    assert [Path(line.partition(":")[0]).name for line in lines] == ["step-00000020", "step-00000010"]


def test_what_save_state_did_not_write(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is not a folder; this checkpoint cannot be used"):
        load_state(tmp_path / "nothing")
    # whole by its manifest, and yet something else
    path = save(tmp_path, 1)
    shutil.move(path / "state.json", path / "other.json")
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("state.json", "other.json"))
    assert newest_state(tmp_path) == (None, [f"{path}: state.json is missing"])
    with pytest.raises(ValueError, match=r"state\.json is missing; this checkpoint cannot be used"):
        load_state(path)


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 2}', '{"format": 1, "step": 3}'])
def test_state_of_another_version(tmp_path, content):
    path = step_folder(tmp_path, 3)
    with new_folder(path) as staged:
        (staged / "state.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"state\.json (cannot be read \(.*\); this is no|is not of format 1; use the)"
    ):
        load_state(path)


def test_arguments_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="keep=0 would leave no checkpoint"):
        save(tmp_path, 1, keep=0)
    with pytest.raises(ValueError, match="step=-1 is negative"):
        save(tmp_path, -1)
    with pytest.raises(ValueError, match=r"group '\.\./model' becomes a file's name"):
        save_state(tmp_path, 1, {"../model": {}}, {}, keep=1)
    for value in (torch.ones(1), Path("x"), {1, 2}):
        with pytest.raises(ValueError, match=f"has to be JSON: Object of type {type(value).__name__}"):
            save_state(tmp_path, 1, {}, {"value": value}, keep=1)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25)
@given(data=st.data())
def test_newest_state_against_a_list(data):
    """Saves, damage and remains of killed writers in any order, against what a list says there should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, damaged, step = [], [], 0
        for _ in range(data.draw(st.integers(1, 8))):
            act = data.draw(st.sampled_from(["save", "damage", "kill", "resume"]))
            if act == "save":
                step += data.draw(st.integers(0, 5))
                keep = data.draw(st.integers(1, 3))
                save(folder, step, keep=keep)
                whole = sorted({s for s in whole if s <= step} | {step})[-keep:]
                damaged = []
            elif act == "damage" and whole:
                hurt = data.draw(st.sampled_from(whole))
                (step_folder(folder, hurt) / data.draw(st.sampled_from(FILES))).write_bytes(b"")
                whole.remove(hurt)
                damaged.append(hurt)
            elif act == "kill":
                left = folder / f".step-{step + 1:08d}.unfinished-abcdefgh"
                left.mkdir(exist_ok=True)
                (left / "model.safetensors").write_bytes(b"half")
            elif act == "resume":
                path, _ = newest_state(folder)
                step = int(path.name[-8:]) if path else 0
            path, lines = newest_state(folder)
            assert path == (step_folder(folder, max(whole)) if whole else None)
            newer = [s for s in damaged if not whole or s > max(whole)]
            assert [line.partition(":")[0] for line in lines] == [
                str(step_folder(folder, s)) for s in sorted(newer, reverse=True)
            ]
            assert unfinished(folder) == []


def kill_writers(tmp_path, times):
    """Kill writers at random moments; returns how many were inside of a save."""
    moments = random.Random(0)
    inside = 0
    for number in range(times):
        folder = tmp_path / str(number)
        reader, writer = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=save_for_ever, args=(folder, writer, 200_000, moments.randint(1, 3)))
        process.start()
        writer.close()
        reported = reader.recv()
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with contextlib.suppress(EOFError):
            while reader.poll():
                reported = reader.recv()
        inside += bool(unfinished(folder))
        path, damaged = newest_state(folder)
        assert damaged == []
        state = load_state(path)
        assert state.step in (reported, reported + 1)
        assert state.record == {"step": state.step}
        assert state.tensors["model"]["weight"].unique().tolist() == [state.step]
        assert state.tensors["optimizer"]["momentum"].unique().tolist() == [-state.step]
        save(folder, state.step + 1, keep=1)  # the run goes on
        assert [path.name for path in folder.iterdir()] == [f"step-{state.step + 1:08d}"]
        shutil.rmtree(folder)
    return inside


def test_twenty_kills_at_random_moments(tmp_path):
    assert kill_writers(tmp_path, 20) > 5


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(tmp_path):
    inside = kill_writers(tmp_path, 200)
    print(f"{inside} of 200 kills were inside of a save")
    assert inside > 50


def test_file_that_becomes_too_large_leaves_what_was_there(tmp_path):
    """RLIMIT_FSIZE: the system itself stops the writing halfway, as it does on a full disk."""
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    assert run(save_with_small_files_only, folder, 2, 1_000_000, 500_000) == 3
    assert run(save_with_small_files_only, folder, 1, 1_000_000, 500_000) == 3  # also the one it would have replaced
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    holds(folder / "step-00000001", 1)
    assert newest_state(folder) == (folder / "step-00000001", [])


FULL_DISK = """
import sys
from pathlib import Path
import torch
from timesformer_plus.engine.training_state import load_state, newest_state, save_state
folder = Path(sys.argv[1]) / "checkpoints"
saved = 0
try:
    while True:  # 1 MB each, none is removed: a disk of 2.5 MB has no room for the third
        save_state(folder, saved + 1, {"model": {"x": torch.full((250_000,), saved + 1.0)}}, {"n": saved + 1}, keep=9)
        saved += 1
except OSError as error:
    print(error)
path, damaged = newest_state(folder)
state = load_state(path)
assert saved == 2 and damaged == [] and state.step == saved and state.record == {"n": saved}, (saved, damaged, state)
assert state.tensors["model"]["x"].unique().tolist() == [saved]
assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
"""


def test_full_disk_leaves_what_was_there(tmp_path):
    """A real one: a file system in memory of 2.5 MB that this process's children alone can see."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=2500k tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("this system lets us mount no file system of our own")
    (tmp_path / "full.py").write_text(FULL_DISK)
    command = f"{mount} && exec {sys.executable} {tmp_path / 'full.py'} {disk}"
    done = subprocess.run([*inside, command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = f"{disk}/checkpoints/step-00000003 cannot be written ("
    assert done.stdout.startswith(said)
    assert "No space left on device" in done.stdout
    assert "what was there before is untouched. Make room on its disk or choose another output" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(disk.iterdir()) == []
