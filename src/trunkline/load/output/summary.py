"""What people paste into a ticket: a run on one screen of plain text. Pure.

Rules: no line is longer than 100 columns; faults come first (warnings at the top, failed thresholds before held ones);
an empty section is left out; unprintable characters in texts of servers are escaped.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal

from rich.text import Text

from trunkline.load.model.tally import LATENCIES, Finding
from trunkline.load.output.formatting import (
    LATENCY_NAMES,
    NONE,
    close_meaning,
    count,
    counted,
    fit,
    marks,
    milliseconds,
    most_frequent,
    octets,
    per_second,
    percent,
    plain,
    seconds,
)

if TYPE_CHECKING:
    from rich.console import Console

    from trunkline.load.model.report import Report

WIDTH: Final = 100
_LABEL: Final = 14
_NAME: Final = 40
MAX_FINDINGS: Final = 5
MAX_REASONS: Final = 10
MAX_WARNINGS: Final = 6
MAX_CODES: Final = 6


def summary(report: Report, encoding: str = "utf-8") -> str:
    """The run as lines of at most 100 columns, with marks that the encoding of the output has characters for."""
    held, failed = marks(encoding)
    lines: list[str] = [*_title(report)]
    for warning in report.warnings[:MAX_WARNINGS]:
        lines += _section("WARNING", [plain(warning)])
    if more := report.warnings[MAX_WARNINGS:]:
        lines += _section("WARNING", [f"and {counted(len(more), 'warning')} more"])
    lines += _section("connections", _connections(report))
    lines += _section("messages", _messages(report))
    lines += _section("latency", _latencies(report))
    lines += _section("integrity", _integrity(report))
    lines += _section("servers", _servers(report, held, failed))
    lines += _section("thresholds", _thresholds(report, held, failed))
    lines += _section("reasons", _reasons(report))
    return "".join(f"{fit(line, encoding)}\n" for line in lines)


def render(report: Report, console: Console) -> None:
    """Print the summary with colour, if the console has any; the text is the same."""
    text = Text(summary(report, console.encoding), end="")
    title = next(iter(text.plain.splitlines()))
    style = "bold green" if report.verdict == "passed" else "bold red"
    text.stylize(style, len(title) - len(report.verdict), len(title))
    text.highlight_regex(re.compile(r"^[a-z]+(?=  )", re.MULTILINE), "bold")
    text.highlight_regex(re.compile(r"^WARNING .*(\n {14}.*)*", re.MULTILINE), "bold yellow")
    text.highlight_regex(r"✓|\bok   ", "green")
    text.highlight_regex(re.compile(r"(✗|\bFAIL  ).*$", re.MULTILINE), "bold red")
    text.highlight_regex(re.compile(r"^ {14}(lost|duplicate|reordered)  .*$", re.MULTILINE), "red")
    console.print(text, soft_wrap=True, end="")


def finding_text(finding: Finding) -> str:
    """One finding as `lost  public.load.ab12.3 offset 1041  (connection 17, at 12.3 s)`."""
    what = f"offset {finding.offset}" if finding.channel else f"message {finding.offset}"
    if finding.after is not None and finding.offset - finding.after > 1:
        what = what.replace(" ", "s ", 1).replace(str(finding.offset), f"{finding.after + 1} to {finding.offset}")
    where = f"{plain(finding.channel)} {what}" if finding.channel else what
    if finding.owner is not None:
        what += f" of connection {finding.owner}"
        where = what
    kind = "new epoch" if finding.kind == "epoch" else finding.kind
    return f"{kind}  {where}  (connection {finding.connection}, at {finding.at_s:.1f} s)"


def _section(label: str, items: Iterable[str]) -> Iterator[str]:
    first = label.ljust(_LABEL)
    indent = " " * _LABEL
    for item in items:
        # Columns are kept: only what is too long is wrapped, and then at the same indent.
        if len(first) + len(item) <= WIDTH:
            yield (first + item).rstrip()
        else:
            yield from wrapped(first, item)
        first = indent


def wrapped(label: str, text: str) -> list[str]:
    """Lines of at most `WIDTH` columns: the label, then the text beside it."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False,
        replace_whitespace=False,
    )  # fmt: skip


def _title(report: Report) -> Iterator[str]:
    verdict = report.verdict.upper()
    name = plain(report.scenario)
    head = f"trunkline load  {name if len(name) <= _NAME else name[: _NAME - 3] + '...'}  "
    url = plain(report.url)
    room = WIDTH - len(head) - len(verdict) - 2
    if len(url) > room:
        url = url[: room - 3] + "..."
    yield f"{head}{url}  {verdict}"
    lasted = seconds(report.lasted_s)
    if report.verdict == "interrupted":
        lasted += f" of {seconds(report.planned_s)}"
    agents = f" on {counted(len(report.agents), 'machine')}" if report.agents else ""
    yield from textwrap.wrap(
        f"{report.protocol}, {counted(report.wanted, 'connection')} wanted, {lasted}, "
        f"{counted(report.workers, 'process', 'processes')}{agents}, {plain(report.started)}, run {plain(report.run)}",
        WIDTH,
    )


