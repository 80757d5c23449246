"""The state of every optimizer of timm, through files and back: the next updates are the same bits."""

import copy
import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from timesformer_plus.engine.optimizer_state import _pack, _unpack
from timesformer_plus.engine.training_state import load_state, pack_optimizer, save_state, unpack_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")  # Kron says so
# bnb* and fused* (bitsandbytes, apex) need a GPU already to be made
NAMES = [name for name in list_optimizers() if not name.startswith(("bnb", "fused"))]


@pytest.fixture(scope="module", autouse=True)
def _eager():
    """Kron and Muon compile parts of themselves, which takes a minute and is not what is tested."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def make(name, dtype=torch.float32, **options):
    """A network with matrices, vectors, a kernel and a frozen layer, and its optimizer with two groups or more."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Conv2d(3, 2, 2), nn.Linear(2, 2)).to(dtype)
    network[3].requires_grad_(False)
    return network, create_optimizer_v2(network, opt=name, lr=1e-2, weight_decay=0.1, **options)


def update(network, optimizer, step):
    torch.manual_seed(step)  # Kron draws from the global generator
    dtype = network[0].weight.dtype
    rows = network[1](network[0](torch.randn(3, 4, dtype=dtype))).square().sum()
    loss = rows + network[2](torch.randn(1, 3, 4, 4, dtype=dtype)).square().sum()
    curvature = getattr(optimizer, "is_second_order", False)
    if curvature:  # backward() with create_graph warns of a cycle between parameters and gradients
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter, grad in zip(trained, torch.autograd.grad(loss, trained, create_graph=True), strict=True):
            parameter.grad = grad
    else:
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def through_files(tmp_path, network, optimizer):
    tensors, record = pack_optimizer(optimizer, network)
    path = save_state(tmp_path, 1, {"model": network.state_dict(), "optimizer": tensors}, {"optimizer": record}, keep=1)
    return load_state(path)


def goes_on_alike(tmp_path, name, dtype=torch.float32, **options):
    network, optimizer = make(name, dtype, **options)
    for step in range(5):
        update(network, optimizer, step)
    for number, group in enumerate(optimizer.param_groups):  # as a schedule does
        group["lr"] = 0.01 / (number + 3)
    state = through_files(tmp_path, network, optimizer)

    other, continued = make(name, dtype, **options)
    other.load_state_dict(state.tensors["model"])
    unpack_optimizer(continued, other, state.tensors["optimizer"], state.record["optimizer"])
    again, record = pack_optimizer(continued, other)
    assert json.loads(json.dumps(record)) == state.record["optimizer"]
    assert again.keys() == state.tensors["optimizer"].keys()
    assert all(same(tensor, state.tensors["optimizer"][key]) for key, tensor in again.items())
    given = {key: tensor.clone() for key, tensor in state.tensors["optimizer"].items()}
    for step in range(5, 10):
        update(network, optimizer, step)
        update(other, continued, step)
    for key, tensor in network.state_dict().items():
        assert same(tensor, other.state_dict()[key]), key
    # what was passed in is not what the optimizer goes on to change
    assert all(same(tensor, given[key]) for key, tensor in state.tensors["optimizer"].items())
    return optimizer


def test_all_families_are_there():
    families = {"adafactor", "adahessian", "adamw", "kron", "lamb", "laprop", "lion", "madgrad", "muon", "nadam", "sgd"}
    assert families <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_goes_on_bitwise(tmp_path, name):
    goes_on_alike(tmp_path, name)


@pytest.mark.parametrize("name", ["adamw", "kron", "lamb", "laprop", "adafactorbv", "nadamlegacy", "lookahead_adamw"])
def test_in_double_precision(tmp_path, name):
    """Torch's own loading would make float64 of what is float32 or bfloat16."""
    goes_on_alike(tmp_path, name, torch.float64)


def test_layer_decay_and_lookahead(tmp_path):
    optimizer = goes_on_alike(tmp_path, "lookahead_momentum")
    assert optimizer._base_optimizer.param_groups[0]["lookahead_step"] == 10


def test_momentum_in_another_type_than_the_weights_stays_so(tmp_path):
    network, optimizer = make("adafactorbv")
    update(network, optimizer, 0)
    state = through_files(tmp_path, network, optimizer)
    assert state.tensors["optimizer"]["0.weight/exp_avg"].dtype == torch.bfloat16
    assert state.tensors["optimizer"]["0.weight/exp_avg_sq"].dtype == torch.float32


