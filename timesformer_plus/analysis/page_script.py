"""Script of the report page: draws pictures in the page's colours, changes them, sorts tables."""

from __future__ import annotations

SCRIPT = r"""
"use strict";
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 640px)");
const medium = window.matchMedia("(max-width: 1100px)");
const chosen = {};

// plotly knows no variables of the style sheet; nothing but colours is looked at
function resolve(value, isColour, css) {
  if (Array.isArray(value)) return value.map(item => resolve(item, isColour, css));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, /color(scale)?$/i.test(k), css)]));
  const name = isColour && typeof value === "string" && value.match(/^var\((--[a-z0-9-]+)\)$/);
  return name ? css.getPropertyValue(name[1]).trim() : value;
}

function themed(layout, css) {
  const colour = name => css.getPropertyValue(name).trim();
  const result = Object.assign({}, layout);
  result.paper_bgcolor = result.plot_bgcolor = "rgba(0,0,0,0)";
  result.font = {family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11.5 : 13,
    color: colour("--ink")};
  result.margin = {l: 4, r: (layout.meta && layout.meta.right) || 12, t: 26, b: 8};
  result.dragmode = false;
  result.hoverlabel = {bgcolor: colour("--paper"), bordercolor: colour("--line"), align: "left",
    font: {color: colour("--ink"), size: 13}};
  result.modebar = {bgcolor: "rgba(0,0,0,0)", color: colour("--line"), activecolor: colour("--accent")};
  for (const axis of ["xaxis", "yaxis"]) {
    const given = result[axis] || {};
    result[axis] = Object.assign({automargin: true, zeroline: false, gridcolor: colour("--grid"), ticks: "",
      linecolor: colour("--line"), fixedrange: true}, given);
    if (narrow.matches && axis === "xaxis" && given.nticks) result[axis].nticks = 4;
    if (given.title) result[axis].title = Object.assign({standoff: 12}, given.title,
      {font: {color: colour("--soft"), size: 12.5}});
  }
  return result;
}

// what of a trace depends on the width: room for names, and marks a few pixels apart
function fitted(trace) {
  const given = trace.meta && trace.meta[narrow.matches ? "narrow" : medium.matches ? "medium" : "wide"];
  return given ? Object.assign({}, trace, given) : trace;
}

// browsers keep ticks over a reload, so the boxes say what is seen, not the figure
function ticked(trace, boxes) {
  const box = trace.meta && boxes.find(box => box.value === trace.meta.variant);
  return box ? Object.assign({}, trace, {visible: box.checked}) : trace;
}

const ticks = [...document.querySelectorAll("[data-shows]")];

function draw(source) {
  const id = source.dataset.for, place = document.getElementById(id);
  if (place.closest("details:not([open])")) return;
  const css = getComputedStyle(document.documentElement);
  const figure = resolve(JSON.parse(source.textContent)[chosen[id] || 0], false, css);
  const boxes = ticks.filter(box => box.dataset.shows === id);
  figure.data = figure.data.map(trace => ticked(fitted(trace), boxes));
  place.style.minHeight = (figure.layout.height || 300) + "px";
  Plotly.react(place, figure.data, themed(figure.layout, css), {responsive: true, displaylogo: false,
    modeBarButtons: [["toImage"]], toImageButtonOptions: {format: "svg", filename: id}});
}

const sources = [...document.querySelectorAll("script[data-for]")];
const drawAll = () => sources.forEach(draw);
drawAll();
dark.addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);
medium.addEventListener("change", drawAll);

for (const fold of document.querySelectorAll("details"))
  fold.addEventListener("toggle", () => {
    if (fold.open) sources.filter(source => fold.contains(source)).forEach(draw);
  });

for (const control of document.querySelectorAll("[data-governs]"))
  control.addEventListener("change", () => {
    for (const id of control.dataset.governs.split(" ")) {
      chosen[id] = Number(control.value);
      draw(sources.find(source => source.dataset.for === id));
    }
  });

for (const box of ticks)
  box.addEventListener("change", () => {
    const plot = document.getElementById(box.dataset.shows);
    const own = plot.data.flatMap((trace, place) => trace.meta && trace.meta.variant === box.value ? [place] : []);
    if (own.length) Plotly.restyle(plot, {visible: box.checked}, own);
  });

function compare(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, {numeric: true}) : x - y;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const body = table.tBodies[0], rows = [...body.rows];
    const key = row => row.cells[column].dataset.key;
    const last = head.getAttribute("aria-sort");
    const numbers = rows.some(row => key(row) !== undefined && !Number.isNaN(Number(key(row))));
    const up = last === "none" ? !numbers : last === "descending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.sort((a, b) => {
      const lacking = (key(a) === undefined) - (key(b) === undefined);
      return lacking || (key(a) === undefined ? 0 : (up ? 1 : -1) * compare(key(a), key(b)));
    });
    body.append(...rows);
  }));
}
"""
