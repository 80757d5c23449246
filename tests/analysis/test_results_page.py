"""RESULTS.md of hand-made sweeps: every verdict is one that was worked out beside it."""

import json
from pathlib import Path

import pytest

from timesformer_plus.analysis.paper_table import PAPER, compare_pairs, sum_up
from timesformer_plus.analysis.results_page import budget_pairs, main, results_page, sensitivity_sentences
from timesformer_plus.analysis.results_read import Scored, read_sweep
from timesformer_plus.analysis.statistics import PairedDifference, correct, is_separated
from timesformer_plus.analysis.time_sensitivity import FILE, FORMAT, score_digest

# five seeds, in order; twh differs from ts by +.01 -.01 +.02 -.02 +.01
SCORES = {
    "s": [0.40, 0.41, 0.42, 0.40, 0.41],
    "j": [0.80, 0.82, 0.81, 0.80, 0.83],
    "ts": [0.90, 0.91, 0.90, 0.92, 0.91],
    "lg": [0.70, 0.71, 0.72, 0.70, 0.71],
    "twh": [0.91, 0.90, 0.92, 0.90, 0.92],
}
PARAMETERS = {"quantity": "params", "to": "pattern=ts", "by": "mlp_ratio"}
PARAMS = {"s": 100_000, "j": 100_500, "ts": 140_000, "lg": 140_000, "twh": 180_000}


def row(variant, scores, *, pattern=None, params=None, gflops=0.0123):
    return {
        "variant": variant,
        "pattern": variant.removeprefix("pattern=") if pattern is None else pattern,
        "scores": {str(seed): score for seed, score in enumerate(scores)},
        "params": params,
        "gflops": gflops,
    }


def suite(scores, params, **changes):
    return {
        "title": "As they are",
        "metric": "top1",
        "split": "test",
        "reference": "pattern=ts",
        "ceiling": 0.5,
        "findings": ["Highest mean top1: pattern=twh."],
        "rows": [row(f"pattern={name}", values, params=params[name]) for name, values in scores.items()],
        "missing": [],
        **changes,
    }