def test_adahessian_that_does_not_measure_the_curvature_at_every_update(tmp_path):
    goes_on_alike(tmp_path, "adahessian", update_each=4)


def test_wrapped_by_accelerate(tmp_path):
    network, optimizer = make("adamw")
    update(network, optimizer, 0)
    state = through_files(tmp_path, network, optimizer)
    other, fresh = make("adamw")
    wrapped = Accelerator(cpu=True).prepare(fresh)
    assert isinstance(wrapped, AcceleratedOptimizer)
    unpack_optimizer(wrapped, other, state.tensors["optimizer"], state.record["optimizer"])
    tensors, record = pack_optimizer(optimizer, network)
    again, same_record = pack_optimizer(wrapped, other)
    assert same_record == record
    assert again.keys() == tensors.keys()
    assert all(same(again[key], tensor) for key, tensor in tensors.items())


def test_names_are_those_of_the_model():
    network, optimizer = make("adamw")
    update(network, optimizer, 0)
    tensors, record = pack_optimizer(optimizer, network)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert sorted(record["parameters"]) == sorted(trained)
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert sorted(tensors) == sorted(f"{name}/{kind}" for name in trained for kind in kinds)
    assert record["parameters"]["0.weight"] == "float32 (6, 4)"
    assert json.loads(json.dumps(record)) == record


def test_state_of_another_optimizer_or_model_is_refused_and_changes_nothing():
    network, optimizer = make("adamw")
    update(network, optimizer, 0)
    tensors, record = pack_optimizer(optimizer, network)

    def refused(match, other, into, tensors=tensors):
        before = copy.deepcopy(into.state_dict())
        with pytest.raises(ValueError, match=match) as error:
            unpack_optimizer(into, other, tensors, record)
        assert "\n" not in str(error.value)
        assert into.state_dict() == before

    other, into = make("lion")
    refused("the state is of the optimizer AdamW, not of Lion; take the optimizer of the run", other, into)
    refused("not of Lookahead of AdamW", *make("lookahead_adamw"))
    other, into = make("adamw", torch.float64)
    made = r"differently made are 0\.bias \(float32 \(6,\) in the state, float64 \(6,\) in the model\), 0\.weight "
    refused(f"the optimizer's state is of another model: {made}", other, into)
    refused("and 3 more", other, into)
    other = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Conv2d(3, 2, 2, bias=False), nn.Linear(2, 2))
    sides = r"of another model: only the state has 2\.bias; only the model has 3\.bias, 3\.weight$"
    refused(sides, other, create_optimizer_v2(other, "adamw"))
    other, _ = make("adamw")
    one_group = create_optimizer_v2(other, "adamw", weight_decay=0.0)
    refused(r"in groups of \[4, 2\], the optimizer in groups of \[6\], or in another order; take", other, one_group)
    other, into = make("adamw")
    lacking = {key: tensor for key, tensor in tensors.items() if key != "0.weight/exp_avg"}
    refused("lacks the tensor '0.weight/exp_avg'", other, into, lacking)


def test_parameters_that_are_not_of_the_model():
    network, optimizer = make("adamw")
    with pytest.raises(ValueError, match=r"parameters \[0, 4\] of the optimizer are not of the model"):
        pack_optimizer(optimizer, nn.Sequential(nn.Identity(), *network[1:]))


def test_what_only_a_pickle_could_store_is_refused():
    network, optimizer = make("kron", preconditioner_update_probability=lambda _: 1.0)
    with pytest.raises(ValueError, match=r"a value of type function at 'group 0/preconditioner_update_probability'"):
        pack_optimizer(optimizer, network)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    PLAIN | st.sampled_from([torch.bfloat16, torch.float64]),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=50)
@given(value=VALUES)
def test_any_plain_value_comes_back_as_it_was(value):
    """Tuples stay tuples, keys that are numbers stay numbers, infinity is strict JSON."""
    stored = json.dumps(_pack(value, "", {}), allow_nan=False)
    back = _unpack(json.loads(stored), {})
    assert back == value
    assert repr(back) == repr(value)
