"""The HTML report: one file that needs no network, with plots over time, and with tables that need no script.

Rules: texts of a report come from servers (reasons of errors, channels) and from scenarios; each is escaped where it
is put in, and the page's policy lets nothing run or load but the one script and the one style sheet whose hashes it
names. The plots get their data as JSON in which no character can end the element that holds it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

import msgspec

from trunkline.load.histogram import Quantiles
from trunkline.load.page_plots import LATENCY_NAMES, MAX_POINTS, Plots, plots
from trunkline.load.report import Report
from trunkline.load.tally import LATENCIES, Finding

MAX_FINDINGS = 200
"""Rows of the table of findings; the rest is counted, and is in the JSON report."""

MAX_REASONS = 100
"""Rows of the table of errors."""

_CLOSES = {
    1000: "normal", 1001: "going away", 1002: "protocol error", 1003: "unsupported data", 1005: "close without a code",
    1006: "broken off without a close", 1007: "invalid text", 1008: "against the policy", 1009: "message too big",
    1011: "internal error", 1012: "restart or drain", 1013: "try again later",
}  # fmt: skip
"""Meanings of close codes (RFC 6455 section 7.4.1 and the IANA registry)."""

_VERDICTS = {"passed": "Passed", "failed": "Failed", "interrupted": "Interrupted"}
_NONE = "–"
_SPACE = "\u00a0"
"""Between a number and its unit, so that no line ends there."""


def page(report: Report) -> bytes:
    """The report as one self-contained HTML file, in UTF-8.

    Args:
        report: of a whole run, or of the part that was seen.

    Raises:
        ValueError: a histogram in the report is none.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    drawn = plots(report)
    text = Template(_asset("page.html")).substitute(
        policy=policy,
        title=escape(f"{report.scenario}: {_VERDICTS[report.verdict].lower()} – trunkline load"),
        style=style,
        body=_body(report, drawn),
        plots=_embedded(drawn),
        script=script,
    )
    return text.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return resources.files("trunkline.load").joinpath("page_assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source of a Content-Security-Policy that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(data: msgspec.Struct) -> str:
    r"""JSON for inside a script element: `<`, `>`, `&` and the two line ends of Unicode only as \u escapes."""
    text = msgspec.json.encode(data).decode()
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


# --- the parts of the page, from top to bottom ------------------------------------------------------------------------


def _body(report: Report, drawn: Plots) -> str:
    return "\n".join(
        part
        for part in (
            _head(report),
            "<main>",
            _warnings(report),
            _thresholds(report),
            _tiles(report),
            _over_time(drawn),
            _latencies(report),
            _ends(report),
            _findings(report),
            _balances(report),
            _counts(report),
            "</main>",
        )
        if part
    )


def _head(report: Report) -> str:
    failed = sum(not judged.passed for judged in report.thresholds)
    why = f" {failed} of {len(report.thresholds)} thresholds did not hold." if failed else ""
    machine = report.machine
    workers = _counted(report.workers, "process", "processes")
    facts = [
        ("Target", f"{report.url} ({report.protocol})"),
        ("Started", report.started),
        ("Lasted", f"{_duration(report.lasted_s)} ({_duration(report.planned_s)} planned)"),
        ("Connections", f"{report.peak:,} at most"),
        ("From", workers + (f" on {', '.join(report.agents)}" if report.agents else "")),
        ("Machine", f"{_counted(machine.cpus, 'CPU', 'CPUs')}, {machine.system}, Python {machine.python}"),
        ("Version", f"trunkline {report.version}, run {report.run}"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    described = f'<p class="about">{escape(report.description)}</p>' if report.description else ""
    verdict = f"<strong>{_VERDICTS[report.verdict]}.</strong>{why}"
    return (
        f'<header class="top"><p class="verdict {report.verdict}">{verdict}</p>'
        f"<h1>Load test: <span>{escape(report.scenario)}</span></h1>{described}"
        f'<dl class="facts">{listed}</dl></header>'
    )


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    listed = "".join(f"<li>{escape(warning)}</li>" for warning in report.warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{listed}</ul></section>'


def _thresholds(report: Report) -> str:
    rows = [
        (
            _code(judged.threshold) + (' <span class="soft">default</span>' if judged.default else ""),
            escape(judged.shown),
            _mark(judged.passed, "passed", "failed"),
        )
        for judged in sorted(report.thresholds, key=lambda judged: judged.passed)
    ]
    return _section("Thresholds", _table(("threshold", "#measured", "result"), rows, "None was set."))


def _tiles(report: Report) -> str:
    totals = report.totals
    seconds = max(report.lasted_s, 1e-9)
    wrong = totals.lost + totals.duplicates + totals.reordered
    tiles = [
        _tile("connections opened", f"{totals.opened:,}", f"of {totals.attempts:,} tried, {_share(report.success)}"),
        _tile("sent", f"{totals.sent:,}", f"{totals.sent / seconds:,.0f} messages a second"),
        _tile("received", f"{totals.received:,}", f"{totals.received / seconds:,.0f} messages a second"),
        _tile("errors", _share(report.error_rate), "of connects and messages", bad=report.error_rate > 0),
        _tile(
            "lost, double, out of order", f"{wrong:,}",
            f"{totals.lost:,} lost, {totals.duplicates:,} double, {totals.reordered:,} out of order", bad=wrong > 0,
        ),
        _tile("message p95", _ms(report.message.p95, report.message), _around(report.message)),
    ]  # fmt: skip
    if (connect := report.latencies.get("connect")) is not None:
        tiles.append(_tile("connect p95", _ms(connect.quantiles.p95, connect.quantiles), _around(connect.quantiles)))
    if (lag := report.latencies.get("lag")) is not None:
        late = f"{totals.late:,} actions over 10 ms late"
        tiles.append(
            _tile("generator lag p99", _ms(lag.quantiles.p99, lag.quantiles), late, bad=lag.quantiles.p99 > 10)
        )
    return f'<section aria-label="Key numbers"><ul class="tiles">{"".join(tiles)}</ul></section>'


def _tile(what: str, value: str, about: str, *, bad: bool = False) -> str:
    return f"<li{' class=bad' if bad else ''}><span>{what}</span> <strong>{value}</strong> <span>{about}</span></li>"


def _around(each: Quantiles) -> str:
    return f"p50 {_ms(each.p50, each)}, p99 {_ms(each.p99, each)}"


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
        values = (each.min, each.mean, each.p50, each.p75, each.p90, each.p95, each.p99, each.p999, each.max)
        return (name, f"{each.count:,}", *(_ms(value, each) for value in values))

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
        (_code(str(code)), escape(_CLOSES.get(code, "of the application" if code >= 3000 else "")), f"{count:,}")
        for code, count in sorted(report.closes.items(), key=lambda item: (-item[1], item[0]))
    ]
    reasons = sorted(report.reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [(f'<span class="text">{escape(reason)}</span>', f"{count:,}") for reason, count in reasons[:MAX_REASONS]]
    more = _more(len(reasons) - MAX_REASONS, "further reason", "further reasons")
    errors = _table(("reason", "#count"), shown, "None.") + more
    ended = _table(("close code", "meaning", "#count"), closes, "None but those that the scenario cut.")
    return '<div class="pair">' + _section("Errors by reason", errors) + _section("Connections ended", ended) + "</div>"


def _findings(report: Report) -> str:
    totals = report.totals
    count = totals.lost + totals.duplicates + totals.reordered
    if not report.findings and not count:
        return _section("Lost, double and out of order", '<p class="none">Nothing was found.</p>')
    rows = [
        (
            escape(found.kind),
            f'<span class="text">{escape(found.channel) or _NONE}</span>',
            _offsets(found),
            f"{found.connection:,}",
            f'<span class="text">{escape(found.epoch) or _NONE}</span>',
            f"{found.at_s:,.2f} s",
        )
        for found in report.findings[:MAX_FINDINGS]
    ]
    columns = ("kind", "channel", "#offset", "#connection", "epoch", "#noticed at")
    about = (
        f'<p class="hint">{totals.lost:,} lost, {totals.duplicates:,} double, {totals.reordered:,} out of order.</p>'
    )
    more = _more(len(report.findings) - MAX_FINDINGS, "more is in the JSON report", "more are in the JSON report")
    return _section("Lost, double and out of order", about + _table(columns, rows, "None is named.") + more)


def _balances(report: Report) -> str:
    if not report.balances:
        return ""
    rows = [
        (
            escape(balance.what),
            _mark(balance.holds, "adds up", "does not add up"),
            f"{balance.ours:,}",
            _NONE if balance.theirs is None else f"{balance.theirs:,}",
            f"{balance.explained:,}",
            f'<span class="text">{escape(balance.note)}</span>',
        )
        for balance in report.balances
    ]
    columns = ("what", "result", "#counted here", "#counted by the servers", "#explained", "note")
    return _section("Reconciliation with the servers' counts", _table(columns, rows, ""))


def _counts(report: Report) -> str:
    totals = report.totals
    rows = [(escape(name.replace("_", " ")), f"{getattr(totals, name):,}") for name in totals.__struct_fields__]
    return f"<details><summary>All counts</summary>{_table(('count', '#in all'), rows, '')}</details>"


# --- words and numbers ------------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], none: str) -> str:
    """A table of HTML cells; a column whose name begins with # holds numbers. `none` stands for one without rows."""
    numeric = [' class="n"' if name.startswith("#") else "" for name in columns]
    lines = [
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(numeric, row, strict=True)) + "</tr>"
        for row in rows
    ]
    if not lines:
        return f'<p class="none">{escape(none)}</p>'
    head = "".join(
        f'<th scope="col"{kind}>{escape(name.removeprefix("#"))}</th>'
        for kind, name in zip(numeric, columns, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _mark(good: bool, yes: str, no: str) -> str:
    return f'<span class="good">✓ {yes}</span>' if good else f'<span class="bad">✗ {no}</span>'


def _more(count: int, one: str, many: str) -> str:
    return f'<p class="hint">{_counted(count, one, many)}.</p>' if count > 0 else ""


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _offsets(found: Finding) -> str:
    if found.after is None or found.after + 1 >= found.offset:
        return f"{found.offset:,}"
    return f"{found.after + 1:,} to {found.offset:,}"


def _share(share: float) -> str:
    """HTML of a share of 0 to 1 in per cent; never rounded to all or to nothing."""
    percent = share * 100
    if 0 < percent < 0.01:
        return f"&lt;{_SPACE}0.01{_SPACE}%"
    if 99.99 < percent < 100:
        return f"&gt;{_SPACE}99.99{_SPACE}%"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + f"{_SPACE}%"


def _ms(value: float, of: Quantiles) -> str:
    """Milliseconds to three digits, in the unit that suits them."""
    if not of.count:
        return _NONE
    number, unit = (value * 1000, "µs") if value < 1 else (value, "ms") if value < 1000 else (value / 1000, "s")
    decimals = 0 if number >= 100 or unit == "µs" else 1 if number >= 10 else 2
    return f"{number:,.{decimals}f}{_SPACE}{unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
