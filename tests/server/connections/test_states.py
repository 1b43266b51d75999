"""The states of a connection: every transition of the table, allowed or refused, on a real connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.server.faulty_bus import FaultyBus
from tests.support.server.open_hub import OpenHub, Peer
from tests.support.server.transition_table import shown_transitions
from trunkline.bus.base import Retention
from trunkline.server.connections import states
from trunkline.server.connections.connection import Connection
from trunkline.server.connections.states import CLOSED, CLOSING, OPEN, TRANSITIONS, Event

STATES = {"OPEN": OPEN, "CLOSING": CLOSING, "CLOSED": CLOSED}
CLOSE_FRAME = b"\x88\x82" + bytes(4) + b"\x03\xe8"

CAUSES: dict[Event, Callable[[Connection], object]] = {
    Event.CLOSE_SENT: lambda connection: connection.end(1001, "bye"),
    Event.CLOSE_RECEIVED: lambda connection: connection.data_received(CLOSE_FRAME),
    Event.EOF: lambda connection: connection.eof_received(),
    Event.LOST: lambda connection: connection.abort(),
}
"""What brings an event about. FINISHED has no cause of its own: it follows CLOSE_RECEIVED in the same read."""


@pytest.fixture
def peer() -> Peer:
    """A client of a hub without sockets."""

    def retention(channel: str) -> Retention:
        return Retention(10, 60.0)

    return OpenHub(FaultyBus(retention), retention).peer()


@pytest.mark.parametrize("event", CAUSES)
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
async def test_a_connection_moves_as_the_table_has_it(peer: Peer, state: int, event: Event) -> None:
    """From each state each event leads where the table says, or changes nothing when the table refuses it."""
    connection = peer.connection
    connection.state = state
    expected = TRANSITIONS.get((state, event), state)
    if event is Event.CLOSE_RECEIVED and expected == CLOSING:
        expected = TRANSITIONS[CLOSING, Event.FINISHED]
    CAUSES[event](connection)
    assert connection.state == expected


@pytest.mark.parametrize("event", CAUSES)
async def test_nothing_leaves_a_connection_that_is_closed(peer: Peer, event: Event) -> None:
    """A closed connection writes no frame, whatever happens to it."""
    peer.connection.state = CLOSED
    CAUSES[event](peer.connection)
    assert peer.transport.taken == b""


def test_the_docstring_shows_the_table() -> None:
    """The table that people read is the one that the code consults."""
    names = {value: name for name, value in STATES.items()}
    assert shown_transitions(states.__doc__ or "", STATES, Event.__members__) == {
        (names[state], event.name): names[after] for (state, event), after in TRANSITIONS.items()
    }


def test_a_closed_connection_stays_closed() -> None:
    """No event leads out of CLOSED, and each state reaches it."""
    assert {after for (state, _), after in TRANSITIONS.items() if state == CLOSED} == {CLOSED}
    assert all((state, Event.LOST) in TRANSITIONS for state in STATES.values())
