"""Equal budgets: worked by hand for the width of the MLP, exact at the target, refused with the nearest."""

import json
from dataclasses import asdict

import pytest
import yaml

from timesformer_plus.analysis import matching
from timesformer_plus.analysis.json_files import read_json
from timesformer_plus.analysis.knobs import Knob, find_knob
from timesformer_plus.analysis.latency import ROUNDS, search_latency
from timesformer_plus.analysis.matching import Match, describe_matches, match_budgets, search_count, solve_matches
from timesformer_plus.analysis.quantities import count_quantity
from timesformer_plus.analysis.sweep import Suite, Sweep, plan_runs, store_matches


def options(pattern, **args):
    data = {"root": "nowhere"}
    model = {"name": "timesformer_test_patch8_32", "pattern": pattern, "args": {"depth": 2, **args}}
    return {"data": data, "model": model, "threads": 1}


def ratio(matched, name):
    return matched[name]["model"]["args"]["mlp_ratio"]


def test_nothing_changes_without_a_budget():
    variants = {"s": options("s"), "ts": options("ts")}
    assert match_budgets(variants, Match()) == variants
    assert solve_matches(variants, Match()) == {}


def test_width_of_the_mlps_makes_up_for_time_attention():
    variants = {"s": options("s"), "ts": options("ts")}
    matched = match_budgets(variants, Match("params", to="ts"))
    assert matched["ts"] == variants["ts"]
    assert "mlp_ratio" not in variants["s"]["model"]["args"]
    # a block's time attention with 64 channels: norm 2*64, qkv 3*(64*64 + 64), proj and fc 2*(64*64 + 64); and one time
    # embedding of 8 x 64. A hidden unit of an MLP has 64 + 1 + 64 parameters, in two blocks
    more = 2 * (2 * 64 + 5 * (64 * 64 + 64)) + 8 * 64
    assert ratio(matched, "s") == pytest.approx(4 + round(more / (2 * 129)) / 64, abs=1e-12)


@pytest.mark.parametrize("quantity", ["params", "flops"])
def test_matched_within_a_hidden_unit(quantity):
    variants = {name: options(name) for name in ("s", "ts", "twh", "s | j")}
    match = Match(quantity, to="ts", tolerance=0.002)
    found = solve_matches(variants, match)
    matched = match_budgets(variants, match, found)
    lines = describe_matches(found, match)
    assert [line.partition(":")[0] for line in lines] == list(variants)
    assert all("(+0.0" in line or "(-0.0" in line or "(+0.1" in line or "(-0.1" in line for line in lines)
    assert ratio(matched, "twh") < 4 < ratio(matched, "s")


def test_same_model_is_given_its_own_width():
    matched = match_budgets({"ts": options("ts"), "st": options("st")}, Match("params", to="ts"))
    assert ratio(matched, "st") == 4


def test_depth_goes_in_whole_patterns():
    variants = {"deep": options("ts", depth=6), "shallow": options("t s", depth=2)}
    matched = match_budgets(variants, Match("params", to="deep", by="depth", tolerance=0.1))
    assert matched["shallow"]["model"]["args"]["depth"] == 8


def test_what_is_out_of_reach_is_refused_with_the_nearest():
    variants = {"s": options("s"), "ts": options("ts")}
    with pytest.raises(ValueError, match=r"s cannot be given the params of ts .* by depth: the nearest is .*depth=3"):
        match_budgets(variants, Match("params", to="ts", by="depth"))
    # even without an MLP three attentions have more than one
    with pytest.raises(ValueError, match="twh cannot be given the params of small"):
        match_budgets({"small": options("s", mlp_ratio=0.1), "twh": options("twh")}, Match("params", to="small"))
    with pytest.raises(ValueError, match="written out in full"):
        match_budgets({"s | j": options("s | j"), "ts": options("ts")}, Match("params", to="ts", by="depth"))


