"""Reading what servers report at /metrics, and adding it up."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.load.exposition import COUNTERS, exposition
from trunkline.load.judge.scrape import Counters, Course, Scrape, fell, minus, plus, read


def test_every_count_is_read_into_its_place() -> None:
    """The exposition of a node is read back: counters with their labels, gauges, name and version."""
    assert read(exposition()) == Scrape('odd "name"\n', "0.1.0", COUNTERS, 12.5, 5_000_000, 900, 0.25, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not metrics</html>",
        "process_cpu_seconds_total 3\n",
        "ws_connections_total 3\n",
        "ws_connections_total many\nws_build_info{node='a'} 1\n",
        exposition().replace("ws_messages_sent_total 12.0", "ws_messages_sent_total NaN"),
        exposition() + "ws_cpu_usage_percent NaN\n",
        exposition() + "ws_event_loop_lag_seconds +Inf\n",
        exposition().replace("ws_messages_sent_total 12.0", "ws_messages_sent_total 1e300"),
        exposition() + 'ws_publications_dropped_total{reason="x"} 1\n' * 3000,
    ],
)
def test_what_is_not_a_node_is_no_answer(text: str) -> None:
    """Other exporters, pages, broken numbers and endless series are no answer, and raise nothing."""
    assert read(text) is None


@given(
    st.text() | st.text(alphabet='ws_build_info{}connections_total="\\ \n0123456789.e').map(lambda t: exposition() + t)
)
def test_no_answer_raises(text: str) -> None:
    """Any text is read without an exception."""
    assert read(text) is None or isinstance(read(text), Scrape)


def test_counts_add_up_and_differ() -> None:
    """Sum and difference undo each other, label by label; any count that falls is noticed, active ones may fall."""
    twice = plus(COUNTERS, COUNTERS)
    assert twice.disconnects == {("normal", "client"): 36, ("too_slow", "server"): 38}
    assert minus(twice, COUNTERS) == COUNTERS
    assert not fell(twice, COUNTERS)
    assert not fell(msgspec.structs.replace(COUNTERS, active=0), COUNTERS)
    assert fell(msgspec.structs.replace(COUNTERS, messages_sent=11), COUNTERS)
    assert fell(msgspec.structs.replace(COUNTERS, publications_dropped={"OTHER": 90}), COUNTERS)


def test_a_new_process_goes_on_from_the_old_ones_counts() -> None:
    """Counts that fall, or another name, are a restart: sums go on, and the connections of the dead are not open."""
    course = Course()
    for scrape in (
        Scrape("a", "1", Counters(connections=10, active=4)),
        Scrape("a", "1", Counters(connections=2, active=1)),
        Scrape("b", "1", Counters(connections=5, active=2)),
    ):
        course.add(scrape)
    assert course.restarted == ["a", "a"]
    assert course.counters == Counters(connections=17, active=2)


def test_servers_that_answer_in_turn_are_noticed() -> None:
    """A name that comes back after another means several servers behind one URL, whose counts mean nothing."""
    course = Course()
    for name in "abab":
        course.add(Scrape(name, "1", Counters(connections=10)))
    assert course.mixed
    assert course.counters is None
