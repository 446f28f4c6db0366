// How is a part of the page made? Always as text: nothing that a study wrote is taken for HTML.

export function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

// Fill a place, only if what it shows is another than before: what a reader has marked or unfolded stays.
export function fill(place, key, make) {
  const said = JSON.stringify(key);
  if (place.dataset.said === said) return false;
  place.dataset.said = said;
  place.replaceChildren(...[make()].flat().filter(Boolean));
  return true;
}

export function table(rows, kind = "plain") {
  const lines = rows.map((row) => el("tr", {}, el("th", { scope: "row" }, String(row[0])),
    row.slice(1).map((cell) => el("td", {}, String(cell)))));
  return el("table", { class: kind }, el("tbody", {}, lines));
}

export function fold(title, rows, most = 12) {
  return rows.length ? el("details", { open: rows.length <= most }, el("summary", {}, title), table(rows)) : null;
}

export function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  const text = String(Number(value.toPrecision(5)));
  return text.length > 9 ? value.toExponential(3).replace("e+", "e") : text;
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return seconds < 10 ? `${seconds.toFixed(1)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}
