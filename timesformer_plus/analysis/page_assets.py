"""Style and script of the report page, as text that is put into it."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ground: #f5f6f4; --ink: #1c2326; --soft: #5c676c;
  --line: #dfe3e1; --accent: #00664f; --good: #e2f2ec; --good-ink: #00523f; --bad: #fdeee2; --bad-ink: #8a3c00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191e20; --ground: #101416; --ink: #e6eaea; --soft: #9aa6aa; --line: #2e3639; --accent: #5cc8a8;
    --good: #12352b; --good-ink: #a5e3cf; --bad: #3d2513; --bad-ink: #ffc9a0; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 48px; }
.eyebrow { margin: 0; color: var(--accent); font-weight: 600; letter-spacing: .04em; }
h1 { margin: 4px 0 16px; font-size: clamp(28px, 5vw, 44px); line-height: 1.12; letter-spacing: -.02em; }
h2 { margin: 0 0 8px; font-size: 26px; letter-spacing: -.01em; }
h3 { margin: 0 0 4px; font-size: 17px; }
p { margin: 0 0 10px; max-width: 78ch; }
.lede { font-size: 19px; }
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 18px 0; max-width: none; }
.chips span { padding: 3px 12px; border-radius: 99px; background: var(--paper); border: 1px solid var(--line);
  font-size: 14px; }
.chips .good { background: var(--good); color: var(--good-ink); border-color: transparent; }
.chips .bad { background: var(--bad); color: var(--bad-ink); border-color: transparent; }
nav { display: flex; flex-wrap: wrap; gap: 20px; padding: 12px 0; border-bottom: 1px solid var(--line); }
a { color: var(--accent); text-underline-offset: 3px; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
section { margin: 28px 0; padding: 28px; background: var(--paper); border: 1px solid var(--line); border-radius: 14px; }
.findings { margin: 12px 0 18px; padding: 14px 18px 14px 36px; background: var(--ground); border-radius: 10px; }
.note, figcaption { color: var(--soft); font-size: 14.5px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 28px;
  margin: 20px 0; }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
.plot { width: 100%; min-height: 160px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; margin-bottom: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
th:first-child, .pattern { text-align: left; }
td.pattern, code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
tbody tr:last-child > * { border-bottom: 0; }
tbody tr.reference { background: var(--ground); }
tbody tr:hover { background: var(--good); }
.warning { margin: 12px 0; padding: 12px 18px; border-radius: 10px; background: var(--bad); color: var(--bad-ink);
  overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 14px 18px; border-radius: 10px; background: var(--ground); font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: 14.5px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { header, main { padding: 0 12px; } header { padding-top: 28px; }
  section { padding: 18px 14px; } dl { grid-template-columns: 1fr; } dd { margin-bottom: 8px; } }
@media print { body { background: none; } section { break-inside: avoid-page; border: 0; padding: 0; } }
"""

SCRIPT = """
"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function themed(layout) {
  const css = getComputedStyle(document.documentElement);
  const colour = name => css.getPropertyValue(name).trim();
  const themed = structuredClone(layout);
  themed.paper_bgcolor = themed.plot_bgcolor = "rgba(0,0,0,0)";
  themed.font = {family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink")};
  themed.margin = {l: 8, r: 16, t: 44, b: 8};
  themed.dragmode = false;
  themed.modebar = {bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent")};
  themed.hoverlabel = {bgcolor: colour("--paper"), bordercolor: colour("--line"), font: {color: colour("--ink")}};
  for (const axis of ["xaxis", "yaxis"]) themed[axis] = Object.assign({automargin: true, zeroline: false,
    gridcolor: colour("--line"), linecolor: colour("--line")}, themed[axis]);
  return themed;
}
function draw() {
  for (const source of document.querySelectorAll("script[data-for]")) {
    const figure = JSON.parse(source.textContent);
    Plotly.react(source.dataset.for, figure.data, themed(figure.layout), {responsive: true, displaylogo: false,
      modeBarButtons: [["toImage"]],
      toImageButtonOptions: {format: "svg", filename: source.dataset.for}});
  }
}
draw();
dark.addEventListener("change", draw);
"""
