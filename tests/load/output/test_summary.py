"""What people paste into a ticket says everything, on one screen, with nothing foreign in it."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from rich.console import Console

from tests.support.load.example_report import example_report, faulty_report, second_of
from trunkline.load.model.report import Balance, Judged
from trunkline.load.model.tally import Finding, Totals
from trunkline.load.output.formatting import clock, milliseconds, octets, percent, plain, seconds, significant
from trunkline.load.output.summary import MAX_FINDINGS, WIDTH, finding_text, render, summary

GOOD = """\
trunkline load  ramp  ws://127.0.0.1:8080/ws  PASSED
feed, 1,000 connections wanted, 61.2 s, 2 processes, 2026-03-01T09:30:00Z, run q7x2m4ka
connections   1,000 tried, 1,000 opened (100 %), 0 failed; at most 1,000 open
              1,000 ended by the scenario, 0 by the other side
messages      13,500 sent (225/s, at most 300/s, 2.23 MiB)
              113,500 received (1,892/s, at most 2,800/s, 22.7 MiB)
              12,500 published, 12,500 acknowledged; 100,000 delivered
latency                           count       p50       p95       p99     p99.9       max
              dial                1,000  0.205 ms  0.485 ms  0.690 ms  0.916 ms   1.22 ms
              handshake           1,000   1.38 ms   2.74 ms   3.63 ms   4.55 ms   5.70 ms
              connect             1,000   1.86 ms   4.39 ms   6.24 ms   8.29 ms   11.0 ms
              first message       1,000  0.783 ms   1.85 ms   2.63 ms   3.49 ms   4.63 ms
              round trip         12,500   1.37 ms   3.16 ms   4.27 ms   6.03 ms   7.90 ms
              delivery          100,000   2.29 ms   5.17 ms   7.05 ms   10.1 ms   13.6 ms
              generator lag      13,500  0.067 ms  0.217 ms  0.325 ms  0.527 ms  0.756 ms
integrity     0 lost, 0 duplicates, 0 reordered, 0 dropped with a gap, 0 unanswered, 0 abandoned
servers       ✓ connections opened         1,000 here, 1,000 there: the same
              ✓ messages to the servers    13,500 here, 13,500 there: the same
              ✓ messages from the servers  113,500 here, 113,500 there: the same
thresholds    ✓ connect_p95<2s (4.2 ms)   ✓ message_p95<1s (5.0 ms)   ✓ success>95% (100 %)
              ✓ errors<1% (0 %)   ✓ delivery_p99<50ms (7.4 ms)
"""

BAD = """\
trunkline load  ramp  ws://127.0.0.1:8080/ws  FAILED
feed, 1,000 connections wanted, 61.2 s, 2 processes, 2026-03-01T09:30:00Z, run q7x2m4ka
WARNING       The generator was the limit: 27 actions were more than 10 ms late, the busiest worker
              used 98 % of its core.
WARNING       2 of 2 servers restarted during the run; their counts start anew.
connections   1,012 tried, 1,004 opened (99.2 %), 8 failed; at most 1,000 open
              1,000 ended by the scenario, 16 by the other side (12 as planned)
              ended with 1001 going away: 12, 1011 server error: 3, 1006 broken off: 1
messages      13,500 sent (225/s, at most 300/s, 2.23 MiB)
              113,459 received (1,892/s, at most 2,800/s, 22.7 MiB)
              12,500 published, 12,490 acknowledged, 2 refused; 99,957 delivered, 120 of them
              recovered
latency                           count       p50       p95       p99     p99.9       max
              dial                1,000  0.205 ms  0.485 ms  0.690 ms  0.916 ms   1.22 ms
              handshake           1,000   1.38 ms   2.74 ms   3.63 ms   4.55 ms   5.70 ms
              connect             1,000   1.86 ms   4.39 ms   6.24 ms   8.29 ms   11.0 ms
              first message       1,000  0.783 ms   1.85 ms   2.63 ms   3.49 ms   4.63 ms
              round trip         12,500   1.37 ms   3.16 ms   4.27 ms   6.03 ms   7.90 ms
              delivery           99,957   27.6 ms    172 ms    349 ms    771 ms    1.49 s
              reconnect              12    1.12 s    1.52 s    1.82 s    1.82 s    1.82 s
              generator lag      13,500  0.067 ms  0.217 ms  0.325 ms  0.527 ms  0.756 ms
integrity     3 lost, 2 duplicates, 1 reordered, 40 dropped with a gap, 5 unanswered, 3 abandoned, 1
              not recovered
              lost  public.load.q7x2m4ka.12 offset 1041  (connection 17, at 12.3 s)
              duplicate  public.load.q7x2m4ka.3 offset 77  (connection 230, at 20.5 s)
              lost  public.load.q7x2m4ka.12 offsets 1061 to 1062  (connection 18, at 31.0 s)
              reordered  public.load.q7x2m4ka.40 offset 300  (connection 512, at 33.2 s)
              duplicate  public.load.q7x2m4ka.3 offset 91  (connection 231, at 40.8 s)
