"""A training run of seconds, and how to start one in processes of its own."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from timesformer_plus.engine.config import (
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    dump_config,
)
from timesformer_plus.engine.data_config import AugmentConfig, DataConfig

TINY = ModelConfig(name="timesformer_test_patch8_32", args={"depth": 1, "embed_dim": 32, "num_heads": 2})


def tiny_run(output, root, **changes):
    """A run of four updates of 8 clips."""
    config = TrainConfig(
        output=Path(output),
        data=DataConfig(root=Path(root)),
        model=TINY,
        optim=OptimConfig(lr=2e-3),
        evaluation=EvaluationConfig(num_clips=2),
        epochs=2,
        batch_size=8,
        threads=1,
        trackers=(),
        progress=False,
    )
    data = replace(config.data, **changes.pop("data", {}))
    return replace(config, data=data, **changes)


def full_run(output, root, **changes):
    """Three epochs of two updates, of 8 and of what is left, with everything on that is random or keeps a state."""
    model = replace(TINY, args={**TINY.args, "drop_path_rate": 0.2, "proj_drop_rate": 0.1, "attn_drop_rate": 0.1})
    config = tiny_run(
        output,
        root,
        model=model,
        epochs=3,
        batch_size=8,
        accumulate=2,
        drop_last=False,
        clip_grad=1.0,
        label_smoothing=0.1,
        optim=OptimConfig(lr=2e-3, layer_decay=0.8),
        ema=EmaConfig(decay=0.9, warmup=True),
        augment=AugmentConfig(
            hflip=0.5, scale=(0.5, 1.0), rand_augment="m9-n2", erasing=0.5, mixup=0.8, cutmix=1.0, repeats=1
        ),
        evaluation=EvaluationConfig(num_clips=1),
        data={"train": "eleven.csv", "allow_empty_classes": True},
    )
    data = replace(config.data, **changes.pop("data", {}))
    return replace(config, data=data, **changes)


def start(config, *, processes=0, script=None, **options):
    """Start a run as users do: its own process, or with ``processes`` torchrun; returns the ``Popen``."""
    file = config.output.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_config(config))
    what = [str(script)] if script else ["-m", "timesformer_plus.engine.train"]
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*launcher, *what, "--config", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **options,
    )


def finish(process, timeout=120):
    """Wait for a started run; returns its exit code and what it printed."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"still running after {timeout} s, having printed: {output}") from None
    return process.returncode, output
