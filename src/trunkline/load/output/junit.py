"""A run as JUnit XML, for CI systems that show test results: what was to hold are the tests. Pure.

Rules: one test suite; a test for each threshold, for each kind of finding and for each line of the
reconciliation; what could not be measured by the servers is skipped, not passed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Final, get_args

from trunkline.load.model.tally import FindingKind
from trunkline.load.output.formatting import count
from trunkline.load.output.junit_suite import Suite, because
from trunkline.load.output.summary import finding_text, summary

if TYPE_CHECKING:
    from trunkline.load.model.report import Report

MAX_FINDINGS: Final = 20  # findings named in one test; the JSON report has more
_KINDS: Final[dict[FindingKind, str]] = {
    "lost": "no message is lost",
    "duplicate": "no message comes twice",
    "reordered": "every message comes in its order",
    "corrupt": "every message comes back as it was sent",
    "crossed": "no message comes to another connection",
    "epoch": "no channel begins again",
}
_TOTALS: Final[dict[FindingKind, str]] = {
    "lost": "lost", "duplicate": "duplicates", "reordered": "reordered", "corrupt": "corrupt", "crossed": "crossed",
}  # fmt: skip


def junit(report: Report) -> bytes:
    """The run as XML in UTF-8; an interrupted one has one test more, an error, so it is not taken for the whole."""
    suite = Suite(f"trunkline load {report.scenario}", _properties(report))
    _thresholds(suite, report)
    _findings(suite, report)
    _balances(suite, report)
    if report.verdict == "interrupted":
        case = _case(suite, report, "run", "the run comes to its end")
        because(case, "error", f"interrupted after {report.lasted_s:.1f} s of {report.planned_s:.1f} s")
    return suite.written(summary(report), report.started, report.lasted_s)


def _case(suite: Suite, report: Report, group: str, name: str) -> ET.Element:
    return suite.case(f"trunkline.load.{report.scenario}.{group}", name)


def _thresholds(suite: Suite, report: Report) -> None:
    for each in report.thresholds:
        case = _case(suite, report, "thresholds", each.threshold)
        if not each.passed:
            because(case, "failure", f"{each.threshold}: {each.shown}")


def _findings(suite: Suite, report: Report) -> None:
    for kind in get_args(FindingKind):
        case = _case(suite, report, "findings", _KINDS[kind])
        named = [finding_text(each) for each in report.findings if each.kind == kind]
        number: int = getattr(report.totals, _TOTALS[kind]) if kind in _TOTALS else len(named)
        lines = "\n".join(named[:MAX_FINDINGS])
        if number and kind == "epoch":
            # A channel may start again (a restart with no history kept): worth a look, but no fault by itself.
            ET.SubElement(case, "system-out").text = lines
        elif number:
            because(case, "failure", f"{count(number)} {_TOTALS[kind]}", lines)


def _balances(suite: Suite, report: Report) -> None:
    for each in report.balances:
        case = _case(suite, report, "servers", each.what)
        theirs = "unknown" if each.theirs is None else count(each.theirs)
        text = f"{count(each.ours)} here, {theirs} there, {count(each.explained)} explained: {each.note}"
        if not each.holds:
            because(case, "failure", text)
        elif each.theirs is None:
            because(case, "skipped", text)


def _properties(report: Report) -> list[tuple[str, str]]:
    values: dict[str, object] = {
        "verdict": report.verdict, "url": report.url, "protocol": report.protocol, "run": report.run,
        "version": report.version, "peak": report.peak, "planned_s": report.planned_s, "lasted_s": report.lasted_s,
        "workers": report.workers, "machines": len(report.agents) or 1, "success": round(report.success, 6),
        "error_rate": round(report.error_rate, 6),
    }  # fmt: skip
    totals = report.totals
    for name in (
        "attempts", "opened", "failed", "closed", "goodbyes", "shed", "sent", "received", "lost", "duplicates",
        "reordered", "corrupt", "crossed", "dropped", "unanswered", "abandoned", "late",
    ):  # fmt: skip
        values[name] = getattr(totals, name)
    for latency, measured in report.latencies.items():
        if measured.quantiles.count:
            for quantile in ("p50", "p95", "p99", "max"):
                values[f"{latency}_{quantile}_ms"] = getattr(measured.quantiles, quantile)
    for index, warning in enumerate(report.warnings, 1):
        values[f"warning_{index}"] = warning
    return [(name, str(value)) for name, value in values.items()]
