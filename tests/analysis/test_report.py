"""The report as text: numbers in place, everything a user named escaped, nothing fetched."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from report_fakes import fail, finish, write_cost
from rich.console import Console

from timesformer_plus.analysis.findings import collect
from timesformer_plus.analysis.page import render_page
from timesformer_plus.analysis.report import (
    format_count,
    format_difference,
    format_percent,
    print_report,
    to_markdown,
)
from timesformer_plus.analysis.statistics import MeanInterval, PairedDifference
from timesformer_plus.analysis.sweep import plan_runs
from timesformer_plus.analysis.tables import to_json

EVIL = "<script>alert('x')<|b>&amp;"


@pytest.fixture
def report(make_sweep):
    """A finished sweep whose every name tries to get out of its place, with one run missing."""
    sweep = make_sweep(
        {"s": {}, EVIL: {"model.pattern": f"ts {EVIL}"}, "broken": {}},
        suite={
            "metric": "pair",
            "title": EVIL,
            "description": EVIL,
            "ceiling": 0.5,
            "ceiling_note": EVIL,
            "readable": {"s": [EVIL], EVIL: ["time"]},
        },
        title=EVIL,
    )
    bits = {"s": {"time": 0.3, EVIL: 0.9}, EVIL: {"time": 0.8, EVIL: 0.2}, "broken": {}}
    runs = plan_runs(sweep)
    for run in runs:
        if (run.variant, run.seed) == ("broken", 1):
            fail(run, "exit status 3")
            continue
        score = {"s": 0.5, EVIL: 0.9, "broken": 0.5}[run.variant] + 0.01 * run.seed
        finish(run, score, **{f"pair/{bit}": value for bit, value in bits[run.variant].items()})
        write_cost(run, {"s": 0.5, EVIL: 1.0, "broken": 1.5}[run.variant])
    return collect(sweep, runs, command=f"ablate {EVIL}")


class Page(HTMLParser):
    """Elements of a page, the text of scripts and styles apart from what is shown."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.shown, self.inside = [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside = tag
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.shown.append(data)


def figures_of(page):
    """Name -> the figures that can be shown there."""
    return {a["data-for"]: json.loads(text) for a, text in page.scripts if "data-for" in a}


@pytest.fixture
def page(report):
    return Page(render_page(report))


def test_page_loads_nothing(page):
    urls = [
        v for _, attributes in page.elements for k, v in attributes.items() if k in ("src", "href", "action", "data")
    ]
    assert urls
    assert all(url.startswith(("#", "data:")) for url in urls)
    assert not any(tag in ("iframe", "object", "embed", "base", "form") for tag, _ in page.elements)
    style = next(text for attributes, text in page.scripts if not attributes)
    assert "url(" not in style
    assert "@import" not in style
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none';")


def test_page_shows_what_users_named_as_text(page):
    names = [attributes["data-for"] for attributes, _ in page.scripts if "data-for" in attributes]
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len(scripts) == len(names) + 2  # plotly and the page's own
    assert not any("alert" in text for attributes, text in page.scripts if not attributes and len(text) < 10**5)
    shown = "".join(page.shown)
    # title, heading, description, note, finding, row, pattern, choice, command
    assert shown.count(EVIL) >= 9


def test_page_embeds_figures_whose_text_is_escaped(page):
    texts = {a["data-for"]: text for a, text in page.scripts if a.get("type") == "application/json"}
    assert list(texts) == ["ranking-0", "cost-0", "differences-0", "parts-0", "classes-0"]
    plots = [attributes["id"] for _, attributes in page.elements if attributes.get("class") == "plot"]
    assert plots == list(texts)
    for text in texts.values():
        assert "<" not in text
        for figure in json.loads(text):
            assert figure["data"]
            # plotly renders a little HTML of its own (<b>, <a>), so that names have to be escaped for it too
            assert "<script" not in json.dumps(figure)
        assert "&lt;script" in json.dumps(json.loads(text))


def test_figures_hold_means_intervals_and_seeds(page):
    figures = figures_of(page)
    [figure] = figures["ranking-0"]
    seeds, mean = figure["data"][2:4]  # the reference, which is second
    assert seeds["x"] == pytest.approx([50.0, 51.0])
    assert mean["x"] == pytest.approx([50.5])
    half = 12.706205 * 0.5  # t(0.975, df 1) times the standard error of 50 and 51
    assert mean["error_x"]["array"] == pytest.approx([half], abs=1e-4)
    assert mean["error_x"]["arrayminus"] == pytest.approx([half], abs=1e-4)
    assert "ceiling 50 %" in json.dumps(figure["layout"])
    [difference] = figures["differences-0"]
    assert [trace["x"] for trace in difference["data"]] == [pytest.approx([40.0]), pytest.approx([0.0])]
    gflops, params, speed, seconds = figures["cost-0"]
    assert "ceiling 50 %" in json.dumps(gflops["layout"])
    front, *points = gflops["data"]
    assert [trace["x"][0] for trace in points] == [0.5, 1.0, 1.5]
    assert front["x"] == [0.5, 1.0]  # the third costs more and scores less
    assert params["data"][0]["x"] == [1000.0]
    assert [trace["x"][0] for trace in speed["data"][1:]] == pytest.approx([100 / 3, 50, 100])
    assert seconds["data"][0]["x"] == [1.5]


