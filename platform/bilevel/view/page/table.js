// Which trials are there? A table that is sorted and filtered, and on a phone a list.

import { duration, el, number } from "./dom.js";
import { columns, value } from "./filters.js";

const STEP = 100; // rows that are shown at first, and that each touch adds
const sort = { column: "trial", down: true };
let most = STEP;
let parts = null;
const lines = new Map(); // key -> [said, tr]

function compare(a, b, column, run) {
  const [x, y] = [value(a, column, run), value(b, column, run)];
  const [noX, noY] = [x === null || x === undefined, y === null || y === undefined];
  if (noX || noY) return noX - noY || b.n - a.n; // what has none is last, whichever way it is sorted
  const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
  return (sort.down ? -order : order) || b.n - a.n;
}

function cell(row, column, run) {
  const found = value(row, column, run);
  if (column === "time") return duration(found);
  if (column === "state") return row.state === "stopped" ? "stopped early" : row.state;
  return number(found);
}

function line(row, shown, run, open) {
  const cells = shown.map(([key]) => cell(row, key, run));
  const best = run.head.best?.trial === row.n && (run.head.objectives ?? []).length < 2;
  const front = (run.front ?? new Set()).has(row.n);
  const why = row.reason || (row.breaks ? `breaks the study's limits by ${number(row.breaks)}` : "");
  const mark = best ? "the best" : front ? "on the Pareto front" : "";
  const tags = Object.entries(row.tags).map(([name, word]) => `${name}: ${word}`).join(", ");
  const said = JSON.stringify([cells, best, front, why, tags, row.of]);
  const key = `${run.index}/${row.n}`;
  const old = lines.get(key);
  if (old && old[0] === said) return old[1];
  const made = el("tr", { class: `${row.state.replace(" ", "-")}${mark ? " mark" : ""}`, onclick: () => open(row.n) },
    shown.map(([column, name], i) => {
      if (column === "trial") {
        return el("td", { "data-name": name }, el("button", { type: "button", class: "link" }, `${row.n}`),
          mark ? el("span", { class: "star", title: mark, "aria-label": mark }, "★") : null);
      }
      const note = column === "state" && why ? el("span", { class: "why" }, why) : null;
      const told = column === "state" && tags ? el("span", { class: "why" }, tags) : null;
      const again = column === "state" && row.of !== null
        ? el("span", { class: "why" }, `${row.confirms ? "confirms" : "repeats"} trial ${row.of}`) : null;
      return el("td", { "data-name": name, class: cells[i] ? null : "none" }, cells[i] || "–", note, again, told);
    }));
  lines.set(key, [said, made]);
  return made;
}

function make(again) {
  const select = el("select", { "aria-label": "sort by", onchange: (event) => { by(event.target.value, again); } });
  const turn = el("button", { type: "button", onclick: () => { sort.down = !sort.down; again(); } });
  const head = el("tr");
  const body = el("tbody");
  const more = el("button", { type: "button", class: "more", onclick: () => { most += STEP; again(); } });
  const empty = el("p", { class: "dim" });
  const home = el("div", { class: "wide" }, el("table", { class: "cards" }, el("thead", {}, head), body));
  return { select, turn, head, body, more, empty, home,
    all: [el("h2", {}, "Trials"), el("p", { class: "sort" }, "sorted by ", select, turn), empty, home, more] };
}

function by(column, again) {
  if (sort.column === column) sort.down = !sort.down;
  else Object.assign(sort, { column, down: column === "trial" || column === "time" || column === "step" });
  again();
}

export function reset() { most = STEP; lines.clear(); }

// The rows of a run that fit; `open` is told the trial that is touched.
export function render(place, run, rows, open, again) {
  if (!parts) { parts = make(again); place.append(...parts.all); }
  const shown = columns(run);
  if (!shown.some(([key]) => key === sort.column)) sort.column = "trial";
  const named = JSON.stringify([shown, sort]);
  if (parts.said !== named) {
    if (parts.columns !== JSON.stringify(shown)) lines.clear();
    Object.assign(parts, { said: named, columns: JSON.stringify(shown) });
    parts.select.replaceChildren(...shown.map(([key, name]) => el("option", { value: key, selected: key === sort.column }, name)));
    parts.turn.textContent = sort.down ? "↓ largest first" : "↑ smallest first";
    parts.head.replaceChildren(...shown.map(([key, name]) => {
      const way = key === sort.column ? (sort.down ? "descending" : "ascending") : null;
      const sign = way ? (sort.down ? " ↓" : " ↑") : "";
      return el("th", { scope: "col", "aria-sort": way },
        el("button", { type: "button", class: "link", onclick: () => by(key, again) }, name + sign));
    }));
  }
  const ordered = [...rows].sort((a, b) => compare(a, b, sort.column, run));
  const wanted = ordered.slice(0, most).map((row) => line(row, shown, run, open));
  wanted.forEach((made, i) => { if (parts.body.children[i] !== made) parts.body.insertBefore(made, parts.body.children[i] ?? null); });
  while (parts.body.children.length > wanted.length) parts.body.lastElementChild.remove();
  const left = ordered.length - wanted.length;
  parts.more.hidden = left <= 0;
  parts.more.textContent = `show ${Math.min(STEP, left)} more of ${left}`;
  parts.home.hidden = parts.select.parentElement.hidden = !wanted.length;
  parts.empty.hidden = wanted.length > 0;
  parts.empty.textContent = run.rows.size ? "No trial fits the filter." : "No trial has begun yet.";
}
