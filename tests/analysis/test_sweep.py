"""The sweep's specification: names, overrides, YAML, and what a run's folder says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from timesformer_plus.analysis.matching import Match
from timesformer_plus.analysis.options import merge, read_options
from timesformer_plus.analysis.sweep import Suite, Sweep, parse_sweep, plan_runs, resolve_variants


@pytest.fixture
def sweep_file(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "base.yaml").write_text("model: {pattern: s, args: {depth: 3}}\noptim.lr: 1e-3\nepochs: 5\n")
    file = tmp_path / "recipes" / "sweep.yaml"
    file.write_text(
        f"""
output: {tmp_path}/out
seeds: [3, 1]
suites:
  task:
    base: ../base.yaml
    reference: s
    overrides: {{epochs: 7}}
    variants:
      s: {{}}
      ts: {{model.pattern: ts, model.args: {{num_heads: 1}}, optim.lr: 2e-4}}
"""
    )
    return file


def test_yaml_becomes_runs_seed_by_seed(sweep_file, tmp_path):
    sweep = parse_sweep(["--config", str(sweep_file)])
    runs = plan_runs(sweep)
    assert [(run.variant, run.seed) for run in runs] == [("s", 3), ("ts", 3), ("s", 1), ("ts", 1)]
    assert runs[1].name == "task/ts/seed=3"
    assert runs[1].folder == tmp_path / "out" / "task" / "ts" / "seed=3"
    # 1e-3 is a number, a mapping is laid over a mapping, and the variant has the last word
    assert runs[0].options == {
        "model": {"pattern": "s", "args": {"depth": 3}},
        "optim": {"lr": 0.001},
        "epochs": 7,
        "seed": 3,
        "threads": 1,
    }
    assert runs[1].options == {
        "model": {"pattern": "ts", "args": {"depth": 3, "num_heads": 1}},
        "optim": {"lr": 0.0002},
        "epochs": 7,
        "seed": 3,
        "threads": 1,
    }


def test_command_line_overrides_the_file(sweep_file):
    sweep = parse_sweep(["--config", str(sweep_file), "--jobs", "4", "--seeds", "[0]", "--output", "elsewhere"])
    assert (sweep.jobs, sweep.seeds, str(sweep.output)) == (4, (0,), "elsewhere")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "jobs=0 is not positive"),
        (["--seeds", "[1, 1]"], "different numbers"),
        (["--seeds", "[]"], "different numbers"),
        (["--job", "2"], "--job"),
        (["--on_change", "ask"], "on_change"),
    ],
)
def test_command_line_errors_say_what_is_wrong(sweep_file, capsys, words, message):
    with pytest.raises(SystemExit):
        parse_sweep(["--config", str(sweep_file), *words])
    assert message in capsys.readouterr().err


def test_unknown_suite_option_is_refused(sweep_file, capsys):
    sweep_file.write_text(sweep_file.read_text().replace("reference: s", "reference: s\n    varient: {j: {a: 2}}"))
    with pytest.raises(SystemExit):
        parse_sweep(["--config", str(sweep_file)])
    assert "varient" in capsys.readouterr().err


def test_missing_base_is_refused(sweep_file, capsys):
    sweep_file.write_text(sweep_file.read_text().replace("../base.yaml", "../bass.yaml"))
    with pytest.raises(SystemExit):
        parse_sweep(["--config", str(sweep_file)])
    assert "bass.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "j"}, r"reference: 'j' is not one of the variants \['s'\]"),
        ({"readable": {"j": []}}, "readable: 'j' is not one"),
        ({"ceiling": 50.0}, "50 % is 0.5"),
        ({"variants": {}}, "needs variants"),
        ({"variants": {"s": {"threads": 2}}}, "one number for the whole sweep"),
        ({"overrides": {"threads": 2}}, "one number for the whole sweep"),
        *(({"variants": {name: {}}}, "variant name") for name in ("", "a/b", "..", "a\\b", " a", "a\n", "x" * 81)),
    ],
)
def test_suite_refuses_nonsense(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Suite(**{"base": tmp_path, "variants": {"s": {}}, "reference": "s", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suites": {}}, "at least one suite"),
        ({"seeds": (0, -1)}, "none negative"),
        ({"threads": 0}, "threads=0 is not positive"),
    ],
)
def test_sweep_refuses_nonsense(tmp_path, options, message):
    suite = Suite(base=tmp_path, variants={"s": {}}, reference="s")
    with pytest.raises(ValueError, match=message):
        Sweep(**{"suites": {"a": suite}, "output": tmp_path, **options})


def test_merge_leaves_its_arguments_alone():
    options = {"a": {"b": 1, "c": [1]}}
    merged = merge(options, {"a.b": 2, "d.e": {"f.g": 3}})
    assert merged == {"a": {"b": 2, "c": [1]}, "d": {"e": {"f": {"g": 3}}}}
    merged["a"]["c"].append(2)
    assert options == {"a": {"b": 1, "c": [1]}}


def test_merge_refuses_a_key_inside_a_value():
    with pytest.raises(ValueError, match=r"override 'a.b.c': a.b is 1, which has no 'c' in it"):
        merge({"a": {"b": 1}}, {"a.b.c": 2})


def test_base_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ValueError, match="holds list"):
        read_options(tmp_path / "list.yaml")


def test_state_is_what_the_folder_says(make_sweep):
    run = plan_runs(make_sweep({"s": {"optim.lr": 1e-5}}, seeds=(0,)))[0]
    assert (run.state(), run.stored_options()) == ("missing", None)
    run.folder.mkdir(parents=True)
    run.write_inputs()
    assert (run.state(), run.stored_options()) == ("missing", run.options)
    (run.folder / "status.json").write_text('{"status": "failed"}')
    assert run.state() == "failed"
    (run.folder / "result.json").write_text('{"status": "finished", "te')  # torn
    assert run.state() == "failed"
    (run.folder / "result.json").write_text(json.dumps({"status": "finished"}))
    assert (run.state(), run.changes()) == ("finished", {})


def test_changes_name_the_options(make_sweep):
    before = plan_runs(make_sweep({"s": {"epochs": 5, "drop": True}}, seeds=(0,)))[0]
    before.folder.mkdir(parents=True)
    before.write_inputs()
    (before.folder / "result.json").write_text(json.dumps({"status": "finished"}))
    after = plan_runs(make_sweep({"s": {"epochs": 6, "optim.lr": 0.1}}, seeds=(0,)))[0]
    assert after.state() == "changed"
    assert after.changes() == {"options": ["drop: True -> (unset)", "epochs: 5 -> 6", "optim.lr: (unset) -> 0.1"]}


def axes_suite(base, **given):
    return Suite(**{"base": base, "reference": "pattern=s", "axes": {"model.pattern": ["s", "ts"]}, **given})


def test_axes_make_variants_named_by_their_difference(sweep_file):
    base = sweep_file.parent.parent / "base.yaml"
    suite = axes_suite(
        base,
        reference="plain",
        variants={"plain": {}},
        axes={"model.pattern": ["s", "s*3 j"], "model.args.depth": [2, 4]},
        runs=[{"model.pattern": "t", "optim.lr": 0.002}, {"data.size": 1, "model.size": 2}],
    )
    assert list(suite.variants) == [
        "plain",
        "pattern=s,depth=2",
        "pattern=s,depth=4",
        "pattern=s*3 j,depth=2",
        "pattern=s*3 j,depth=4",
        "pattern=t,lr=0.002",
        "data.size=1,model.size=2",
    ]
    assert suite.variants["pattern=s*3 j,depth=4"] == {"model.pattern": "s*3 j", "model.args.depth": 4}
    assert replace(suite, title="again").variants == suite.variants


def test_axes_are_runs_on_disk(sweep_file, tmp_path):
    suite = axes_suite(sweep_file.parent.parent / "base.yaml")
    runs = plan_runs(Sweep(suites={"task": suite}, output=tmp_path / "out", seeds=(0,)))
    assert [run.folder.relative_to(tmp_path / "out").parts for run in runs] == [
        ("task", "pattern=s", "seed=0"),
        ("task", "pattern=ts", "seed=0"),
    ]
    assert [run.options["model"]["pattern"] for run in runs] == ["s", "ts"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": {"model.pattern": []}, "runs": [{"model.pattern": "s"}]}, "give a list of values"),
        ({"variants": {"pattern=s": {"model.pattern": "ts"}}}, "two variants are named 'pattern=s'"),
        ({"reference": "s"}, "reference: 's' is not one of the variants"),
        ({"match": Match("params", to="ts")}, "match.to: 'ts' is not one of the variants"),
        ({"axes": {"model.name": ["a/b"]}, "reference": "name=a/b"}, "without /"),
    ],
)
def test_axes_errors_say_what_is_wrong(sweep_file, given, message):
    with pytest.raises(ValueError, match=message):
        axes_suite(sweep_file.parent.parent / "base.yaml", **given)


def test_the_recipes_of_the_repository_are_solved_before_they_are_trained():
    configs = Path(__file__).parents[2] / "configs" / "ablations"
    paper, many = (
        plan_runs(parse_sweep(["--config", str(configs / name)]))
        for name in ("paper_table1.yaml", "interleavings.yaml")
    )
    assert len(paper) == 5 * (5 + 5)
    assert len(many) == 5 * (15 + 10)
    (matched,) = (r for r in many if (r.suite, r.variant, r.seed) == ("matched", "pattern=twh", 0))
    assert 1 < matched.options["model"]["args"]["mlp_ratio"] < 2
    # what both train is the same
    alone = {(r.variant, r.seed): r.options for r in many if r.suite == "unmatched"}
    assert all(r.options == alone[r.variant, r.seed] for r in paper if r.suite == "few")


def test_all_runs_share_decoded_videos_and_those_that_set_a_cache_keep_theirs(make_sweep):
    variants = {"s": {}, "own": {"data.cache_dir": "mine", "data.cache_mb": 5}}
    sweep = make_sweep(variants, seeds=(0,), cache_mb=100)
    caches = [(run.options["data"]["cache_dir"], run.options["data"]["cache_mb"]) for run in plan_runs(sweep)]
    assert caches == [(str(sweep.output / "decoded"), 100), ("mine", 5)]
    elsewhere = replace(sweep, cache_dir=Path("scratch"))
    assert plan_runs(elsewhere)[0].options["data"]["cache_dir"] == "scratch"
    # the budgets and the costs are not about it
    assert "data" not in resolve_variants(sweep, "task")["s"]
    for mistake, message in (
        ({"cache_mb": -1}, "negative"),
        ({"cache_mb": 0, "cache_dir": Path("scratch")}, "without cache_mb"),
        ({"suites": {"decoded": sweep.suites["task"]}}, "a suite is named 'decoded'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(sweep, **mistake)


def test_a_cache_makes_no_finished_run_another_one(make_sweep, run):
    sweep = make_sweep({"s": {}})
    run(sweep)
    _, text = run(replace(sweep, cache_mb=100))
    assert "2 runs, 2 of them finished" in text
    assert "measuring" not in text