def test_unknown_option_is_named():
    with pytest.raises(ValueError, match=r"equal budgets: .*colour"):
        match_budgets({"s": options("s"), "ts": {**options("ts"), "colour": 1}}, Match("params", to="ts"))


def knob(low=1, high=1000, unit=1, now=10):
    return Knob("model.args.size", unit, low, high, now, int)


@pytest.mark.parametrize("target", [1, 50, 51, 12345, 10**7])
@pytest.mark.parametrize("grid", [(1, 1000, 1, 10), (3, 999, 3, 600), (4, 4, 4, 4)])
def test_search_finds_what_trying_everything_finds(target, grid):
    low, high, unit, now = grid
    asked = []

    def quantity(units):
        asked.append(units)
        return 50 + 3 * units + units * units // 7

    found = search_count(quantity, knob(low, high, unit, now), target)
    everything = range(low, high + 1, unit)
    best = min(abs(quantity(units) - target) for units in everything)
    assert found.units in everything
    assert abs(found.reached - target) == best
    assert len(set(asked[: -len(everything)])) <= 30  # models that had to be made


def test_width_keeps_the_heads():
    variants = {"s": options("s"), "ts": options("ts", embed_dim=60, num_heads=3)}
    knob_ = find_knob(json.dumps(variants["ts"]), "embed_dim")
    assert (knob_.key, knob_.unit, knob_.low, knob_.now) == ("model.args.embed_dim", 3, 3, 60)
    match = Match("flops", to="s", by="embed_dim", tolerance=0.1)
    dim = match_budgets(variants, match)["ts"]["model"]["args"]["embed_dim"]
    flops = {
        width: count_quantity(json.dumps(options("ts", embed_dim=width, num_heads=3)), "flops", None)
        for width in range(dim - 3, dim + 4, 3)
    }
    target = count_quantity(json.dumps(variants["s"]), "flops", None)
    assert min(flops, key=lambda width: abs(flops[width] - target)) == dim
    assert dim % 3 == 0
    assert dim < 60


def test_width_keeps_what_rotary_positions_need():
    # pairs of channels a head, and at least 6
    rotary = options("j", embed_dim=64, num_heads=2, rope_type="vjepa2")
    found = find_knob(json.dumps(rotary), "embed_dim")
    assert (found.unit, found.low) == (4, 12)


def test_heads_of_other_widths_are_counted_with_the_classes_of_the_data(tmp_path):
    variants = {"s": options("s", embed_dim=16), "ts": options("ts", embed_dim=16)}
    match = Match("params", to="ts", by="embed_dim", tolerance=0.1)
    with pytest.raises(ValueError, match=r"number of classes, which cannot be read: data.root=nowhere is no folder"):
        match_budgets(variants, match)
    (tmp_path / "a.mp4").touch()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("path,label\na.mp4,0\n")
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(300)) + "\n")
    for variant in variants.values():
        variant["data"] = {"root": str(tmp_path)}
    found = solve_matches(variants, match)
    assert [solution.classes for solution in found.values()] == [300, 300]
    assert found["ts"].target == count_quantity(json.dumps(variants["ts"]), "params", 300)
    at = {
        width: count_quantity(json.dumps(options("s", embed_dim=width)), "params", 300)
        for width in range(16, 33, find_knob(json.dumps(variants["s"]), "embed_dim").unit)
    }
    assert found["s"].value == min(at, key=lambda width: abs(at[width] - found["s"].target))
    # a report on a finished sweep needs no data
    (tmp_path / "train.csv").unlink()
    stored = {name: asdict(solution) for name, solution in found.items()}
    assert solve_matches(variants, match, stored=stored) == found