def _connections(report: Report) -> Iterator[str]:
    totals = report.totals
    yield (
        f"{count(totals.attempts)} tried, {count(totals.opened)} opened ({percent(report.success)}), "
        f"{count(totals.failed)} failed; at most {count(report.peak)} open"
    )
    text = f"{count(totals.cut)} ended by the scenario, {count(totals.closed)} by the other side"
    known = [
        f"{count(number)} {why}"
        for number, why in ((totals.goodbyes, "as planned"), (totals.shed, "for reading slowly"))
        if number
    ]
    if known:
        text += f" ({', '.join(known)})"
    yield text
    if report.closes:
        codes = most_frequent(report.closes)[:MAX_CODES]
        named = (f"{f'{code} {close_meaning(code)}'.rstrip()}: {count(times)}" for code, times in codes)
        yield f"ended with {', '.join(named)}"


def _messages(report: Report) -> Iterator[str]:
    totals = report.totals
    rates: tuple[tuple[Literal["sent", "received"], int], ...] = (
        ("sent", totals.bytes_sent), ("received", totals.bytes_received),
    )  # fmt: skip
    for verb, size in rates:
        rate = per_second(report.per_second(verb))
        # A shorter run has no whole second, whose count would be a rate.
        if report.lasted_s >= 1:
            rate += f", at most {count(max((getattr(each.totals, verb) for each in report.seconds), default=0))}/s"
        yield f"{count(getattr(totals, verb))} {verb} ({rate}, {octets(size)})"
    if totals.published:
        text = f"{count(totals.published)} published, {count(totals.acknowledged)} acknowledged"
        if totals.refused:
            text += f", {count(totals.refused)} refused"
        text += f"; {count(totals.deliveries)} delivered"
        if totals.recovered:
            text += f", {count(totals.recovered)} of them recovered"
        yield text


def _latencies(report: Report) -> Iterator[str]:
    rows = [(name, report.latencies[name].quantiles) for name in LATENCIES if name in report.latencies]
    if not any(each.count for _, each in rows):
        return
    yield f"{'':13}{'count':>12}{'p50':>10}{'p95':>10}{'p99':>10}{'p99.9':>10}{'max':>10}"
    for name, each in rows:
        if each.count:
            values = "".join(f"{milliseconds(ms):>10}" for ms in (each.p50, each.p95, each.p99, each.p999, each.max))
            yield f"{LATENCY_NAMES[name]:13}{count(each.count):>12}{values}"


def _integrity(report: Report) -> Iterator[str]:
    totals = report.totals
    numbers = [
        f"{count(totals.lost)} lost",
        counted(totals.duplicates, "duplicate"),
        f"{count(totals.reordered)} reordered",
        f"{count(totals.dropped)} dropped with a gap",
        f"{count(totals.unanswered)} unanswered",
        f"{count(totals.abandoned)} abandoned",
    ]
    if totals.refreshed:
        numbers.append(f"{count(totals.refreshed)} tokens refreshed")
    numbers += [f"{count(times)} {what}" for what in ("corrupt", "crossed") if (times := getattr(totals, what))]
    if totals.unrecovered:
        numbers.append(f"{count(totals.unrecovered)} not recovered")
    yield ", ".join(numbers)
    yield from map(finding_text, _first_findings(report.findings))
    if len(report.findings) > MAX_FINDINGS:
        yield f"... and {count(len(report.findings) - MAX_FINDINGS)} more in the JSON report"


def _first_findings(findings: list[Finding]) -> list[Finding]:
    """The first ones, among them the first of each kind: many losses do not hide a double one."""
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, int]] = []
    for index, each in enumerate(findings):
        ranked.append((seen[each.kind], index))
        seen[each.kind] += 1
    return [findings[index] for index in sorted(index for _, index in sorted(ranked)[:MAX_FINDINGS])]


def _servers(report: Report, held: str, failed: str) -> Iterator[str]:
    width = max((len(plain(each.what)) for each in report.balances), default=0)
    for each in sorted(report.balances, key=lambda each: each.holds):
        theirs = NONE if each.theirs is None else count(each.theirs)
        yield (
            f"{held if each.holds else failed} {plain(each.what):{width}}  {count(each.ours)} here, {theirs} there"
            f"{f', {count(each.explained)} explained' if each.explained else ''}: {plain(each.note)}"
        )


def _thresholds(report: Report, held: str, failed: str) -> Iterator[str]:
    width = max((len(plain(each.threshold)) for each in report.thresholds if not each.passed), default=0)
    for each in report.thresholds:
        if not each.passed:
            yield f"{failed} {plain(each.threshold):{width}}  {plain(each.shown)}"
    # One that held needs no line of its own.
    line = ""
    for each in report.thresholds:
        if each.passed:
            text = f"{held} {plain(each.threshold)} ({plain(each.shown)})"
            if line and len(line) + 3 + len(text) > WIDTH - _LABEL:
                yield line
                line = ""
            line += f"   {text}" if line else text
    if line:
        yield line


def _reasons(report: Report) -> Iterator[str]:
    ordered = most_frequent(report.reasons)
    width = max((len(count(times)) for _, times in ordered[:MAX_REASONS]), default=0)
    for reason, times in ordered[:MAX_REASONS]:
        yield f"{count(times):>{width}}  {textwrap.shorten(plain(reason), 75, placeholder='...')}"
    if rest := ordered[MAX_REASONS:]:
        yield f"{count(sum(times for _, times in rest)):>{width}}  for {counted(len(rest), 'other reason')}"
    if report.totals.expected_errors:
        yield f"{count(report.totals.expected_errors)} of these are what the scenario is to bring about"