def test_heat_map_outlines_what_theory_can_read(page):
    [heat] = figures_of(page)["parts-0"]
    trace = heat["data"][0]
    assert trace["type"] == "heatmap"
    assert trace["z"][0] == pytest.approx([80, 20])
    assert trace["z"][1] == pytest.approx([30, 90])
    assert trace["text"] == [["80 %", "20 %"], ["30 %", "90 %"]]
    outlines = heat["layout"]["shapes"]
    assert [(round(o["x0"]), round(o["y0"])) for o in outlines] == [(0, 0), (1, 1)]


def test_a_ceiling_on_the_whole_does_not_colour_the_classes(make_sweep, run):
    for readable, colours in (({}, 2), ({"s": ["left"]}, 4)):
        sweep = make_sweep({"s": {}}, suite={"ceiling": 0.5, "readable": readable})
        run(sweep)
        page = Page(render_page(collect(sweep, plan_runs(sweep))))
        [figure] = figures_of(page)["parts-0"]
        assert len(figure["data"][0]["colorscale"]) == colours
        assert ("Green: above the ceiling" in "".join(page.shown)) == bool(readable)


def test_green_is_what_the_findings_call_above_the_ceiling(make_sweep):
    """A mean of 65 % over three seeds that range from 45 to 90 % is above nothing."""
    sweep = make_sweep({"s": {}}, suite={"ceiling": 0.5, "readable": {"s": ["sure", "wide"]}}, seeds=(0, 1, 2))
    for run in plan_runs(sweep):
        run.folder.mkdir(parents=True)
        run.write_inputs()
        parts = {"top1/sure": [0.64, 0.65, 0.66][run.seed], "top1/wide": [0.45, 0.6, 0.9][run.seed]}
        (run.folder / "result.json").write_text(json.dumps({"status": "finished", "test": {"top1": 0.65, **parts}}))
    report = collect(sweep, plan_runs(sweep))
    assert (
        "1 of 2 cells that theory says can be read; the others: s/wide (65 % [8, 100])."
        in (report.suites[0].findings[-1])
    )
    text = io.StringIO()
    print_report(report, Console(file=text, width=100, force_terminal=True, color_system="standard"))
    assert re.findall(r"\x1b\[1;32m\s*([^\x1b]*?)\s*\x1b", text.getvalue()) == ["65 %"]
    assert "Green: above the ceiling of 50 % with 95 % confidence." in text.getvalue()
    [figure] = figures_of(Page(render_page(report)))["parts-0"]
    heat = figure["data"][0]
    assert heat["text"] == [["65 %", "65 %"]]
    assert heat["z"] == [[pytest.approx(65.0), pytest.approx(50.0)]]  # 50 is where grey ends


def test_page_lists_what_is_missing_and_how_it_was_made(page):
    shown = " ".join("".join(page.shown).split())
    assert "5 of 6 runs finished" in shown
    assert "Runs missing from these figures: 1" in shown
    assert "task/broken/seed=1: failed, exit status 3" in shown
    assert "Student-t intervals over seeds" in shown
    assert "abc123" in shown
    assert "python -m timesformer_plus.engine.train --config" in shown


def test_page_of_nothing_is_still_a_page(make_sweep):
    sweep = make_sweep({"s": {}})
    page = Page(render_page(collect(sweep, plan_runs(sweep))))
    assert "0 of 2 runs finished" in "".join(page.shown)
    assert not [a for _, a in page.elements if a.get("class") == "plot"]


def test_markdown_is_a_table_with_its_bars_escaped(report):
    lines = to_markdown(report).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 3
    columns = {len(re.split(r"(?<!\\)\|", line)) for line in table}
    assert len(columns) == 1
    assert "\\<script\\>" in table[3]
    assert table[2].startswith("| s | s | 50.5 % [44.1, 56.9] | 30 % | 90 % | reference |")
    assert not any("<script" in line.replace("\\<", "") for line in lines if not line.startswith("    "))


def test_json_is_plain_and_complete(report):
    loaded = json.loads(json.dumps(to_json(report), allow_nan=False))
    suite = loaded["suites"]["task"]
    assert (loaded["finished"], loaded["total"]) == (5, 6)
    assert [row["variant"] for row in suite["rows"]] == ["s", EVIL, "broken"]
    assert suite["rows"][1]["scores"] == {"0": 0.9, "1": 0.91}
    assert suite["rows"][1]["difference"]["mean"] == pytest.approx(0.4)
    assert suite["rows"][2]["score"]["low"] is None


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_table_is_whole_in_any_width(make_sweep, run, width):
    sweep = make_sweep({"s": {}, "ts": {"fake.score": 0.9}, "h": {"fake.fail": [0]}})
    run(sweep)
    text = io.StringIO()
    print_report(collect(sweep, plan_runs(sweep)), Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(len(line) for line in lines if not line.startswith("Report: ")) <= width
    row = next(line for line in lines if line.startswith(" ts"))
    assert row.split()[:4] == ["ts", "90.5", "[84.1,", "96.9]"]
    assert "…" not in text.getvalue()
    assert any(line.startswith(" h (1") for line in lines)
    assert any("missing: task/h/seed=0: failed, exit status 3" in line for line in lines)


def test_one_seed_says_that_it_has_no_interval():
    assert format_percent(MeanInterval(0.5, None, None, None, 1, 0.95)) == "50.0 % [one seed]"
    assert format_difference(PairedDifference(0.125, None, None, None, 1, 0.95)) == "+12.5 [one seed]"
    assert format_percent(None) == format_difference(None) == "–"


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12"), (1234, "1.234k"), (151_304, "151.3k"), (5_700_000, "5.7M"), (85_932_462, "85.9M"), (1.5e9, "1.5G")],
)
def test_counts_are_short(number, text):
    assert format_count(int(number)) == text
