"""Style of the report page, as text that is put into it; pictures take their colours from here too."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ground: #f7f7f4; --ink: #1b2023; --soft: #636c70; --line: #dcdfdb; --grid: #ecedea;
  --accent: #0b6b5c; --better: #0b7a68; --worse: #b9521b; --neutral: #8b9499; --ceiling: #9a6b00;
  --heat: #3fa890; --tint: #a9d3c9; --old: #5aa896; --new: #06493e; --cell: #eff1ee;
  --cell-grey: #cfd3d1; --cell-green: #cfe8e1;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #c46a9b; --series-4: #b97f00;
  --series-5: #2e8fcb; --series-6: #7d5ba6; --series-7: #7a5210; --series-8: #757575; --series-9: #8a7d00;
  --warn: #fbf0e4; --warn-ink: #7c3c0b; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #171b1d; --ground: #0f1213; --ink: #e8ebea; --soft: #9ba5a8; --line: #31383b; --grid: #252b2e;
  --accent: #63cdb6; --better: #4cc3aa; --worse: #ee9a62; --neutral: #7d878c; --ceiling: #d9ab4a;
  --heat: #196f5f; --tint: #275b52; --old: #37806f; --new: #8be8d3; --cell: #20262a;
  --cell-grey: #495257; --cell-green: #1f4a42;
  --series-0: #3a8fd0; --series-1: #e8762c; --series-2: #1fb58a; --series-3: #d98db6; --series-4: #e69f00;
  --series-5: #7cc9f2; --series-6: #a68bcb; --series-7: #b58a45; --series-8: #9a9a9a; --series-9: #c9b81a;
  --warn: #35240f; --warn-ink: #f7cfa2; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
header, main { max-width: 1280px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 64px; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "Source Serif 4", Charter, Georgia,
  "Noto Serif", "DejaVu Serif", serif; font-weight: 600; letter-spacing: -.015em; text-wrap: balance; }
h1 { margin: 6px 0 20px; font-size: clamp(30px, 5.2vw, 52px); line-height: 1.08; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: clamp(23px, 3vw, 31px); line-height: 1.2; overflow-wrap: anywhere; }
h3 { margin: 0; font-size: 17px; font-weight: 650; line-height: 1.35; }
h4 { margin: 0 0 10px; font: 600 14px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
section > h3 { margin: 44px 0 6px; }
p { margin: 0 0 10px; max-width: 72ch; overflow-wrap: anywhere; }
.eyebrow { margin: 0; color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: .06em; }
.lede { font-size: clamp(16.5px, 2vw, 19px); line-height: 1.5; color: var(--ink); }
.description { font-size: 16.5px; }
.facts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 20px 0 22px; max-width: none; color: var(--soft);
  font-size: 14px; }
.facts span::before { content: ""; display: inline-block; width: 7px; height: 7px; margin-right: 8px;
  border-radius: 50%; background: var(--neutral); vertical-align: 1px; }
.facts .done::before { background: var(--better); }
.facts .partial { color: var(--warn-ink); font-weight: 600; }
.facts .partial::before { background: var(--worse); }
nav { display: flex; flex-wrap: wrap; gap: 6px 24px; padding: 14px 0; border-top: 1px solid var(--line);
  font-size: 15px; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 4px; overflow-wrap: anywhere; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
section { margin: 24px 0 40px; padding: 40px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; }
figure { margin: 30px 0 0; min-width: 0; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; justify-content: space-between; gap: 8px 20px;
  margin-bottom: 2px; }
.plot { width: 100%; overflow: hidden; }
figcaption { margin-top: 6px; }
figcaption, .note { color: var(--soft); font-size: 14px; line-height: 1.5; max-width: 84ch; }
.key { white-space: nowrap; }
.key::before { content: ""; display: inline-block; width: 9px; height: 9px; margin: 0 5px 0 2px; border-radius: 2px;
  background: var(--neutral); }
.key.better::before { background: var(--better); } .key.worse::before { background: var(--worse); }
.key.new::before { background: var(--new); } .key.old::before { background: var(--old); }
.findings { margin: 26px 0 14px; padding: 2px 0 2px 20px; list-style: none; border-left: 3px solid var(--accent); }
.findings li { margin: 8px 0; max-width: 84ch; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 12px 44px; }
.switch { display: flex; flex-wrap: wrap; gap: 2px; margin: 0; padding: 0; border: 0; font-size: 13.5px; min-width: 0; }
.switch legend { float: left; padding: 3px 8px 3px 0; color: var(--soft); }
.switch input { position: absolute; opacity: 0; pointer-events: none; }
.switch span { display: block; padding: 3px 10px; border-radius: 6px; color: var(--soft); cursor: pointer; }
.switch span:hover { color: var(--ink); }
.switch input:checked + span { background: var(--cell); color: var(--ink); font-weight: 600; }
.switch input:focus-visible + span { outline: 3px solid var(--accent); outline-offset: 1px; }
.lines { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 8px 0 2px; padding: 0; border: 0; min-width: 0;
  font-size: 13.5px; }
.lines legend { float: left; padding: 2px 4px 2px 0; color: var(--soft); }
.lines label { display: inline-flex; align-items: center; gap: 6px; padding: 2px 0; cursor: pointer;
  overflow-wrap: anywhere; }
.lines input { flex: none; width: 15px; height: 15px; margin: 0; accent-color: var(--accent); }
.lines i { flex: none; width: 24px; }
.choose { display: inline-flex; align-items: center; gap: 8px; margin-top: 14px; max-width: 100%; font-size: 14.5px; }
select { min-width: 0; max-width: 100%; padding: 5px 10px; border: 1px solid var(--line); border-radius: 6px;
  background: var(--paper); color: var(--ink); font: inherit; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(310px, 100%), 1fr)); gap: 32px 40px;
  margin-top: 18px; }
.card { min-width: 0; }
.field { margin-bottom: 8px; }
.field svg { display: block; width: 100%; max-width: 480px; height: auto; }
.reach { margin: 2px 0 0; color: var(--soft); font-size: 12.5px; line-height: 1.45;
  font-variant-numeric: tabular-nums; }
.reach b { margin-right: 4px; font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  color: var(--ink); font-weight: 600; }
svg .clip { fill: var(--cell); } svg .new { fill: var(--new); } svg .old { fill: var(--old); }
svg .mesh { fill: none; stroke: var(--paper); stroke-width: 1; }
svg .self { fill: none; stroke: var(--worse); stroke-width: 2.4; }
.scroll { margin-top: 12px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { padding: 0; color: var(--soft); font-weight: 600; vertical-align: bottom; }
.heat thead th { padding: 8px 12px; } .heat thead th:first-child { padding-left: 0; }
th button { display: block; width: 100%; padding: 8px; border: 0; background: none; color: inherit; font: inherit;
  text-align: inherit; cursor: pointer; white-space: nowrap; }
th button:hover { color: var(--ink); }
th button::after { content: "\\2195"; margin-left: 3px; opacity: .3; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
th[aria-sort=ascending], th[aria-sort=descending] { color: var(--ink); }
tr > :first-child { position: sticky; left: 0; padding-left: 0; background: var(--paper); text-align: left; }
tr > :first-child button { padding-left: 0; }
tbody th { font-weight: 600; }
.pattern { text-align: left; }
td.pattern, code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 13px; }
.quiet, td.unclear, td.reference { color: var(--soft); }
td.better { color: var(--better); font-weight: 600; } td.worse { color: var(--worse); font-weight: 600; }
tbody tr.reference th::after { content: " reference"; color: var(--soft); font-weight: 400; }
tbody tr:hover > * { background: var(--cell); }
.heat td { border-bottom: 3px solid var(--paper); border-right: 3px solid var(--paper); line-height: 1.3;
  background: color-mix(in srgb, var(--tint) var(--share, 0%), var(--cell)); }
.heat small { display: block; font-size: 12px; } .heat i { color: #c3cbcd; font-style: normal; }
@media (prefers-color-scheme: light) { .heat i { color: #47504f; } }
.groups tbody th[scope=rowgroup] { padding-top: 18px; color: var(--soft); }
.groups tbody:first-of-type th[scope=rowgroup] { padding-top: 8px; }
.groups thead th { padding: 8px; } .groups thead th:first-child { padding-left: 0; }
.fold { margin-top: 14px; border-top: 1px solid var(--line); padding-top: 14px; }
.scroll + .fold, .note + .fold { margin-top: 34px; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.warning { margin: 14px 0; padding: 12px 18px; border-radius: 8px; background: var(--warn); color: var(--warn-ink);
  overflow-wrap: anywhere; font-size: 14.5px; }
.warning ul { margin: 8px 0 2px; padding-left: 20px; }
pre { overflow-x: auto; padding: 16px 18px; border-radius: 8px; background: var(--ground); }
dl { display: grid; grid-template-columns: minmax(120px, max-content) 1fr; gap: 5px 24px; margin: 12px 0 4px;
  font-size: 14.5px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  header, main { padding: 0 14px; } header { padding-top: 34px; }
  section { padding: 22px 16px; margin: 14px -6px 24px; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 8px; } th, td, th button { padding: 7px 8px; } }
@media print { body { background: none; } section { border: 0; padding: 0; }
  .switch, .choose, .lines { display: none; } }
"""
