"""A run as JUnit XML, for CI systems that show test results: what was to hold are the tests. Pure.

Rules: one test suite; a test for each threshold, for each kind of finding and for each line of the
reconciliation; what could not be measured by the servers is skipped, not passed. The file is what the common reading
programs agree on: the elements and attributes of Ant's JUnit task.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Final, get_args

from trunkline.load.model.tally import FindingKind
from trunkline.load.output.formatting import count, plain
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
    "epoch": "no channel begins anew",
}
_TOTALS: Final[dict[FindingKind, str]] = {
    "lost": "lost", "duplicate": "duplicates", "reordered": "reordered", "corrupt": "corrupt", "crossed": "crossed",
}  # fmt: skip


def junit(report: Report) -> bytes:
    """The run as XML in UTF-8; an interrupted one has one test more, an error, so it is not taken for the whole."""
    suite = ET.Element("testsuite")
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", name=name, value=plain(value))
    _thresholds(suite, report)
    _findings(suite, report)
    _balances(suite, report)
    if report.verdict == "interrupted":
        case = _case(suite, report, "run", "the run comes to its end")
        _because(case, "error", f"interrupted after {report.lasted_s:.1f} s of {report.planned_s:.1f} s")
    ET.SubElement(suite, "system-out").text = "".join(
        plain(line) + "\n" for line in summary(report).splitlines()
    )  # fmt: skip
    name = plain(f"trunkline load {report.scenario}")
    numbers = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "time": f"{report.lasted_s:.3f}",
    }
    suite.attrib |= {
        "name": name,
        **numbers,
        "skipped": str(len(suite.findall("testcase/skipped"))),
        # Of the zone, which some readers refuse, nothing is lost: reports are in UTC.
        "timestamp": plain(report.started[:19]),
        "hostname": "localhost",
    }
    root = ET.Element("testsuites", {"name": name, **numbers})
    root.append(suite)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _case(suite: ET.Element, report: Report, group: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", classname=plain(f"trunkline.load.{report.scenario}.{group}"), name=plain(name), time="0"
    )


def _because(case: ET.Element, what: str, message: str, lines: str = "") -> None:
    element = ET.SubElement(case, what, message=plain(message))
    if what != "skipped":
        element.set("type", what)
    element.text = lines or None


def _thresholds(suite: ET.Element, report: Report) -> None:
    for each in report.thresholds:
        case = _case(suite, report, "thresholds", each.threshold)
        if not each.passed:
            _because(case, "failure", f"{each.threshold}: {each.shown}")


def _findings(suite: ET.Element, report: Report) -> None:
    for kind in get_args(FindingKind):
        case = _case(suite, report, "findings", _KINDS[kind])
        named = [finding_text(each) for each in report.findings if each.kind == kind]
        number: int = getattr(report.totals, _TOTALS[kind]) if kind in _TOTALS else len(named)
        lines = "\n".join(named[:MAX_FINDINGS])
        if number and kind == "epoch":
            # A channel may start again (a restart with no history kept): worth a look, but no fault by itself.
            ET.SubElement(case, "system-out").text = lines
        elif number:
            _because(case, "failure", f"{count(number)} {_TOTALS[kind]}", lines)


def _balances(suite: ET.Element, report: Report) -> None:
    for each in report.balances:
        case = _case(suite, report, "servers", each.what)
        theirs = "unknown" if each.theirs is None else count(each.theirs)
        text = f"{count(each.ours)} here, {theirs} there, {count(each.explained)} explained: {each.note}"
        if not each.holds:
            _because(case, "failure", text)
        elif each.theirs is None:
            _because(case, "skipped", text)


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
