"""The HTML report: one file that needs no network, with plots over time, and with tables that need no script.

Rules: texts of a report come from servers (reasons of errors, channels) and from scenarios; each is escaped where it
is put in, and the page's policy lets nothing run or load but the one script and the one style sheet whose hashes it
names. The plots get their data as JSON in which no character can end the element that holds it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape as escaped
from importlib import resources
from string import Template
from typing import Final

import msgspec

from trunkline.load.model.histogram import Quantiles
from trunkline.load.model.report import Report
from trunkline.load.model.tally import LATENCIES, Finding, Totals
from trunkline.load.output.formatting import (
    LATENCY_NAMES,
    NONE,
    Quantile,
    close_meaning,
    count,
    counted,
    most_frequent,
    per_second,
    percent,
    plain,
    quantile,
    seconds,
)
from trunkline.load.output.plots import MAX_POINTS, Plots, plots

MAX_FINDINGS = 200  # rows of the table of findings; the rest is counted, and is in the JSON report
MAX_REASONS = 100  # rows of the table of errors
_QUANTILES: Final[tuple[Quantile, ...]] = ("min", "mean", "p50", "p75", "p90", "p95", "p99", "p999", "max")
_VERDICTS = {"passed": "Passed", "failed": "Failed", "interrupted": "Interrupted"}
_SPACE = "\u00a0"  # in numbers, so that no line ends before a unit


def page(report: Report) -> bytes:
    """The report as one self-contained HTML file, in UTF-8; raises ValueError when a histogram in it is malformed."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    drawn = plots(report)
    text = Template(_asset("page.html")).substitute(
        policy=policy, style=style, script=script, body=_body(report, drawn), plots=_embedded(drawn),
        title=_text(f"{report.scenario}: {_VERDICTS[report.verdict].lower()} – trunkline load"),
    )  # fmt: skip
    return text.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return resources.files("trunkline.load.output").joinpath("page_assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: msgspec.Struct) -> str:
    r"""JSON for inside a script element: `<`, `>`, `&` and the two line ends of Unicode only as \u escapes."""
    text = msgspec.json.encode(data).decode()
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def _body(report: Report, drawn: Plots) -> str:
    parts = (
        _head(report), "<main>", _warnings(report), _thresholds(report), _tiles(report), _over_time(drawn),
        _latencies(report), _ends(report), _findings(report), _balances(report), _counts(report), "</main>",
    )  # fmt: skip
    return "\n".join(part for part in parts if part)


def _head(report: Report) -> str:
    failed = sum(not judged.passed for judged in report.thresholds)
    why = f" {failed} of {len(report.thresholds)} thresholds did not hold." if failed else ""
    machine = report.machine
    workers = counted(report.workers, "process", "processes")
    facts = [
        ("Target", f"{report.url} ({report.protocol})"),
        ("Started", report.started),
        ("Lasted", f"{seconds(report.lasted_s)} ({seconds(report.planned_s)} planned)"),
        ("Connections", f"{count(report.wanted)} wanted, at most {count(report.peak)} open"),
        ("From", workers + (f" on {', '.join(report.agents)}" if report.agents else "")),
        ("Machine", f"{counted(machine.cpus, 'CPU', 'CPUs')}, {machine.system}, Python {machine.python}"),
        ("Version", f"trunkline {report.version}, run {report.run}"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    described = f'<p class="about">{_text(report.description)}</p>' if report.description else ""
    verdict = f"<strong>{_VERDICTS[report.verdict]}.</strong>{why}"
    return (
        f'<header class="top"><p class="verdict {report.verdict}">{verdict}</p>'
        f"<h1>Load test: <span>{_text(report.scenario)}</span></h1>{described}"
        f'<dl class="facts">{listed}</dl></header>'
    )


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    listed = "".join(f"<li>{_text(warning)}</li>" for warning in report.warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{listed}</ul></section>'


def _thresholds(report: Report) -> str:
    rows = [
        (
            _code(judged.threshold) + (' <span class="soft">default</span>' if judged.default else ""),
            _text(judged.shown),
            _mark(judged.passed, "passed", "failed"),
        )
        for judged in sorted(report.thresholds, key=lambda judged: judged.passed)
    ]
    return _section("Thresholds", _table(("threshold", "#measured", "result"), rows, "None was set."))


def _tiles(report: Report) -> str:
    totals = report.totals
    wrong = totals.misdelivered
    tiles = [
        _tile(
            "connections opened", count(totals.opened),
            f"of {count(totals.attempts)} tried, {_unbroken(percent(report.success))}",
        ),
        _tile("sent", count(totals.sent), per_second(report.per_second("sent"))),
        _tile("received", count(totals.received), per_second(report.per_second("received"))),
        _tile("errors", _unbroken(percent(report.error_rate)), "of connects and messages", bad=report.error_rate > 0),
        _tile("delivery faults", count(wrong), _misdelivered(totals), bad=wrong > 0),
        _tile("message p95", _unbroken(quantile(report.message, "p95")), _around(report.message)),
    ]  # fmt: skip
    if (connect := report.latencies.get("connect")) is not None:
        tiles.append(_tile("connect p95", _unbroken(quantile(connect.quantiles, "p95")), _around(connect.quantiles)))
    if (lag := report.latencies.get("lag")) is not None:
        late = f"{totals.late:,} actions over 10 ms late"
        tiles.append(
            _tile("generator lag p99", _unbroken(quantile(lag.quantiles, "p99")), late, bad=lag.quantiles.p99 > 10)
        )
    return f'<section aria-label="Key numbers"><ul class="tiles">{"".join(tiles)}</ul></section>'


def _tile(what: str, value: str, about: str, *, bad: bool = False) -> str:
    return f"<li{' class=bad' if bad else ''}><span>{what}</span> <strong>{value}</strong> <span>{about}</span></li>"


def _around(each: Quantiles) -> str:
    return _unbroken(f"p50 {quantile(each, 'p50')}") + ", " + _unbroken(f"p99 {quantile(each, 'p99')}")


def _over_time(drawn: Plots) -> str:
    if not drawn.over_time:
        return ""
    note = "Point at a plot, or focus it and use the arrow keys, for the values of that moment."
    if drawn.step > 1:
        note += (
            f" The run is longer than {MAX_POINTS:,} seconds, so each point covers {drawn.step} s: the greatest"
            " latency, load, lag and errors of them, the mean of opened, ended, sent and received."
        )
    return _section(
        "Over time",
        f'<p class="hint" id="pointing" hidden>{note}</p><div id="over-time" class="plots"></div>'
        "<noscript><p>The plots are drawn by the script of this page; all numbers are in the tables.</p></noscript>",
    )


def _latencies(report: Report) -> str:
    def row(name: str, each: Quantiles) -> tuple[str, ...]:
        return (name, count(each.count), *(_unbroken(quantile(each, value)) for value in _QUANTILES))

    rows = [row("messages", report.message)] if report.message.count else []
    rows += [
        row(LATENCY_NAMES[name], measured.quantiles)
        for name in LATENCIES
        if (measured := report.latencies.get(name)) is not None and measured.quantiles.count
    ]
    columns = ("latency", "#count", "#min", "#mean", "#p50", "#p75", "#p90", "#p95", "#p99", "#p99.9", "#max")
    about = (
        '<p class="hint">Counted from the moment at which a message or connection was due, so waiting behind a server '
        "that stalls counts too. Messages: round trips and deliveries together.</p>"
    )
    return _section(
        "Latency", about + _table(columns, rows, "None was measured.") + '<div id="curve" class="plots one"></div>'
    )


def _ends(report: Report) -> str:
    closes = [
        (_code(str(code)), close_meaning(code) or ("of the application" if code >= 3000 else ""), count(times))
        for code, times in most_frequent(report.closes)
    ]
    reasons = most_frequent(report.reasons)
    shown = [(_free(reason), count(times)) for reason, times in reasons[:MAX_REASONS]]
    more = _more(len(reasons) - MAX_REASONS, "further reason", "further reasons")
    if report.totals.expected_errors:
        more += f'<p class="hint">{count(report.totals.expected_errors)} of these the scenario is to bring about.</p>'
    errors = _table(("reason", "#count"), shown, "None.") + more
    ended = _table(("close code", "meaning", "#count"), closes, "None but those that the scenario cut.")
    return '<div class="pair">' + _section("Errors by reason", errors) + _section("Connections ended", ended) + "</div>"


def _findings(report: Report) -> str:
    totals = report.totals
    if not report.findings and not totals.misdelivered:
        return _section("Delivery faults", '<p class="none">Nothing was found.</p>')
    rows = [
        (
            _text(found.kind),
            _free(found.channel or (f"of connection {found.owner}" if found.owner is not None else NONE)),
            _offsets(found),
            count(found.connection),
            _free(found.epoch or NONE),
            f"{found.at_s:,.2f} s",
        )
        for found in report.findings[:MAX_FINDINGS]
    ]
    columns = ("kind", "channel", "#offset", "#connection", "epoch", "#noticed at")
    about = f'<p class="hint">{_misdelivered(totals)}.</p>'
    more = _more(len(report.findings) - MAX_FINDINGS, "more is in the JSON report", "more are in the JSON report")
    return _section("Delivery faults", about + _table(columns, rows, "None is named.") + more)


def _balances(report: Report) -> str:
    if not report.balances:
        return ""
    rows = [
        (
            _text(balance.what),
            _mark(balance.holds, "adds up", "does not add up"),
            count(balance.ours),
            NONE if balance.theirs is None else count(balance.theirs),
            count(balance.explained),
            _free(balance.note),
        )
        for balance in report.balances
    ]
    columns = ("what", "result", "#counted here", "#counted by the servers", "#explained", "note")
    return _section("Reconciliation with the servers' counts", _table(columns, rows, ""))


def _counts(report: Report) -> str:
    totals = report.totals
    rows = [(_text(name.replace("_", " ")), count(getattr(totals, name))) for name in totals.__struct_fields__]
    return f"<details><summary>All counts</summary>{_table(('count', '#in all'), rows, '')}</details>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], none: str) -> str:
    """A table of HTML cells; a column whose name begins with # holds numbers. `none` stands for one without rows."""
    numeric = [' class="n"' if name.startswith("#") else "" for name in columns]
    lines = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(numeric, row, strict=True)) + "</tr>"
        for row in rows
    ]
    if not lines:
        return f'<p class="none">{_text(none)}</p>'
    head = "".join(
        f'<th scope="col"{kind}>{_text(name.removeprefix("#"))}</th>'
        for kind, name in zip(numeric, columns, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _free(text: str) -> str:
    """A text of any length, which may be broken anywhere."""
    return f'<span class="text">{_text(text)}</span>'


def _misdelivered(totals: Totals) -> str:
    text = f"{totals.lost:,} lost, {totals.duplicates:,} double, {totals.reordered:,} out of order"
    return f"{text}, {totals.corrupt:,} altered, {totals.crossed:,} to another connection"


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="good">✓ {yes}</span>' if good else f'<span class="bad">✗ {no}</span>'


def _more(number: int, one: str, many: str) -> str:
    return f'<p class="hint">{counted(number, one, many)}.</p>' if number > 0 else ""


def _offsets(found: Finding) -> str:
    first = found.offset if found.after is None else found.after + 1
    return f"{count(first)} to {count(found.offset)}" if first < found.offset else count(found.offset)


def _text(text: str) -> str:
    """Any text as HTML that shows it, and does nothing else."""
    return escaped(plain(text))


def _unbroken(number: str) -> str:
    """A number as HTML, on one line with its unit."""
    return escaped(number).replace(" ", _SPACE)
