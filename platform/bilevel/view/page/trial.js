// What did one trial do, and what does it print? A sheet beside the page, on a phone over it.

import { el, fill, fold, table } from "./dom.js";
import { section, dropSection } from "./plots.js";

const place = document.getElementById("trial");
let now = null; // {run, trial, have, busy}
let parts = null;
let before = null; // what had the focus

function make() {
  const close = el("button", { type: "button", class: "close", "aria-label": "close", onclick: shut }, "×");
  parts = {
    title: el("h2"), state: el("div"), values: el("div"), charts: el("div", { class: "small" }), rest: el("div"),
    error: el("div"), log: el("pre", { tabindex: 0 }), cut: el("p", { class: "caption" }), logTitle: el("h3", {}, "Output"), close,
  };
  place.replaceChildren(el("header", {}, parts.title, close), parts.state, parts.values, parts.error, parts.logTitle,
    parts.cut, parts.log, parts.charts, parts.rest);
}

export function shut() {
  if (!now) return;
  now = null;
  place.hidden = true;
  document.body.classList.remove("beside");
  for (const chart of [...parts.charts.children]) dropSection(chart);
  before?.focus?.({ preventScroll: true });
}
addEventListener("keydown", (event) => { if (event.key === "Escape") shut(); });

export function open(run, trial) {
  before = document.activeElement;
  if (parts) for (const chart of [...parts.charts.children]) dropSection(chart);
  now = { run, trial, have: -1, busy: false };
  make();
  parts.title.textContent = `Trial ${trial}`;
  parts.logTitle.hidden = parts.log.hidden = parts.cut.hidden = true;
  place.hidden = false;
  place.scrollTop = 0;
  document.body.classList.add("beside");
  parts.close.focus({ preventScroll: true });
  return refresh();
}

export function shown() { return now; }

// Ask again; what has changed is changed.
export async function refresh() {
  if (!now || now.busy) return;
  const asked = now;
  asked.busy = true;
  const have = asked.have >= 0 ? `&have=${asked.have}` : "";
  const address = `/trial?run=${asked.run}&trial=${asked.trial}${have}`;
  const answer = await fetch(address).catch(() => null); // the page itself says that the server is gone
  const said = answer?.ok ? await answer.json().catch(() => null) : null;
  asked.busy = false;
  if (now !== asked || !answer) return;
  if (said) render(said, asked);
  else fill(parts.state, answer.status, () => el("p", { class: "dim" }, "This trial is not there any more."));
}

function render(said, asked) {
  if (now !== asked) return;
  const { log, charts } = said;
  const state = said.state === "stopped" ? "stopped early" : said.state;
  fill(parts.state, [state, said.step, said.reason, said.repeats, said.breaks], () => [
    el("p", {}, el("span", { class: `pill ${said.state.replace(" ", "-")}` }, state), ` at step ${said.step}`),
    said.reason && el("p", { class: said.state === "failed" ? "bad" : "" }, said.reason),
    said.repeats && el("p", { class: "dim" }, `It ${said.repeats} with another seed.`),
    said.breaks && el("p", { class: "bad" }, `It breaks the study's limits by ${said.breaks}.`),
  ]);
  const first = said.searched.length ? said.searched : said.config;
  fill(parts.values, [said.objectives, first], () => [
    said.objectives.length ? table(said.objectives, "plain strong") : null,
    fold(said.searched.length ? "Searched values" : "Configuration", first, 24),
  ]);
  fill(parts.error, said.error, () => said.error && [el("h3", {}, "What it raised"), el("pre", { tabindex: 0 }, said.error)]);
  for (const old of [...parts.charts.children]) {
    if (!charts.some((chart) => chart.title === old.dataset.chart)) dropSection(old);
  }
  for (const chart of charts) section(parts.charts, chart.title, chart, null, false);
  fill(parts.rest, [said.metrics, said.tags, said.files, said.config, said.attempts, said.moves, said.seed], () => [
    fold("Tags", said.tags),
    fold("Metrics, as last reported", said.metrics),
    said.searched.length ? fold("Whole configuration", said.config, 0) : null,
    fold("Files that it left, in the run's folder under files", said.files.map((name) => [name])),
    fold("Where it ran", said.attempts.map(([worker, step, fate, time]) => [worker, `from step ${step}: ${fate}, ${time}`])),
    fold("Went on from", said.moves.map(([step, donor, point]) => [`step ${step}`, `from trial ${donor} with ${point}`])),
    el("p", { class: "dim" }, `seed ${said.seed}`),
  ]);
  if (log.text !== undefined) {
    const end = parts.log.scrollHeight - parts.log.scrollTop - parts.log.clientHeight < 30;
    parts.log.textContent = log.text;
    parts.cut.textContent = log.cut ? "The end of it; the whole is in the run's folder, under logs." : "";
    parts.logTitle.hidden = parts.log.hidden = !log.text;
    parts.cut.hidden = !log.cut;
    if (end || asked.have < 0) parts.log.scrollTop = parts.log.scrollHeight;
  }
  asked.have = log.size;
}
