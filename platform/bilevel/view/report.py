"""How does a search look on one page that can be kept, sent and read anywhere? HTML with all that it needs inside."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from bilevel.errors import StoreFailed
from bilevel.figures import Search, charts, summary, web
from bilevel.figures.chart import Chart, distinct, shown
from bilevel.figures.importance import importance
from bilevel.figures.style import SHADES
from bilevel.figures.values import ordered
from bilevel.space.dimensions import Parameter
from bilevel.study import telling

LEADERS = 10  # rows of the table
COLUMNS = 8  # searched values in it, the most important ones
LETTERS = 26  # of a column's name
OPEN = 20  # rows of a table that is open from the start
NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def write(search: Search, path: Path, *, title: str | None = None, facts: Mapping[str, str] | None = None) -> Path:
    """Write the page.

    Args:
        search: what it shows.
        path: the file.
        title: its heading; by default the study's name.
        facts: more lines under "How to reproduce it", by name (the study's file, the search in words).

    Raises:
        StoreFailed: it cannot be written.
    """
    text = page(search, title=title, facts=facts or {})
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreFailed(
            f"{path}: the report cannot be written: {error.strerror}; name another file with --output FILE"
        ) from error
    return path


def page(search: Search, *, title: str | None = None, facts: Mapping[str, str] | None = None) -> str:
    """The page as text."""
    started = search.started
    heading = title or (started.study if started is not None else "A search")
    found = importance(search)
    missing: dict[str, str] = {}
    drawn = charts(search, found, lambda name, error: missing.setdefault(name, f"{type(error).__name__}: {error}"))
    parameters = ordered(search, found)
    body = [
        f"<header><h1>{escape(heading)}</h1>{_when(search)}</header>",
        _headline(search, parameters),
        _counts(search),
        _leaders(search, parameters),
        *(_chart(chart) for chart in drawn),
        _missing(missing),
        _failures(search),
        _reproduce(search, facts or {}),
    ]
    data = json.dumps({chart.name: web.panels(chart) for chart in drawn}, separators=(",", ":"), allow_nan=False)
    data = data.replace("<", "\\u003c")  # no tag can begin inside the script
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_NETWORK}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n"
        + f'<script type="application/json" id="data">{data}</script>\n'
        + f'<script type="text/plain" id="plotly">{_plotly()}</script>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n'
    )


def _plotly() -> str:
    """plotly.js, packed: 2 MB in place of 5; the browser unpacks it in a tenth of a second."""
    from plotly.offline import get_plotlyjs  # dear to import

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


# -- what is best ------------------------------------------------------------------------------------------------------


def _when(search: Search) -> str:
    if search.started is None or not search.sessions:
        return ""
    began = datetime.fromtimestamp(search.sessions[0][0], UTC).strftime("%Y-%m-%d %H:%M UTC")
    status = search.history.status or "not finished"
    return f'<p class="dim">run {escape(search.started.run_id)}, begun {began}: {escape(status)}</p>'


def _headline(search: Search, parameters: Sequence[Parameter]) -> str:
    best = next(iter(search.history.leaders(1)), None)
    if best is None:
        return '<section><p class="best">No trial has a result yet.</p></section>'
    found = summary.row(search, best.trial, parameters, best)
    objectives = search.history.objectives or {search.metric: search.history.minimize}
    if len(objectives) > 1:
        count = len(search.history.pareto())
        trials = "trial" if count == 1 else "trials"
        line = f"<b>{count}</b> {trials} on the Pareto front of {escape(', '.join(objectives))}"
        line += f"; the best {escape(search.metric)} has trial {best.trial.number}"
    else:
        way = "lowest" if search.history.minimize else "highest"
        line = f"{way} {escape(search.metric)}: <b>{escape(found.objectives[0])}</b>, trial {best.trial.number}"
    breaks = ' <span class="bad">No trial keeps the limits; this one breaks them least.</span>'
    line += breaks if best.trial.violation else ""
    searched = {p.path for p in parameters}
    config = {path: (escape(path), escape(shown(value))) for path, value in best.trial.config.items()}
    first = [row for path, row in config.items() if path in searched]
    rest = [row for path, row in config.items() if path not in searched]
    metrics = [(escape(name), f"{value:.5g}") for name, value in sorted(best.trial.metrics.items())]
    tables = _details("its searched values", first, most=len(first))
    tables += _details("the rest of its configuration" if first else "its configuration", rest)
    alone = f"metrics of trial {best.trial.number} alone, as last reported ({best.runs} seeds make the value above)"
    tables += _details("its metrics, as last reported" if best.runs < 2 else alone, metrics)
    passed = telling.passed(search.history)
    said = f'<p class="bad">{escape(passed)}</p>' if passed else ""
    return f'<section><p class="best">{line}</p>{said}{tables}</section>'


def _details(title: str, rows: Sequence[tuple[str, str]], most: int = OPEN) -> str:
    """A table that folds, open from the start if it has `most` rows; its names and values are HTML."""
    body = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    state = " open" if len(rows) <= most else ""
    return f'<details{state}><summary>{title}</summary><table class="plain">{body}</table></details>' if rows else ""


def _counts(search: Search) -> str:
    found = dict(summary.counts(search))
    configurations = len({trial.group for trial in search.trials})
    entries = [("configurations", str(configurations))] if configurations < len(search.trials) else []
    entries.append(("trials", str(len(search.trials))))
    again = sum(trial.confirms for trial in search.trials)
    entries += [("of these confirm leaders", str(again))] if again else []
    entries += [(state, str(count)) for state, count in found.items() if count or state == "failed"]
    entries.append(("time at work", summary.duration(search.seconds)))
    ended = sum(count for state, count in found.items() if state != "running")
    if search.seconds > 0 and ended:
        pace = ended / search.seconds
        entries.append(("pace", f"{pace:.3g} trials/s" if pace >= 0.1 else f"{60 * pace:.3g} trials/min"))
    if search.faults:
        entries.append(("faults survived", str(sum(search.faults.values()))))
    tiles = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in entries)
    return f'<section class="tiles">{tiles}</section>'


def _leaders(search: Search, parameters: Sequence[Parameter]) -> str:
    several = len(search.history.objectives) > 1
    columns = list(parameters)[:COLUMNS]
    rows = summary.front(search, columns, 2 * LEADERS) if several else summary.leaders(search, columns, LEADERS)
    if len(search.history.trials) < 2 or not rows:
        return ""
    metrics = list(search.history.objectives) if several else [search.metric]
    names = ["trial", *metrics, "state", "step", *distinct([p.name for p in columns], LETTERS)]
    head = "".join(f"<th>{_breakable(name)}</th>" for name in names)
    lines = []
    for row in rows:
        cells = [str(row.trial.number), *row.objectives, row.state, str(row.counted.step), *row.values]
        marked = zip(names, cells, strict=True)
        lines.append("".join(_cell(name, cell) for name, cell in marked))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    title = "The Pareto front" if several else "The best trials"
    more = len(parameters) - len(columns)
    caption = "Where the leaders agree on a value, it is settled; where they differ, it matters less"
    caption += f" ({more} less important values are not shown)." if more > 0 else "."
    count = len(search.history.pareto()) if several else 0
    caption += f" {len(rows)} of {count} trials are listed." if len(rows) < count else ""
    caption += f" Trials are compared {escape(search.history.rule)}." if search.history.rule else ""
    table = f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<section><h2>{title}</h2><p class="caption">{caption}</p><div class="wide">{table}</div></section>'


def _breakable(name: str) -> str:
    """A column's name, which may be broken behind its parts and not within a word."""
    return re.sub(r"(?<=[._/\]-])(?=\w)", "<wbr>", escape(name))


def _cell(name: str, text: str) -> str:
    return f'<td data-name="{escape(name)}">{escape(text)}</td>' if text else '<td class="none">–</td>'


# -- charts ------------------------------------------------------------------------------------------------------------


def _chart(chart: Chart) -> str:
    entries = "".join(
        f'<span><i class="{kind}" style="--c:{color}"></i>{escape(name)}</span>'
        for kind, color, name in web.legend(chart)
    )
    if chart.scale is not None:
        stops = ",".join(SHADES)
        ends = escape(chart.scale.low), escape(chart.scale.high)
        band = f'<i class="band" style="background:linear-gradient(90deg,{stops})"></i>'
        entries += f"<span>{escape(chart.scale.title)}: {ends[0]}{band}{ends[1]}</span>"
    one = " one" if chart.wide or len(chart.panels) == 1 else ""
    places = "".join(f'<div class="panel" data-chart="{escape(chart.name)}"></div>' for _ in chart.panels)
    return (
        f'<section id="{escape(chart.name)}"><h2>{escape(chart.title)}</h2>'
        f'<p class="caption">{escape(chart.caption)}</p>'
        f'<p class="legend">{entries}</p><div class="panels{one}">{places}</div></section>'
    )


def _missing(charts: Mapping[str, str]) -> str:
    """What could not be drawn, and why."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(why)}</td></tr>" for name, why in charts.items())
    return f'<section><h2>Not drawn</h2><table class="plain">{rows}</table></section>' if rows else ""


# -- what went wrong, and how to do it again ---------------------------------------------------------------------------


def _failures(search: Search) -> str:
    found = summary.failures(search)
    if not found:
        return ""
    rows = "".join(
        f"<tr><th>{len(failure.trials)}</th><td>{escape(failure.reason)}"
        f'<br><span class="dim">trials {summary.numbers(failure.trials)}</span></td></tr>'
        for failure in found
    )
    caption = "Like reasons are counted together; many failures of one kind are a range that reaches too far, or a bug."
    return f'<section><h2>Failures</h2><p class="caption">{caption}</p><table class="plain">{rows}</table></section>'


def _reproduce(search: Search, facts: Mapping[str, str]) -> str:
    rows: list[tuple[str, str]] = list(facts.items())
    if search.started is not None:
        rows += [("study", search.started.study), ("run", search.started.run_id), ("seed", str(search.started.seed))]
    if search.fingerprint is not None:
        rows.append(("fingerprint", search.fingerprint))
    if search.opened is not None:
        rows += [(f"{name} version", version) for name, version in search.opened.versions.items()]
        rows += [("hardware", search.opened.hardware), ("code (SHA-256)", search.opened.code)]
        rows += _commit(search.opened.git)
        rows.append(("workers", "in one process" if not search.opened.workers else str(search.opened.workers)))
    rows += [(f"fault survived: {kind}", str(count)) for kind, count in search.faults.items()]
    if len(search.sessions) > 1:
        rows.append(("drivers that went on", str(len(search.sessions) - 1)))
    caption = (
        "The same study and seed on the same class of hardware and versions gives the same trials; with one slot, or "
        "deterministic=True, the same fingerprint."
    )
    return (
        f'<section><h2>How to reproduce it</h2><p class="caption">{caption}</p>'
        f'<table class="plain">{_lines(rows)}</table></section>'
    )


def _commit(git: Mapping[str, object] | None) -> list[tuple[str, str]]:
    if not git:
        return []
    return [("git commit", f"{git.get('commit')}" + (", with uncommitted changes" if git.get("dirty") else ""))]


def _lines(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)


# -- looks -------------------------------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:#222;font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:12px 16px 48px}
h1{font-size:1.6rem;line-height:1.25;margin:.4em 0 .1em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .1em}
section{margin:1.6rem 0;min-width:0}
p{margin:.2em 0 .6em}
details{margin:.4em 0}
summary{cursor:pointer}
.dim,.caption,summary{color:#5a5a5a}
.dim{font-size:.9rem;overflow-wrap:anywhere}
.best{font-size:1.25rem;overflow-wrap:anywhere}
.bad{color:#b3261e}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(104px,1fr));gap:8px}
.tiles div{border:1px solid #ddd;border-radius:8px;padding:8px 10px}
.tiles b{display:block;font-size:1.1rem}
.tiles span{color:#5a5a5a;font-size:.85rem}
table{border-collapse:collapse;font-size:.92rem;max-width:100%}
th,td{text-align:left;padding:4px 12px 4px 0;vertical-align:top;border-bottom:1px solid #eee;overflow-wrap:anywhere}
.plain th{font-weight:400;color:#5a5a5a;min-width:7em}
.wide{overflow-x:auto}
.cards{width:100%}
.cards th{font-size:.85rem;color:#5a5a5a;min-width:56px;overflow-wrap:normal}
.cards td{font-variant-numeric:tabular-nums;white-space:nowrap}
.cards tbody tr:first-child{font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.88rem;margin:0 0 4px}
.legend span{display:inline-flex;align-items:center;gap:6px}
.legend i{flex:none;width:12px;height:12px;border-radius:50%;background:var(--c)}
.legend .line{width:22px;height:4px;border-radius:0}
.legend .dashed{width:22px;height:0;border-radius:0;background:none;border-top:2px dashed var(--c)}
.legend .hollow{background:none;border:2px solid var(--c)}
.legend .cross{background:none;border-radius:0}
.legend .cross::before{content:"\\00d7";color:var(--c);font:700 18px/12px sans-serif}
.legend .band{width:110px;height:12px;border-radius:2px}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:8px 12px}
.panels.one{grid-template-columns:minmax(0,1fr)}
.panel{min-width:0;min-height:120px}
@media (pointer:coarse){.panel .drag{touch-action:pan-y!important}}
@media (max-width:640px){
main{padding:8px 12px 32px}
.cards thead{display:none}
.cards,.cards tbody,.cards tr{display:block}
.cards tr{border:1px solid #ddd;border-radius:8px;padding:4px 10px;margin:0 0 8px}
.cards td{display:inline-block;white-space:normal;padding:1px 14px 1px 0;border:0}
.cards td::before{content:attr(data-name) " ";color:#5a5a5a;font-weight:400}
.cards .none{display:none}
}
@media print{section{break-inside:avoid}}
"""

_SCRIPT = """
const charts = JSON.parse(document.getElementById("data").textContent);
const touch = window.matchMedia("(pointer: coarse)").matches;
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), c => c.charCodeAt(0));
  const packed = new ReadableStream({start(to) { to.enqueue(bytes); to.close(); }});
  const reader = packed.pipeThrough(new DecompressionStream("gzip")).getReader(), decoder = new TextDecoder();
  let text = "";
  for (let part; !(part = await reader.read()).done;) text += decoder.decode(part.value, {stream: true});
  return text + decoder.decode();
}
async function draw() {
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
  const count = {};
  for (const place of document.querySelectorAll(".panel")) {
    const name = place.dataset.chart, index = count[name] = (count[name] ?? -1) + 1;
    const {data, layout} = charts[name][index];
    layout.dragmode = touch ? false : "zoom";
    Plotly.newPlot(place, data, layout, {responsive: true, displayModeBar: false, doubleClick: "reset"});
  }
}
draw().catch(error => {
  const said = document.createElement("p");
  said.className = "bad";
  said.textContent = `The charts cannot be drawn by this browser; one of 2023 or later can. (${error})`;
  document.querySelector("header").append(said);
});
"""
