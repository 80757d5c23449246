"""Objects made from options."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2
from torch import nn

from timesformer_plus.engine.build import build_loss, build_model, build_optimizer, build_scheduler
from timesformer_plus.engine.config import ModelConfig, OptimConfig, ScheduleConfig
from timesformer_plus.engine.data_config import DataConfig

NAME = "timesformer_test_patch8_32"


def make(data=None, **model):
    return build_model(ModelConfig(name=NAME, **model), data or DataConfig(root=Path()), 5)


def test_model_takes_its_options_from_model_and_data():
    data = DataConfig(root=Path(), num_frames=4, img_size=(16, 32), stride=3)
    model = make(data, pattern="s*2 t", args={"depth": 3, "embed_dim": 32, "global_pool": "avg"})
    assert (model.pattern, len(model.blocks), model.global_pool) == ("s*2 t", 3, "avg")
    assert model(torch.zeros(2, 3, 4, 16, 32)).shape == (2, 5)


def test_unknown_model_shows_the_known_ones():
    with pytest.raises(ValueError, match=f"'timesformr' is not a model that timm knows.*{NAME}"):
        build_model(ModelConfig(name="timesformr"), DataConfig(root=Path()), 5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"args": {"dept": 3}}, "unexpected keyword argument 'dept'.*model.args"),
        ({"pretrained": True}, "No pretrained weights.*model.pretrained"),
        ({"pattern": "tx"}, "'tx' is wrong at character 2"),
        ({"pattern": "t s t", "args": {"depth": 4}}, "does not divide"),
    ],
)
def test_option_that_does_not_fit_the_model(options, reason):
    with pytest.raises(ValueError, match=reason):
        make(**options)


def test_losses():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    # probabilities (1/4, 3/4) and (1/2, 1/2)
    plain = build_loss(multi_label=False)(logits, torch.tensor([1, 0]))
    assert plain.tolist() == pytest.approx([math.log(4 / 3), math.log(2)])
    smooth = build_loss(multi_label=False, label_smoothing=0.5)(logits[:1], torch.tensor([1]))
    assert smooth.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    bits = build_loss(multi_label=True)(logits[:1], torch.tensor([[1.0, 0.0]]))
    assert bits[0].tolist() == pytest.approx([math.log(2), math.log(4)])
    mixed = build_loss(multi_label=False)(logits[:1], torch.tensor([[0.3, 0.7]]))
    assert mixed.tolist() == pytest.approx([0.3 * math.log(4) + 0.7 * math.log(4 / 3)])


def test_norms_biases_and_embeddings_are_free_of_weight_decay():
    model = make(args={"depth": 2, "embed_dim": 32})
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.1))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed
    for name, parameter in model.named_parameters():
        free = parameter.ndim == 1 or name in ("cls_token", "pos_embed", "time_embed")
        assert (id(parameter) in decayed) != free, name


def test_layer_decay_slows_the_layers_below():
    model = make(args={"depth": 2, "embed_dim": 32})
    optimizer = build_optimizer(model, OptimConfig(lr=1.0, layer_decay=0.5))
    build_scheduler(optimizer, ScheduleConfig(), epochs=1, steps_per_epoch=10).step_update(0)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(model.head.weight)] == 1.0
    assert rate[id(model.blocks[1].mlp.fc1.weight)] == 0.5
    assert rate[id(model.blocks[0].mlp.fc1.weight)] == 0.25
    assert rate[id(model.patch_embed.proj.weight)] == 0.125


@pytest.mark.parametrize(
    ("options", "reason"), [({"name": "adamx"}, "adamx"), ({"args": {"beta": 1}}, "'beta'.*see optim.args")]
)
def test_optimizer_that_does_not_exist(options, reason):
    with pytest.raises(ValueError, match=reason):
        build_optimizer(nn.Linear(2, 2), OptimConfig(**options))


def rates(config, *, epochs, steps_per_epoch, lr=1.0):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = build_scheduler(optimizer, config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    found = []
    for step in range(epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(step + 1)
    return found


def test_cosine_with_warm_up_by_the_update():
    found = rates(ScheduleConfig(warmup_epochs=0.5, warmup_lr=0.1), epochs=2, steps_per_epoch=4)
    # two updates of warm-up from .1 towards 1, then the cosine over all eight updates
    expected = [0.1, 0.55] + [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(2, 8)]
    assert found == pytest.approx(expected)


def test_multistep_as_in_the_paper():
    config = ScheduleConfig(name="multistep", milestones=(2, 3), decay_rate=0.1)
    # timm's multistep looks one update ahead: the rate falls with the last update before the milestone
    assert rates(config, epochs=4, steps_per_epoch=3) == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 4)


def has_schedule(name):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    try:
        return create_scheduler_v2(optimizer, sched=name, decay_epochs=1)[0] is not None
    except ValueError:
        return False


@pytest.mark.skipif(not has_schedule("constant"), reason="this timm has no constant schedule")
def test_constant_stays():
    assert rates(ScheduleConfig(name="constant"), epochs=2, steps_per_epoch=2) == [1.0] * 4


def test_step_without_decay_epochs_takes_the_default_of_timm():
    config = ScheduleConfig(name="step", decay_rate=0.5)
    found = rates(config, epochs=91, steps_per_epoch=2)
    assert found[:178] == [1.0] * 178
    assert found[-1] == 0.5
    assert rates(replace(config, decay_epochs=1), epochs=3, steps_per_epoch=2)[-1] == 0.25


@pytest.mark.parametrize("name", ["constant", "wsd"])
def test_schedule_that_this_timm_does_not_have(name, monkeypatch):
    # older versions of timm return no scheduler
    monkeypatch.setattr("timesformer_plus.engine.build.create_scheduler_v2", lambda *_, **__: (None, 3))
    with pytest.raises(ValueError, match=f"schedule.name='{name}' is not a schedule of timm {timm.__version__}"):
        rates(ScheduleConfig(name=name), epochs=3, steps_per_epoch=2)


def test_optimizer_of_second_order_is_refused():
    with pytest.raises(ValueError, match=r"optim\.name='adahessian' needs second derivatives"):
        build_optimizer(make(args={"depth": 2, "embed_dim": 32}), OptimConfig(name="adahessian"))
