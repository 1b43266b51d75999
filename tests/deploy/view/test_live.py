"""What a deploy shows while it runs, and what its stored state says to others."""

from __future__ import annotations

import io

from msgspec.structs import replace
from rich.console import Console

from trunkline.deploy.machine.seen import WitnessSeen
from trunkline.deploy.parts import Progress
from trunkline.deploy.verdict.facts import Sample, StateSpan
from trunkline.deploy.view import words
from trunkline.deploy.view.alerts import Alert
from trunkline.deploy.view.live import PlainLive, TerminalLive, make_live
from trunkline.deploy.view.status import shown, status_line
from trunkline.protocol.deploys import DeployStatus

SAMPLE = Sample(61.0, "moving", {"blue": 1204, "green": 2796}, 388.0, 1540.0, 0.0, 50, 0.21, 1.4, 3.0)

MOVING = Progress(
    id="d1",
    state="moving",
    from_colour="blue",
    to_colour="green",
    at_s=61.0,
    since_s=12.0,
    spans=(StateSpan("planned", 0, 1), StateSpan("starting", 1, 9), StateSpan("gating", 9, 12)),
    to_move=4000,
    left=1204,
    rate_per_s=400.0,
    why="",
    sample=SAMPLE,
    witnesses=WitnessSeen(50, 50, moved=31),
    notes=(),
)


def test_words_of_a_move() -> None:
    """Clients left of how many, both colours beside what is accepted, witnesses."""
    assert words.headline(MOVING) == "deploy d1  blue -> green  01:01"
    assert words.move_line(MOVING) == "1,204 of 4,000 clients left, asked at 400/s"
    assert words.colours_line(MOVING) == (
        "blue 1,204 clients  green 2,796 clients  opened 388 of 1,540/s  refused 0/s  "
        "away p50 210 ms, p99 1.40 s  lag 3.00 ms"
    )
    assert words.witness_line(MOVING) == "50 of 50 connected  lost 0  twice 0  gaps 0  moved 31"
    assert not words.harmed(MOVING)
    assert words.harmed(replace(MOVING, witnesses=WitnessSeen(50, 50, lost=1)))
    assert words.moved_share(MOVING) == 1 - 1204 / 4000
    before = replace(MOVING, to_move=None, sample=None, witnesses=None, from_colour="")
    assert (words.move_line(before), words.colours_line(before), words.witness_line(before)) == ("", "", "")
    assert words.headline(before).startswith("deploy d1  nothing -> green")


def test_states_are_past_present_and_ahead() -> None:
    """On the way forward what is to come is named; on the way back it is not known."""
    assert words.states(MOVING) == (
        ("planned", "past"), ("starting", "past"), ("gating", "past"), ("moving", "now"),
        ("finishing", "ahead"), ("holding", "ahead"), ("retiring", "ahead"), ("done", "ahead"),
    )  # fmt: skip
    assert words.states(replace(MOVING, state="returning"))[-1] == ("returning", "now")


def test_lines_are_changes_and_one_every_few_seconds() -> None:
    """No line a second; each note once; what nodes said cannot move the cursor."""
    out = io.StringIO()
    live = make_live(out)
    assert isinstance(live, PlainLive)
    for second in range(7):
        live.progress(replace(MOVING, at_s=61.0 + second, notes=("node \x1b[2J died",)))
    live.progress(replace(MOVING, state="finishing", at_s=70.0, why="nobody is left"))
    live.close()
    assert out.getvalue().splitlines() == [
        "deploy d1  blue -> green  01:01",
        "01:01 NOTE node \\x1b[2J died",
        "01:01 moving",
        "01:06 moving  1,204 of 4,000 clients left, asked at 400/s  " + words.colours_line(MOVING)
        + "  witnesses 50 of 50 connected  lost 0  twice 0  gaps 0  moved 31",
        "01:10 finishing: nobody is left",
    ]  # fmt: skip


def test_a_terminal_shows_states_bar_colours_and_witnesses() -> None:
    """All of it at once, renewed in place; notes stay above."""
    out = io.StringIO()
    live = TerminalLive(Console(file=out, width=160, force_terminal=True, color_system=None))
    live.progress(MOVING)
    live.progress(replace(MOVING, notes=("a node died",)))
    live.close()
    text = out.getvalue()
    assert "NOTE a node died" in text
    assert text.count("━") > 20
    for part in (words.headline(MOVING), words.move_line(MOVING), words.colours_line(MOVING), "finishing holding"):
        assert part in text


STATUS = DeployStatus("d1", "moving", "blue", "green", "ann@host, process 7", "h", 3, "T0", "T1")


def test_a_status_names_who_drives_it() -> None:
    """And says what to do where nobody does."""
    assert status_line(shown(STATUS, None)) == ("deploy d1  blue -> green  moving since T1  by ann@host, process 7")
    assert status_line(shown(STATUS, 9.0)).endswith("; not heard of for 9 s")
    for status, age_s in ((STATUS, 15.0), (replace(STATUS, holder=""), None)):
        assert status_line(shown(status, age_s)).endswith(
            "nobody drives it: trunkline deploy resume, rollback or abort"
        )
    over = shown(replace(STATUS, state="done", holder=""), None)
    assert not over.expired


def test_alerts_are_shown_while_they_fire() -> None:
    """A line when they change, elsewhere a row; log lines stay above what is renewed."""
    out = io.StringIO()
    lines = make_live(out)
    firing = (Alert("TrunklineNodeDown", "critical", 1),)
    for found in ((), firing, firing, ()):
        lines.alerts(found)
    assert out.getvalue().splitlines() == ["ALERTS TrunklineNodeDown (critical)", "ALERTS none any more"]
    assert lines.log_lines is None

    out = io.StringIO()
    live = TerminalLive(Console(file=out, width=160, force_terminal=True, color_system=None))
    live.alerts(firing)
    live.progress(MOVING)
    assert live.log_lines is not None
    live.log_lines.write("\x1b[33mwarning\x1b[0m nats unreachable\n")
    live.close()
    assert "TrunklineNodeDown (critical)" in out.getvalue()
    assert "warning nats unreachable" in out.getvalue()
