"""Metrics in trackers: which ones, where, and in one piece when a run is resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from timesformer_plus.engine import trackers
from timesformer_plus.engine.config import ModelConfig, TrainConfig
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.trackers import Choice, Trackers, choose_trackers


def config(folder):
    return TrainConfig(
        output=folder, data=DataConfig(root=Path("videos")), model=ModelConfig(name="m", args={"depth": 3})
    )


def opened(folder, names=("tensorboard",)):
    return Trackers(names, folder, config(folder))


def scalars(folder, tag):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


class Recorder:
    """Stands in for a tracker of accelerate."""

    made: list = []  # noqa: RUF012  emptied by the fixture

    def __init__(self, where, **arguments):
        self.where, self.arguments, self.logged, self.config, self.finished = where, arguments, [], None, False
        self.run = self
        self.step = 0
        Recorder.made.append(self)

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["wandb", "trackio", "tensorboard"])
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, name, Recorder)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    Recorder.made = []
    return Recorder


def test_one_that_is_not_installed_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(ValueError, match=r"'wandb' is not installed; `pip install wandb`, or leave it out"):
        opened(tmp_path / "run", ["auto", "wandb"])
    assert not (tmp_path / "run").exists()


def test_auto_is_tensorboard_where_there_is_one_and_says_so_where_not(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard", "wandb"])
    assert choose_trackers(["auto"]) == Choice(("tensorboard",), "")
    assert choose_trackers(["wandb", "auto", "tensorboard"]).names == ("wandb", "tensorboard")
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    names, note = choose_trackers(["auto"])
    assert names == ()
    assert "pip install tensorboard" in note
    assert choose_trackers([]) == Choice((), "")


def test_numbers_reach_tensorboard_and_the_configuration_with_them(tmp_path):
    made = opened(tmp_path)
    assert made.notes == (f"curves: tensorboard --logdir {tmp_path / 'tensorboard'}",)
    made.start(0)
    made.log({"loss": 2.0, "flag": True, "none": None, "val": {"top1": 0.5, "table": [1, 2], "by": {"a": 1.0}}}, 1)
    made.log({"loss": 1.0}, 2)
    made.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "val/top1"}
    assert scalars(tmp_path, "loss") == {1: 2.0, 2: 1.0}
    (text,) = events.Tensors("config/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "    depth: 3\n" in shown
    assert not [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]  # no second run beside it


def test_a_resumed_run_appends_and_hides_what_came_after_its_checkpoint(tmp_path):
    first = opened(tmp_path)
    first.start(0)
    for step in range(1, 6):
        first.log({"loss": float(step)}, step)
    first.finish()  # killed after update 5, with a checkpoint of update 3
    again = opened(tmp_path)
    again.start(3)
    for step in range(4, 8):
        again.log({"loss": 10.0 * step}, step)
    again.finish()
    assert scalars(tmp_path, "loss") == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0, 5: 50.0, 6: 60.0, 7: 70.0}


def test_a_run_that_begins_anew_shows_nothing_of_the_one_before(tmp_path):
    for value in (1.0, 2.0):
        made = opened(tmp_path)
        made.log({"loss": value}, 1)  # starts by itself
        made.finish()
    assert scalars(tmp_path, "loss") == {1: 2.0}


def test_wandb_goes_on_under_the_same_id(recorder, tmp_path, monkeypatch):
    first = opened(tmp_path / "mine", ["wandb"])
    first.start(0)
    first.finish()
    again = opened(tmp_path / "mine", ["wandb"])
    again.start(3)
    anew = opened(tmp_path / "mine", ["wandb"])
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    anew.start(0)
    made, resumed, other = recorder.made
    assert made.finished
    assert made.where == "timesformer_plus"
    assert made.arguments["name"] == "mine"
    assert made.arguments["dir"] == str(tmp_path / "mine")
    assert made.arguments["resume"] == "allow"
    assert resumed.arguments["id"] == made.arguments["id"]
    assert other.arguments["id"] != made.arguments["id"]
    assert other.where == "thesis"
    assert made.config["model"]["args"] == {"depth": 3}
    assert made.config["output"] == str(tmp_path / "mine")
    assert resumed.config == made.config


def test_wandb_is_not_told_again_what_it_knows(recorder, tmp_path):
    made = opened(tmp_path, ["wandb"])
    made.start(3)
    recorder.made[0].step = 5  # what its server has
    for step in (4, 5, 6):
        made.log({"loss": 1.0}, step)
    assert [step for step, _ in recorder.made[0].logged] == [5, 6]


def test_two_trackers_share_an_id(recorder, tmp_path):
    made = opened(tmp_path / "mine", ["wandb", "trackio"])
    made.start(0)
    wandb, trackio = recorder.made
    assert trackio.arguments["name"] == f"mine-{wandb.arguments['id']}"
    assert json.loads((tmp_path / "mine" / "trackers.json").read_text()) == {"id": wandb.arguments["id"]}


def test_one_that_does_not_start_is_named_with_its_own_words(recorder, monkeypatch, tmp_path):
    def refuse(_):
        raise RuntimeError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(recorder, "start", refuse)
    made = opened(tmp_path, ["wandb"])
    with pytest.raises(ValueError, match=r"wandb does not start \(No API key configured. Use `wandb login`\); log in"):
        made.start(0)
    made.finish()


def test_without_trackers_nothing_is_written(tmp_path):
    made = opened(tmp_path / "run", [])
    made.start(0)
    made.log({"loss": 1.0}, 1)
    made.finish()
    assert made.notes == ()
    assert not (tmp_path / "run").exists()


def test_only_the_main_process_writes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from pathlib import Path
from accelerate import PartialState
from timesformer_plus.engine.config import TrainConfig
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.trackers import Trackers
state = PartialState(cpu=True)
assert state.num_processes == 2
folder = Path(sys.argv[1])
trackers = Trackers(["tensorboard"], folder, TrainConfig(output=folder, data=DataConfig(root=folder)))
trackers.start(0)
trackers.log({"loss": float(state.process_index)}, 1)
trackers.finish()
state.destroy_process_group()
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert scalars(tmp_path / "run", "loss") == {1: 0.0}
