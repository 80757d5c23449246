"""A training of seconds on ``Parallel`` alone, and its cases for several processes.

Started by torchrun with a folder and cases such as ``fsdp:save``.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from timm.optim import create_optimizer_v2
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

import timesformer_plus.models  # noqa: F401  registers the models with timm
from timesformer_plus.engine import sharded_state
from timesformer_plus.engine.parallel import Parallel

CLASSES = 5
BATCH = 12  # clips: shared out evenly among 1, 2 and 3 processes with 1 or 2 micro-batches
BY_BLOCK = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "SpaceTimeBlock",
}


def launch(processes, output, *cases):
    """Run cases (``ddp:NAME``, ``fsdp:NAME``) in processes; returns what the main one has kept, by case."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(processes), __file__, str(output), *cases),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(output / "kept.pt")


class Training(NamedTuple):
    """All that ``sharded_state`` wants, and the rest."""

    parallel: Parallel
    model: torch.nn.Module
    network: torch.nn.Module
    optimizer: object
    ema: object


def tiny_network(*, depth=2, dtype=torch.float64):
    torch.manual_seed(0)
    return timm.create_model(
        "timesformer_test_patch8_32", pattern="ts", num_classes=CLASSES, num_frames=2, depth=depth, embed_dim=16,
        num_heads=2,
    ).to(dtype)  # fmt: skip


def begin(*, optimizer="adamw", precision="no", network=None, dtype=torch.float64):
    AcceleratorState._reset_state()
    parallel = Parallel(Accelerator(cpu=True, mixed_precision=precision))
    network = network or tiny_network(dtype=dtype)
    made = create_optimizer_v2(network, opt=optimizer, lr=1e-3, weight_decay=0.05, momentum=0.9, layer_decay=0.8)
    model, made = parallel.prepare(network, made)
    return Training(parallel, model, network, made, parallel.average(model, decay=0.9, warmup=True))


