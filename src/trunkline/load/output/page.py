"""The HTML report: one file that needs no network, with plots over time, and with tables that need no script.

Texts of a report come from servers (reasons of errors, channels) and from scenarios; `html.py` makes them harmless.
"""

from __future__ import annotations

from typing import Final

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
    quantile,
    seconds,
)
from trunkline.load.output.html import code, document, free, mark, over_time, section, table, text, tile, unbroken
from trunkline.load.output.plots import Plots, plots

MAX_FINDINGS = 200  # rows of the table of findings; the rest is counted, and is in the JSON report
MAX_REASONS = 100  # rows of the table of errors
_QUANTILES: Final[tuple[Quantile, ...]] = ("min", "mean", "p50", "p75", "p90", "p95", "p99", "p999", "max")
_VERDICTS = {"passed": "Passed", "failed": "Failed", "interrupted": "Interrupted"}


def page(report: Report) -> bytes:
    """The report as one self-contained HTML file, in UTF-8; raises ValueError when a histogram in it is malformed."""
    drawn = plots(report)
    title = f"{report.scenario}: {_VERDICTS[report.verdict].lower()} – trunkline load"
    return document(title, _body(report, drawn), drawn)


def _body(report: Report, drawn: Plots) -> str:
    parts = (
        _head(report), "<main>", _warnings(report), _thresholds(report), _tiles(report), over_time(drawn),
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
    listed = "".join(f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>" for name, value in facts)
    described = f'<p class="about">{text(report.description)}</p>' if report.description else ""
    verdict = f"<strong>{_VERDICTS[report.verdict]}.</strong>{why}"
    return (
        f'<header class="top"><p class="verdict {report.verdict}">{verdict}</p>'
        f"<h1>Load test: <span>{text(report.scenario)}</span></h1>{described}"
        f'<dl class="facts">{listed}</dl></header>'
    )


def _warnings(report: Report) -> str:
    if not report.warnings:
        return ""
    listed = "".join(f"<li>{text(warning)}</li>" for warning in report.warnings)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{listed}</ul></section>'


def _thresholds(report: Report) -> str:
    rows = [
        (
            code(judged.threshold) + (' <span class="soft">default</span>' if judged.default else ""),
            text(judged.shown),
            mark(judged.passed, "passed", "failed"),
        )
        for judged in sorted(report.thresholds, key=lambda judged: judged.passed)
    ]
    return section("Thresholds", table(("threshold", "#measured", "result"), rows, "None was set."))


def _tiles(report: Report) -> str:
    totals = report.totals
    wrong = totals.misdelivered
    tiles = [
        tile(
            "connections opened", count(totals.opened),
            f"of {count(totals.attempts)} tried, {unbroken(percent(report.success))}",
        ),
        tile("sent", count(totals.sent), per_second(report.per_second("sent"))),
        tile("received", count(totals.received), per_second(report.per_second("received"))),
        tile("errors", unbroken(percent(report.error_rate)), "of connects and messages", bad=report.error_rate > 0),
        tile("delivery faults", count(wrong), _misdelivered(totals), bad=wrong > 0),
        tile("message p95", unbroken(quantile(report.message, "p95")), _around(report.message)),
    ]  # fmt: skip
    if (connect := report.latencies.get("connect")) is not None:
        tiles.append(tile("connect p95", unbroken(quantile(connect.quantiles, "p95")), _around(connect.quantiles)))
    if (lag := report.latencies.get("lag")) is not None:
        late = f"{totals.late:,} actions over 10 ms late"
        tiles.append(
            tile("generator lag p99", unbroken(quantile(lag.quantiles, "p99")), late, bad=lag.quantiles.p99 > 10)
        )
    return f'<section aria-label="Key numbers"><ul class="tiles">{"".join(tiles)}</ul></section>'


def _around(each: Quantiles) -> str:
    return unbroken(f"p50 {quantile(each, 'p50')}") + ", " + unbroken(f"p99 {quantile(each, 'p99')}")


def _latencies(report: Report) -> str:
    def row(name: str, each: Quantiles) -> tuple[str, ...]:
        return (name, count(each.count), *(unbroken(quantile(each, value)) for value in _QUANTILES))

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
    return section(
        "Latency", about + table(columns, rows, "None was measured.") + '<div id="curve" class="plots one"></div>'
    )


def _ends(report: Report) -> str:
    closes = [
        (code(str(number)), close_meaning(number) or ("of the application" if number >= 3000 else ""), count(times))
        for number, times in most_frequent(report.closes)
    ]
    reasons = most_frequent(report.reasons)
    shown = [(free(reason), count(times)) for reason, times in reasons[:MAX_REASONS]]
    more = _more(len(reasons) - MAX_REASONS, "further reason", "further reasons")
    if report.totals.expected_errors:
        more += f'<p class="hint">{count(report.totals.expected_errors)} of these the scenario is to bring about.</p>'
    errors = table(("reason", "#count"), shown, "None.") + more
    ended = table(("close code", "meaning", "#count"), closes, "None but those that the scenario cut.")
    return '<div class="pair">' + section("Errors by reason", errors) + section("Connections ended", ended) + "</div>"


def _findings(report: Report) -> str:
    totals = report.totals
    if not report.findings and not totals.misdelivered:
        return section("Delivery faults", '<p class="none">Nothing was found.</p>')
    rows = [
        (
            text(found.kind),
            free(found.channel or (f"of connection {found.owner}" if found.owner is not None else NONE)),
            _offsets(found),
            count(found.connection),
            free(found.epoch or NONE),
            f"{found.at_s:,.2f} s",
        )
        for found in report.findings[:MAX_FINDINGS]
    ]
    columns = ("kind", "channel", "#offset", "#connection", "epoch", "#noticed at")
    about = f'<p class="hint">{_misdelivered(totals)}.</p>'
    more = _more(len(report.findings) - MAX_FINDINGS, "more is in the JSON report", "more are in the JSON report")
    return section("Delivery faults", about + table(columns, rows, "None is named.") + more)


def _balances(report: Report) -> str:
    if not report.balances:
        return ""
    rows = [
        (
            text(balance.what),
            mark(balance.holds, "adds up", "does not add up"),
            count(balance.ours),
            NONE if balance.theirs is None else count(balance.theirs),
            count(balance.explained),
            free(balance.note),
        )
        for balance in report.balances
    ]
    columns = ("what", "result", "#counted here", "#counted by the servers", "#explained", "note")
    return section("Reconciliation with the servers' counts", table(columns, rows, ""))


def _counts(report: Report) -> str:
    totals = report.totals
    rows = [(text(name.replace("_", " ")), count(getattr(totals, name))) for name in totals.__struct_fields__]
    return f"<details><summary>All counts</summary>{table(('count', '#in all'), rows, '')}</details>"


def _misdelivered(totals: Totals) -> str:
    text = f"{totals.lost:,} lost, {totals.duplicates:,} double, {totals.reordered:,} out of order"
    return f"{text}, {totals.corrupt:,} altered, {totals.crossed:,} to another connection"


def _more(number: int, one: str, many: str) -> str:
    return f'<p class="hint">{counted(number, one, many)}.</p>' if number > 0 else ""


def _offsets(found: Finding) -> str:
    first = found.offset if found.after is None else found.after + 1
    return f"{count(first)} to {count(found.offset)}" if first < found.offset else count(found.offset)
