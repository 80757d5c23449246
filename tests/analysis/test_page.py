"""What the page shows of the folders of runs, worked by hand."""

import json
import re

import numpy as np
import pytest
from report_fakes import (
    CLASSES,
    finish,
    write_altered,
    write_cost,
    write_curves,
    write_model,
    write_predictions,
)

from timesformer_plus.analysis.figures import curve_choices, differences, learning_curves, ranking
from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.page import render_page
from timesformer_plus.analysis.page_class_table import class_table
from timesformer_plus.analysis.page_classes import class_scores, class_views, confusion_matrix
from timesformer_plus.analysis.page_data import Evidence, Geometry, read_evidence
from timesformer_plus.analysis.page_drawings import draw_interleaving
from timesformer_plus.analysis.page_marks import short_names, verdicts
from timesformer_plus.analysis.page_table import render_table
from timesformer_plus.analysis.sweep import plan_runs
from timesformer_plus.models.tokens import Grid

SCORES = {
    "pattern=s": (0.30, 0.32, 0.31),
    "pattern=ts": (0.90, 0.91, 0.92),
    "pattern=j": (0.29, 0.35, 0.30),
}


@pytest.fixture
def report(make_sweep):
    """Three variants; one without predictions, altered clips, curves and costs."""
    variants = {name: {"model.pattern": name.removeprefix("pattern=")} for name in SCORES}
    sweep = make_sweep(variants, seeds=(0, 1, 2), suite={"reference": "pattern=s"})
    for run in plan_runs(sweep):
        score = SCORES[run.variant][run.seed]
        finish(run, score, per_class=dict.fromkeys(CLASSES, score))
        if run.variant == "pattern=j":
            continue
        write_model(run.folder, run.variant.removeprefix("pattern="))
        write_curves(run.folder, [4.0, 2.0, 1.0, 1.0 - 0.1 * run.seed], [0.2, score])
        write_predictions(run.folder, [0, 0, 1, 2], [0, 2, 1, None])
        write_altered(run.folder, {"reversed": 0.1 + 0.01 * run.seed, "half": 0.0})
        write_cost(run, 0.5 if run.variant == "pattern=s" else 2.0, latency_ms=3.0)
    return collect(sweep, plan_runs(sweep))


@pytest.fixture
def suite(report):
    return report.suites[0]


@pytest.fixture
def evidence(report, suite):
    return {row.variant: read_evidence(report, suite, row) for row in suite.rows}


def test_curves_are_in_epochs_and_validation_in_percent(evidence):
    curves = evidence["pattern=ts"].curves
    assert curves["training loss"][1] == [(0.5, 4.0), (1.0, 2.0), (1.5, 1.0), (2.0, pytest.approx(0.9))]
    assert curves["top1 on val, %"][2] == [(1.0, 20.0), (2.0, 92.0)]
    assert evidence["pattern=j"].curves == {}


def test_long_curves_are_thinned_to_means(make_sweep):
    sweep = make_sweep({"s": {}}, seeds=(0,))
    [run] = plan_runs(sweep)
    finish(run, 0.5)
    write_curves(run.folder, [float(n) for n in range(1000)], [0.5, 0.5])
    report = collect(sweep, [run])
    points = read_evidence(report, report.suites[0], report.suites[0].rows[0]).curves["training loss"][0]
    assert len(points) == 76  # 13 steps each
    assert points[0] == (pytest.approx(7 / 500), 6.0)


def test_confusion_adds_up_the_seeds_and_keeps_unreadable_videos_apart(suite, evidence):
    confusion = evidence["pattern=s"].confusion
    assert confusion.classes == CLASSES
    assert confusion.counts.tolist() == [[3, 0, 3, 0], [0, 3, 0, 0], [0, 0, 0, 3]]
    figure = confusion_matrix(suite.rows[0], confusion)
    assert figure.data[0].z == ([50, 0, 50, 0], [0, 100, 0, 0], [0, 0, 0, 100])
    assert figure.layout.xaxis.ticktext[-1] == "could not be read"
    assert evidence["pattern=j"].confusion is None


