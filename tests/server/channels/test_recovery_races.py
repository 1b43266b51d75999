"""Recovery, fan-out, slow clients and catch-up under drawn faults: each publication once, in order, or told."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.server.faulty_bus import FaultyBus
from tests.support.server.open_hub import OpenHub, Peer
from trunkline.bus.base import Retention
from trunkline.server.channels import publications

KEPT = ("public.a", "public.b")
LIVE_ONLY = "public.live"
CHANNELS = (*KEPT, LIVE_ONLY)
COUNT = 8


def retention(channel: str) -> Retention:
    """A short history, or none."""
    return Retention(0, 1.0) if channel == LIVE_ONLY else Retention(COUNT, 3600.0)


@pytest.fixture(autouse=True)
def small_pieces() -> Any:
    """Replays of a few publications already take several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publications, "PIECE_BYTES", 350)
        yield


Step = tuple[Any, ...]
_channel = st.sampled_from(CHANNELS)
_who = st.integers(0, 2)
_step: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("publish"), _channel, st.integers(1, 3)),
    st.tuples(st.just("publish"), _channel, st.integers(1, 3)),
    st.tuples(st.just("flood"), st.sampled_from(KEPT), st.integers(COUNT - 2, COUNT + 6)),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("deliver"), st.just(99)),
    st.tuples(st.just("lose"), st.integers(1, 4)),
    st.tuples(st.just("down")),
    st.tuples(st.just("up")),
    st.tuples(st.just("up")),
    st.tuples(st.just("anew"), st.integers(0, 5)),
    st.tuples(st.just("late"), st.integers(0, 6), st.integers(0, 6)),
    st.tuples(st.just("pages"), st.sampled_from((1, 2, 5, 99))),
    st.tuples(st.just("subscribe"), _who, st.lists(_channel, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("unsubscribe"), _who, _channel),
    st.tuples(st.just("again"), _who, st.lists(_channel, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("recover"), _who, st.integers(0, 5), st.booleans()),
    st.tuples(st.just("recover"), _who, st.integers(0, 5), st.booleans()),
    st.tuples(st.just("others"), _who, st.sampled_from(CHANNELS)),
    st.tuples(st.just("stall"), _who),
    st.tuples(st.just("read"), _who),
    st.tuples(st.just("read on"), _who),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("tick")),
    st.tuples(st.just("linger")),
)


