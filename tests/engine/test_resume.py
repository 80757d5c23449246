"""A run that was stopped or killed and taken up again is the run that was not."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import finish, full_run, start

from timesformer_plus.engine.checkpoint import load_checkpoint
from timesformer_plus.engine.config import CheckpointConfig
from timesformer_plus.engine.display import Display
from timesformer_plus.engine.resume import differences
from timesformer_plus.engine.train import Preempted, train
from timesformer_plus.engine.trainer import Trainer

STOPS = Path(__file__).with_name("stop_at.py")
TIMES = ("train_seconds", "train_clips_per_second", "clips_per_second", "data_wait")


@pytest.fixture(scope="module")
def uninterrupted(eleven, tmp_path_factory):
    config = full_run(tmp_path_factory.mktemp("uninterrupted") / "run", eleven)
    train(config)
    return config


def lines(folder):
    """metrics.jsonl without what is measured by the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found if line["event"] != "data"]


def result(folder):
    return {k: v for k, v in json.loads((folder / "result.json").read_text()).items() if k not in TIMES}


def assert_same_run(folder, reference):
    """Bitwise: every loss, rate and norm, every score, every weight, every logit."""
    assert lines(folder) == lines(reference)
    assert result(folder) == result(reference)
    for name in ("best", "last"):
        ours, theirs = (load_file(run / name / "model.safetensors") for run in (folder, reference))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    for split in ("val", "test"):
        ours, theirs = (run / "predictions" / f"{split}.npz" for run in (folder, reference))
        assert ours.read_bytes() == theirs.read_bytes()
    assert not (folder / "checkpoints").exists()


def stop_during(monkeypatch, update):
    """Have a SIGTERM arrive in the middle of an update."""
    before = Trainer._clips

    def clips(self):
        if self.step == update - 1:
            signal.raise_signal(signal.SIGTERM)
        return before(self)

    monkeypatch.setattr(Trainer, "_clips", clips)


def stopped(config, monkeypatch, update):
    with monkeypatch.context() as patch:
        stop_during(patch, update)
        with pytest.raises(Preempted, match=f"stopped after update {update}, ") as stop:
            train(config)
    assert stop.value.signal == signal.SIGTERM
    assert json.loads((config.output / "status.json").read_text()) == {
        "status": "preempted", "step": update, "signal": signal.SIGTERM
    }  # fmt: skip
    return config


@pytest.mark.parametrize("update", [1, 4])
def test_stopped_run_goes_on_bitwise(update, uninterrupted, tmp_path, monkeypatch):
    # in the middle of an epoch, and at its end, before its evaluation
    config = stopped(replace(uninterrupted, output=tmp_path / "run"), monkeypatch, update)
    assert not (config.output / "result.json").exists()
    train(config)
    assert_same_run(config.output, uninterrupted.output)
    (again,) = json.loads((config.output / "environment.json").read_text())["resumed"]
    assert again["step"] == update


@pytest.mark.parametrize(("split", "update"), [("val", 2), ("test", 6)])
def test_stopped_in_an_evaluation(split, update, uninterrupted, tmp_path, monkeypatch):
    config = replace(uninterrupted, output=tmp_path / "run")
    seen = Display.evaluating
    with monkeypatch.context() as patch:
        patch.setattr(
            Display,
            "evaluating",
            lambda self, name: (name == split and signal.raise_signal(signal.SIGTERM), seen(self, name))[1],
        )
        with pytest.raises(Preempted, match=f"stopped after update {update}, "):
            train(config)
    train(config)
    assert_same_run(config.output, uninterrupted.output)


def test_repeated_augmentation_goes_on_too(eleven, tmp_path, monkeypatch):
    config = full_run(tmp_path / "whole", eleven, epochs=1)
    config = replace(config, augment=replace(config.augment, repeats=2))
    train(config)
    # eleven videos, twice each, four of them a batch
    assert [line["step"] for line in steps(config.output)] == [1, 2, 3]
    train(stopped(replace(config, output=tmp_path / "run"), monkeypatch, 2))
    assert_same_run(tmp_path / "run", config.output)


def test_workers_change_nothing(uninterrupted, tmp_path, monkeypatch):
    data = replace(uninterrupted.data, num_workers=2)
    config = stopped(replace(uninterrupted, output=tmp_path / "run", data=data), monkeypatch, 3)
    train(replace(config, data=uninterrupted.data))
    assert_same_run(config.output, uninterrupted.output)


@pytest.fixture(scope="module")
def uninterrupted_two(eleven, tmp_path_factory):
    # float64: one process repeats two to 1e-12
    config = full_run(tmp_path_factory.mktemp("uninterrupted_two") / "run", eleven, world_size=2, precision="fp64")
    code, text = finish(start(config, processes=2))
    assert code == 0, text
    return config


