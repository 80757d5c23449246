"""The page in a real browser: drawn, quiet, offline, sorted, hovered, at the width of a phone and in the dark."""

import itertools
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from report_fakes import (
    CLASSES,
    fail,
    finish,
    write_altered,
    write_cost,
    write_curves,
    write_model,
    write_predictions,
)

from timesformer_plus.analysis.findings import Report, collect
from timesformer_plus.analysis.page import render_page
from timesformer_plus.analysis.sweep import Suite, Sweep, plan_runs

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
EVIL = "<script>document.title='owned'<|script>"
IMAGE = "<img src=x onerror=document.title='owned'>"
PATTERNS = {"ts": "ts", EVIL: "j", "s": "s"}
EMPTY = Report("", Path(), "", (0,), 1, 1, (), {})
TS = "ts (2 of 3)"  # a seed of it failed
SCORES = {"ts": 0.90, EVIL: 0.60, "s": 0.30}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page with every part on it; one run failed."""
    folder = tmp_path_factory.mktemp("page")
    base = folder / "base.yaml"
    base.write_text("model: {pattern: s}")
    variants = {name: {"model.pattern": pattern} for name, pattern in PATTERNS.items()}
    suite = Suite(base=base, variants=variants, reference="s", ceiling=0.5, title=IMAGE, description=EVIL)
    sweep = Sweep(suites={"task": suite}, output=folder / "out", title="A & B", seeds=(0, 1, 2))
    runs = plan_runs(sweep)
    for run in runs:
        if (run.variant, run.seed) == ("ts", 2):
            fail(run, EVIL)
            continue
        score = SCORES[run.variant] + 0.01 * run.seed
        finish(run, score, per_class=dict.fromkeys(CLASSES, score))
        write_model(run.folder, PATTERNS[run.variant])
        write_curves(run.folder, [2.0, 1.0, 0.5, 0.25], [0.2, score])
        write_predictions(run.folder, [0, 0, 1, 2], [0, 2, 1, 2])
        write_altered(run.folder, {"reversed": 0.2})
        write_cost(run, {"ts": 2.0, EVIL: 9.0, "s": 1.0}[run.variant], latency_ms=3.0)
    path = folder / "report.html"
    path.write_text(render_page(collect(sweep, runs, command=f"ablate {EVIL}")), encoding="utf-8")
    return path


def show(browser, file):
    """Open a page; keep what it says on the console and asks of the network."""
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.noise = []
    page.on("console", lambda message: page.noise.append(message.text))
    page.on("pageerror", lambda error: page.noise.append(str(error)))
    page.on("request", lambda request: page.noise.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("#differences-0 .main-svg")
    return page


@pytest.fixture(scope="module")
def page(browser, page_file):
    """One page for all who press nothing that others would miss: opening it takes seconds."""
    page = show(browser, page_file)
    yield page
    assert page.noise == [page_file.as_uri()]
    page.close()


def rows(page):
    return page.locator("table.sortable tbody th").all_inner_texts()


def test_page_is_drawn_quietly_and_asks_nobody(browser, page_file):
    page = show(browser, page_file)
    for fold in page.locator("details.fold > summary").all():
        fold.click()
    for name in ("ranking-0", "cost-0", "differences-0", "parts-0", "curves-0", "classes-0", "confusion-0"):
        page.wait_for_selector(f"#{name} .main-svg")
    assert page.locator(".card svg").count() == 4  # s, j, and two steps of ts
    assert page.noise == [page_file.as_uri()]
    assert page.title() == "A & B"
    assert page.locator("h2").first.inner_text() == IMAGE
    assert page.locator("img").count() == 0
    text = page.locator("body").inner_text()
    assert text.count(EVIL) >= 6  # description, finding, reason, card, row, command
    assert EVIL in page.locator("#ranking-0 .ytick text").all_text_contents()


def test_table_sorts_by_mouse_and_by_keyboard(page):
    assert rows(page) == [TS, EVIL, "s"]
    gflops = page.get_by_role("columnheader", name="GFLOPs")
    gflops.get_by_role("button").click()
    assert rows(page) == [EVIL, TS, "s"]  # numbers begin with the greatest
    assert gflops.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert rows(page) == ["s", TS, EVIL]
    assert gflops.get_attribute("aria-sort") == "ascending"
    assert page.locator('th[aria-sort="none"]').count() == page.locator("table.sortable thead th").count() - 1
    page.locator("table.sortable thead button").first.focus()
    page.keyboard.press("Space")
    assert rows(page) == sorted(rows(page), key=str.casefold)
    page.get_by_role("columnheader", name="top1").get_by_role("button").click()
    assert rows(page) == [TS, EVIL, "s"]


def test_hovering_a_point_names_its_variant(page):
    point = page.locator("#ranking-0 .trace.scatter .points path").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hover = page.wait_for_selector("#ranking-0 .hovertext")
    assert re.fullmatch(r"s\s*31\.0 % \(28\.5 to 33\.5, 3 seeds\)", hover.text_content())


def test_switch_and_list_change_the_pictures(page):
    axis = page.locator("#cost-0 .xtitle")
    assert axis.text_content() == "GFLOPs a clip view (multiply-adds)"
    page.get_by_role("radio", name="GFLOPs").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#cost-0 .xtitle", has_text=re.compile("^parameters$")).wait_for()
    page.locator("summary", has_text="what was taken for what").click()
    page.wait_for_selector("#confusion-0 .main-svg")
    page.get_by_label("Variant").select_option(label="s")
    assert page.evaluate("document.getElementById('classes-0').data.at(-1).x[0]") == pytest.approx(31)


def seen(page):
    """Variants with a line in the picture of the curves."""
    shown = (
        "document.getElementById('curves-0').data.filter(t => t.visible !== false && t.name).map(t => t.meta.variant)"
    )
    return page.evaluate(shown)


def test_lines_of_curves_are_ticked_by_keyboard(page):
    page.locator("summary", has_text="Learning curves").click()
    page.wait_for_selector("#curves-0 .main-svg")
    assert seen(page) == ["ts", EVIL, "s"]
    page.get_by_role("checkbox", name=TS).focus()
    page.keyboard.press("Space")
    assert seen(page) == [EVIL, "s"]
    page.get_by_role("radio", name="training loss").focus()
    page.keyboard.press("ArrowRight")  # another curve, the same lines
    page.locator("#curves-0 .ytitle", has_text="top1 on val").wait_for()
    assert seen(page) == [EVIL, "s"]
    page.get_by_role("checkbox", name=TS).check()
    assert seen(page) == ["ts", EVIL, "s"]


def test_names_at_marks_lie_on_no_other(page):
    boxes = """[...document.querySelectorAll("#cost-0 .textpoint text")].filter(t => t.textContent)
        .map(t => t.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"""
    for width in (390, 900, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        found = page.evaluate(boxes)
        assert found
        for (left, top, right, bottom), other in itertools.combinations(found, 2):
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_page_fits_every_width_and_its_colours_the_scheme(page):
    luminance = "c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765"
    for scheme, width in (("dark", 1400), ("dark", 390), ("light", 390), ("light", 1400)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)  # plotly follows a resize a little later
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for plot in page.locator(".main-svg").all():
            box = plot.bounding_box()
            assert box is None or box["x"] + box["width"] <= width
        ground = page.evaluate(f"({luminance})(getComputedStyle(document.body).backgroundColor)")
        ink = page.evaluate(f"({luminance})(getComputedStyle(document.querySelector('#ranking-0 .ytick text')).fill)")
        assert abs(ink - ground) > 0.7
        assert (ground < 0.5) == (scheme == "dark")
        # better, not separated, paper; a colour that the script has not resolved would be black
        fills = page.eval_on_selector_all("#ranking-0 .points path", "all => all.map(p => getComputedStyle(p).fill)")
        assert len(set(fills)) >= 3
        assert "rgb(0, 0, 0)" not in fills


def test_a_connection_would_have_been_noticed(browser, tmp_path):
    policy = re.search(r"<meta http-equiv=.*?>", render_page(EMPTY), flags=re.S)[0]
    file = tmp_path / "page.html"
    file.write_text(
        f'{policy}<div id="differences-0"><p class="main-svg">x</p></div><script>fetch("https://example.org/x")</script>'
    )
    page = show(browser, file)
    assert "Content Security Policy" in "".join(page.noise)
    page.close()
