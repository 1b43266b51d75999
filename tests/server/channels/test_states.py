"""The states of a channel: every transition of the table, allowed or refused, and the hub that drives them."""

from __future__ import annotations

import itertools

import pytest

from tests.support.server.faulty_bus import FaultyBus
from tests.support.server.open_hub import OpenHub
from tests.support.server.transition_table import shown_transitions
from trunkline.bus.base import Publication, Retention
from trunkline.server.channels import channel
from trunkline.server.channels.channel import TRANSITIONS, Channel, Event, State


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_a_channel_moves_as_the_table_has_it(state: State, event: Event) -> None:
    """An allowed event moves the channel, a refused one leaves it where it is and says so."""
    moving = Channel("public.a", Retention(10, 60.0))
    moving.state = state
    allowed = (state, event) in TRANSITIONS
    assert moving.moved(event) is allowed
    assert moving.state is TRANSITIONS.get((state, event), state)


def test_the_docstring_shows_the_table() -> None:
    """The table that people read is the one that the code consults."""
    shown = shown_transitions(channel.__doc__ or "", State.__members__, Event.__members__)
    assert shown == {(state.name, event.name): after.name for (state, event), after in TRANSITIONS.items()}


def test_every_state_leads_to_live() -> None:
    """Whatever a channel is doing, it goes out live in the end."""
    assert {state for (state, _), after in TRANSITIONS.items() if after is State.LIVE} == set(State) - {State.LIVE}


async def test_the_hub_takes_a_channel_through_its_states() -> None:
    """Attaching, live, catching up after a hole, and live again."""

    def retention(channel: str) -> Retention:
        return Retention(10, 60.0)

    bus = FaultyBus(retention)
    scene = OpenHub(bus, retention)
    await bus.start(lambda connected: None)
    seen: list[State] = []
    subscribe = bus.subscribe

    async def watched(name: str, deliver: object) -> object:
        seen.append(scene.hub.channels[name].state)
        return await subscribe(name, deliver)  # type: ignore[arg-type]

    bus.subscribe = watched  # type: ignore[method-assign,assignment]
    attached = await scene.hub.attach("public.a")
    seen.append(attached.state)
    assert attached.epoch is not None
    scene.hub.deliver(Publication("public.a", b"1", attached.epoch, 9, 8, 0))
    seen.append(attached.state)
    await scene.hub.attach("public.a")
    seen.append(attached.state)
    assert seen == [State.ATTACHING, State.LIVE, State.CATCHING_UP, State.LIVE]
    await scene.close()
