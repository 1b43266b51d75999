"""A run as JUnit XML that readers take, with what failed named."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.load.example_report import example_report, faulty_report
from trunkline.load.model.report import Judged, Report
from trunkline.load.model.tally import Finding
from trunkline.load.output.junit import junit


def _suite(report: Report) -> ET.Element:
    root = ET.fromstring(junit(report))
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def _outcomes(suite: ET.Element) -> dict[str, str]:
    outcomes = {}
    for case in suite.findall("testcase"):
        result = next((each for each in case if each.tag != "system-out"), None)
        outcomes[case.attrib["name"]] = "passed" if result is None else f"{result.tag}: {result.attrib['message']}"
    return outcomes


def test_a_run_that_went_well_has_no_failure() -> None:
    """Each threshold, each kind of finding and each line of the reconciliation is a passed test."""
    suite = _suite(example_report())
    assert _outcomes(suite) == dict.fromkeys(
        [
            "connect_p95<2s", "message_p95<1s", "success>95%", "errors<1%", "delivery_p99<50ms",
            "no message is lost", "no message comes twice", "every message comes in its order",
            "every message comes back as it was sent",
            "no message comes to another connection", "no channel begins again",
            "connections opened", "messages to the servers", "messages from the servers",
        ],
        "passed",
    )  # fmt: skip
    assert suite.attrib == {
        "name": "trunkline load ramp", "tests": "14", "failures": "0", "errors": "0", "skipped": "0", "time": "61.200",
        "timestamp": "2026-03-01T09:30:00", "hostname": "localhost",
    }  # fmt: skip


def test_a_run_that_went_badly_names_what_failed_with_its_value() -> None:
    """Failures have the measured value, findings their places, and what servers do not say is skipped."""
    suite = _suite(faulty_report())
    assert {name: outcome for name, outcome in _outcomes(suite).items() if outcome != "passed"} == {
        "lost==0": "failure: lost==0: 3",
        "delivery_p99<50ms": "failure: delivery_p99<50ms: 383.2 ms",
        "reconnect_p99<5s": "failure: reconnect_p99<5s: not measured",
        "no message is lost": "failure: 3 lost",
        "no message comes twice": "failure: 2 duplicates",
        "every message comes in its order": "failure: 1 reordered",
        "messages from the servers": "failure: 113,459 here, 113,502 there, 40 explained: 3 are missing",
        "bytes from the servers": "skipped: 23,756,000 here, unknown there, 0 explained: the servers do not say",
    }
    assert (suite.attrib["tests"], suite.attrib["failures"], suite.attrib["skipped"]) == ("17", "7", "1")
    lost = suite.find("testcase[@name='no message is lost']/failure")
    assert lost is not None
    assert lost.text == (
        "lost  public.load.q7x2m4ka.12 offset 1041  (connection 17, at 12.3 s)\n"
        "lost  public.load.q7x2m4ka.12 offsets 1061 to 1062  (connection 18, at 31.0 s)"
    )


def test_main_numbers_are_properties() -> None:
    """Counts, latencies and warnings are there by name, and the summary is the output."""
    suite = _suite(faulty_report())
    properties = {each.attrib["name"]: each.attrib["value"] for each in suite.findall("properties/property")}
    assert properties["verdict"] == "failed"
    assert properties["lost"] == "3"
    assert properties["goodbyes"] == "12"
    assert properties["shed"] == "0"
    assert properties["delivery_p99_ms"] == "348.671"
    assert properties["warning_1"].startswith("The generator was the limit")
    assert (suite.findtext("system-out") or "").startswith("trunkline load  ramp  ws://127.0.0.1:8080/ws  FAILED\n")


def test_an_interrupted_run_is_an_error() -> None:
    """What was seen of it passed, but the run did not come to its end."""
    suite = _suite(example_report(verdict="interrupted", lasted_s=20.0))
    assert _outcomes(suite)["the run comes to its end"] == "error: interrupted after 20.0 s of 60.0 s"
    assert (suite.attrib["errors"], suite.attrib["failures"]) == ("1", "0")


def test_a_new_epoch_is_told_and_is_no_failure() -> None:
    """A restarted server begins its channels anew; the place is in the test's output."""
    suite = _suite(example_report(findings=[Finding("epoch", "c", 1, 5, epoch="e2", at_s=3.0)]))
    assert _outcomes(suite)["no channel begins again"] == "passed"
    output = suite.findtext("testcase[@name='no channel begins again']/system-out")
    assert output == "new epoch  c offset 5  (connection 1, at 3.0 s)"


def test_the_order_of_elements_is_the_one_that_strict_readers_want() -> None:
    """Properties, then tests, then output."""
    tags = [each.tag for each in _suite(faulty_report())]
    assert tags == ["properties", *["testcase"] * 17, "system-out"]


@pytest.mark.parametrize("text", ["\x00\x08\x0b\x1b[31m", "]]><x/>&\"'", "\ud800", "\ufffe\uffff", "a\r\nb", "✗ é"])
def test_no_text_breaks_the_document(text: str) -> None:
    """Control characters, markup and lone surrogates in foreign texts leave valid XML."""
    report = faulty_report(
        scenario=text, url=text, warnings=[text], reasons={text: 1}, findings=[Finding("lost", text, 1, 2)],
        thresholds=[Judged(text, None, text, passed=False)], run=text, started=text, description=text,
    )  # fmt: skip
    suite = _suite(report)
    assert len(suite.findall("testcase")) == 11


@given(st.text(max_size=40))
def test_any_text_of_a_server_leaves_valid_xml(text: str) -> None:
    """Whatever the reason says, the document is read back."""
    _suite(example_report(reasons={text: 1}, warnings=[text], url=text))
