"""What is seen while a run goes on: on a terminal in place, elsewhere a line every few seconds."""

from __future__ import annotations

import io
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.support.load.example_report import counts_of, second_of
from trunkline.load.model.histogram import Counts
from trunkline.load.model.plan import Scenario, Stage
from trunkline.load.model.report import Second
from trunkline.load.model.tally import Beat, Latency, Sum, Totals
from trunkline.load.output import live as live_module
from trunkline.load.output.live import LiveView, PlainLive, TerminalLive, make_live

SCENARIO = Scenario("ramp", (Stage(20, 1000, "up"), Stage(30, 1000, "hold"), Stage(10, 0, "down")))
URL = "ws://127.0.0.1:8080/ws"


class _Run:
    """A made-up run of which each second is told to a view."""

    def __init__(self, view: LiveView) -> None:
        self.view = view
        self.sum = Sum()
        view.begin(SCENARIO, URL, 2, ())

    def second(self, second: Second) -> None:
        latencies: dict[Latency, Counts] = {"connect": counts_of(2.0, 0.5, 50), "delivery": counts_of(2.3, 0.5, 2_500)}
        totals = second.totals
        self.sum.add(Beat(0, int(second.at_s), totals, latencies, {}, {}, second.open, 0.3))
        self.view.second(second, self.sum)


def _faulty(at_s: int) -> Second:
    second = second_of(at_s)
    second.totals.failed, second.totals.closed, second.totals.goodbyes = 2, 3, 1
    second.totals.lost, second.totals.dropped = 1, 4
    second.lag_max, second.generator_cpu = 14.0, 0.97
    return second


def _terminal(width: int, **environ: str) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    environ = {"TERM": "xterm-256color"} | environ
    console = Console(
        file=out, force_terminal=True, width=width, height=30, highlight=False, markup=False, emoji=False,
        _environ=environ,
    )  # fmt: skip
    return console, out


def _picture(console: Console, view: TerminalLive) -> list[str]:
    """What the view shows now, without what moves the cursor."""
    beside = Console(file=io.StringIO(), width=console.width, color_system=None, _environ={})
    with beside.capture() as capture:
        beside.print(view._picture())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_lines_where_there_is_no_terminal() -> None:
    """One at the first second, at each change of stage and every five seconds; rates are of the time between."""
    out = io.StringIO()
    run = _Run(make_live(as_json=False, out=out))
    for at_s in range(1, 31):
        run.second(second_of(at_s))
    run.view.note("the generator\nis late")
    run.view.phase("settling")
    run.view.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == f"ramp to {URL}: 1,000 connections, 2 processes, 60 s"
    assert [line.split()[0] for line in lines[1:-2]] == ["00:01", "00:06", "00:11", "00:16", "00:21", "00:26"]
    assert lines[5] == (
        "00:21 hold  open 1,000/1,000  opened 40.0/s  sent 290/s  received 2,590/s  connect p95 3.20 ms  "
        "message p50 2.27 ms p95 5.16 ms p99 6.94 ms  errors 0  findings 0  generator 38.0 %  "
        "servers 57.3 % 163 MiB"
    )
    assert lines[-2:] == ["WARNING: the generator\\nis late", "settling"]


def test_a_line_tells_of_its_own_time_only() -> None:
    """A latency that went up is not hidden by the seconds before the last line."""
    out = io.StringIO()
    view = make_live(as_json=False, out=out)
    view.begin(SCENARIO, URL, 1, ("one", "two"))
    so_far = Sum()
    for at_s, median in ((1, 2.0), (6, 200.0)):
        second = second_of(at_s, server=False)
        so_far.add(Beat(0, at_s, second.totals, {"round_trip": counts_of(median, 0.01, 1000)}, {}, {}, 1, 0.1))
        view.second(second, so_far)
    head, first, then = out.getvalue().splitlines()
    assert head.endswith("1 process on 2 machines, 60 s")
    assert "message p50 2.00 ms" in first
    assert "connect p95 -" in first
    assert "message p50 200 ms" in then
    assert "servers" not in then