def batch(step, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    video = torch.randn(BATCH, 3, 2, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    return video, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def forward(training, step, micro=0, accumulate=1):
    """The loss of this process's share of a micro-batch."""
    processes = training.parallel.accelerator.num_processes
    size = BATCH // (processes * accumulate)
    first = (micro * processes + training.parallel.accelerator.process_index) * size
    video, target = batch(step, next(training.network.parameters()).dtype)
    return cross_entropy(training.model(video[first : first + size]), target[first : first + size]) / accumulate


def update(training, step, *, accumulate=2, max_norm=0.5):
    """One update: its loss, the norm of its gradient."""
    parallel, total = training.parallel, 0
    for micro in range(accumulate):
        with contextlib.nullcontext() if micro == accumulate - 1 else parallel.no_sync(training.model):
            loss = forward(training, step, micro, accumulate)
            parallel.backward(loss)
        total += loss.detach()
    loss = parallel.accelerator.reduce(total, reduction="mean").item()
    norm = parallel.clip_grad_norm(training.model, max_norm)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.ema.update(training.network, step=step)
    return loss, norm


def outcome(training, losses):
    weights = training.parallel.full_weights(training.model)
    average = training.parallel.full_weights(training.ema.module)
    return {"losses": losses, "weights": weights, "ema": average}


def train(training, start, stop, **how):
    return outcome(training, [update(training, step, **how) for step in range(start, stop)])


# --- cases: each runs in every process, and returns what the main one is to keep


def case_twenty_updates(_):
    training = begin()
    shards = [p for p in training.network.parameters() if isinstance(p, DTensor)]
    kept = train(training, 0, 20)
    plain = training.parallel.plain(training.ema.module)
    with torch.no_grad():
        kept["logits"] = plain.eval()(batch(0)[0])
    kept["sharded"] = len(shards) if training.parallel.is_sharded else 0
    kept["local"] = sum(p.to_local().numel() for p in shards) / sum(p.numel() for p in training.network.parameters())
    with training.parallel.no_sync(training.model):
        training.parallel.backward(forward(training, 0))
    # what FSDP2 has not exchanged yet is not a gradient of the parameters yet
    kept["exchanged unasked"] = sum(p.grad is not None for p in training.network.parameters())
    kept["described"] = training.parallel.describe(batch_size=BATCH, accumulate=2)
    kept["moments"] = all(isinstance(s["exp_avg"], DTensor) for s in training.optimizer.state.values())
    return kept


def case_as_accelerate_does(_):
    """The calls that the trainer made before there was ``Parallel``."""
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True)
    network = tiny_network(dtype=torch.float32)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    model, optimizer = accelerator.prepare(network, optimizer)
    losses = []
    for step in range(4):
        total = torch.zeros(())
        for micro in range(2):
            with contextlib.nullcontext() if micro else accelerator.no_sync(model):
                size = BATCH // (accelerator.num_processes * 2)
                first = (micro * accelerator.num_processes + accelerator.process_index) * size
                video, target = batch(step, torch.float32)
                loss = cross_entropy(model(video[first : first + size]), target[first : first + size]) / 2
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(model.parameters(), 0.5).item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((accelerator.reduce(total, reduction="mean").item(), norm))
    return {"losses": losses, "weights": network.state_dict()}


def case_four_updates_in_float32(_):
    return train(begin(dtype=torch.float32), 0, 4)


def case_save(output):
    """Five updates with a checkpoint after the third, for several optimizers."""
    kept = {}
    for name in ("adamw", "sgd", "lamb"):
        training = begin(optimizer=name)
        train(training, 0, 3, accumulate=1)
        sharded_state.save(output / name, 3, training, {"epoch": 1}, keep=1)
        kept[name] = train(training, 3, 5, accumulate=1)
    return kept


def case_load(output):
    kept = {}
    for name in ("adamw", "sgd", "lamb"):
        training = begin(optimizer=name, network=tiny_network().apply(_forget))
        step, record = sharded_state.load(output / name / "step-00000003", training)
        assert (step, record) == (3, {"epoch": 1})
        kept[name] = train(training, step, 5, accumulate=1)
    return kept


def _forget(module):
    for parameter in module.parameters(recurse=False):
        torch.nn.init.constant_(parameter, 0.5)


def case_load_whole(output):
    training = begin(network=tiny_network().apply(_forget))
    step, _ = sharded_state.load(output / "whole" / "step-00000003", training)
    return train(training, step, 5, accumulate=1)


def case_settings(_):
    """Two updates under each of the settings that accelerate has for FSDP2."""
    changes = {
        "no wrap": {"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"},
        "kept after forward": {"FSDP_RESHARD_AFTER_FORWARD": "false"},
        "loaded by one": {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
    }
    kept = {}
    for name, change in changes.items():
        os.environ.update(BY_BLOCK | change)
        kept[name] = train(begin(), 0, 2)
        for key in change.keys() - BY_BLOCK.keys():
            del os.environ[key]
    return kept


def case_networks(_):
    """Two updates of networks that are trained in another way."""
    frozen = tiny_network().requires_grad_(False)
    frozen.blocks[1].requires_grad_(True)
    frozen.head.requires_grad_(True)
    checkpointing = tiny_network()
    checkpointing.set_grad_checkpointing(True)
    outputs = tiny_network()
    outputs.set_grad_checkpointing(("norm", "act"))
    networks = {"frozen": frozen, "checkpointing": checkpointing, "outputs": outputs}
    return {name: train(begin(network=network), 0, 2) for name, network in networks.items()}


def case_half(_):
    training = begin(precision="bf16", dtype=torch.float32)
    kept = train(training, 0, 4)
    kept["types"] = {str(p.dtype) for p in training.network.parameters()}
    return kept


def case_optimizers(_):
    """Three updates with every optimizer that may update shards, by the name of its class."""
    names = "adabelief adadelta adam adamax adamw adamwlegacy adan adopt lamb lars lion madgrad nadam nadamw radam"
    kept = {}
    for name in (*names.split(), "rmsproptf", "sgd", "sgdw"):
        training = begin(optimizer=name)
        kept[type(training.optimizer.optimizer).__name__] = train(training, 0, 3)
    return kept


def case_rehearsal(_):
    """Two updates after the third, in one go and by a new start with a rehearsal."""
    whole = begin(dtype=torch.float32)
    train(whole, 0, 3)
    state = {k: v.clone() for k, v in whole.network.state_dict().items()}
    gradients = {}
    for name, training in {"one go": whole, "new start": begin(dtype=torch.float32)}.items():
        if name == "new start":
            training.network.load_state_dict(state)
            training.parallel.rehearse(training.model, lambda training=training: forward(training, 99))
            assert all(p.grad is None for p in training.network.parameters())
            assert all(torch.equal(v, state[k]) for k, v in training.network.state_dict().items())
        training.parallel.backward(forward(training, 3))
        gradients[name] = {k: p.grad for k, p in training.network.named_parameters()}
    return gradients


def case_full_disk(output):
    """One process cannot write its shards: all say so, and the checkpoint of before is still there."""
    training = begin()
    target = output / "full" / "step-00000001"
    sharded_state.save(target.parent, 1, training, {"good": True}, keep=1)
    if PartialState().process_index == 1:
        sharded_state.save_shards = _no_space
    try:
        sharded_state.save(target.parent, 1, training, {"good": False}, keep=1)
    except OSError as error:
        said = str(error)
    finally:
        sharded_state.save_shards = SAVE_SHARDS
    everyone = [None] * PartialState().num_processes
    torch.distributed.all_gather_object(everyone, said)
    _, record = sharded_state.load(target, training)
    return {"said": everyone, "record": record, "left": sorted(p.name for p in target.parent.iterdir())}


SAVE_SHARDS = sharded_state.save_shards


def _no_space(tensors, *, storage_writer, no_dist):
    def write_data(*_):
        raise OSError(28, "No space left on device")

    storage_writer.write_data = write_data
    return SAVE_SHARDS(tensors, storage_writer=storage_writer, no_dist=no_dist)


def run_case(case, output):
    way, _, name = case.partition(":")
    for variable in BY_BLOCK:
        os.environ.pop(variable, None)
    os.environ.update(BY_BLOCK if way == "fsdp" else {})
    PartialState().distributed_type = DistributedType.MULTI_CPU  # what it was before a case of FSDP2
    return globals()[f"case_{name}"](output)


def main(output, *cases):
    PartialState(cpu=True)
    torch.set_num_threads(1)
    kept = {case: run_case(case, output) for case in cases}
    if PartialState().is_main_process:
        torch.save(kept, output / "kept.pt")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
