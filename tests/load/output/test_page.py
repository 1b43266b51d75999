"""The HTML report as text: what is in it, that nothing of a report breaks out of it, and the numbers of its plots."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import msgspec
import pytest

pytest.importorskip("hdrh", reason="hdrhistogram is not installed")

from hypothesis import given
from hypothesis import strategies as st

from tests.support.load.example_report import example_report, faulty_report, measured, second_of
from trunkline.load.model.histogram import Quantiles
from trunkline.load.model.report import Report
from trunkline.load.model.tally import Finding, Totals
from trunkline.load.output import formatting
from trunkline.load.output.formatting import count, milliseconds, per_second, percent
from trunkline.load.output.page import MAX_FINDINGS, page
from trunkline.load.output.plots import MAX_POINTS, Plot, Plots, plots
from trunkline.load.output.summary import summary

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">&amp;\u2028'


class Parts(HTMLParser):
    """The texts, elements and attributes of a page."""

    def __init__(self, content: bytes) -> None:
        """Read a page."""
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside: list[str] = []
        self.text = ""
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self.inside.append(tag)
        if tag in self.inline:
            self.inline[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in self.inline:
            self.inline[self.inside[-1]][-1] += data
        else:
            self.text += data


def hostile_report(text: str = HOSTILE) -> Report:
    """A report in which every text that comes from elsewhere is this one."""
    report = faulty_report()
    seconds = [msgspec.structs.replace(second, stage=text) for second in report.seconds]
    finding = Finding("lost", text, 1, 2, epoch=text)
    judged = msgspec.structs.replace(report.thresholds[0], threshold=text, shown=text)
    balance = msgspec.structs.replace(report.balances[0], what=text, note=text)
    machine = msgspec.structs.replace(report.machine, system=text)
    return msgspec.structs.replace(
        report, scenario=text, description=text, url=text, run=text, started=text, agents=(text,), machine=machine,
        reasons={text: 1}, warnings=[text], findings=[finding], thresholds=[judged], balances=[balance],
        seconds=seconds, version=text, protocol=text,
    )  # fmt: skip


def plot(drawn: Plots, title: str) -> Plot:
    """The plot of this title."""
    return next(each for each in drawn.over_time if each.title == title)


def line(drawn: Plots, title: str, name: str) -> list[float | None]:
    """The values of a line."""
    return next(each.values for each in plot(drawn, title).lines if each.name == name)


def test_it_is_one_file_that_refers_to_nothing_outside():
    """No element or attribute of the page makes a browser fetch anything, and the style sheet has no url()."""
    parts = Parts(page(faulty_report()))
    assert not {"link", "img", "iframe", "object", "embed"} & set(parts.elements)
    assert not {"src", "href", "srcset", "style", "onclick"} & {name for name, _ in parts.attributes}
    assert "url(" not in parts.inline["style"][0]
    assert "@import" not in parts.inline["style"][0]


def test_the_policy_names_the_hashes_of_the_one_script_and_the_one_style_sheet():
    """Nothing but these two texts may run or apply; the data is no script."""
    parts = Parts(page(example_report()))
    policy = next(value or "" for name, value in parts.attributes if name == "content")
    data, script = parts.inline["script"]
    (style,) = parts.inline["style"]
    found = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for kind, text in (("script-src", script), ("style-src", style)):
        assert found[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert found["default-src"] == "'none'"
    assert data.startswith("{")


def test_texts_of_a_report_stay_text():
    """Markup in any text of a report adds no element and no attribute to the page."""
    hostile, plain = Parts(page(hostile_report())), Parts(page(hostile_report("plain")))
    assert hostile.elements == plain.elements
    assert hostile.attributes == plain.attributes
    assert hostile.text.count(formatting.plain(HOSTILE)) >= 14


@given(st.text(max_size=60))
def test_no_stage_name_ends_the_data(name: str):
    """Whatever a stage is called, the embedded JSON reads back the same."""
    parts = Parts(page(example_report(seconds=[msgspec.structs.replace(second_of(1), stage=name)])))
    data, _ = parts.inline["script"]
    assert msgspec.json.decode(data, type=Plots).marks[0].name == name
    assert not set("<>&\u2028\u2029") & set(data)


def test_the_tables_say_what_was_found():
    """Verdict, thresholds with values, warnings, reasons, close codes, findings and sums are there without a script."""
    report = faulty_report()
    text = " ".join(Parts(page(report)).text.replace("\u00a0", " ").split())
    assert "Failed. 3 of 7 thresholds did not hold." in text
    for judged in report.thresholds:
        assert judged.threshold in text
        assert judged.shown in text
    for said in (*report.warnings, *report.reasons, "1011server error3", "1,061 to 1,062", "3 are missing"):
        assert said in text
    assert "delivery99,957" in text


def test_findings_are_capped_and_the_rest_is_counted():
    """A table of thousands of rows helps nobody."""
    findings = [Finding("duplicate", f"c{n}", 1, n) for n in range(MAX_FINDINGS + 7)]
    text = Parts(page(faulty_report(findings=findings))).text
    assert f"c{MAX_FINDINGS - 1}" in text
    assert f"c{MAX_FINDINGS}" not in text
    assert "7 more are in the JSON report" in text


def test_a_run_that_ended_before_its_first_second_has_a_page():
    """Without seconds and latencies there are no plots, and no empty ones."""
    empty = example_report(seconds=[], latencies={}, message=Quantiles(), totals=Totals(), thresholds=[], balances=[])
    text = Parts(page(empty)).text
    assert "Over time" not in text
    assert "None was measured." in text


def test_plots_of_the_servers_are_left_out_when_they_say_nothing():
    """Against a foreign server there is neither its CPU nor its memory, nor its count of connections."""
    with_server, without = (
        plots(example_report()),
        plots(example_report(seconds=[second_of(at_s, server=False) for at_s in range(1, 61)])),
    )
    titles = {each.title for each in with_server.over_time} - {each.title for each in without.over_time}
    assert titles == {"Server CPU", "Server memory"}
    assert [each.name for each in plot(without, "Connections").lines] == ["open", "target"]


def test_a_second_without_latencies_is_a_hole():
    """The connect latency ends with the last connect and does not fall to zero."""
    values = line(plots(example_report()), "Connect latency", "p95")
    assert all(value is not None for value in values[:20])
    assert values[20:] == [None] * 40


def test_stages_begin_where_the_second_before_ended():
    """The marks are at 0, 20 and 50 s."""
    marks = plots(example_report()).marks
    assert [(mark.at, mark.name) for mark in marks] == [(0, "up"), (20, "hold"), (50, "down")]


def test_a_long_run_keeps_its_peaks():
    """Of 7,200 seconds, one slow one and one with an error are still there at their height; rates are means."""
    seconds = [msgspec.structs.replace(second_of(30), at_s=float(at_s)) for at_s in range(1, 7201)]
    slow = msgspec.structs.replace(seconds[0].message, p99=4321.0)
    errors = msgspec.structs.replace(seconds[0].totals, errors=17, sent=1250)
    seconds[4002] = msgspec.structs.replace(seconds[4002], message=slow, totals=errors)
    drawn = plots(example_report(seconds=seconds))
    assert drawn.step == 5
    assert len(drawn.times) == 1440 <= MAX_POINTS
    assert drawn.times[-1] == 7200
    assert line(drawn, "Message latency", "p99")[800] == 4321.0
    assert line(drawn, "Errors", "other errors")[800] == 17
    assert line(drawn, "Messages", "sent")[799:801] == [250, 450]
    assert all(len(each.values) == 1440 for shown in drawn.over_time for each in shown.lines)


def test_the_percentile_curve_agrees_with_the_quantiles():
    """At one nine it is the p90, at two the p99, at three the p99.9, and it ends at the greatest."""
    latency = measured(3.0, 0.8, 5_000)
    drawn = plots(example_report(latencies={"delivery": latency}))
    assert drawn.curve is not None
    values = dict(zip(drawn.curve.nines, drawn.curve.plot.lines[0].values, strict=True))
    found = latency.quantiles
    for nine, expected in ((1, found.p90), (2, found.p99), (3, found.p999)):
        assert values[nine] == pytest.approx(expected, rel=0.002)
    last = [value for value in values.values() if value is not None][-1]
    assert last == pytest.approx(found.max, rel=0.002)


def test_a_spoilt_histogram_is_said():
    """It is no quiet omission."""
    latency = msgspec.structs.replace(measured(3.0), hdr="nonsense")
    with pytest.raises(ValueError, match="not an HDR histogram"):
        page(example_report(latencies={"delivery": latency}))


def test_shares_are_never_rounded_to_all_or_nothing():
    """One failure in a million is not 0 %, and success is then not 100 %."""
    text = Parts(page(example_report(error_rate=1e-6, success=1 - 1e-6))).text.replace("\u00a0", " ")
    assert re.search(r"errors <0\.001 %", text)
    assert "99.999 %" in text


def test_ends_of_slow_readers_are_no_errors():
    """The plot of errors leaves out what the share of errors leaves out."""
    second = msgspec.structs.replace(second_of(1), totals=Totals(closed=9, goodbyes=2, shed=4))
    assert line(plots(example_report(seconds=[second])), "Errors", "unplanned ends") == [3]


def test_nothing_unprintable_reaches_the_page():
    """Escape sequences and marks that turn text around are written out."""
    content = page(example_report(reasons={"\x1b[2J\u202eevil\x00": 1})).decode()
    assert r"\x1b[2J\u202eevil\x00" in content
    assert not {"\x1b", "\u202e", "\x00"} & set(content)


def test_the_page_writes_numbers_as_the_summary_does():
    """A latency, a share and a count look the same in both."""
    report = faulty_report()
    text = Parts(page(report)).text.replace("\u00a0", " ")
    delivery = report.latencies["delivery"].quantiles
    sent = per_second(report.per_second("sent"))
    for number in (
        milliseconds(delivery.p95),
        count(delivery.count),
        percent(report.success),
        sent,
    ):
        assert number in text
        assert number in summary(report)
