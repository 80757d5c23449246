"""The written data sets: real files that keep what the rendered frames promise."""

import io
import json
import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from installed_decoders import DECODERS, INSTALLED

from timesformer_plus.data import motion
from timesformer_plus.data.decoders import open_video
from timesformer_plus.data.manifests import read_csv
from timesformer_plus.data.motion import SPEC_FILE, UNFINISHED_FILE, encode, write_motion
from timesformer_plus.data.motion_tasks import MOTION_TASKS, SPLITS, Lattice

TOOL = str(Path(__file__).parents[2] / "tools" / "make_motion.py")
SMALL = {"train": 32, "val": 16, "test": 32, "progress": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every task, written once."""
    root = tmp_path_factory.mktemp("motion")
    return {task: write_motion(task, root / task, **SMALL) for task in MOTION_TASKS}


def manifest_of(folder, split):
    return read_csv(folder / f"{split}.csv", multi_label=json.loads((folder / SPEC_FILE).read_text())["multi_label"])


def frames_of(sample, decoder="pyav"):
    return open_video(sample.path, decoder).read(range(8))


def pairs_of(manifest):
    pairs = {}
    for sample in manifest.samples:
        pairs.setdefault(sample.pair, []).append(sample)
    return pairs


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_the_folder(folders, task):
    folder = folders[task]
    names = {path.name for path in folder.iterdir()}
    assert names == {*SPLITS, "train.csv", "val.csv", "test.csv", "classes.txt", "preview.png", SPEC_FILE}
    spec = json.loads((folder / SPEC_FILE).read_text())
    assert spec["task"] == task
    assert spec["splits"] == {"train": 32, "val": 16, "test": 32}
    assert spec["multi_label"] == (task == "lattice")
    for split in SPLITS:
        manifest = manifest_of(folder, split)
        assert manifest.classes == MOTION_TASKS[task].classes
        assert len(manifest.samples) == spec["splits"][split] == len(list((folder / split).iterdir()))


@pytest.mark.parametrize("task", MOTION_TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_balanced_exactly(folders, task, split):
    manifest = manifest_of(folders[task], split)
    counts = {}
    for sample in manifest.samples:
        counts[sample.label] = counts.get(sample.label, 0) + 1
    assert len(counts) == (8 if task == "lattice" else len(manifest.classes))
    assert set(counts.values()) == {len(manifest.samples) // len(counts)}


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_pairs(folders, task):
    assert set(pairs_of(manifest_of(folders[task], "train"))) == {""}
    for split in ("val", "test"):
        for name, partners in pairs_of(manifest_of(folders[task], split)).items():
            assert name
            assert len(partners) == 2
            labels = {partner.label for partner in partners}
            # the two clips of a lattice pair have the same bits; elsewhere the partner is of the partner class
            assert len(labels) == 1 if task == "lattice" else {label // 2 for label in labels} == {min(labels) // 2}
            assert (len(labels) == 2) == (task != "lattice")


@pytest.mark.parametrize("task", ["direction", "drift"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_partners_are_each_other_backwards_in_the_files_too(folders, task, decoder):
    """Bit for bit: so whatever is made of decoded frames one by one, and added up, is equal for partners."""
    for partners in pairs_of(manifest_of(folders[task], "test")).values():
        first, second = (frames_of(partner, decoder) for partner in partners)
        assert np.array_equal(first[::-1], second)
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("task", ["direction", "drift"])
def test_a_frame_local_model_gets_half_of_each_pair_at_most(folders, task):
    """The ceiling of 50 %, on the files: scores from features of single frames, summed in either order of time."""
    rng = np.random.default_rng(0)
    manifest = manifest_of(folders[task], "test")
    weights = rng.standard_normal((8 * 8 * 3, 64)), rng.standard_normal((64, len(manifest.classes)))
    right = {}
    for sample in manifest.samples:
        frames = frames_of(sample).reshape(8, 8, 4, 8, 4, 3).mean((2, 4)).reshape(8, -1) / 64 - 2
        # sorted, so that adding up in another order does not round differently
        scores = np.sort(np.tanh(frames @ weights[0]) @ weights[1], axis=0).sum(0)
        right.setdefault(sample.pair, []).append(int(scores.argmax() == sample.label))
    assert max(sum(pair) for pair in right.values()) <= 1
    assert np.mean([sum(pair) for pair in right.values()]) / 2 <= 0.5


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_decoders_agree_to_the_pixel(folders, task):
    for sample in manifest_of(folders[task], "val").samples[:4]:
        frames = [frames_of(sample, decoder) for decoder in INSTALLED]
        assert len(frames) > 1
        assert all(np.array_equal(frames[0], others) for others in frames[1:])


@pytest.mark.parametrize(("task", "mean", "worst"), [("drift", 1, 4), ("lattice", 1, 4), ("direction", 4, 100)])
def test_the_codec_changes_little(folders, task, mean, worst):
    """In grey levels out of 255. Colour is stored at half the resolution, which blurs the sprites' edges."""
    kind = MOTION_TASKS[task]
    differences = []
    for i, sample in enumerate(manifest_of(folders[task], "train").samples[:16]):
        draw = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(list(MOTION_TASKS).index(task), 0, i)))
        variants = [variant for group in kind.groups for variant in group]
        rendered = kind.render(draw, variants[i % len(variants)], "train", 8, 32)
        differences.append(np.abs(frames_of(sample).astype(int) - rendered))
    assert np.mean(differences) < mean
    assert np.max(differences) <= worst