def test_altered_clips_are_compared_seed_by_seed(suite, evidence):
    conditions = evidence["pattern=s"].conditions
    assert list(conditions) == ["as_is", "reversed", "shuffled", "repeated", "half"]
    assert conditions["reversed"].change.mean == pytest.approx(-0.11)
    assert conditions["reversed"].score.mean == pytest.approx(0.20)
    assert conditions["half"].change.mean == 0
    assert conditions["reversed"].classes == pytest.approx({"left": -0.33, "right": 0.0, "up": 0.0})
    marks = {trace.name: trace for trace in class_scores(suite.rows[0], evidence["pattern=s"]).data}
    assert marks["reversed"].x == pytest.approx((-2.0, 31.0, 31.0))
    assert marks["as they are"].x == pytest.approx((31.0, 31.0, 31.0))


def test_altered_clips_of_other_weights_are_not_shown(report, suite):
    row = suite.rows[0]
    for seed in row.scores:
        path = report.output / "task" / row.variant / f"seed={seed}" / "time_sensitivity.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "other"}))
    assert read_evidence(report, suite, row).conditions == {}


def test_geometry_is_that_of_the_model(evidence):
    assert evidence["pattern=ts"].geometry == Geometry("ts", 2, Grid(4, 2, 2), 1, True)
    assert evidence["pattern=j"].geometry is None


def test_costs_are_those_that_are_known(evidence):
    assert evidence["pattern=ts"].costs == {
        "gflops": 2.0,
        "params": 1000.0,
        "latency_ms": 3.0,
        "clips_per_second": 25.0,
        "train_seconds": 1.5,
    }
    assert evidence["pattern=j"].costs == {"params": 1000.0, "train_seconds": 1.5}


def test_variants_stand_best_first_and_are_coloured_by_verdict(suite):
    assert verdicts(suite) == {"pattern=s": "reference", "pattern=ts": "better", "pattern=j": "unclear"}
    figure = ranking(suite)
    assert figure.layout.yaxis.ticktext == ("ts", "j", "s")
    colours = [trace.marker.color for trace in figure.data if trace.error_x.visible is not False and len(trace.x) == 1]
    assert colours == ["var(--better)", "var(--neutral)", "var(--paper)"]
    shown = differences(suite)
    assert [trace.x for trace in shown.data] == [pytest.approx((60.0,)), pytest.approx((1 / 3,), abs=1e-9)]
    assert shown.data[1].error_x.arrayminus[0] > 1 / 3  # across zero


def test_names_lose_what_all_of_them_begin_with():
    assert short_names(["pattern=ts", "pattern=s*3 j,depth=4"]) == ["ts", "s*3 j,depth=4"]
    assert short_names(["pattern=ts", "x3d"]) == ["pattern=ts", "x3d"]


def test_curves_have_bands_from_lowest_to_highest_seed(suite, evidence):
    figure = learning_curves(suite, evidence, "training loss")
    band, line = figure.data[:2]
    assert band.x == (0.5, 1.0, 1.5, 2.0, 2.0, 1.5, 1.0, 0.5)
    assert band.y == pytest.approx((4, 2, 1, 1, 0.8, 1, 2, 4))
    assert line.y == pytest.approx((4, 2, 1, 0.9))
    assert line.name == "ts"


def test_lines_of_curves_are_chosen_beside_the_picture(suite, evidence):
    figure = learning_curves(suite, evidence, "training loss")
    assert not figure.layout.showlegend
    assert [trace.meta["variant"] for trace in figure.data] == ["pattern=ts", "pattern=ts", "pattern=s", "pattern=s"]
    choices = curve_choices(suite, evidence)
    assert [(choice.key, choice.name, choice.shown) for choice in choices] == [  # j has none
        ("pattern=ts", "ts", True),
        ("pattern=s", "s", True),
    ]
    assert [choice.colour for choice in choices] == [figure.data[1].line.color, figure.data[3].line.color]


def test_a_variant_without_predictions_hides_no_other(suite, evidence):
    views = "".join(class_views(0, suite, evidence))
    assert 'id="classes-0"' in views
    assert 'id="confusion-0"' in views
    [specs] = re.findall(r'data-for="confusion-0">(.*?)</script>', views)
    said = [figure["layout"].get("annotations", [{}])[0].get("text") for figure in json.loads(specs)]
    assert said == [None, "no predictions kept, or not of every seed", None]  # ts, j, s


def test_scores_by_class_are_in_a_plain_table(suite, evidence):
    table = class_table(suite, evidence)
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == ["class", "ts", "j", "s"]
    groups = dict(re.findall(r'<th scope="rowgroup" colspan="4">(.*?)</th></tr>(.*?)</tbody>', table))
    assert list(groups) == [
        "as they are: top1, %",
        *(f"{name}: change, points" for name in ("reversed", "shuffled", "one frame, repeated")),
        "every second frame, twice: change, points",
    ]
    cells = [re.findall(r"<td>(.*?)</td>", group) for group in groups.values()]
    assert cells[0] == ["91.0", "31.3", "31.0"] * 3
    assert cells[1] == ["−33.0", "–", "−33.0"] + ["+0.0", "–", "+0.0"] * 2  # .1, .11 and .12 for all three classes


