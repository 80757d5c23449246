"""How processes share a training: the numbers are those of one process, whatever the way."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import parallel_training as script
import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from tiny_runs import tiny_run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from timesformer_plus.engine import accelerate_settings
from timesformer_plus.engine.config import dump_config
from timesformer_plus.engine.parallel import SHARDED_OPTIMIZERS, Parallel, network_of
from timesformer_plus.engine.train import train

CONFIGS = Path(__file__).parents[2] / "configs" / "accelerate"

NOWHERE = None  # cases that write nothing


@pytest.fixture(autouse=True)
def _no_state_left():
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


FSDP = ("twenty_updates", "settings", "networks", "half")
DDP = ("twenty_updates", "four_updates_in_float32", "as_accelerate_does", "half")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made of all cases."""
    cases = (*(f"fsdp:{name}" for name in FSDP), *(f"ddp:{name}" for name in DDP))
    return script.launch(2, tmp_path_factory.mktemp("parallel"), *cases)


@pytest.fixture
def fsdp(two):
    return {name: two[f"fsdp:{name}"] for name in FSDP}


@pytest.fixture
def ddp(two):
    return {name: two[f"ddp:{name}"] for name in DDP}


@pytest.fixture(scope="module")
def alone():
    return script.case_twenty_updates(NOWHERE)


def agree(result, reference, tolerance=1e-12):
    for pair in zip(result["losses"], reference["losses"], strict=True):
        assert pair[0] == pytest.approx(pair[1], rel=0, abs=tolerance)
    for group in ("weights", "ema"):
        assert list(result[group]) == list(reference[group])
        for name, value in reference[group].items():
            torch.testing.assert_close(result[group][name], value, rtol=0, atol=tolerance, msg=f"{group} {name}")


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_train_what_one_trains(way, alone, request):
    # in float64, with two micro-batches, layer-wise decay, clipping, and an average of the weights
    two = request.getfixturevalue(way)["twenty_updates"]
    agree(two, alone)
    torch.testing.assert_close(two["logits"], alone["logits"], rtol=0, atol=1e-12)
    assert any(norm > 0.5 for _, norm in alone["losses"])  # it did clip


def test_fsdp2_on_gloo_is_no_plain_ddp(fsdp, ddp):
    kept = fsdp["twenty_updates"]
    assert kept["described"] == "2 processes, FSDP2 on gloo, 12 clips an update = 2 x 2 micro-batches x 3"
    assert kept["sharded"] == len(kept["weights"])
    assert 0.5 <= kept["local"] < 0.55
    assert kept["moments"]
    assert kept["exchanged unasked"] == 0
    other = ddp["twenty_updates"]
    assert other["described"] == "2 processes, DDP on gloo, 12 clips an update = 2 x 2 micro-batches x 3"
    assert other["sharded"] == 0


def test_ddp_and_one_process_stay_bitwise_what_accelerate_does(ddp):
    pairs = [
        (ddp["four_updates_in_float32"], ddp["as_accelerate_does"]),
        (script.case_four_updates_in_float32(NOWHERE), script.case_as_accelerate_does(NOWHERE)),
    ]
    for ours, theirs in pairs:
        assert ours["losses"] == theirs["losses"]
        assert all(torch.equal(ours["weights"][name], value) for name, value in theirs["weights"].items())


def test_settings_of_accelerate_change_no_number(fsdp, alone):
    reference = script.train(script.begin(), 0, 2)
    assert reference["losses"] == alone["losses"][:2]
    assert fsdp["settings"].keys() == {"no wrap", "kept after forward", "loaded by one"}
    for result in fsdp["settings"].values():
        agree(result, reference)


def test_frozen_layers_and_checkpointed_activations_when_sharded(fsdp):
    for name, reference in script.case_networks(NOWHERE).items():
        agree(fsdp["networks"][name], reference)
    before = script.tiny_network().state_dict()
    weights = fsdp["networks"]["frozen"]["weights"]
    assert torch.equal(weights["blocks.0.mlp.fc1.weight"], before["blocks.0.mlp.fc1.weight"])
    assert not torch.equal(weights["blocks.1.mlp.fc1.weight"], before["blocks.1.mlp.fc1.weight"])


def test_half_precision_is_the_same_autocast_whether_sharded_or_not(fsdp, ddp):
    agree(fsdp["half"], ddp["half"], tolerance=1e-6)
    assert fsdp["half"]["types"] == {"torch.float32"}
    full = script.train(script.begin(dtype=torch.float32), 0, 4)
    assert fsdp["half"]["losses"][0][1] != pytest.approx(full["losses"][0][1], rel=1e-5)


def test_resumed_ddp_of_three_processes_adds_up_in_the_order_of_one_that_never_stopped(tmp_path):
    gradients = script.launch(3, tmp_path, "ddp:rehearsal")["ddp:rehearsal"]
    assert len(gradients["one go"]) > 40
    for name, value in gradients["one go"].items():
        assert torch.equal(gradients["new start"][name], value), name


def test_rehearsal_leaves_one_process_alone():
    training = script.begin()
    training.parallel.rehearse(training.model, lambda: pytest.fail("nothing has to be rehearsed"))


def test_full_weights_are_copies():
    training = script.begin()
    weights = training.parallel.full_weights(training.model)
    assert all(torch.equal(weights[name], value) for name, value in training.network.state_dict().items())
    weights["head.weight"].zero_()
    assert training.network.head.weight.any()
    assert training.parallel.plain(training.model) is training.network