def test_a_decoded_frame_depends_on_its_own_picture_alone():
    """Neither neighbours nor the place in the clip show in how a frame was coded."""
    rng = np.random.default_rng(0)
    a, b, c = (Lattice().render(rng, v, "train", 8, 32) for v in (3, 9, 14))

    def decoded(clip):
        with av.open(io.BytesIO(encode(clip))) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])

    mixed = decoded(np.concatenate([a[5:6], b[:3], c]))
    assert np.array_equal(mixed[0], decoded(a)[5])
    assert np.array_equal(mixed[1:4], decoded(b)[:3])
    assert np.array_equal(mixed[4:], decoded(c))


def test_complements_show_the_other_digit_in_the_files(folders):
    """A reader of single cells, fitted on the training files, finds partners opposite in every cell."""
    from sklearn.neighbors import KNeighborsClassifier

    def cells(sample):
        return frames_of(sample)[..., 0].reshape(8, 4, 8, 4, 8).swapaxes(2, 3).reshape(-1, 64)

    train = manifest_of(folders["lattice"], "train").samples
    digits = [Lattice().digits(i % 16, 8, 32).ravel() for i in range(32)]
    reader = KNeighborsClassifier(3).fit(np.concatenate([cells(s) for s in train]), np.concatenate(digits))
    opposite = [
        (reader.predict(cells(first)) != reader.predict(cells(second))).mean()
        for first, second in pairs_of(manifest_of(folders["lattice"], "test")).values()
    ]
    assert min(opposite) > 0.85
    assert np.mean(opposite) > 0.9


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_writing_twice_gives_the_same_files(folders, task, tmp_path):
    again = write_motion(task, tmp_path / "again", **SMALL)
    for path in sorted(folders[task].rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folders[task])).read_bytes(), path


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_splits_and_seeds_are_disjoint(folders, task, tmp_path):
    other = write_motion(task, tmp_path / "other", seed=1, **SMALL)
    contents = {}
    for folder in (folders[task], other):
        for split in SPLITS:
            contents[folder, split] = {path.read_bytes() for path in (folder / split).iterdir()}
            assert len(contents[folder, split]) == SMALL[split]  # and no clip twice
    assert len(set().union(*contents.values())) == 2 * (32 + 16 + 32)


def test_a_finished_data_set_is_left_alone(folders, monkeypatch):
    monkeypatch.setattr(motion, "encode", lambda _: pytest.fail("written again"))
    assert write_motion("drift", folders["drift"], **SMALL) == folders["drift"]


def test_an_interrupted_run_is_taken_up(folders, tmp_path, monkeypatch):
    written = []

    def tired(frames):
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(frames)
        return encode(frames)

    monkeypatch.setattr(motion, "encode", tired)
    with pytest.raises(KeyboardInterrupt):
        write_motion("drift", tmp_path / "drift", **SMALL)
    assert (tmp_path / "drift" / UNFINISHED_FILE).is_file()
    assert not (tmp_path / "drift" / SPEC_FILE).exists()

    monkeypatch.setattr(motion, "encode", lambda frames: written.append(frames) or encode(frames))
    write_motion("drift", tmp_path / "drift", **SMALL)
    assert len(written) == 80
    for path in folders["drift"].rglob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "drift" / path.relative_to(folders["drift"])).read_bytes()
    assert not (tmp_path / "drift" / UNFINISHED_FILE).exists()


