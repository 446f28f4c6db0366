// How is a chart drawn again without taking from its reader what she has zoomed or looks at?

import { el, fill } from "./dom.js";

const touch = matchMedia("(pointer: coarse)").matches;
const night = matchMedia("(prefers-color-scheme: dark)");
const AT_NIGHT = {
  "#222222": "#e4e4e7", white: "rgba(0,0,0,0)", "#e4e4e4": "#3a3a40", "#999999": "#8d8d96", "#0072B2": "#4593ff",
  "#56B4E9": "#a5d8f6",
  "rgba(255,255,255,0.85)": "rgba(24,24,27,0.8)",
};
const SHADES = ["#7d5aa6", "#7268b4", "#667abd", "#588dc0", "#4ba1b9", "#46b59d", "#6bca6d", "#b0d93f", "#fde725"]; // at night
let shades = [];
let choose = () => {}; // what a touched point leads to: (trial) => ...
const known = new WeakMap(); // place -> what it shows

export function setup(colors, onTrial) { shades = colors; choose = onTrial; }

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const state = known.get(entry.target);
    if (!state) continue;
    state.seen = entry.isIntersecting;
    draw(entry.target);
  }
}, { rootMargin: "400px" });

let held = false; // a reader draws a rectangle: nothing moves under her
addEventListener("pointerdown", (event) => { held = Boolean(event.target.closest?.(".panel")); }, true);
for (const name of ["pointerup", "pointercancel"]) {
  addEventListener(name, () => {
    held = false;
    setTimeout(() => document.querySelectorAll(".panel").forEach(draw), 300);
  }, true);
}
night.addEventListener("change", () => {
  document.querySelectorAll(".panel").forEach((place) => { stale(place); draw(place); });
});

function color(value) {
  if (!night.matches || typeof value !== "string") return value;
  const shade = shades.indexOf(value);
  return shade >= 0 ? SHADES[shade] ?? value : AT_NIGHT[value] ?? value;
}

function trace(given, match) {
  const made = { ...given };
  if (match && given.customdata && given.y) {
    made.y = given.y.map((y, i) => (match(given.customdata[i]) ? y : null));
  }
  if (given.line) made.line = { ...given.line, color: color(given.line.color) };
  if (given.marker) {
    made.marker = { ...given.marker, color: color(given.marker.color) };
    if (given.marker.line) made.marker.line = { ...given.marker.line, color: color(given.marker.line.color) };
    if (given.marker.colorscale) made.marker.colorscale = given.marker.colorscale.map(([at, c]) => [at, color(c)]);
  }
  return made;
}

function laid(given, name) {
  const axis = (a) => ({ ...a, gridcolor: color(a.gridcolor), linecolor: color(a.linecolor), tickcolor: color("#222222") });
  return {
    ...given,
    xaxis: axis(given.xaxis), yaxis: axis(given.yaxis),
    annotations: (given.annotations ?? []).map((note) => ({
      ...note, bgcolor: color(note.bgcolor), font: { ...note.font, color: color(note.font?.color) },
    })),
    font: { ...given.font, color: color(given.font.color) },
    plot_bgcolor: "rgba(0,0,0,0)", paper_bgcolor: "rgba(0,0,0,0)",
    dragmode: touch ? false : "zoom",
    uirevision: `${name}/${given.xaxis.title.text}/${given.yaxis.title.text}`,
  };
}

function stale(place) { const state = known.get(place); if (state) state.drawn = null; }

function draw(place) {
  const state = known.get(place);
  if (!state || !state.seen || held || !window.Plotly || state.drawn === state.wanted) return;
  state.drawn = state.wanted;
  const { panel, match, name } = state;
  const config = { responsive: true, displayModeBar: false, doubleClick: "reset" };
  window.Plotly.react(place, panel.data.map((t) => trace(t, match)), laid(panel.layout, name), config);
  if (state.heard) return;
  state.heard = true;
  place.on("plotly_click", (event) => {
    const trial = event.points.find((point) => typeof point.customdata === "number")?.customdata;
    if (trial !== undefined && state.opens) choose(trial);
  });
}

// Show a panel in its place; `match` leaves out the points of other trials.
export function show(place, panel, name, match, opens = true) {
  const state = known.get(place) ?? { seen: false, heard: false };
  Object.assign(state, { panel, match, name, opens, wanted: Symbol("wanted") });
  place.style.minHeight = `${panel.layout.height}px`;
  if (!known.has(place)) { known.set(place, state); watcher.observe(place); }
  draw(place);
}

function drop(place) { watcher.unobserve(place); if (window.Plotly) window.Plotly.purge(place); place.remove(); }

function legend(chart) {
  const entries = chart.legend.map(([kind, c, name]) => {
    const sign = el("i", { class: kind });
    sign.style.setProperty("--c", color(c));
    return el("span", {}, sign, name);
  });
  if (chart.scale) {
    const band = el("i", { class: "band" });
    band.style.background = `linear-gradient(90deg, ${shades.map(color).join(",")})`;
    entries.push(el("span", {}, `${chart.scale[0]}: ${chart.scale[1]}`, band, chart.scale[2]));
  }
  return entries;
}

// A chart's section: made once, and changed where it is another.
export function section(home, name, chart, match, opens = true) {
  let place = home.querySelector(`:scope > [data-chart="${CSS.escape(name)}"]`);
  if (!place) {
    place = el("section", { "data-chart": name, id: `chart-${name}` }, el("h2"), el("p", { class: "caption" }),
      el("p", { class: "legend" }), el("div", { class: "panels" }));
    home.append(place);
  }
  const [title, caption, marks, panels] = place.children;
  title.textContent = chart.title;
  caption.textContent = night.matches ? chart.caption.replace("the dark lines", "the bright lines") : chart.caption;
  fill(marks, [chart.legend, chart.scale, night.matches], () => legend(chart));
  panels.className = chart.wide ? "panels one" : "panels";
  while (panels.children.length > chart.panels.length) drop(panels.lastElementChild);
  while (panels.children.length < chart.panels.length) panels.append(el("div", { class: "panel" }));
  chart.panels.forEach((panel, i) => show(panels.children[i], panel, name, match, opens));
  return place;
}

export function dropSection(place) {
  for (const panel of [...place.querySelectorAll(".panel")]) drop(panel);
  place.remove();
}
