"""What is known of a running fleet and how it is said."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from trunkline.fleet.status import (
    Addresses,
    EdgeAddresses,
    Event,
    NodeAddresses,
    PartStatus,
    Sample,
    draining_text,
    short,
    status_text,
)
from trunkline.fleet.view.output import make_view
from trunkline.fleet.view.terminal import TerminalView


def node(name: str = "node-1") -> PartStatus:
    status = PartStatus(name)
    status.enter("up")
    return status


def test_rate_is_the_difference_of_two_samples() -> None:
    """Messages per second come from two counts and the time between them; one count says nothing."""
    status = node()
    status.observe(Sample("up", 3, 1000), 10.0)
    assert status.messages_per_s == 0
    status.observe(Sample("up", 4, 1500), 12.0)
    assert (status.connections, status.messages_per_s) == (4, 250.0)
    status.observe(Sample("up", 0, 10), 13.0)
    assert status.messages_per_s == 0


def test_only_changes_of_state_are_reported() -> None:
    """Draining and its end are news, and the same state again is not."""
    status = node()
    assert status.observe(Sample("up", 0, 0), 1.0) is None
    assert status.observe(Sample("draining", 0, 0), 2.0) == "draining"
    assert status.observe(Sample("draining", 0, 0), 3.0) is None
    assert status.observe(Sample("up", 0, 0), 4.0) == "up"


def test_one_missing_answer_is_no_news() -> None:
    """Three in a row make a node silent, once; an answer brings it back."""
    status = node()
    assert [status.observe(None, float(second)) for second in range(4)] == [None, None, "silent", None]
    assert status.observe(Sample("up", 1, 0), 5.0) == "up"


def test_new_process_starts_from_nothing() -> None:
    """Clients of a node that ended are not counted any more."""
    status = node()
    status.observe(Sample("up", 9, 100), 1.0)
    status.enter("down")
    assert (status.connections, status.messages_per_s) == (0, 0.0)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (999.6, "1.0k"), (1000, "1.0k"), (3210, "3.2k"), (1_500_000, "1.5M")]
)
def test_counts_are_short(number: float, text: str) -> None:
    """Few characters, no jump in width."""
    assert short(number) == text


def test_status_line_of_few_and_of_many() -> None:
    """Few nodes are shown one by one; of many the sum, and those that are not up by name."""
    nats = node("nats")
    few = [node("node-1"), node("node-2")]
    few[0].connections = 1200
    few[1].enter("down")
    assert status_text(few, [nats], False) == "node-1 up  1.2k conn  0 msg/s  │  node-2 down  │  nats up"
    many = [node(f"node-{number}") for number in range(1, 11)]
    many[4].enter("down")
    assert status_text(many, [node("edge"), nats], False) == (
        "9 of 10 nodes up  0 conn  0 msg/s  │  node-5 down  │  edge up  │  nats up"
    )
    assert status_text(few, [nats], True).startswith(draining_text(1200))


def test_status_line_tells_colours_apart() -> None:
    """Only where there are several: at the first node of each, or as the sum of each."""

    def nodes(colour: str, count: int) -> list[PartStatus]:
        found = [PartStatus(f"{colour}-{number}", colour) for number in range(1, count + 1)]
        for each in found:
            each.enter("up")
        return found

    few = [*nodes("blue", 2), *nodes("green", 1)]
    assert status_text(few, [], False) == (
        "blue: blue-1 up  0 conn  0 msg/s  │  blue-2 up  0 conn  0 msg/s  │  green: green-1 up  0 conn  0 msg/s"
    )
    assert status_text(few[:1], [], False) == "blue-1 up  0 conn  0 msg/s"
    many = [*nodes("blue", 4), *nodes("green", 4)]
    many[7].enter("starting")
    assert status_text(many, [], False) == (
        "blue: 4 of 4 nodes up  0 conn  0 msg/s  │  green: 3 of 4 nodes up  0 conn  0 msg/s  │  green-4 starting"
    )


def test_status_line_names_why_nothing_is_stored() -> None:
    """Beside its node, or once for many nodes; a new process begins without it."""
    few = [node("node-1")]
    few[0].observe(Sample("up", 3, 0, "no room"), 1.0)
    assert status_text(few, [], False) == "node-1 up  3 conn  0 msg/s  DOES NOT STORE: no room"
    many = [node(f"node-{number}") for number in range(1, 9)]
    for each in many:
        each.observe(Sample("up", 0, 0, "no room"), 1.0)
    assert status_text(many, [], False).count("DOES NOT STORE: no room") == 1
    few[0].enter("starting")
    assert few[0].problem == ""


def test_draining_counts_clients() -> None:
    """One client is one client."""
    assert draining_text(1) == "draining, 1 client left; Ctrl-C again ends at once"
    assert draining_text(12_000).startswith("draining, 12,000 clients left")


ADDRESSES = Addresses(
    edge=EdgeAddresses("relay", "http://h:8", "ws://h:8/ws", "http://h:9/balancer-metrics", "edge.log", {"edge": 2}),
    nodes=[NodeAddresses("node-1", "http://h:1", "ws://h:1/ws", "", "data/logs/node-1.log", 42)],
    nats="nats://h:4",
    nats_pid=43,
    logs="data/logs",
)


def test_plain_output_is_lines_and_no_line_a_second() -> None:
    """Without a terminal there are no escapes and no status line; text that looks like markup stays as it is."""
    out = io.StringIO()
    view = make_view(False, out)
    view.event(Event("log", "node-1", "[bold]odd[/bold] " + "long " * 60))
    view.ready(ADDRESSES)
    view.status(lambda: "never seen")
    view.close()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("node-1: [bold]odd[/bold] long")
    assert lines[1].startswith("edge  relay  page http://h:8  WebSocket ws://h:8/ws  balancer ")
    assert lines[1].endswith("  pids edge 2")
    assert lines[2] == "node-1  page http://h:1  WebSocket ws://h:1/ws  pid 42"
    assert lines[3] == "nats  nats://h:4  pid 43"
    assert "\x1b" not in out.getvalue()
    assert "never seen" not in out.getvalue()


def test_addresses_name_colours_where_there_are_several() -> None:
    """Behind the name, on a terminal and elsewhere."""
    nodes = [NodeAddresses(name, "p", "w", "", "log", 1, colour) for name, colour in (("node-1", "blue"), ("x", "red"))]
    both = msgspec.structs.replace(ADDRESSES, nodes=nodes)
    out = io.StringIO()
    make_view(False, out).ready(both)
    view = TerminalView(Console(file=out, width=200, force_terminal=True, color_system=None))
    view.ready(both)
    view.close()
    assert [out.getvalue().count(title) for title in ("node-1 (blue)", "x (red)")] == [2, 2]


def test_the_table_of_a_terminal_has_process_ids() -> None:
    """They are what an operator stops, watches or kills."""
    out = io.StringIO()
    view = TerminalView(Console(file=out, width=200, force_terminal=True, color_system=None))
    view.ready(ADDRESSES)
    view.close()
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["node-1", "42", "http://h:1", "ws://h:1/ws", "off"] in rows
    assert ["nats", "43", "nats://h:4"] in rows


def test_json_output_can_be_read_back() -> None:
    """Each line is one object of a known type."""
    out = io.StringIO()
    view = make_view(True, out)
    event = Event("ended", "node-1", "was ended by SIGKILL", exit_code=-9)
    view.event(event)
    view.ready(ADDRESSES)
    read = [msgspec.json.decode(line, type=Event | Addresses) for line in out.getvalue().splitlines()]
    assert read == [event, ADDRESSES]
