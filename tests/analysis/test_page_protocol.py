"""How runs were trained, and on what, as the page says it."""

import json

import pytest
from report_fakes import finish, write_model

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.page_data import read_evidence
from timesformer_plus.analysis.page_protocol import read_protocol
from timesformer_plus.analysis.sweep import plan_runs

MACHINE = {
    "hardware": {
        "cpu": "Xeon",
        "cores": 8,
        "cores_usable": 2,
        "memory_gb": 25.3,
        "gpus": [{"name": "H200", "memory_gb": 139.8}] * 2,
    },
    "numerics": {"mkl_cbwr": "unset", "cudnn_benchmark": False},
    "data": {"train": "dff7b232805d360de7c5", "test": "32b438c8ccdddd7f7268"},
}


@pytest.fixture
def protocol(make_sweep):
    """Read the protocol of two variants; the config and the environment of the second are changed as is given."""

    def read(config=(), environment=()):
        sweep = make_sweep({"s": {"model.pattern": "s"}, "ts": {"model.pattern": "ts"}}, seeds=(0,))
        for run in plan_runs(sweep):
            finish(run, 0.5)
            write_model(run.folder, run.variant)
            if run.variant == "ts":
                for name, changes in (("config.yaml", config), ("environment.json", environment)):
                    content = json.loads((run.folder / name).read_text())
                    (run.folder / name).write_text(json.dumps({**content, **dict(changes)}))
        report = collect(sweep, plan_runs(sweep))
        suite = report.suites[0]
        return read_protocol(report, suite, {row.variant: read_evidence(report, suite, row) for row in suite.rows})

    return read


def test_protocol_tells_data_counts_views_and_model(protocol):
    said = protocol()
    assert said["score"] == "top1 on the test split"
    assert said["weights scored"] == "of the best epoch on the val split"
    assert said["test videos"] == "12 expected, 11 found, 1 missing"
    assert said["views a video"] == "1 x 1 (clips x crops), probabilities averaged"
    assert said["frames"] == "4, sampled by stride, stride 1"
    assert said["model"] == "timesformer_test_patch8_32"
    assert said["weights at the start"] == "from scratch"
    assert (said["depth"], said["patch size"]) == ("2 blocks", "8 x 8 pixels")
    assert said["tokens of a clip"] == "4 x 2 x 2 (time x height x width)"
    assert said["model option embed_dim"] == "16"
    assert said["optimiser"] == "adamw, learning rate 0.001, weight decay 0.05"
    assert "CPU" not in said


def test_protocol_tells_training(protocol):
    schedule = {"name": "cosine", "warmup_epochs": 0.7, "warmup_lr": 1e-6, "min_lr": 0.0, "milestones": []}
    augment = {"scale": None, "ratio": [0.75, 1.33], "hflip": 0.5, "mixup": 0.0, "cutmix": 1.0, "mix_prob": 0.8}
    also = {"clip_grad": 1.0, "label_smoothing": 0.1, "accumulate": 1, "ema": {"decay": None}}
    said = protocol({"schedule": schedule, "augment": augment, "evaluation": {"every": 0}, **also})
    assert said["schedule"] == "cosine, warm-up of 0.7 epochs from 1e-06, down to 0.0"
    assert said["augmentation"] == "crops at random places, hflip 0.5, cutmix 1.0, mix_prob 0.8"
    assert said["weights scored"] == "of the best epoch on the val split / of the last epoch"
    assert said["also in training"] == "clip_grad 1.0, label_smoothing 0.1"


def test_an_option_that_one_variant_lacks_differs(protocol):
    args = {"patch_size": [8, 16], "embed_dim": 16, "num_heads": 2, "depth": 2, "qk_norm": True}
    said = protocol(
        {"model": {"name": "timesformer_test_patch8_32", "pattern": "ts", "pretrained": True, "args": args}}
    )
    assert said["model option qk_norm"] == "not set / true"
    assert said["weights at the start"] == "from scratch / pretrained"
    assert said["patch size"] == "8 x 8 pixels / 8 x 16 pixels"


def test_protocol_tells_machine_and_data(protocol):
    said = protocol(environment=MACHINE)
    assert said["CPU"] == "Xeon, 2 of 8 cores usable"
    assert said["memory"] == "25.3 GB"
    assert said["GPUs"] == "2 x H200 (139.8 GB)"
    assert said["numerics"] == "mkl_cbwr unset, cudnn_benchmark false"
    assert said["data digests"] == "train dff7b232805d, test 32b438c8ccdd"