def test_network_of_a_wrapped_model():
    network = nn.Linear(2, 2)
    assert network_of(network) is network
    wrapped = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = network
    assert network_of(wrapped) is network


def test_one_process_says_that_there_is_nothing_to_shard(monkeypatch):
    plain = Parallel(Accelerator(cpu=True)).describe(batch_size=7, accumulate=2)
    assert plain == "1 process, 7 clips an update = 1 x 2 micro-batches x 3.5 on average"
    for name, value in script.BY_BLOCK.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state()
    parallel = Parallel(Accelerator(cpu=True))
    assert not parallel.is_sharded
    assert parallel.describe(batch_size=8, accumulate=1).startswith("1 process, nothing to shard, 8 clips")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"FSDP_VERSION": "1"}, "set fsdp_version: 2 (FSDP1 is not supported)"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "grad_checkpointing: true in the recipe"),
        ({"FSDP_IGNORED_MODULES": "blocks.*"}, "set no fsdp_ignored_modules"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "set fsdp_offload_params: false"),
    ],
)
def test_fsdp_settings_that_do_not_fit_are_refused(change, said, monkeypatch):
    for name, value in (script.BY_BLOCK | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="accelerate's FSDP configuration does not fit this engine") as error:
        Parallel(Accelerator(cpu=True))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("asked", "answer", "said"),
    [
        ("is_torch_version", ("<", "2.9"), r"FSDP2 needs torch 2\.9"),
        ("compare_versions", ("accelerate", "<", "1.7"), r"FSDP2 needs accelerate 1\.7"),
    ],
)
def test_fsdp_on_too_old_a_torch_or_accelerate_is_refused(asked, answer, said, monkeypatch):
    for name, value in script.BY_BLOCK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerate_settings, asked, lambda *given: given == answer)
    with pytest.raises(ValueError, match=said):
        Parallel(Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_USE_MEGATRON_LM", "true", "configured for Megatron-LM"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "configured for DeepSpeed"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "`precision: bf16` in the recipe"),
    ],
)
def test_what_else_accelerate_can_be_told_is_refused(variable, value, said, monkeypatch):
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    # DeepSpeed and Megatron are not installed here: accelerate itself would stop
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="accelerate is configured") as error:
        Parallel(accelerator)
    assert said in str(error.value)


def test_accumulation_and_compilation_belong_to_the_recipe(monkeypatch):
    with pytest.raises(ValueError, match="set `accumulate` in the recipe"):
        Parallel(Accelerator(cpu=True, gradient_accumulation_steps=2))
    AcceleratorState._reset_state()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    with pytest.raises(ValueError, match="set `compile` in the recipe"):
        Parallel(Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("name", "said"), [("muon", "optimizer Muon "), ("cadamw", "optimizer AdamWLegacy with caution ")]
)
def test_optimizers_that_are_not_known_to_update_shards_are_refused(name, said):
    parallel = Parallel(Accelerator(cpu=True))
    parallel.is_sharded = True
    network = script.tiny_network(depth=1)
    optimizer = script.create_optimizer_v2(network, opt=name, lr=1e-3)
    with pytest.raises(ValueError, match="use DDP, or one of AdaBelief, ") as error:
        parallel.prepare(network, optimizer)
    assert str(error.value).startswith(said)


def environment_of(name, *words):
    """What `accelerate launch` would set for a file of configs/accelerate/."""
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), *words, "train.py"])
    args, _, _ = _validate_launch_command(args)
    return prepare_multi_gpu_env(args)


@pytest.mark.parametrize("name", ["ddp.yaml", "fsdp2.yaml"])
def test_example_configurations_fit(name, monkeypatch):
    for variable, value in environment_of(name).items():
        if variable.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(variable, value)
    monkeypatch.delenv("FSDP_MIN_NUM_PARAMS", raising=False)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    described = Parallel(accelerator).describe(batch_size=8, accumulate=1)
    plugin = accelerate_settings.read_fsdp(accelerator)
    if name == "ddp.yaml":
        assert plugin is None
        assert described.startswith("1 process, 8 clips")
    else:
        assert described.startswith("1 process, nothing to shard, 8 clips")
        assert plugin.reshard_after_forward
        network = script.tiny_network(depth=1)
        plugin.set_auto_wrap_policy(network)
        assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {type(network.blocks[0])}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp.yaml", "fsdp2.yaml"])
def test_accelerate_launch_with_an_example_configuration(name, direction, tmp_path):
    one, two = (tiny_run(tmp_path / run, direction, precision="fp64", epochs=1) for run in ("one", "two"))
    file = tmp_path / "two.yaml"
    file.write_text(dump_config(replace(two, world_size=2)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / name)),
            *("-m", "timesformer_plus.engine.train", "--config", str(file)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"2 processes, {'FSDP2' if 'fsdp' in name else 'DDP'} on gloo" in (two.output / "metrics.jsonl").read_text()
    train(one)
    losses = [
        [
            line["loss"]
            for line in map(json.loads, (run.output / "metrics.jsonl").read_text().splitlines())
            if "lr" in line
        ]
        for run in (one, two)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0, abs=1e-12)
    assert len(losses[0]) == 2


@pytest.mark.slow
def test_every_allowed_optimizer_updates_shards_as_whole_weights(tmp_path):
    kept = script.launch(2, tmp_path, "ddp:optimizers", "fsdp:optimizers")
    whole, sharded = kept["ddp:optimizers"], kept["fsdp:optimizers"]
    assert whole.keys() == SHARDED_OPTIMIZERS
    for name, reference in whole.items():
        agree(sharded[name], reference)