class Position:
    """Where a client stands, by what it was told; the checks are made on the way."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world = world
        self.at: dict[str, tuple[str | None, int | None]] = {}
        self.numbers: dict[str, int] = {}
        for message in peer.seen:
            getattr(self, message["type"], lambda message: None)(message)
        self.ids = [message.get("id") for message in peer.of("subscription_ack", "error")]

    def subscription_ack(self, message: dict[str, Any]) -> None:
        asked = self.world.asked.get(message["id"], {})
        for channel, ack in message["positions"].items():
            wanted = asked.get(channel)
            self.at[channel] = (ack["epoch"], ack["offset"])
            self.numbers.pop(channel, None)
            if wanted is None:
                assert (ack["recovered"], "reason" in ack) == (False, False)
            elif ack["recovered"]:
                assert self.at[channel] == (wanted["epoch"], wanted["offset"])
            elif ack["reason"] == "expired":
                assert ack["epoch"] == wanted["epoch"]
                assert wanted["offset"] < self.world.floor(channel, ack["epoch"]), "it was still there"
            else:
                assert ack["reason"] == "epoch_changed"
                assert ack["epoch"] != wanted["epoch"], "the epoch did not change"

    def unsubscription_ack(self, message: dict[str, Any]) -> None:
        for channel in message["unsubscribed"]:
            self.at.pop(channel)

    def publication(self, message: dict[str, Any]) -> None:
        channel = message["channel"]
        epoch, offset = self.at[channel]
        if channel == LIVE_ONLY:
            assert (message["epoch"], message["offset"], message["prev"]) == (None, None, None)
            assert message["data"] > self.numbers.get(channel, -1), "twice, or out of order"
            self.numbers[channel] = message["data"]
            return
        assert (message["epoch"], message["prev"]) == (epoch, offset), f"stood at {offset} of {epoch}: {message}"
        assert message["offset"] == message["prev"] + 1, "a silent hole"
        assert self.world.data[channel, epoch, message["offset"]] == message["data"]
        self.at[channel] = (epoch, message["offset"])

    def publish_ack(self, message: dict[str, Any]) -> None:
        if message.get("prev") is not None:
            channel = message["channel"]
            assert self.at[channel] == (message["epoch"], message["prev"])
            assert message["offset"] == message["prev"] + 1
            self.at[channel] = (message["epoch"], message["offset"])

    def gap(self, message: dict[str, Any]) -> None:
        channel, after, before, reason = (message[key] for key in ("channel", "after", "before", "reason"))
        epoch, offset = self.at[channel]
        if channel == LIVE_ONLY:
            assert (reason, after, before) == ("slow_client", None, None)
            return
        assert before is not None
        if reason == "epoch_changed":
            assert after is None
            assert message["epoch"] != epoch
        else:
            assert (message["epoch"], after) == (epoch, offset), f"stood at {offset} of {epoch}: {message}"
            assert before > after + 1, "a gap of nothing"
            assert reason in ("expired", "slow_client", "unavailable")
            if reason == "expired":
                assert before - 1 <= self.world.floor(channel, epoch), "it was still there"
            if reason == "unavailable":
                assert self.world.was_down
        self.at[channel] = (message["epoch"], before - 1)


class World:
    """A hub, its bus and its clients, and the truth about what was published."""

    def __init__(self) -> None:
        self.bus = FaultyBus(retention)
        self.open = OpenHub(self.bus, retention, outbox_bytes=1500)
        self.hub = self.open.hub
        self.peers = [self.open.peer() for _ in range(3)]
        self.all = list(self.peers)
        self.asked: dict[str, dict[str, Any]] = {}
        self.data: dict[tuple[str, str | None, int | None], int] = {}
        self.tops: dict[tuple[str, str | None], int] = {}
        self.ids = itertools.count()
        self.numbers = itertools.count()
        self.was_down = False
        self.others: list[tuple[Peer, str]] = []

    def floor(self, channel: str, epoch: str | None) -> int:
        return max(self.tops.get((channel, epoch), 0) - COUNT, 0)

    def state(self, connected: bool) -> None:
        self.open.registry.spawn(self.hub.bus_state(connected))

    async def publish(self, channel: str) -> None:
        number = next(self.numbers)
        self.note(channel, number, await self.bus.elsewhere(channel, b"%d" % number))

    def note(self, channel: str, number: int, published: Any) -> None:
        self.data[channel, published.epoch, published.offset] = number
        if published.offset is not None:
            self.tops[channel, published.epoch] = published.offset

    async def publish_to_others(self, peer: Peer, channel: str) -> None:
        number, id = next(self.numbers), f"o{next(self.ids)}"
        # The server takes it whatever comes back: note it there.
        taken = self.bus.elsewhere

        async def noting(name: str, data: bytes, origin: str | None = None) -> Any:
            published = await taken(name, data, origin)
            if data == b"%d" % number:
                self.note(name, number, published)
            return published

        self.bus.elsewhere = noting  # type: ignore[method-assign]
        try:
            self.others.append((peer, id))
            await self.hub.publish_to_others(channel, b"%d" % number, peer.connection, id)
        except Exception:
            self.others.remove((peer, id))
        finally:
            self.bus.elsewhere = taken  # type: ignore[method-assign]

    def request(self, who: int, kind: str, channels: list[str], recover: dict[str, Any] | None = None) -> None:
        id = f"r{next(self.ids)}"
        message: dict[str, Any] = {"type": kind, "id": id, "channels": channels}
        if kind == "subscribe":
            self.asked[id] = recover or {}
            if recover:
                message["recover"] = recover
        self.peers[who].say(message)

    def positions(self, who: int) -> dict[str, Any]:
        at = Position(self, self.peers[who]).at
        return {channel: {"epoch": at[channel][0], "offset": at[channel][1]} for channel in at if channel in KEPT}

    async def do(self, step: Step) -> None:
        match step:
            case ("publish" | "flood", channel, count):
                for _ in range(count):
                    await self.publish(channel)
            case ("deliver", count):
                self.bus.deliver(count)
            case ("lose", count):
                self.bus.lose(count)
            case ("down",):
                self.was_down = True
                self.bus.down()
            case ("up",):
                self.bus.up()
            case ("anew", 0):
                self.was_down = True
                await self.bus.begin_anew()
            case ("late", before, after):
                self.bus.before, self.bus.after = before, after
            case ("pages", limit):
                self.bus.page_limit = limit
            case ("subscribe", who, channels):
                self.request(who, "subscribe", channels)
            case ("unsubscribe", who, channel):
                self.request(who, "unsubscribe", [channel])
            case ("again", who, channels):
                held = self.positions(who)
                self.request(who, "subscribe", channels, {name: held[name] for name in channels if name in held})
            case ("recover", who, missed, stalled):
                held = self.positions(who)
                self.peers[who].leave()
                for channel in sorted(held) * missed:
                    await self.publish(channel)
                self.peers[who] = self.open.peer()
                self.all.append(self.peers[who])
                self.peers[who].transport.stalled = stalled
                if held:
                    self.request(who, "subscribe", list(held), held)
            case ("others", who, channel):
                await self.publish_to_others(self.peers[who], channel)
            case ("stall", who):
                self.peers[who].transport.stalled = True
            case ("read", who):
                self.peers[who].transport.drain()
            case ("read on", who):
                self.peers[who].transport.stalled = False
                self.peers[who].transport.drain()
            case ("turn", count):
                for _ in range(count):
                    await asyncio.sleep(0)
            case ("tick",):
                self.hub.tick(self.open.runtime.clock.now)
            case ("linger",):
                self.open.runtime.clock.now += 16
                self.hub.tick(self.open.runtime.clock.now)

    async def settle(self) -> None:
        """Wait until nobody has anything to do any more."""
        for _ in range(3000):
            await asyncio.sleep(0)
            if not self.hub._tasks.running and not self.open.registry.tasks and not self.hub.fan_out.waiting:
                return
        raise AssertionError(f"something waits for ever: {self.hub._tasks.running | self.open.registry.tasks}")

    async def finish(self) -> None:
        """The network heals, everybody reads, and one more publication shows what was lost."""
        self.bus.up()
        for peer in self.peers:
            peer.transport.stalled = False
            peer.transport.drain()
        self.bus.deliver(1 << 30)
        await self.settle()
        for channel in CHANNELS:
            await self.publish(channel)
        for _ in range(3):
            self.bus.deliver(1 << 30)
            await self.settle()
            self.open.runtime.clock.now += 6
            self.hub.tick(self.open.runtime.clock.now)
        await self.settle()

    def check(self) -> None:
        for peer in self.all:
            Position(self, peer)
        answered = [id for peer in self.peers for id in Position(self, peer).ids]
        assert len(answered) == len(set(answered))
        for peer in self.peers:
            position = Position(self, peer)
            for channel in KEPT:
                if channel in position.at:
                    epoch = self.bus.epoch(channel)
                    assert position.at[channel] == (epoch, self.tops[channel, epoch]), f"{channel} stopped"
                subscribed = self.hub.is_subscribed(peer.connection, channel)
                assert subscribed == (channel in position.at)
            if LIVE_ONLY in position.at:
                assert position.numbers[LIVE_ONLY] == self.data[LIVE_ONLY, None, None], "it stopped"
            errors = peer.of("error")
            assert not errors or (self.was_down and {error["code"] for error in errors} == {"UNAVAILABLE"}), errors
            assert not peer.connection.blocked
        for peer, id in self.others:
            if peer in self.peers:
                assert [ack["id"] for ack in peer.of("publish_ack")].count(id) == 1, "an ack is missing, or came twice"
        hub = self.hub
        assert not hub.senders, "a sender is kept for ever"
        assert not hub._attaching
        assert not hub._catching
        assert not hub._windows
        known = {peer.connection for peer in self.peers}
        for channel in hub.channels.values():
            assert channel.state.value == "live"
            assert not channel.waiting
            assert not channel.suspect
            assert channel.recording is None
            assert channel.subscribers <= known, "a connection that has ended is still subscribed"
            assert getattr(channel, "joining", 0) == 0


async def run(steps: list[Step]) -> World:
    """Live through the steps, heal, and check."""
    world = World()
    await world.bus.start(world.state)
    try:
        for step in steps:
            await world.do(step)
        await world.finish()
        world.check()
        # Reading is bounded by what happened: nothing asks again and again.
        assert world.bus.calls <= 40 + 15 * len(steps), f"{world.bus.calls} requests for {len(steps)} steps"
        return world
    finally:
        await world.open.close()


@settings(max_examples=400)
@given(st.lists(_step, min_size=30, max_size=120))
def test_each_publication_once_in_order_or_told(steps: list[Step]) -> None:
    """From its ack on a client gets all publications, or is told exactly which it does not get; and nothing hangs."""
    asyncio.run(run([("subscribe", 0, [KEPT[0]]), *steps]))
