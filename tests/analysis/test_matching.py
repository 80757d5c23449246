"""Equal budgets: worked by hand for the width of the MLP, exact at the target, refused with the nearest."""

import pytest

from timesformer_plus.analysis.matching import Match, describe_matches, match_budgets


def options(pattern, **args):
    data = {"root": "nowhere"}
    model = {"name": "timesformer_test_patch8_32", "pattern": pattern, "args": {"depth": 2, **args}}
    return {"data": data, "model": model, "threads": 1}


def ratio(matched, name):
    return matched[name]["model"]["args"]["mlp_ratio"]


def test_nothing_changes_without_a_budget():
    variants = {"s": options("s"), "ts": options("ts")}
    assert match_budgets(variants, Match()) == variants
    assert describe_matches(variants, Match()) == []


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
    variants = {name: options(name) for name in ("s", "j", "ts", "twh", "s | j", "t&s")}
    matched = match_budgets(variants, Match(quantity, to="ts", tolerance=0.002))
    lines = describe_matches(matched, Match(quantity, to="ts"))
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


@pytest.mark.parametrize("given", [{"quantity": "params"}, {"to": "ts"}, {"tolerance": 0.0}])
def test_half_a_specification_is_refused(given):
    with pytest.raises(ValueError, match="match: "):
        Match(**given)
