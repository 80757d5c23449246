"""Activations against a count by hand; saved models measured side by side, one that fails among them."""

import os

import pytest
import timm
import torch
from torch import nn

import timesformer_plus  # noqa: F401  registers the models
from timesformer_plus.analysis import measured_cost
from timesformer_plus.analysis.cost import CostError, activation_bytes, measure_cost, measure_saved_models
from timesformer_plus.analysis.resident_memory import Peaks, measure_resident

SHAPE = (1, 3, 8, 32, 32)


def build(pattern, **options):
    return timm.create_model("timesformer_test_patch8_32", pattern=pattern, num_classes=8, **options)


def kept_by_a_real_pass(model, clips):
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(clips)
    assert output.requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


def test_activations_by_hand():
    # kept: the input of either Linear, and of ReLU the output, which is the second Linear's input
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    assert activation_bytes(model, (7, 10)) == 4 * 7 * (10 + 20)
    # a view of what is kept already costs nothing
    assert activation_bytes(nn.Sequential(*model[:2], nn.Flatten(), model[2]), (7, 10)) == 4 * 7 * (10 + 20)


def test_no_activations_where_nothing_is_trained():
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 3))
    model[0].requires_grad_(False)
    assert activation_bytes(model, (7, 10)) == 4 * 7 * 20
    assert activation_bytes(model.requires_grad_(False), (7, 10)) == 0


@pytest.mark.parametrize("pattern", ["ts", "j", "h&w", "s*2 | j*2"])
def test_activations_are_those_of_a_real_pass(pattern):
    model = build(pattern, drop_path_rate=0.1, proj_drop_rate=0.1)
    assert activation_bytes(model.eval(), SHAPE) == kept_by_a_real_pass(model, torch.randn(SHAPE))


def test_activations_need_no_memory_and_leave_the_model_as_it_was():
    with torch.device("meta"):
        large = timm.create_model(
            "timesformer_large_patch16_224", pattern="t", num_frames=8, depth=1, global_pool="avg"
        )
    assert activation_bytes(large, (1000, 3, 8, 224, 224)) > 10**10
    model = build("s").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = measure_cost(model, activations=True)
    assert cost.activation_mb == activation_bytes(model, SHAPE) / 1e6
    assert measure_cost(model).activation_mb is None
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def save(model, folder):
    timm.models.save_for_hf(model, folder)
    return folder


def test_saved_models_are_measured_and_one_that_is_broken_loses_nothing(tmp_path):
    small, large = build("s"), build("s", embed_dim=256, depth=1)
    folders = {"small": save(small, tmp_path / "small"), "large": save(large, tmp_path / "large")}
    broken = tmp_path / "broken"
    with pytest.raises(CostError, match="broken: loading and counting: ") as error:
        measure_saved_models({"broken": broken, **folders}, threads=1, device="cpu")
    assert list(error.value.failures) == ["broken"]
    measured = error.value.measured
    assert {name: cost for name, (cost, _) in measured.items()} == {
        "small": measure_cost(small, activations=True),
        "large": measure_cost(large, activations=True),
    }
    for cost, speed in measured.values():
        assert (speed.threads, speed.memory) == (1, "resident set")
        assert speed.clips_per_second > speed.train_clips_per_second > 0
        assert speed.latency_ms > 0
        assert speed.train_peak_memory_mb > speed.peak_memory_mb
        # weights, gradients and two moments of four bytes each, and what a batch keeps
        needed = (16 * cost.params + 8 * 1e6 * cost.activation_mb) / 1e6
        assert 0.9 * needed < speed.train_peak_memory_mb < 1.5 * needed + 25  # working space, the allocator's habits
    assert measured["large"][1].peak_memory_mb > measured["large"][0].params * 4 / 1e6


class Fails(nn.Module):
    def __init__(self, training):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.fails_in_training = training

    def forward(self, x):
        if self.training == self.fails_in_training:
            raise RuntimeError("no")
        return x.mean((1, 2, 3, 4))[:, None] * self.weight


def test_what_a_failing_model_leaves_is_kept(monkeypatch):
    models = {"fine": Fails(training=None), "untrainable": Fails(training=True), "useless": Fails(training=False)}
    monkeypatch.setattr(measured_cost.timm, "create_model", lambda name: models[name.removeprefix("local-dir:")])
    monkeypatch.setattr(measured_cost, "measure_cost", lambda model, **_: f"cost of {model.fails_in_training}")
    monkeypatch.setattr(measured_cost, "clip_shape", lambda _: (1, 1, 2, 2))
    monkeypatch.setattr(measured_cost, "measure_resident", lambda *_, **__: ({"fine": Peaks(1.0, 2.0)}, {}))
    with pytest.raises(CostError) as error:
        measure_saved_models({name: name for name in models}, threads=1, device="cpu")
    measured, failures = error.value.measured, error.value.failures
    assert failures == {
        "untrainable": "training: RuntimeError: no",
        "useless": "inference: RuntimeError: no; latency: RuntimeError: no",
    }
    assert list(measured) == ["fine", "untrainable"]
    assert measured["fine"][1].train_clips_per_second > 0
    assert (measured["fine"][1].peak_memory_mb, measured["fine"][1].train_peak_memory_mb) == (1, 2)
    assert measured["untrainable"][1].latency_ms > 0
    assert measured["untrainable"][1].train_clips_per_second is None
    assert (measured["untrainable"][1].peak_memory_mb, measured["untrainable"][1].memory) == (None, "")


def test_a_process_that_cannot_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", os.devnull)
    peaks, failures = measure_resident({"a": tmp_path}, batch_size=1, threads=1)
    assert peaks == {}
    assert list(failures) == ["a"]


def test_nothing_to_measure():
    assert measure_saved_models({}, threads=1, device="cpu") == {}
