"""The page in a real browser: pictures are drawn, nothing is fetched, nothing goes wrong on the console."""

import shutil
import subprocess

import pytest

from timesformer_plus.analysis.sweep import Sweep

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--dump-dom",
)


def browse(page, profile, *flags):
    """Open a file; give the document after its scripts have run, and what they left on the console."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("flags", [(), ("--force-dark-mode", "--window-size=500,2000")])
def test_pictures_are_drawn_offline(make_sweep, run, tmp_path, flags):
    evil = "<img src=x onerror=document.title='owned'>"
    sweep: Sweep = make_sweep(
        {"s": {"fake.bits": {"time": 0.3}}, evil: {"fake.score": 0.9, "fake.bits": {"time": 0.9}}},
        suite={"metric": "pair", "ceiling": 0.5, "readable": {evil: ["time"]}},
        title="A & B",
    )
    run(sweep)
    page = sweep.output / "report.html"
    document, console = browse(page, tmp_path / "profile", *flags)
    # The page forbids itself every connection: an attempt at one would be refused, and shown here.
    assert console == []
    assert "<title>A &amp; B</title>" in document
    plots = {
        name: document.partition(f'id="{name}"')[2].partition("<script")[0]
        for name in ("ranking-0", "parts-0", "cost-0")
    }
    for plot in plots.values():
        assert 'class="main-svg"' in plot
        assert "&lt;img src=x" in plot
    # two variants, each its seeds and its mean
    assert plots["ranking-0"].count('<g class="trace scatter') == 4
    assert plots["cost-0"].count('<g class="trace scatter') == 4
    assert "ceiling 50 %" in plots["ranking-0"]
    assert "ceiling 50 %" in plots["cost-0"]
    assert 'class="hm"' in plots["parts-0"]
    assert "<img src=x" not in document


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_connection_would_have_been_noticed(make_sweep, run, tmp_path):
    sweep: Sweep = make_sweep({"s": {}})
    run(sweep)
    page = sweep.output / "report.html"
    page.write_text(page.read_text().replace("</body>", '<script>fetch("https://example.org/x")</script></body>'))
    _, console = browse(page, tmp_path / "profile")
    assert "Content Security Policy" in "".join(console)
