"""Checkpoints that processes write together: bitwise for the same processes, usable for any."""

import json
from dataclasses import replace
from pathlib import Path

import parallel_training as script
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_runs import finish, start, tiny_run

from timesformer_plus.engine import sharded_state
from timesformer_plus.engine.atomic_folder import damage
from timesformer_plus.engine.config import EmaConfig
from timesformer_plus.engine.training_state import newest_state, pack_optimizer, save_state

NAMES = ("adamw", "sgd", "lamb")


@pytest.fixture(autouse=True)
def _no_state_left():
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of two processes, one of a single process, and what two processes made of them."""
    output = tmp_path_factory.mktemp("sharded")
    training = script.begin()
    script.train(training, 0, 3)
    optimizer, record = pack_optimizer(training.optimizer, training.network)
    groups = {"model": training.network.state_dict(), "optimizer": optimizer, "ema": training.ema.module.state_dict()}
    save_state(output / "whole", 3, groups, {"optimizer": record, "epoch": 1}, keep=1)
    alone = script.train(training, 3, 5, accumulate=1)
    kept = script.launch(2, output, "fsdp:save", "fsdp:load", "fsdp:load_whole", "fsdp:full_disk")
    return output, alone, {name.removeprefix("fsdp:"): result for name, result in kept.items()}


def same(a, b, tolerance):
    for pair in zip(a["losses"], b["losses"], strict=True):
        assert pair[0] == pytest.approx(pair[1], rel=0, abs=tolerance)
    for group in ("weights", "ema"):
        for name, value in b[group].items():
            torch.testing.assert_close(a[group][name], value, rtol=0, atol=tolerance)


def test_same_processes_go_on_bitwise(written):
    _, _, two = written
    for name in NAMES:
        same(two["load"][name], two["save"][name], tolerance=0)


def test_one_process_reads_the_shards_of_two(written):
    output, _, two = written
    for name, result in script.case_load(output).items():
        same(result, two["save"][name], tolerance=1e-12)


@pytest.mark.slow  # three processes on two cores, twice; one process reading the shards of two is in the suite
def test_three_processes_read_the_shards_of_two_sharded_or_not(written, tmp_path):
    output, _, two = written
    for name in NAMES:
        (tmp_path / name).symlink_to(output / name)
    for result in script.launch(3, tmp_path, "fsdp:load", "ddp:load").values():
        for name in NAMES:
            same(result[name], two["save"][name], tolerance=1e-12)


def test_sharded_run_reads_what_one_process_has_written(written):
    _, alone, two = written
    same(two["load_whole"], alone, tolerance=1e-12)


def test_no_pickles_and_a_manifest(written):
    output, _, _ = written
    checkpoint = output / "adamw" / "step-00000003"
    assert [path.name.partition("-")[0] for path in sorted(checkpoint.iterdir())] == [
        "manifest.json", "shard", "shard", "state.json"
    ]  # fmt: skip
    assert {path.suffix for path in checkpoint.iterdir()} == {".json", ".safetensors"}
    assert damage(checkpoint) is None
    assert newest_state(checkpoint.parent) == (checkpoint, [])
    assert sharded_state.is_sharded(checkpoint)
    assert not sharded_state.is_sharded(output / "whole" / "step-00000003")


def test_a_process_that_cannot_write_leaves_the_older_checkpoint_and_all_say_so(written):
    output, _, two = written
    kept = two["full_disk"]
    assert kept["left"] == ["step-00000001"]
    assert kept["record"] == {"good": True}
    assert len(kept["said"]) == 2
    for said in kept["said"]:
        place = (output / "full" / "step-00000001").resolve()
        assert said.startswith(f"{place} cannot be written (process 1: OSError: No space left on device); what was")
        assert "\n" not in said


@pytest.mark.parametrize("what", ["flip", "delete", "truncate"])
def test_damaged_shard_is_named_and_not_loaded(what, written, tmp_path):
    output, _, _ = written
    checkpoint = tmp_path / "step-00000003"
    checkpoint.mkdir()
    for file in (output / "adamw" / "step-00000003").iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    shard = sorted(checkpoint.glob("shard-*"))[1]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    if what == "delete":
        shard.unlink()
    else:
        shard.write_bytes(content if what == "flip" else content[:-1])
    with pytest.raises(ValueError, match=shard.name):
        sharded_state.load(checkpoint, script.begin())


def test_checkpoint_of_another_model_or_optimizer_is_refused(written):
    output, _, _ = written
    checkpoint = output / "adamw" / "step-00000003"
    with pytest.raises(ValueError, match=r"another model: only the checkpoint has ema/blocks\.1\."):
        sharded_state.load(checkpoint, script.begin(network=script.tiny_network(depth=1)))
    with pytest.raises(ValueError, match=r"differently made are .*float64"):
        sharded_state.load(checkpoint, script.begin(dtype=torch.float32))
    with pytest.raises(ValueError, match="of the optimizer AdamW, not of SGD"):
        sharded_state.load(checkpoint, script.begin(optimizer="sgd"))


def test_one_process_writes_and_reads_the_same_format(tmp_path):
    training = script.begin()
    script.train(training, 0, 2)
    for step in (1, 2):
        path = sharded_state.save(tmp_path, step, training, {"step": step}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] == ["step-00000002"]
    again = script.begin()
    assert sharded_state.load(path, again) == (2, {"step": 2})
    same(script.train(again, 2, 3), script.train(training, 2, 3), tolerance=0)


def test_record_that_json_does_not_have_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="has to be JSON"):
        sharded_state.save(tmp_path, 1, script.begin(), {"what": object()}, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_state_json_says_how_the_tensors_were_shared_out(written):
    output, _, _ = written
    content = json.loads((output / "sgd" / "step-00000003" / "state.json").read_text())["record"]
    assert set(map(tuple, content["shards"].values())) == {("shard 0",)}


@pytest.mark.slow
def test_sharded_run_stopped_goes_on_bitwise_and_on_one_process(direction, tmp_path, monkeypatch):
    whole = tiny_run(
        tmp_path / "whole", direction, precision="fp64", accumulate=2, clip_grad=1.0, ema=EmaConfig(decay=0.9)
    )
    stopped = [replace(whole, output=tmp_path / name) for name in ("two", "one")]
    for name, value in script.BY_BLOCK.items():
        monkeypatch.setenv(name, value)
    code, text = finish(start(whole, processes=2))
    assert code == 0, text
    log = (whole.output / "metrics.jsonl").read_text()
    assert "2 processes, FSDP2 on gloo, 8 clips an update = 2 x 2 micro-batches x 2" in log
    monkeypatch.setenv("STOP_AT", "3")
    for config in stopped:
        code, text = finish(start(config, processes=2, script=Path(__file__).with_name("stop_at.py")))
        assert code != 0, text
        assert sharded_state.is_sharded(newest_state(config.output / "checkpoints")[0])
    for config, processes, tolerance in zip(stopped, (2, 0), (0, 1e-12), strict=True):
        if not processes:
            for name in script.BY_BLOCK:
                monkeypatch.delenv(name)
        code, text = finish(start(config, processes=processes))
        assert code == 0, text
        before, now = (load_file(run.output / "last" / "model.safetensors") for run in (whole, config))
        for name, value in before.items():
            torch.testing.assert_close(now[name], value, rtol=0, atol=tolerance, msg=name)
        assert losses(config) == pytest.approx(losses(whole), rel=0, abs=tolerance)


def losses(run):
    lines = map(json.loads, (run.output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "step"]