def test_steps_make_up_for_cheaper_models():
    # depth 6 has twice the blocks of depth 3, but the same embedding: 1.93 times the arithmetic
    variants = {"deep": {**options("s", depth=6), "epochs": 10}, "flat": {**options("s", depth=3), "epochs": 3}}
    match = Match("train_flops", to="deep", by="steps")
    deep, flat = (count_quantity(json.dumps(v), "flops", None) for v in variants.values())
    matched = match_budgets(variants, match)
    assert matched["flat"]["epochs"] == round(10 * deep / flat) == 19
    assert matched["flat"]["model"] == variants["flat"]["model"]
    found = solve_matches(variants, match)
    assert (found["deep"].quantity, found["flat"].quantity) == (3 * deep * 10, 3 * flat * 19)
    assert "with epochs 19" in describe_matches(found, match)[1]


def test_arithmetic_of_training_counts_epochs_and_repeats():
    variants = {"once": {**options("s", depth=2), "epochs": 4}, "twice": {**options("s", depth=2), "epochs": 2}}
    variants["twice"]["augment"] = {"repeats": 2}
    found = solve_matches(variants, Match("train_flops", to="once"))
    assert found["twice"].value == 4  # the width that the MLPs have
    assert found["twice"].difference == 0


def test_whole_epochs_are_refused_with_the_nearest():
    variants = {"three": {**options("s", depth=3), "epochs": 1}, "two": {**options("s", depth=2), "epochs": 1}}
    match = Match("train_flops", to="three", by="steps")
    with pytest.raises(ValueError, match=r"two cannot be given the train_flops of three .* the nearest is .*epochs=1"):
        match_budgets(variants, match)
    # a warm-up of two epochs has to be followed by something
    variants["two"] = {**variants["two"], "schedule": {"warmup_epochs": 2}, "epochs": 5}
    with pytest.raises(ValueError, match=r"the nearest is .*epochs=3"):
        match_budgets(variants, match)


def test_other_videos_are_no_equal_training():
    variants = {"a": options("s"), "b": {**options("ts"), "data": {"root": "elsewhere"}}}
    with pytest.raises(
        ValueError, match=r"train_flops counts epochs over the same clips as .* b has data\.root elsewhere"
    ):
        match_budgets(variants, Match("train_flops", to="a"))
    # of batches of other sizes another rest is left out
    variants = {"a": options("s"), "b": {**options("ts"), "batch_size": 5}}
    with pytest.raises(ValueError, match="b has batch_size 5, not"):
        match_budgets(variants, Match("train_flops", to="a"))


class Clock:
    """Latency of made-up machines: affine in the units, with a little noise that is the same every time."""

    def __init__(self, noise):
        self.noise, self.asked = noise, []

    def __call__(self, units, rounds):
        self.asked.append((units, rounds))
        wobble = ((len(self.asked) * 7919) % 13 - 6) / 6 * self.noise
        return (2 + units / 10) * (1 + wobble), 12.0


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("start", [1, 90, 4000])
def test_latency_is_found_by_a_clock_that_wobbles(noise, start):
    clock = Clock(noise)
    found = search_latency(clock, unit=1, low=1, high=4096, start=start, tolerance=0.02)
    assert abs(found.difference) <= 0.02
    # 100 units take 12 ms; what is off by more than tolerance and noise was measured wrongly twice
    assert found.units == pytest.approx(100, rel=1.25 * (0.02 + noise))
    assert clock.asked[-1][0] == clock.asked[-2][0] == found.units


def test_latency_out_of_reach_gives_the_nearest():
    clock = Clock(0.0)
    assert search_latency(clock, unit=2, low=2, high=40, start=8, tolerance=0.02).units == 40
    assert {rounds for _, rounds in clock.asked} == set(ROUNDS)


@pytest.fixture
def latency(monkeypatch):
    """Models are as slow as they have parameters; gives how often they were timed."""
    timed = []

    def side_by_side(network, other, *, threads, rounds):
        timed.append((threads, rounds))
        return tuple(sum(p.numel() for p in n.parameters()) / 1000 for n in (network, other))

    monkeypatch.setattr(matching, "side_by_side", side_by_side)
    matching._solve.cache_clear()
    return timed


