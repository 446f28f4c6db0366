// How does the page keep up with the runs? It asks what is new since a position, and changes what is another.

import { duration, el, fill, table } from "./dom.js";
import * as filters from "./filters.js";
import * as plots from "./plots.js";
import * as trials from "./table.js";
import * as sheet from "./trial.js";

const AT_WORK = 1500, AT_REST = 5000, HIDDEN = 15000; // ms between questions
const SHORT = {
  running: "Running", pareto_front: "Pareto", slices: "Each value", parallel_coordinates: "All values",
  learning_curves: "Curves", timeline: "Timeline", population: "Population",
};
const at = (id) => document.getElementById(id);
const runs = [];
let selected = 0;
let together = { drawn: 0, picture: null, differences: [] };
let timer = null;
let since = null; // when the last answer came

function take(said) {
  said.runs.forEach((news, index) => {
    const run = runs[index] ??= { index, rows: new Map(), pictures: new Map(), names: [], order: [], head: {}, at: "" };
    if (news.whole) { run.rows.clear(); run.pictures.clear(); if (index === selected) trials.reset(); }
    for (const row of news.rows) run.rows.set(row.n, row);
    for (const [name, picture] of Object.entries(news.pictures)) run.pictures.set(name, picture);
    for (const part of ["run", "at", "problem", "head", "names", "order", "failed", "drawing", "more"]) run[part] = news[part];
    run.now = said.now;
    run.front = new Set(run.head.front ?? []);
    run.touched = new Set(Object.keys(news.pictures));
  });
  if (said.picture !== undefined) together.picture = said.picture;
  if (said.differences) together.differences = said.differences;
  together.drawn = said.beside;
}

// -- what is best ------------------------------------------------------------------------------------------------------

function best(run) {
  const { best: found, objectives = [], front = [], counts = {} } = run.head;
  if (!found) {
    const begun = Object.values(counts).some(Boolean);
    const failed = counts.failed && !counts.running ? "No trial has a result: all that ended failed." : "No trial has ended yet.";
    return el("p", { class: "best" }, begun ? failed : "No trial has begun yet.");
  }
  const open = el("button", { type: "button", class: "link", onclick: () => { select(run.index); sheet.open(run.index, found.trial); } },
    `trial ${found.trial}`);
  const step = found.of ? `, at step ${found.step} of ${found.of}` : `, at step ${found.step}`;
  const sure = found.confirmed.length ? `, confirmed by trial${found.confirmed.length > 1 ? "s" : ""} ${found.confirmed.join(", ")}` : "";
  const how = (found.seeds > 1 ? ` (${found.seeds} seeds)` : step) + sure + (found.state === "stopped" ? ", stopped early" : "");
  const line = objectives.length > 1
    ? el("p", { class: "best" }, el("b", {}, String(front.length)), ` on the Pareto front of ${objectives.map((o) => o.name).join(", ")}; `
      + `${found.way} ${found.metric} `, el("b", {}, found.text), ", ", open)
    : el("p", { class: "best" }, `${found.way} ${found.metric} `, el("b", {}, found.text), ", ", open, how);
  const config = found.config.slice(0, 12).map(([name, value]) => el("span", {}, el("i", {}, name), ` ${value}`));
  const more = found.config.length - 12;
  return [line, found.breaks ? el("p", { class: "bad" }, "No trial keeps the study's limits; this one breaks them least.") : null,
    run.head.rule ? el("p", { class: "dim" }, `Trials are compared ${run.head.rule}.`) : null,
    run.head.passed ? el("p", { class: "note" }, run.head.passed[0].toUpperCase() + run.head.passed.slice(1) + ".") : null,
    config.length ? el("p", { class: "config" }, config, more > 0 ? `and ${more} more` : "") : null];
}