# three runs of two processes; the suite has a bitwise going on of two in test_sharded, a signal to two in test_faults
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_stop_together_and_go_on_bitwise(rank, uninterrupted_two, tmp_path, monkeypatch):
    whole = uninterrupted_two
    config = replace(whole, output=tmp_path / "run", data=replace(whole.data, num_workers=rank))
    monkeypatch.setenv("STOP_AT", "3")
    monkeypatch.setenv("STOP_RANK", str(rank))
    code, text = finish(start(config, processes=2, script=STOPS))
    assert code != 0
    assert text.count("stopped after update 3, which ") == 1, text
    # the same signal for all, whoever got it
    status = json.loads((config.output / "status.json").read_text())
    assert (status["status"], status["signal"]) == ("preempted", signal.SIGTERM)
    assert [path.name for path in sorted((config.output / "checkpoints").glob("step-*"))][-1] == "step-00000003"
    shutil.copytree(config.output, tmp_path / "alone")
    code, text = finish(start(config, processes=2))
    assert code == 0, text
    assert_same_run(config.output, whole.output)
    # and by one process, with the micro-batches of two
    alone = replace(config, output=tmp_path / "alone", world_size=1, accumulate=1)
    train(alone)
    for ours, theirs in zip(steps(alone.output), steps(whole.output), strict=True):
        assert ours["step"] == theirs["step"]
        for key in ("loss", "lr", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-12, abs=1e-12)
    notes = [note for line in data_lines(alone.output) for note in line["report"]]
    assert "world_size was 2, now 1: the same run up to rounding, not bitwise" in notes


def steps(folder):
    return [line for line in lines(folder) if line["event"] == "step"]


def data_lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["event"] == "data"]


def test_a_run_of_something_else_is_not_gone_on_with(uninterrupted, eleven, tmp_path, monkeypatch):
    config = stopped(replace(uninterrupted, output=tmp_path / "run"), monkeypatch, 3)
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}
    other = replace(config, batch_size=4, accumulate=1, optim=replace(config.optim, lr=1e-3))
    with pytest.raises(ValueError, match=r"another configuration: batch_size 8, now 4; optim.lr 0.002, now 0.001. Go"):
        train(other)
    with pytest.raises(ValueError, match=r"holds an unfinished run; go on with it \(resume=true\), choose"):
        train(replace(config, resume=False))
    data = replace(config.data, train="ten.csv")
    (eleven / "ten.csv").write_text("".join((eleven / "eleven.csv").read_text().splitlines(keepends=True)[:11]))
    with pytest.raises(ValueError, match=r"unfinished run whose videos or labels were others \(train\); give it"):
        train(replace(config, data=data))
    assert {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()} == before
    # what has no say in the numbers may change: it is the same run
    train(replace(config, threads=1, timeout=60.0, checkpoint=CheckpointConfig(every=1, keep=1)))
    assert_same_run(config.output, uninterrupted.output)


