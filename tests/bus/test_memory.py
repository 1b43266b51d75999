"""What only the memory bus does: forgetting idle channels without lying about them."""

from __future__ import annotations

import asyncio

from tests.support.server.bus_probe import Inbox, States
from trunkline.bus.base import Publication, Retention
from trunkline.bus.memory import MemoryBus


async def test_idle_channels_are_forgotten_and_their_offsets_never_used_again() -> None:
    """A channel that was forgotten begins above every offset it had, and its floor promises nothing below."""
    bus = MemoryBus(lambda _: Retention(10, 0.02), forget_above=5)
    await bus.start(lambda _: None)
    for _ in range(3):
        old = await bus.publish("old", b"1")
    assert old.offset == 3
    await asyncio.sleep(0.03)  # its publications have to grow older than 20 ms
    for number in range(6):
        await bus.publish(f"other.{number}", b"1")
    page = await bus.history("old", 3, 10)
    assert page.epoch == old.epoch
    assert page.floor >= 3
    again = await bus.publish("old", b"2")
    assert again.epoch == old.epoch
    assert (again.offset or 0) > 3
    page = await bus.history("old", 2, 10)
    assert page.floor >= 3
    await bus.close()


async def test_channel_with_a_subscriber_is_kept() -> None:
    """A channel somebody listens to keeps its chain, however long it is empty."""
    bus = MemoryBus(lambda _: Retention(10, 0.001), forget_above=2)
    await bus.start(lambda _: None)
    inbox = Inbox()
    await bus.subscribe("held", inbox)
    await bus.publish("held", b"1")
    await asyncio.sleep(0.005)
    for number in range(20):
        await bus.publish(f"other.{number}", b"1")
    await bus.publish("held", b"2")
    assert [(each.offset, each.prev) for each in inbox.got] == [(1, 0), (2, 1)]
    await bus.close()


async def test_callback_may_unsubscribe_others_while_delivering() -> None:
    """A subscriber that was closed by an earlier one's callback is not called with the same publication."""
    bus = MemoryBus(lambda _: Retention(10, 10.0))
    states = States()
    await bus.start(states)
    second = Inbox()
    closing: list[asyncio.Task[None]] = []

    def first(_: Publication) -> None:
        coroutine = subscription.close()
        closing.append(asyncio.ensure_future(coroutine))

    await bus.subscribe("c", first)
    subscription = await bus.subscribe("c", second)
    await bus.publish("c", b"1")
    await closing[0]
    await bus.publish("c", b"2")
    assert second.data == [b"1"]
    await asyncio.gather(*closing)
    assert states.told == [True]
    await bus.close()