servers       ✗ messages from the servers  113,459 here, 113,502 there, 40 explained: 3 are missing
              ✓ connections opened         1,004 here, 1,004 there: the same
              ✓ messages to the servers    13,500 here, 13,500 there: the same
              ✓ bytes from the servers     23,756,000 here, - there: the servers do not say
thresholds    ✗ lost==0            3
              ✗ delivery_p99<50ms  383.2 ms
              ✗ reconnect_p99<5s   not measured
              ✓ connect_p95<2s (4.2 ms)   ✓ message_p95<1s (180.4 ms)   ✓ success>95% (99.2 %)
              ✓ errors<1% (0.164 %)
reasons       40  gap: outbox_full
               6  connect timed out after 10 s
               5  no answer
               4  closed with 1011 by the server
               4  not JSON
               2  HTTP 503
               2  publish refused: rate_limited
"""


def test_a_run_that_went_well() -> None:
    """The whole text of a run without a fault."""
    assert summary(example_report()) == GOOD


def test_a_run_that_went_badly() -> None:
    """Warnings come first, failed lines before held ones, findings with channel, offset, connection and time."""
    assert summary(faulty_report()) == BAD


def test_an_interrupted_run_says_how_far_it_came() -> None:
    """The title has the verdict, the next line the time of the time planned."""
    lines = summary(example_report(verdict="interrupted", lasted_s=23.4)).splitlines()
    assert lines[0].endswith("  INTERRUPTED")
    assert "23.4 s of 60 s" in lines[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_marks_fall_back_where_the_encoding_has_none(encoding: str) -> None:
    """The text can be written in any encoding, and what failed is still told from what held."""
    text = summary(faulty_report(), encoding)
    text.encode(encoding)
    assert "thresholds    FAIL lost==0            3\n" in text
    assert "ok   connect_p95<2s (4.2 ms)" in text


def test_no_line_is_too_long_whatever_is_in_the_report() -> None:
    """Long URLs, warnings, reasons and names are shortened or wrapped."""
    report = faulty_report(
        url="ws://127.0.0.1:1/" + "x" * 300, warnings=["word " * 80, "y" * 300], reasons={"z" * 300: 1, "a b " * 90: 2},
        balances=[Balance("b" * 50, 10**12, 10**12, 10**12, holds=False, note="n " * 100)],
        thresholds=[Judged("t" * 60, 1.0, "1 ms", passed=True)] * 3, agents=("h",) * 9, scenario="s" * 40,
        findings=[Finding("lost", "c" * 200, 10**7, 10**9, after=1)],
    )  # fmt: skip
    lines = summary(report).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].endswith("...  FAILED")


def test_foreign_texts_cannot_steer_the_terminal() -> None:
    """Escape sequences, line feeds and turned writing in what a server said are written out."""
    report = faulty_report(
        reasons={"\x1b]0;owned\x07 \n PASSED": 3}, findings=[Finding("lost", "ch\x1b[2J\u202e", 1, 5)],
        warnings=["a\r\nb"], url="ws://h/\x1b[31m",
    )  # fmt: skip
    text = summary(report)
    assert all(each == "\n" or each.isprintable() for each in text)
    assert "\\x1b]0;owned\\x07 \\n PASSED" in text
    assert "ch\\x1b[2J\\u202e offset 5" in text


def test_each_kind_of_finding_is_named_among_many_of_another() -> None:
    """A thousand losses do not hide one double message."""
    lost = [Finding("lost", "c", 1, offset) for offset in range(1000)]
    text = summary(faulty_report(findings=[*lost, Finding("duplicate", "d", 2, 7, at_s=50.0)]))
    assert "duplicate  d offset 7  (connection 2, at 50.0 s)" in text
    assert text.count("(connection ") == MAX_FINDINGS
    assert "... and 996 more in the JSON report" in text


def test_only_the_ten_most_frequent_errors_are_named() -> None:
    """The rest is one line with its sum."""
    text = summary(faulty_report(reasons={f"reason {n}": n for n in range(1, 14)}))
    assert "13  reason 13\n" in text
    assert "reason 3\n" not in text
    assert "6  for 3 other reasons\n" in text


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding("lost", "a.b", 17, 1041, after=1040, at_s=12.34), "lost  a.b offset 1041  (connection 17, at 12.3 s)"),
        (Finding("lost", "1", 1, 12, after=9), "lost  1 offsets 10 to 12  (connection 1, at 0.0 s)"),
        (Finding("duplicate", "", 3, 8, at_s=1), "duplicate  message 8  (connection 3, at 1.0 s)"),
        (Finding("epoch", "c", 3, 8, at_s=1), "new epoch  c offset 8  (connection 3, at 1.0 s)"),
    ],
)
def test_findings_in_words(finding: Finding, text: str) -> None:
    """Kind, channel, offset or offsets, connection and moment."""
    assert finding_text(finding) == text


def test_colour_changes_nothing_of_the_text() -> None:
    """On a terminal the same text comes with colour, elsewhere and with NO_COLOR without."""
    coloured, plain_out, without = io.StringIO(), io.StringIO(), io.StringIO()
    report = faulty_report()
    render(report, Console(file=coloured, force_terminal=True, width=60, _environ={"TERM": "xterm-256color"}))
    render(report, Console(file=plain_out, width=60))
    render(report, Console(file=without, force_terminal=True, width=60, _environ={"NO_COLOR": "1", "TERM": "xterm"}))
    assert plain_out.getvalue() == BAD
    assert _text_of(coloured.getvalue()) == _text_of(without.getvalue()) == BAD
    assert "\x1b[1;31m✗ lost==0" in coloured.getvalue()
    assert "31m" not in without.getvalue()


def _text_of(written: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", written)


def test_numbers_in_words() -> None:
    """Three significant digits, one unit, and no rounding to all or nothing."""
    assert [significant(each) for each in (0, 0.0123, 1.234, 9.999, 12.34, 99.96, 1234.5)] == [
        "0", "0.0123", "1.23", "10.0", "12.3", "100", "1,234",
    ]  # fmt: skip
    assert [milliseconds(each) for each in (0, 0.001, 0.9999, 5, 999.4, 999.6, 61_000, float("nan"))] == [
        "0 ms", "0.001 ms", "1.00 ms", "5.00 ms", "999 ms", "1.00 s", "61.0 s", "-",
    ]  # fmt: skip
    assert [octets(each) for each in (0, 999, 1024, 1536 << 10, 3 << 40)] == [
        "0 B", "999 B", "1.00 KiB", "1.50 MiB", "3.00 TiB",
    ]  # fmt: skip
    assert [percent(each) for each in (0, 1e-9, 0.00158, 0.5, 0.9999, 0.9999999, 1)] == [
        "0 %", "<0.001 %", "0.158 %", "50.0 %", "99.99 %", "99.999 %", "100 %",
    ]  # fmt: skip
    assert [seconds(each) for each in (0.5, 60, 119, 125, 600, 7500)] == [
        "0.5 s", "60 s", "119 s", "2 min 05 s", "10 min", "2 h 05 min",
    ]  # fmt: skip
    assert [clock(each) for each in (0, 61.9, 3723)] == ["00:00", "01:01", "1:02:03"]
    assert plain("tab\tand \ud800") == "tab\\tand \\ud800"


def test_rates_of_a_run_whose_messages_come_while_it_settles() -> None:
    """The mean never exceeds the greatest second, for what came after the stages is no rate of them."""
    seconds = [msgspec.structs.replace(second_of(at), totals=Totals(sent=10, received=10)) for at in (1, 2)]
    seconds.append(msgspec.structs.replace(second_of(3), totals=Totals(received=80)))
    report = example_report(seconds=seconds, lasted_s=2.0, totals=Totals(sent=20, received=100))
    assert "100 received (10.0/s, at most 80/s" in summary(report)


def test_a_run_of_less_than_a_second_names_no_greatest_second() -> None:
    """Its only second is not whole, so that a count in it would be less than the rate beside it."""
    seconds = [msgspec.structs.replace(second_of(1), totals=Totals(sent=10, received=10))]
    text = summary(example_report(seconds=seconds, lasted_s=0.5, totals=Totals(sent=10, received=10)))
    assert "10 sent (20.0/s, 0 B)" in text


def test_slow_readers_that_were_ended_are_named() -> None:
    """Their ends stand beside the goodbyes: neither is an error."""
    text = summary(example_report(totals=Totals(attempts=9, opened=9, closed=5, goodbyes=2, shed=3)))
    assert "5 by the other side (2 as planned, 3 for reading slowly)" in text


def test_expected_errors_are_counted_once() -> None:
    """They are among the reasons, so they are no further ones."""
    text = summary(example_report(reasons={"server: RATE_LIMIT_EXCEEDED": 7}, totals=Totals(sent=9, expected_errors=7)))
    assert "7 of these are what the scenario is to bring about" in text
    assert "more" not in text


def test_a_hostile_name_keeps_the_title_in_its_width() -> None:
    """A name that grows when it is written out is cut, and the verdict is still there."""
    title = summary(example_report(scenario="\u202e" * 40)).splitlines()[0]
    assert len(title) <= WIDTH
    assert title.endswith("PASSED")