def test_table_has_keys_to_sort_by(suite, evidence):
    table = render_table(suite, evidence)
    assert re.findall(r'<th scope="row" data-key="(.*?)"', table) == ["ts", "j", "s"]
    heads = re.findall(r'aria-sort="(\w+)"><button type="button"[^>]*>(.*?)</button>', table)
    assert [sort for sort, _ in heads] == ["none", "descending", *["none"] * (len(heads) - 2)]
    assert [name for _, name in heads] == [
        *("variant", "top1", "95 % interval", "difference", "verdict", "p (Holm)", "p (sign flips)", "P(better)"),
        *("GFLOPs", "parameters", "latency", "speed", "training time", "seeds"),
    ]
    assert 'class="better" data-key="better">better<' in table
    last = table.partition(">j<")[2].partition("</tr>")[0]
    assert "<td>–</td>" in last  # no GFLOPs: nothing to sort by


def test_table_of_a_suite_with_nothing_finished_is_not_sorted_by_anything(make_sweep):
    sweep = make_sweep({"a": {"model.pattern": "s"}, "b": {"model.pattern": "ts"}}, seeds=(0,))
    report = collect(sweep, plan_runs(sweep))
    table = render_table(report.suites[0], {"a": Evidence(), "b": Evidence()})
    assert set(re.findall(r'aria-sort="(\w+)"', table)) == {"none"}


def filled(drawing):
    """Cells of every frame strip by class, from the lengths of the runs in its paths."""
    strips = []
    for svg in re.findall(r"<svg.*?</svg>", drawing):
        side = float(re.search(r'class="self" .*?width="([\d.]+)"', svg)[1])
        cells = {"new": 0, "old": 0}
        for name, path in re.findall(r'<path class="(new|old)" d="(.*?)"', svg):
            cells[name] += round(sum(float(length) for length in re.findall(r"h([\d.]+)v", path)) / side)
        strips.append((cells["new"], cells["old"]))
    return strips


def test_drawing_shows_what_every_attention_adds():
    drawing = draw_interleaving(Geometry("ts", 2, Grid(4, 2, 2), 1, True))
    assert filled(drawing) == [(3, 1), (12, 4)]
    assert "<b>t</b> block 1: 4 of 16, class token 0 of 16" in drawing
    assert "<b>s</b> block 1: everything, class token everything" in drawing
    assert "Nothing new from there to the end of block 2." in drawing
    assert 'aria-label="after t in block 1 the token has seen 4 of 16 patches"' in drawing


def test_drawing_of_causal_time_leaves_the_future_out():
    drawing = draw_interleaving(Geometry("c s", 2, Grid(4, 2, 2), 0, False))
    assert filled(drawing) == [(2, 1), (9, 3)]
    assert "class token" not in drawing


def test_drawing_behind_a_bar_follows_the_token_of_the_frame():
    drawing = draw_interleaving(Geometry("s | t", 2, Grid(4, 2, 2), 0, False))
    assert "after t in block 2 the token of the frame has seen 16 of 16 patches" in drawing


def test_drawing_of_a_large_clip_says_that_it_is_not_the_clip():
    drawing = draw_interleaving(Geometry("lg", 12, Grid(32, 14, 14), 1, True))
    assert "Drawn on 16 × 14 × 14 tokens, the model has 32 × 14 × 14." in drawing
    assert len(drawing) < 100_000


def test_half_finished_sweep_has_a_true_page(make_sweep):
    sweep = make_sweep({"s": {}, "ts": {}, "j": {}}, seeds=(0, 1))
    runs = plan_runs(sweep)
    finish(runs[0], 0.5)
    write_altered(runs[0].folder, {})
    page = render_page(collect(sweep, runs))
    shown = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", page, flags=re.S)
    assert "1 of 6 runs finished: a partial report" in shown
    assert "seeds planned: 0, 1" in shown
    assert "Runs missing from these figures: 5" in shown
    assert "one seed" in shown
    assert np.count_nonzero([f'id="{name}-0"' in page for name in ("ranking", "differences", "curves")]) == 1
