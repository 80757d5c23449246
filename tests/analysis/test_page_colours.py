"""Contrast of the page's colours, by the formula of WCAG 2."""

import re

import pytest

from timesformer_plus.analysis.page_assets import STYLE


def colours(scheme):
    light, dark = STYLE.partition("* { box-sizing")[0].split("@media")
    return dict(re.findall(r"--([\w-]+): (#\w{6});", light if scheme == "light" else dark))


def luminance(colour):
    parts = [part / 255 for part in bytes.fromhex(colour[1:])]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#777777") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_read_is_readable(scheme):
    c = colours(scheme)
    # scales go from one of these to another, and so does their contrast with the ink on them
    for ground in ("cell", "cell-grey", "cell-green", "heat", "tint"):
        assert contrast(c["ink"], c[ground]) >= 4.5, ground
    for ink in ("ink", "soft", "accent", "better", "worse"):
        assert contrast(c[ink], c["paper"]) >= 4.5, ink
    assert contrast({"light": "#47504f", "dark": "#c3cbcd"}[scheme], c["tint"]) >= 4.5  # .heat i


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_drawings_are_seen(scheme):
    c = colours(scheme)
    series = [colour for name, colour in c.items() if name.startswith("series-")]
    assert len(set(series)) == 10
    assert min(contrast(colour, c["paper"]) for colour in series) >= 3
    assert contrast(c["old"], c["cell"]) >= 2.4
    assert contrast(c["new"], c["old"]) >= 3
