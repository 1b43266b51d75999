"""The transition table of a node: complete, and what the node does by it."""

from __future__ import annotations

import itertools

import pytest

from tests.support.server.live_node import StartNode
from tests.support.server.raw_peer import http
from trunkline.server.node.states import TRANSITIONS, Event, State

READY = {State.STARTING: False, State.UP: True, State.DRAINING: False, State.STOPPING: False}


def test_every_event_is_answered_in_every_state() -> None:
    """No pair of state and event is missing, and none is there for a state that does not exist."""
    assert set(TRANSITIONS) == set(itertools.product(State, Event))


def test_nothing_leaves_the_end() -> None:
    """A node that stops goes on stopping, and a stop ends in it from everywhere."""
    for event in Event:
        assert TRANSITIONS[State.STOPPING, event] is State.STOPPING
    for state in State:
        assert TRANSITIONS[state, Event.STOP] is State.STOPPING


def test_no_event_leads_back_to_the_start() -> None:
    """Only a node that is starting stays so."""
    for (state, _), after in TRANSITIONS.items():
        assert after is not State.STARTING or state is State.STARTING


def test_every_state_is_reached() -> None:
    """From the start, every state can be reached."""
    reached = {State.STARTING}
    for _ in State:
        reached |= {after for (state, _), after in TRANSITIONS.items() if state in reached}
    assert reached == set(State)


RUNNING = [
    pair for pair in TRANSITIONS if pair[0] in (State.UP, State.DRAINING) and pair[1] in (Event.DRAIN, Event.RESUME)
]


@pytest.mark.parametrize(("state", "event"), RUNNING, ids=[f"{state.value}-{event.value}" for state, event in RUNNING])
async def test_a_node_follows_the_table(state: State, event: Event, start_node: StartNode) -> None:
    """A drain and its end bring a running node where the table says, and `/ready` shows it."""
    node = await start_node()
    if state is State.DRAINING:
        node.draining.begin(60_000)
    assert node.state.state is state
    if event is Event.DRAIN:
        node.draining.begin(60_000)
    else:
        node.draining.end()
    after = TRANSITIONS[state, event]
    assert node.state.state is after
    assert ((await http(node.port, "/ready")).status == 200) is READY[after]


async def test_a_drain_during_the_start_outlasts_it(start_node: StartNode) -> None:
    """What listens only then takes no connections, until the drain is called off."""
    node = await start_node()
    node.state.state = State.STARTING
    node.draining.begin(0)
    node.state.on(Event.LISTENING)
    assert node.condition == "draining"
    node.draining.end()
    assert node.condition == "up"