def sweep_of(tmp_path, match, **given):
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump({k: v for k, v in options("s").items() if k != "threads"}))
    spec = {"base": base, "reference": "pattern=s", "axes": {"model.pattern": ["s", "ts"]}, "match": match}
    suite = Suite(**{**spec, **given})
    return Sweep(suites={"task": suite}, output=tmp_path / "out", seeds=(0, 1), threads=3)


def test_a_measured_solution_is_kept_as_long_as_it_is_asked_for_the_same(tmp_path, latency):
    match = Match("latency", to="pattern=ts", tolerance=0.01)
    sweep = sweep_of(tmp_path, match)
    runs = plan_runs(sweep)
    assert {threads for threads, _ in latency} == {3}
    asked = len(latency)
    store_matches(sweep)
    stored = read_json(sweep.output / "matches.json")["task"]
    assert stored["pattern=ts"]["value"] is None
    assert stored["pattern=s"]["value"] == runs[0].options["model"]["args"]["mlp_ratio"] > 4
    # another process, on a machine whose clock has changed its mind, goes on with the same sweep
    stored["pattern=s"]["value"] = 7.5
    (sweep.output / "matches.json").write_text(json.dumps({"task": stored}))
    matching._solve.cache_clear()
    assert [r.options["model"]["args"].get("mlp_ratio") for r in plan_runs(sweep)] == [7.5, None] * 2
    # one more variant is solved beside it, and what has nothing to do with latency changes nothing
    more = sweep_of(tmp_path, match, axes={"model.pattern": ["s", "ts", "j"]}, overrides={"optim.lr": 0.5})
    assert [r.options["model"]["args"].get("mlp_ratio") for r in plan_runs(more)][:2] == [7.5, None]
    assert len(latency) > asked
    # another model, another budget, another number of threads: solved anew
    for other in (
        sweep_of(tmp_path, match, overrides={"model.args.depth": 1}),
        sweep_of(tmp_path, Match("latency", to="pattern=ts", tolerance=0.02)),
    ):
        assert plan_runs(other)[0].options["model"]["args"]["mlp_ratio"] != 7.5


def test_a_counted_solution_is_counted_again(tmp_path):
    variants = {"s": options("s"), "ts": options("ts")}
    match = Match("params", to="ts")
    found = solve_matches(variants, match)
    stored = {name: asdict(solution) for name, solution in found.items()}
    assert solve_matches(variants, match, stored=stored) == found
    # of another version of the models
    stored["s"]["value"] = 9.0
    assert solve_matches(variants, match, stored=stored) == found
    sweep = sweep_of(tmp_path, Match("params", to="pattern=ts"))
    assert not sweep.output.exists()
    store_matches(sweep)
    before = (sweep.output / "matches.json").stat().st_mtime_ns
    store_matches(sweep)
    assert (sweep.output / "matches.json").stat().st_mtime_ns == before
    store_matches(sweep_of(tmp_path, Match()))
    assert read_json(sweep.output / "matches.json").keys() == {"task"}


@pytest.mark.slow
def test_latency_of_real_models():
    """On a machine that does something else as well, hence a tolerance of 10 %."""
    variants = {"s": options("s"), "ts": options("ts")}
    found = solve_matches(variants, Match("latency", to="ts", tolerance=0.1))
    assert found["s"].value > 4
    assert abs(found["s"].difference) <= 0.1


@pytest.mark.parametrize("quantity", ["params", "flops", "latency"])
def test_steps_are_for_training_alone(quantity):
    with pytest.raises(ValueError, match=f"by=steps changes how long is trained, which {quantity} does not depend on"):
        Match(quantity, to="ts", by="steps")


@pytest.mark.parametrize("given", [{"quantity": "params"}, {"to": "ts"}, {"tolerance": 0.0}])
def test_half_a_specification_is_refused(given):
    with pytest.raises(ValueError, match="match: "):
        Match(**given)