@pytest.mark.parametrize("text", ["", "- a list\n", "a: [\n"])
def test_configuration_that_no_run_wrote(text, uninterrupted, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml is not what a run writes; choose another output"):
        train(replace(uninterrupted, output=tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "environment.json", "predictions/other.npz", "checkpoints/holiday.jpg"]
)
def test_files_of_somebody_else_are_left_alone(name, uninterrupted, tmp_path):
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(
        ValueError, match=r"is there, but no config.yaml of a run: it will not be replaced; move it away"
    ):
        train(replace(uninterrupted, output=tmp_path / "run"))
    assert file.read_text() == "mine"


def test_what_helps_where_memory_runs_out_goes_on_with_the_run(uninterrupted, tmp_path, monkeypatch):
    config = stopped(replace(uninterrupted, output=tmp_path / "run"), monkeypatch, 3)
    frugal = replace(config, accumulate=4, grad_checkpointing=True)
    train(replace(frugal, evaluation=replace(config.evaluation, batch_size=2)))
    for ours, theirs in zip(steps(config.output), steps(uninterrupted.output), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    notes = [note for line in data_lines(config.output) for note in line["report"]]
    assert "accumulate was 2, now 4: the same run up to rounding, not bitwise" in notes


def test_what_makes_a_library_add_up_otherwise_is_told(uninterrupted, tmp_path, monkeypatch):
    # here MKL has been started, and does not look at it any more; a process of its own would
    config = stopped(replace(uninterrupted, output=tmp_path / "run"), monkeypatch, 3)
    monkeypatch.setenv("MKL_CBWR", "AUTO,STRICT")
    train(config)
    notes = [note for line in data_lines(config.output) for note in line["report"]]
    assert "mkl_cbwr was unset, now AUTO,STRICT: the same run up to rounding, not bitwise" in notes


def test_best_of_an_epoch_after_the_checkpoint_is_noticed_before_training(uninterrupted, tmp_path, monkeypatch):
    config = stopped(replace(uninterrupted, output=tmp_path / "run"), monkeypatch, 3)
    path = config.output / "best" / "config.json"
    assert json.loads(path.read_text())["training"]["epoch"] == 0
    shutil.rmtree(config.output / "best")
    with pytest.raises(
        ValueError, match=r"best is not the model of epoch 1, the best so far; begin again with overwrite"
    ):
        train(config)


def test_overwrite_begins_anew(uninterrupted, tmp_path, monkeypatch):
    config = stopped(replace(uninterrupted, output=tmp_path / "run", seed=1), monkeypatch, 3)
    train(replace(uninterrupted, output=config.output, overwrite=True))
    assert_same_run(config.output, uninterrupted.output)
    assert "resumed" not in json.loads((config.output / "environment.json").read_text())


def test_damaged_checkpoint_is_named_and_the_one_before_is_taken(uninterrupted, tmp_path, monkeypatch):
    config = replace(uninterrupted, output=tmp_path / "run", checkpoint=CheckpointConfig(every=1, keep=2))
    stopped(config, monkeypatch, 4)
    older, newer = sorted((config.output / "checkpoints").glob("step-*"))
    (newer / "model.safetensors").write_bytes((newer / "model.safetensors").read_bytes()[:-1])
    shutil.copytree(config.output, tmp_path / "both")
    train(config)
    assert_same_run(config.output, uninterrupted.output)
    (note,) = [n for line in data_lines(config.output) for n in line["report"] if n.startswith("passed over: ")]
    assert f"{newer.name}" in note
    assert "model.safetensors" in note
    other = replace(config, output=tmp_path / "both")
    (other.output / "checkpoints" / older.name / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint of it is whole \(.*step-.*step-.*begin again with"):
        train(other)


def test_two_trainings_do_not_share_a_folder(uninterrupted, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(ValueError, match="another training is at work in output="),
    ):
        train(replace(uninterrupted, output=tmp_path / "run"))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock"}


def test_differences_know_defaults_and_what_is_free():
    assert differences({"optim": {"lr": 0.1, "args": {}}}, {"optim": {"lr": 0.1, "args": {"eps": 1}}}) == [
        "optim.args.eps None, now 1"
    ]
    assert differences({}, {"drop_last": True, "world_size": 4, "data": {"num_workers": 3}}) == []
    assert differences({}, {"drop_last": False}) == ["drop_last True, now False"]


def killed_at_random(config, times, chance):
    """Start a run ``times`` times and kill -9 it at a random moment each; returns how many kills hit."""
    # not "fork": a process that has used autograd's threads cannot hand them on, and other tests do use them
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__])
    hits = 0
    for _ in range(times):
        process = context.Process(target=train, args=(config,))
        process.start()
        time.sleep(chance.uniform(0.05, 1.2))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        process.join()
        if (config.output / "result.json").exists():
            break
        for model in ("best", "last"):
            if (config.output / model).exists():
                load_checkpoint(config.output / model)
    return hits


@pytest.mark.parametrize("times", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments(times, eleven, tmp_path):
    # a checkpoint at every update: the writer is where a good part of the kills fall
    config = full_run(tmp_path / "killed", eleven, epochs=25 if times < 100 else 2000)
    config = replace(config, checkpoint=CheckpointConfig(every=1, keep=2))
    assert killed_at_random(config, times, random.Random(0)) >= times // 2
    train(replace(config, overwrite=(config.output / "result.json").exists()))
    whole = replace(config, output=tmp_path / "whole")
    train(whole)
    assert_same_run(config.output, whole.output)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("update", range(2, 7))
def test_every_update_of_one_process(update, workers, uninterrupted, tmp_path, monkeypatch):
    data = replace(uninterrupted.data, num_workers=workers)
    config = stopped(replace(uninterrupted, output=tmp_path / "run", data=data), monkeypatch, update)
    train(config)
    assert_same_run(config.output, uninterrupted.output)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_update_of_two_processes(workers, eleven, tmp_path, monkeypatch):
    whole = full_run(tmp_path / "whole", eleven, world_size=2)
    code, text = finish(start(whole, processes=2))
    assert code == 0, text
    for update in range(2, 7):
        data = replace(whole.data, num_workers=workers)
        config = replace(whole, output=tmp_path / f"run-{update}", data=data)
        monkeypatch.setenv("STOP_AT", str(update))
        code, text = finish(start(config, processes=2, script=STOPS))
        assert f"stopped after update {update}, which " in text, text
        code, text = finish(start(config, processes=2))
        assert code == 0, text
        assert_same_run(config.output, whole.output)