def test_stages_shorter_than_the_interval_have_their_line() -> None:
    """Each change of stage is told at once."""
    out = io.StringIO()
    run = _Run(make_live(as_json=False, out=out))
    for at_s in (19, 20, 21, 22, 50, 51):
        run.second(second_of(at_s))
    assert [line.split()[:2] for line in out.getvalue().splitlines()[1:]] == [
        ["00:19", "up"], ["00:21", "hold"], ["00:50", "hold"], ["00:51", "down"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [60, 120])
def test_the_picture_on_a_terminal(width: int) -> None:
    """Everything asked for is there and nothing is wider than the terminal, cut or broken within a number."""
    console, _ = _terminal(width)
    view = TerminalLive(console)
    run = _Run(view)
    for at_s in range(1, 31):
        run.second(second_of(at_s))
    lines = _picture(console, view)
    view.close()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    for part in (
        "ramp to ws://127.0.0.1:8080/ws", "hold ━", "00:30 / 01:00", "connections   1,000 open of 1,000",
        "this second   0 opened, 250 sent, 2,750 received", "so far        1,000 opened, 8,500 sent, 58,500 received",
        "errors        none", "findings      none", "generator     CPU 38.0 %, lag 0.535 ms",
        "servers       2 with 1,000 connections, CPU 47.6 %, 163 MiB", "connect, so far", "message, this second",
    ):  # fmt: skip
        assert part in text, part
    assert "…" not in text


def test_the_whole_picture_of_a_bad_second() -> None:
    """Errors by kind, findings, and a generator that is the limit."""
    console, _ = _terminal(60)
    view = TerminalLive(console)
    run = _Run(view)
    for at_s in (21, 22):
        run.second(_faulty(at_s))
    lines = _picture(console, view)
    view.close()
    assert lines == PICTURE.splitlines()


PICTURE = """\
ramp to ws://127.0.0.1:8080/ws: 1,000 connections, 2
processes
hold ━━━━━━━━━━━━━━━                           00:22 / 01:00
connections   1,000 open of 1,000
this second   0 opened, 250 sent, 2,750 received
so far        0 opened, 500 sent, 5,500 received
errors        4 not connected, 4 ended by the other side
findings      2 lost, 0 duplicates, 0 reordered; 8 dropped
              with a gap
generator     CPU 97.0 %, lag 14.0 ms: it is the limit
servers       2 with 1,000 connections, CPU 58.9 %, 163 MiB
latency                   p50      p95      p99
connect, this second        -        -        -
connect, so far       1.50 ms  3.20 ms  4.63 ms
message, this second  2.58 ms  5.94 ms  8.26 ms
message, so far       2.27 ms  5.16 ms  6.94 ms
"""


@pytest.mark.parametrize("width", [20, 40])
def test_a_very_narrow_terminal_is_survived(width: int) -> None:
    """It is not pretty, but nothing breaks and nothing is wider."""
    console, _ = _terminal(width)
    view = TerminalLive(console)
    run = _Run(view)
    run.second(_faulty(20))
    lines = _picture(console, view)
    view.close()
    assert max(map(len, lines)) <= width


def test_phases_stand_in_place_of_the_stage() -> None:
    """Starting until the first second, then the stage, then what is said."""
    console, _ = _terminal(100)
    view = TerminalLive(console)
    run = _Run(view)
    assert _picture(console, view)[1].startswith("starting ")
    run.second(second_of(60))
    assert _picture(console, view)[1].startswith("down ━")
    view.phase("settling")
    assert _picture(console, view)[1].startswith("settling ━")
    view.phase("asking all of the servers what they counted")
    assert _picture(console, view)[1].startswith("down ━")
    assert _picture(console, view)[2] == "asking all of the servers what they counted"
    view.close()


def test_notes_stay_and_the_picture_goes() -> None:
    """After the end only the warnings are on the terminal, and the cursor is back."""
    console, out = _terminal(80)
    run = _Run(TerminalLive(console))
    run.second(second_of(1))
    run.view.note("[red]late[/red] \x1b[2J")
    run.view.close()
    written = out.getvalue()
    assert "WARNING: [red]late[/red] \\x1b[2J" in written
    assert "\x1b[2J" not in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_no_color_is_honoured() -> None:
    """With NO_COLOR there is movement but no colour; without it there is."""
    written = {}
    for value in ("", "1"):
        console, out = _terminal(80, **({"NO_COLOR": value} if value else {}))
        run = _Run(TerminalLive(console))
        run.second(_faulty(5))
        run.view.close()
        written[value] = out.getvalue()
    assert "\x1b[31m" in written[""]
    assert "\x1b[31m" not in written["1"]
    assert "[36m" not in written["1"]


def test_a_terminal_without_unicode_gets_none() -> None:
    """Bar, marks and foreign names are written in what the encoding has."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=out, force_terminal=True, width=60, height=30, _environ={"TERM": "xterm"})
    view = TerminalLive(console)
    view.begin(Scenario("größe", (Stage(9, 5, "höhe"),)), URL, 1, ())
    second = second_of(3)
    second.stage = "höhe"
    view.second(second, Sum())
    view.note("naïve")
    view.close()
    out.flush()
    text = raw.getvalue().decode("ascii")
    assert "gr\\xf6\\xdfe to" in text
    assert "h\\xf6he" in text
    assert "na\\xefve" in text


def test_lines_for_a_machine_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a result in JSON the view stays in lines; standard error is where it goes."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_live(as_json=False, out=io.StringIO()), TerminalLive)
    assert isinstance(make_live(as_json=True, out=io.StringIO()), PlainLive)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    make_live(as_json=True).note("here")
    assert "WARNING: here" in out.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_reader_that_has_gone_ends_nothing(terminal: bool) -> None:
    """The run goes on when nobody reads any more, be it a pipe or a closed file."""
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    console = Console(
        file=live_module.PatientStream(out), force_terminal=terminal, width=80, _environ={"TERM": "xterm"}
    )
    run = _Run(TerminalLive(console) if terminal else PlainLive(console))
    for at_s in range(1, 12):
        run.second(second_of(at_s))
    run.view.note("late")
    with pytest.raises(BrokenPipeError):
        out.close()

    closed = io.StringIO()
    closed.close()
    run = _Run(make_live(as_json=False, out=closed))
    run.second(second_of(1))
    run.view.close()


@given(st.builds(Totals, **{name: st.integers(0, 1_000) for name in Totals.__struct_fields__}))
def test_errors_are_those_of_the_error_rate(totals: Totals) -> None:
    """The view counts as wrong what the report's share of errors counts."""
    assert totals.wrong / max(1, totals.attempts + totals.sent) == pytest.approx(totals.error_rate)