def test_a_lost_file_is_written_again(folders, tmp_path):
    folder = write_motion("drift", tmp_path / "drift", **SMALL)
    lost = folder / "test" / "03.mp4"
    content = lost.read_bytes()
    lost.unlink()
    write_motion("drift", folder, **SMALL)
    assert lost.read_bytes() == content == (folders["drift"] / "test" / "03.mp4").read_bytes()


@pytest.mark.parametrize("arguments", [{"seed": 1}, {"train": 64}, {"num_frames": 4}, {"size": 48}])
def test_other_arguments_need_another_folder(folders, arguments):
    with pytest.raises(ValueError, match="holds a data set made with other arguments"):
        write_motion("drift", folders["drift"], **(SMALL | arguments))


def test_other_tasks_need_another_folder(folders):
    with pytest.raises(ValueError, match="made with other arguments"):
        write_motion("lattice", folders["drift"], **SMALL)


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not an empty folder"):
        write_motion("drift", tmp_path, **SMALL)
    with pytest.raises(ValueError, match="is not an empty folder"):
        write_motion("drift", tmp_path / "thesis.txt", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_preview(folders):
    from PIL import Image

    for task, rows in (("direction", 8), ("drift", 4), ("lattice", 8)):
        sheet = np.asarray(Image.open(folders[task] / "preview.png"))
        assert sheet.shape == (22 + rows * 100, 150 + 8 * 100, 3)
        sample = manifest_of(folders[task], "train").samples[2 if task == "lattice" else 1]
        shown = sheet[22 + 100 : 22 + 196, 150 : 150 + 96]  # second row, first frame, enlarged threefold
        assert np.array_equal(shown[::3, ::3], frames_of(sample)[0])
        assert sheet[22:, :140].min() < 50  # and labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "jumping"}, "task='jumping' is unknown; allowed are 'direction', 'drift', 'lattice'"),
        ({"train": 100}, "train=100: needs a positive multiple of 16.*the nearest is 96"),
        ({"val": 0}, "val=0: needs a positive multiple of 16.*the nearest is 16"),
        ({"test": -16}, "test=-16"),
        ({"num_frames": 1}, "num_frames=1"),
        ({"size": 36}, "size=36: needs a multiple of 8, at least 16; the nearest is 32"),
        ({"size": 8}, "size=8"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_nonsense_is_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_motion(**({"task": "lattice", "output": tmp_path / "out"} | SMALL | arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", MOTION_TASKS)
def test_the_command(task, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", [TOOL, f"--task={task}", f"--output={output}", *["--train=16", "--val=16", "--test=16"]]
    )
    runpy.run_path(TOOL, run_name="__main__")
    assert f"{output}: clips, train.csv" in capsys.readouterr().out
    assert len(list(output.rglob("*.mp4"))) == 48


def test_the_command_ends_in_one_line_where_the_folder_holds_something_else(folders, monkeypatch, capsys):
    arguments = ["--task=direction", f"--output={folders['direction']}", "--train=16", "--val=16", "--test=16"]
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(TOOL, run_name="__main__")
    # a text as exit code is what Python prints to stderr before it ends with 1
    assert str(ended.value.code).startswith(f"error: {folders['direction']}")
    assert "\n" not in str(ended.value.code)
    assert capsys.readouterr().out == ""


def test_the_command_explains_every_option(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [TOOL, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(TOOL, run_name="__main__")
    text = " ".join(capsys.readouterr().out.split())
    for explained in (
        "--task {direction,drift,lattice} ``direction``: eight classes",
        "--output OUTPUT Folder for",
        "--seed SEED Seed of everything random",
        "--train TRAIN Training clips; a multiple of 8",
        "--val VAL Validation clips",
        "--test TEST Test clips",
        "--num_frames NUM_FRAMES Frames of a clip",
        "--size SIZE Side of the frames, in pixels",
        "--progress {true,false} Whether to show",
    ):
        assert explained in text