function tiles(run) {
  const { counts = {}, trials: all = 0, seconds = 0, faults = 0 } = run.head;
  const names = { running: "running", completed: "completed", stopped: "stopped early", failed: "failed", "left off": "left off" };
  const found = [[all, all === 1 ? "trial" : "trials"], ...Object.entries(names).filter(([state]) => counts[state]).map(([state, name]) => [counts[state], name]),
    [duration(seconds), "at work"]];
  if (faults) found.push([faults, faults === 1 ? "fault survived" : "faults survived"]);
  return found.map(([value, name]) => el("div", {}, el("b", {}, String(value)), el("span", {}, name)));
}

function last(run) {
  if (run.head.state !== "running" || !run.head.last) return "";
  const quiet = Math.max(0, run.now - run.head.last);
  return quiet > 30 ? `nothing new for ${duration(quiet)}` : "";
}

function head(run) {
  const { study, state = "", words = "" } = run.head;
  const card = at("heads").children[run.index];
  const several = runs.length > 1;
  card.classList.toggle("chosen", several && run.index === selected);
  const [top, problem, main, counts, choice] = card.children;
  fill(top, [study, state, words, run.run, last(run)], () => [
    el("h1", {}, study || run.run),
    el("p", { class: "dim" }, el("span", { class: `pill ${state}` }, words), study ? ` run ${run.run}` : "", last(run) ? `, ${last(run)}` : ""),
  ]);
  fill(problem, run.problem, () => run.problem && el("p", { class: "problem", role: "alert" }, run.problem));
  const { seconds: _, last: __, ...still } = run.head;
  fill(main, [still.best, still.counts, still.front?.length, still.passed], () => best(run));
  fill(counts, [still.counts, still.trials, duration(run.head.seconds ?? 0), still.faults], () => tiles(run));
  fill(choice, [several, run.index === selected], () => several && el("button", {
    type: "button", "aria-pressed": String(run.index === selected), onclick: () => select(run.index),
  }, run.index === selected ? "shown below" : "show below"));
}

function heads() {
  const place = at("heads");
  while (place.children.length !== runs.length || !place.firstElementChild.classList.contains("head")) {
    place.replaceChildren(...runs.map(() => el("article", { class: "head" }, el("div"), el("div"), el("div"), el("div", { class: "tiles" }), el("div"))));
  }
  runs.forEach(head);
  const shown = runs[selected].head;
  const found = shown.best ? `${shown.best.text} · ` : "";
  document.title = `${found}${shown.study || runs[selected].run} · ${shown.state ?? ""}`;
}

function side() {
  const place = at("together");
  place.hidden = runs.length < 2;
  if (place.hidden) return;
  if (!place.children.length) place.append(el("div"), el("div"), el("p", { class: "dim" }));
  const [charts, differences, empty] = place.children;
  if (together.picture && together.shown !== together.drawn) {
    plots.section(charts, "beside", together.picture, null, false);
    together.shown = together.drawn;
  }
  empty.textContent = together.picture ? "" : "No trial of these runs has ended yet.";
  fill(differences, [together.differences, runs.map((run) => run.run)], () => {
    if (!together.differences.length) return el("p", { class: "dim" }, "These runs were begun with the same settings.");
    const names = el("tr", {}, el("th", {}, "what differs"), runs.map((run) => el("th", {}, run.run)));
    const rows = together.differences.map((row) => el("tr", {}, el("th", { scope: "row" }, row[0]),
      row.slice(1).map((cell, i) => el("td", { "data-name": runs[i]?.run ?? "" }, cell))));
    return [el("h2", {}, "What differs"), el("div", { class: "wide" }, el("table", { class: "differ" }, el("thead", {}, names), el("tbody", {}, rows)))];
  });
}

// -- the chosen run ----------------------------------------------------------------------------------------------------

