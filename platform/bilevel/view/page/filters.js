// Which trials does the reader want to see? Words, states, and ranges of values.

import { el, fill } from "./dom.js";

const STATES = ["running", "completed", "stopped", "failed", "left off"];
const SAID = { stopped: "stopped early" };
const filter = { text: "", off: new Set(), ranges: [] };
let change = () => {};

export function setup(onChange) { change = onChange; }

// What a column's name leads to in a row.
export function value(row, column, run) {
  if (column === "trial") return row.n;
  if (column === "state") return row.state;
  if (column === "step") return row.step;
  if (column === "time") return row.seconds + (row.since ? Math.max(0, run.now - row.since) : 0);
  if (column.startsWith("objective:")) return row.values[Number(column.slice(10))];
  return row.point[column.slice(6)];
}

// [key, what it is called] of each column.
export function columns(run) {
  const objectives = (run.head.objectives ?? []).map((o, i) => [`objective:${i}`, o.name]);
  return [["trial", "trial"], ["state", "state"], ...objectives, ["step", "step"], ["time", "time"],
    ...run.names.map((name) => [`point:${name}`, name])];
}

export function any() { return Boolean(filter.text || filter.off.size || active().length); }

function active() { return filter.ranges.filter((range) => range.column && (range.low !== "" || range.high !== "")); }

// A test for rows.
export function test(run) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  const ranges = active();
  return (row) => {
    if (filter.off.has(row.state)) return false;
    for (const { column, low, high } of ranges) {
      const found = value(row, column, run);
      if (typeof found !== "number") return false;
      if (low !== "" && found < Number(low)) return false;
      if (high !== "" && found > Number(high)) return false;
    }
    if (!words.length) return true;
    const point = Object.entries({ ...row.tags, ...row.point }).map(([name, v]) => `${name}=${v}`).join(" ");
    const text = `${row.n} ${row.state} ${row.reason} ${point}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

// For charts, by a trial's number; null where all are wanted.
export function match(run) {
  if (!any()) return null;
  const fits = test(run);
  const kept = new Set([...run.rows.values()].filter(fits).map((row) => row.n));
  return (trial) => kept.has(trial);
}

function range(given, names) {
  const at = (name, type, label) => el("input", {
    type, inputmode: "decimal", step: "any", placeholder: label, "aria-label": label, value: given[name],
    oninput: (event) => { given[name] = event.target.value; change(); },
  });
  const select = el("select", { "aria-label": "value", onchange: (event) => { given.column = event.target.value; change(); } },
    names.map(([key, name]) => el("option", { value: key, selected: key === given.column }, name)));
  const gone = el("button", {
    type: "button", "aria-label": "remove this range",
    onclick: () => { filter.ranges.splice(filter.ranges.indexOf(given), 1); again(); change(); },
  }, "×");
  return el("p", { class: "range" }, select, at("low", "number", "from"), at("high", "number", "to"), gone);
}

let names = [];
let body = null;
let ranges = null;

function again() {
  fill(ranges, [names, filter.ranges.length, Math.random()], () => filter.ranges.map((given) => range(given, names)));
}

function make() {
  const states = STATES.map((state) => el("label", { class: "chip", "data-state": state }, el("input", {
    type: "checkbox", checked: true,
    onchange: (event) => { filter.off[event.target.checked ? "delete" : "add"](state); change(); },
  }), SAID[state] ?? state));
  ranges = el("div");
  const add = el("button", {
    type: "button",
    onclick: () => { filter.ranges.push({ column: names[0]?.[0] ?? "", low: "", high: "" }); again(); },
  }, "+ range of a value");
  const text = el("input", {
    type: "search", placeholder: "words: a number, relu, diverged …", "aria-label": "words",
    oninput: (event) => { filter.text = event.target.value; change(); },
  });
  const said = el("span", { class: "said", "aria-live": "polite" });
  const summary = el("summary", {}, "Filter trials ", said);
  return el("details", {}, summary, el("p", {}, text), el("p", { class: "chips" }, states), ranges, el("p", {}, add),
    el("p", { class: "caption" }, "It holds for the table and for the points and lines of single trials in the charts; "
      + "what is drawn of all of them together (the best so far, what matters) stays as it is."));
}

export function render(place, run, shown) {
  if (!body) { body = make(); place.append(body); }
  const now = columns(run).filter(([key]) => key !== "state" && (!key.startsWith("point:")
    || [...run.rows.values()].some((row) => typeof row.point[key.slice(6)] === "number")));
  const first = JSON.stringify(now) !== JSON.stringify(names);
  names = now;
  if (first && !ranges.contains(document.activeElement)) again();
  body.querySelector(".said").textContent = any() ? `${shown} of ${run.rows.size} are shown` : "";
  const there = new Set([...run.rows.values()].map((row) => row.state));
  for (const chip of body.querySelectorAll(".chip")) {
    chip.hidden = !there.has(chip.dataset.state) && !filter.off.has(chip.dataset.state);
  }
  place.hidden = run.rows.size < 2;
}