def write_sweep(folder, suites, *, name="results.json", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    finished = sum(len(row["scores"]) for suite in suites.values() for row in suite["rows"])
    content = {
        "title": "Five schemes",
        "command": "python tools/ablate.py --config nowhere.yaml",
        "seeds": [0, 1, 2, 3, 4],
        "finished": finished,
        "total": finished,
        "environment": {"commit": "c0ffee", "torch": "2.14.1", "device": "cpu (2 cores)"},
        "suites": suites,
        **changes,
    }
    (folder / name).write_text(json.dumps(content))
    return folder


def write_altered(folder, variant, seed, conditions):
    """A finished run's scores on altered clips."""
    run = folder / "plain" / variant / f"seed={seed}"
    run.mkdir(parents=True)
    metrics = {condition: {"top1": score} for condition, score in conditions.items()}
    (run / "result.json").write_text(json.dumps({"status": "finished", "test": metrics["as_is"]}))
    content = {"format": FORMAT, "split": "test", "digest": score_digest(run), "conditions": metrics}
    (run / FILE).write_text(json.dumps(content))
    return run


def scored(variant, altered=None, *, scores=(0.5, 0.6)):
    return Scored(variant, variant, dict(enumerate(scores)), None, None, altered or {})


def difference(mean, *, low, p, n=5):
    return PairedDifference(mean, low, None if low is None else 2 * mean - low, p, n, 0.95)


def test_the_papers_figures():
    """By hand from the paper: rows of Table 1, and that only Something-Something tells the schemes apart."""
    assert list(PAPER) == ["s", "j", "ts", "lg", "twh"]
    assert [row.kinetics for row in PAPER.values()] == [76.9, 77.4, 78.0, 75.9, 73.5]
    assert [row.something for row in PAPER.values()] == [36.6, 58.5, 59.5, 56.3, 56.2]
    assert [row.params for row in PAPER.values()] == [85.9, 85.9, 121.4, 121.4, 156.8]


def test_apart_or_not():
    assert is_separated(difference(0.1, low=0.05, p=0.01), 0.01)
    assert not is_separated(difference(0.1, low=0.05, p=0.01), 0.05)  # after correction
    assert not is_separated(difference(0.1, low=0.1, p=None), None)  # nobody knows
    assert not is_separated(difference(0.0, low=0.0, p=1.0), 1.0)
    assert not is_separated(difference(0.1, low=None, p=None, n=1), None)  # one seed
    # of two comparisons the smaller p counts twice; what has none is no comparison
    given = {"a": difference(1, low=0, p=0.03), "b": difference(1, low=0, p=0.01), "c": difference(1, low=1, p=None)}
    assert correct(given) == {"a": 0.03, "b": 0.02, "c": None}


def test_pairs_of_schemes_beside_the_paper():
    scores = {name: dict(enumerate(values)) for name, values in SCORES.items()}
    pairs = {(pair.first, pair.second): pair for pair in compare_pairs({**scores, "st": scores["s"]})}
    assert len(pairs) == 10
    # time helps, by 40 points and more: so it does on both of the paper's data sets
    pair = pairs["s", "ts"]
    assert pair.ours.mean == pytest.approx(0.5)
    assert (pair.something, pair.kinetics) == (pytest.approx(22.9), pytest.approx(1.1))
    assert (pair.verdict(pair.something), pair.verdict(pair.kinetics)) == ("agrees", "agrees")
    # lg is worse than s on Kinetics-400, better on Something-Something and here
    pair = pairs["s", "lg"]
    assert (pair.verdict(pair.something), pair.verdict(pair.kinetics)) == ("agrees", "does not")
    # twh is far above j here, and below it in the paper
    pair = pairs["j", "twh"]
    assert (pair.verdict(pair.something), pair.verdict(pair.kinetics)) == ("does not", "does not")
    # two tenths of a point, with a standard error of seven
    assert pairs["ts", "twh"].verdict(-3.3) == "not separated"
    # p is corrected for all ten
    assert pair.p == correct({str(key): each.ours for key, each in pairs.items()})[str(("j", "twh"))]
    assert pair.p > pair.ours.p

    first, second = sum_up(list(pairs.values()))
    # of the nine that are apart, SSv2's order has twh below j and below lg, which here it is not
    assert first == (
        "Of 10 pairs of schemes 7 agree with the paper's order on Something-Something v2, 2 do not "
        "(twh against j, twh against lg), and 1 is not separated by our seeds."
    )
    # Kinetics-400 has lg and twh below s besides
    assert second == (
        "Of 10 pairs of schemes 5 agree with the paper's order on Kinetics-400, 4 do not (lg against s, twh against s, "
        "twh against j, twh against lg), and 1 is not separated by our seeds."
    )


def test_one_seed_separates_nothing():
    pairs = compare_pairs({"s": {0: 0.1}, "ts": {0: 0.9}, "j": {1: 0.9}})
    assert [(pair.first, pair.second) for pair in pairs] == [("s", "ts")]
    assert pairs[0].verdict(1.1) == "not separated"


def test_sentences_on_altered_clips():
    """One variant for every verdict: far below, exactly as before, by luck, and known for one seed only."""
    as_is = {0: 0.90, 1: 0.92, 2: 0.91}
    flat = dict.fromkeys(["shuffled", "repeated", "half"], as_is)
    rows = [
        scored("reads", {"as_is": as_is, "reversed": {0: 0.10, 1: 0.13, 2: 0.11}, **flat}),
        scored("blind", {"as_is": as_is, "reversed": as_is, **flat}),
        scored("luck", {"as_is": as_is, "reversed": {0: 0.91, 1: 0.91, 2: 0.91}, **flat}),
        scored("gains", {"as_is": as_is, "reversed": {0: 0.95, 1: 0.97, 2: 0.96}, **flat}),
        scored("single", {"as_is": {0: 0.9}, "reversed": {0: 0.1}}),
    ]
    sentences = list(sensitivity_sentences(rows))
    assert len(sentences) == 4
    assert sentences[0] == (
        "Clips reversed: scores are lower for reads; higher for gains; the same in every seed for blind; not separated "
        "from those on the clips as they are for luck, single."
    )
    assert sentences[1] == (
        "Clips shuffled: scores are lower for none; the same in every seed for reads, blind, luck, gains."
    )


def test_the_page(tmp_path):
    matched = suite(
        {**SCORES, "j": [0.90, 0.91, 0.91, 0.92, 0.90]},
        dict.fromkeys(SCORES, 140_000),
        title="Equal parameters",
        match=PARAMETERS,
    )
    folder = write_sweep(tmp_path / "sweep", {"plain": suite(SCORES, PARAMS), "matched": matched})
    for seed, score in enumerate(SCORES["ts"]):
        conditions = {"as_is": score, "reversed": 0.0, "shuffled": 0.3 + seed / 100, "repeated": 0.125, "half": score}
        write_altered(folder, "pattern=ts", seed, conditions)
    page = results_page([read_sweep(folder)])
    lines = page.splitlines()

    # the differences have mean .002 and standard deviation .01643, so t = .002 / .00735 = .272 and p = .80 with four
    # degrees of freedom, and the interval is .002 +- 2.776 * .00735 = .0204; the largest p of four counts once
    assert "| pattern=twh | 91.0 % [89.8, 92.2] | +0.2 [-1.8, 2.2] | 0.8 | 180.0k | 0.0123 | 5 |" in lines
    assert "| pattern=ts | 90.8 % [89.8, 91.8] | reference |  | 140.0k | 0.0123 | 5 |" in lines
    assert "- Highest mean top1: pattern=twh." in lines
    # altered clips: of the one variant that was probed. Shuffled: -.60 -.60 -.58 -.59 -.57, mean -.588, standard error
    # .00583
    assert (
        "| pattern=ts | 90.8 % | 0.0 % (-90.8 [-91.8, -89.8]) | 32.0 % (-58.8 [-60.4, -57.2]) | "
        "12.5 % (-78.3 [-79.3, -77.3]) | 90.8 % (+0.0 [0.0, 0.0]) | 5 |"
    ) in lines
    assert (
        "- Clips every second frame, twice: scores are lower for none; the same in every seed for pattern=ts." in lines
    )
    # budgets side by side: j is worse as it is, and not with as many parameters
    assert "### As they are, and with equal parameters" in lines
    assert "- Against pattern=ts, worse both as they are and with equal parameters: pattern=s, pattern=lg." in lines
    assert "- Against pattern=ts, worse as they are, not separated with equal parameters: pattern=j." in lines
    # beside the paper, once for each suite
    assert ("| Space | s | 85.9M | 76.9 | 36.6 | 40.8 % [39.8, 41.8] | 40.8 % [39.8, 41.8] |") in lines
    assert sum(line.startswith("| lg against s | +19.7 | -1.0 | +30.0 [") for line in lines) == 2
    assert next(line for line in lines if line.startswith("- Of 10 pairs")).startswith(
        "- Of 10 pairs of schemes 7 agree"
    )
    assert "    python tools/ablate.py --config nowhere.yaml" in lines
    assert "- commit: c0ffee" in lines
    assert page == results_page([read_sweep(folder)])


def test_unfinished_sweeps_say_so(tmp_path):
    part = suite(SCORES, PARAMS, missing=[{"name": "plain/pattern=s/seed=4", "why": "failed, exit status 1"}])
    part["rows"].append(row("pattern=st", []))
    empty = suite(SCORES, PARAMS, title="Not begun", rows=[])
    page = results_page([read_sweep(write_sweep(tmp_path, {"plain": part, "empty": empty}, total=30))])
    assert "25 of 30 runs are finished; seeds 0, 1, 2, 3, 4." in page
    assert "- missing: plain/pattern=s/seed=4: failed, exit status 1" in page
    assert "| pattern=st" not in page
    assert "### Not begun\n\nNo run is finished.\n" in page


def test_scores_of_other_weights_are_not_shown(tmp_path):
    folder = write_sweep(tmp_path, {"plain": suite(SCORES, PARAMS)})
    run = write_altered(
        folder, "pattern=s", 0, dict.fromkeys(["as_is", "reversed", "shuffled", "repeated", "half"], 0.4)
    )
    assert "on altered clips, top1" in results_page([read_sweep(folder)])
    (run / "best").mkdir()
    (run / "best" / "model.safetensors").write_bytes(b"other weights")
    assert "on altered clips, top1" not in results_page([read_sweep(folder)])


def test_what_makes_two_suites_a_pair_of_budgets(tmp_path):
    """One recipe, one score, as they are and matched; numbers of parameters that happen to be alike say nothing."""
    equal = dict.fromkeys(SCORES, 140_000)
    suites = {
        "plain": suite(SCORES, PARAMS),
        "alike": suite(SCORES, equal),
        "matched": suite(SCORES, equal, match=PARAMETERS),
        "another score": suite(SCORES, equal, match=PARAMETERS, metric="pair"),
        "another recipe": suite(
            SCORES, equal, match=PARAMETERS, setting={"base": "a.yaml", "overrides": {"epochs": 2}}
        ),
        "flops": suite(SCORES, equal, match={**PARAMETERS, "quantity": "flops"}),
    }
    found = budget_pairs(read_sweep(write_sweep(tmp_path, suites)).suites)
    assert [(plain.name, matched.name) for plain, matched in found] == [("plain", "matched"), ("alike", "matched")]


def test_two_variants_of_one_pattern_are_not_held_against_the_paper(tmp_path):
    rows = suite(SCORES, PARAMS)
    rows["rows"].append(row("pattern=ts,lr=1", [0.1, 0.1, 0.2, 0.1, 0.1], pattern="ts"))
    page = results_page([read_sweep(write_sweep(tmp_path, {"plain": rows}))])
    assert "lg against s" in page
    assert "ts against s" not in page


def test_texts_stay_texts(tmp_path):
    nasty = suite(SCORES, PARAMS, title="<script>alert(1)</script>", reference="pattern=ts")
    nasty["rows"].append(row("a|b*c", [0.5, 0.6, 0.7, 0.8, 0.9], pattern="s*8 | j*4"))
    page = results_page([read_sweep(write_sweep(tmp_path, {"plain": nasty}, title="[x](y) `z`"))])
    assert "<script>" not in page
    assert "\\<script\\>alert(1)\\</script\\>" in page
    assert "| a\\|b\\*c |" in page
    assert "## [x]\\(y) \\`z\\`" in page


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(
        "# A sweep.\n#\n#   python tools/make_motion.py --task direction\n"
        "#   python tools/ablate.py --config sweep.yaml\noutput: a\n"
    )
    command = "python tools/ablate.py --config sweep.yaml"
    for name in ("a", "b"):
        write_sweep(Path(name), {"plain": suite(SCORES, PARAMS)}, command=command, title=f"Sweep {name}")
    assert main(["a", "b"]) == 0
    page = Path("RESULTS.md").read_text()
    # the data first, once, then the sweep
    assert (
        "\n    python tools/make_motion.py --task direction\n    python tools/ablate.py --config sweep.yaml\n" in page
    )
    assert page.index("## Sweep a") < page.index("## Sweep b")
    assert page.endswith("\n    python tools/results.py a b\n")
    assert capsys.readouterr().out == "RESULTS.md: 50 runs of 2 sweeps\n"

    assert main(["a", "--page", "elsewhere.md"]) == 0
    assert Path("elsewhere.md").read_text().endswith("\n    python tools/results.py a --page elsewhere.md\n")


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "holds neither results.json nor report.json"), ("{", "not the results"), ("{}", "it has no 'title'")],
)
def test_what_is_no_sweep_is_refused(tmp_path, content, why, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    page = tmp_path / "RESULTS.md"
    assert main([str(tmp_path), "--page", str(page)]) == 2
    assert why in capsys.readouterr().err
    assert not page.exists()


def test_results_are_preferred_to_an_older_report(tmp_path):
    write_sweep(tmp_path, {"plain": suite(SCORES, PARAMS)}, name="report.json", title="old")
    assert read_sweep(tmp_path).title == "old"
    write_sweep(tmp_path, {"plain": suite(SCORES, PARAMS)}, title="new")
    assert read_sweep(tmp_path).title == "new"