function charts(run, all) {
  const home = at("charts");
  const match = filters.match(run);
  for (const old of [...home.querySelectorAll(":scope > [data-chart]")]) {
    if (!run.order.includes(old.dataset.chart) || !run.pictures.has(old.dataset.chart)) plots.dropSection(old);
  }
  let previous = null;
  for (const name of run.order) {
    const picture = run.pictures.get(name);
    if (!picture) continue;
    const there = home.querySelector(`:scope > [data-chart="${CSS.escape(name)}"]`);
    const made = all || match || !there || run.touched.has(name) ? plots.section(home, name, picture, match) : there;
    const wanted = previous ? previous.nextElementSibling : home.firstElementChild;
    if (wanted !== made) home.insertBefore(made, wanted);
    previous = made;
  }
  let note = home.querySelector(":scope > .note");
  if (!note) { note = el("div", { class: "note" }); }
  home.append(note);
  const failed = Object.entries(run.failed ?? {});
  fill(note, [failed, run.order.length, run.drawing, run.more, run.rows.size], () => {
    if (failed.length) return [el("h2", {}, "Not drawn"), table(failed)];
    if (run.order.length && run.more) return el("p", { class: "dim" }, "More charts are being drawn …");
    if (run.order.length || !run.rows.size) return null;
    return el("p", { class: "dim" }, run.drawing ? "Drawing …" : "Charts come with the first results.");
  });
}

function rest(run) {
  const failures = run.head.failures ?? [];
  fill(at("failures"), failures, () => failures.length && [el("h2", {}, "Failures"),
    el("p", { class: "caption" }, "Like reasons are counted together; many of one kind are a range that reaches too far, or a bug."),
    table(failures.map((f) => [f.count, `${f.reason} (trials ${f.trials})`]))]);
  const facts = run.head.facts ?? [];
  fill(at("facts"), facts, () => facts.length && el("details", {}, el("summary", {}, "About this run"), table(facts)));
  const parts = [...document.querySelectorAll("#charts > [data-chart], #trials")];
  const links = parts.map((part) => [part.id, SHORT[part.dataset.chart] ?? part.querySelector("h2")?.textContent]);
  fill(at("nav"), links, () => links.length > 1 && links.map(([id, name]) => el("a", { href: `#${id}` }, name)));
}

function render(all = false) {
  const run = runs[selected];
  if (!run) return;
  heads();
  side();
  const fits = filters.test(run);
  const rows = [...run.rows.values()].filter(fits);
  filters.render(at("filter"), run, rows.length);
  charts(run, all);
  trials.render(at("trials"), run, rows, (n) => sheet.open(run.index, n), () => render());
  rest(run);
}

function select(index) {
  if (selected === index) return;
  selected = index;
  trials.reset();
  render(true);
}

// -- keeping up --------------------------------------------------------------------------------------------------------

async function news() {
  const places = encodeURIComponent(runs.map((run) => run.at).join(","));
  const answer = await fetch(`/changes?at=${places}&beside=${together.drawn}`).catch(() => null);
  if (!answer?.ok) return { error: answer ? (await answer.text().catch(() => "")).trim() : "" };
  return answer.json().catch(() => ({ error: "" }));
}

function lose(error) {
  if (error) { at("lost").textContent = `The run cannot be shown. ${error}`; return; }
  const when = since ? ` It shows what was known at ${since.toLocaleTimeString()}.` : "";
  at("lost").textContent = `The page has lost its server: is bilevel watch still running?${when}`;
}

async function ask() {
  clearTimeout(timer);
  const said = await news();
  clearTimeout(timer); // another one may have asked meanwhile
  at("lost").hidden = said.error === undefined;
  let pause = AT_REST;
  if (said.error === undefined) {
    const first = since === null;
    since = new Date();
    plots.setup(said.shades, (trial) => sheet.open(selected, trial));
    take(said);
    pause = document.hidden ? HIDDEN : runs.some((run) => run.drawing || !run.head.over) ? AT_WORK : AT_REST;
    timer = setTimeout(ask, pause);
    render(first);
    follow();
  } else {
    lose(said.error);
    timer = setTimeout(ask, pause);
  }
}

// The sheet of a trial is asked for anew while its run goes on, and with the last that is new of it.
function follow() {
  const looked = sheet.shown();
  const run = looked && runs[looked.run];
  if (!run) return;
  if (!run.head.over || looked.have < 0 || looked.at !== run.at) sheet.refresh();
  looked.at = run.at;
}

filters.setup(() => render(true));
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render(true));
ask();
