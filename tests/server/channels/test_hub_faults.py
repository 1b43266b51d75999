"""Faults of recovery and fan-out, one test each, on a hub whose bus and transports the test holds in its hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.server.faulty_bus import FaultyBus
from tests.support.server.open_hub import OpenHub, Peer, frames_in
from trunkline.bus.base import HistoryPage, Publication, Retention
from trunkline.protocol import close_codes
from trunkline.server.channels import hub, publications, senders

A, B = "public.a", "public.b"
LIVE_ONLY = "public.live"


def retention(channel: str) -> Retention:
    """Twenty publications, or none."""
    return Retention(0, 1.0) if channel == LIVE_ONLY else Retention(20, 3600.0)


class Scene:
    """A hub on a faulty bus."""

    def __init__(self) -> None:
        self.bus = FaultyBus(retention)
        self.open = OpenHub(self.bus, retention, outbox_bytes=1500)
        self.hub = self.open.hub

    async def publish(self, channel: str, count: int = 1, *, deliver: bool = True) -> None:
        """Other nodes publish."""
        for _ in range(count):
            await self.bus.elsewhere(channel, b'"%b"' % (b"x" * 50))
        if deliver:
            self.bus.deliver(count)

    async def turn(self, count: int = 1) -> None:
        """Let the loop run."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], Any], turns: int = 300) -> None:
        """Let the loop run until something is true."""
        for _ in range(turns):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError("it did not come")

    async def follow(self, *channels: str, peer: Peer | None = None, **recover: int) -> Peer:
        """Subscribe; `a=3` recovers channel public.a from offset 3."""
        peer = peer or self.open.peer()
        self.ask(peer, *channels, **recover)
        await self.until(lambda: peer.of("subscription_ack"))
        return peer

    def ask(self, peer: Peer, *channels: str, **recover: int) -> None:
        """Send a subscribe."""
        wanted = {
            f"public.{name}": {"epoch": self.bus.epoch(f"public.{name}"), "offset": offset}
            for name, offset in recover.items()
        }
        peer.say({"type": "subscribe", "channels": channels, **({"recover": wanted} if wanted else {})})


def offsets(peer: Peer) -> list[int]:
    """Offsets of the publications that reached a client."""
    return [message["offset"] for message in peer.of("publication")]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    """A hub on a faulty bus that is up."""
    made = Scene()

    def state(connected: bool) -> None:
        made.open.registry.spawn(made.hub.bus_state(connected))

    await made.bus.start(state)
    yield made
    await made.open.close()


async def test_history_is_read_once_for_many_recoveries(scene: Scene) -> None:
    """A hundred clients that come back at once cost the bus two requests: where the channel stands, and its history."""
    await scene.publish(A, 10)
    peers = [scene.open.peer() for _ in range(100)]
    scene.bus.before = 5
    for peer in peers:
        scene.ask(peer, A, a=4)
    await scene.until(lambda: all(peer.of("subscription_ack") for peer in peers))
    assert all(offsets(peer) == [5, 6, 7, 8, 9, 10] for peer in peers)
    assert scene.bus.reads[A] == 2


async def test_history_in_pages_is_read_to_its_end(scene: Scene) -> None:
    """A bus that cuts history into pages hides nothing from a client that recovers."""
    await scene.publish(A, 10)
    scene.bus.page_limit = 3
    peer = await scene.follow(A, a=1)
    await scene.publish(A)
    await scene.until(lambda: len(offsets(peer)) == 10)
    assert offsets(peer) == list(range(2, 12))


async def test_a_hole_that_shows_while_history_is_read_is_filled(scene: Scene) -> None:
    """A publication lost after the reading began is read again, not given up."""
    peer = await scene.follow(A)
    scene.bus.after = 20
    await scene.publish(A, 2, deliver=False)
    scene.bus.lose(1)
    scene.bus.deliver(1)
    await scene.turn(3)
    await scene.publish(A, 2, deliver=False)
    scene.bus.lose(1)
    scene.bus.deliver(1)
    await scene.until(lambda: len(offsets(peer)) == 4)
    assert offsets(peer) == [1, 2, 3, 4]
    assert peer.of("gap") == []


async def test_a_hole_right_after_a_comparison_is_compared_too(scene: Scene) -> None:
    """A hole that shows between the end of a comparison and its clean-up begins another one."""
    peer = await scene.follow(A)
    await scene.publish(A, 2, deliver=False)
    scene.bus.lose(1)
    task = None

    def again(_: object) -> None:
        # Runs before the hub's own callback of the same task, as a read of the bus' socket could.
        scene.bus.lose(1)
        scene.bus.deliver(1)

    scene.bus.after = 3
    spawn = scene.hub._tasks.spawn

    def spawn_watched(work: Any) -> Any:
        nonlocal task
        made = spawn(work)
        if task is None:
            task = made
            made.add_done_callback(again)
        return made

    scene.hub._tasks.spawn = spawn_watched  # type: ignore[method-assign]
    scene.bus.deliver(1)
    await scene.turn()
    await scene.until(lambda: scene.hub.channels[A].last == 2)
    await scene.bus.elsewhere(A, b"3")
    await scene.bus.elsewhere(A, b"4")
    await scene.until(lambda: offsets(peer) == [1, 2, 3, 4])


async def test_a_loss_during_a_comparison_is_looked_for(scene: Scene) -> None:
    """A bus that went and came back while a channel was being compared makes the node compare once more."""
    peer = await scene.follow(A)
    channel = scene.hub.channels[A]
    scene.bus.after = 10
    task = scene.hub._catch_up(channel)
    await scene.turn(3)
    # The reading under way stands before this publication, and its delivery is lost.
    await scene.publish(A, deliver=False)
    scene.bus.lose(1)
    await scene.hub.bus_state(True)
    await task
    scene.hub.tick(scene.open.runtime.clock.now)
    await scene.until(lambda: offsets(peer) == [1])


async def test_a_failed_comparison_is_made_again(scene: Scene) -> None:
    """Whatever a bus raises, what waited is not forgotten: the next tick compares."""
    peer = await scene.follow(A)
    await scene.publish(A, 2, deliver=False)
    history = scene.bus.history

    async def broken(channel: str, after: int, limit: int) -> HistoryPage:
        raise ValueError("an answer that nobody understands")

    scene.bus.history = broken  # type: ignore[method-assign]
    scene.bus.lose(1)
    scene.bus.deliver(1)
    await scene.turn(5)
    assert offsets(peer) == []
    scene.bus.history = history  # type: ignore[method-assign]
    scene.hub.tick(scene.open.runtime.clock.now)
    await scene.until(lambda: offsets(peer) == [1, 2])


async def test_offsets_of_other_channels_make_no_hole(scene: Scene) -> None:
    """Where offsets are shared by channels, a quiet channel's next publication links to what its subscribers saw."""
    peer = await scene.follow(A)
    epoch = scene.bus.epoch(A)

    async def quiet(channel: str, after: int, limit: int) -> HistoryPage:
        return HistoryPage(epoch, 0, 5000, [])

    scene.bus.history = quiet  # type: ignore[method-assign]
    await scene.hub.bus_state(True)
    scene.hub.deliver(Publication(A, b"1", epoch, 5001, 0, 1))
    await scene.turn(2)
    assert [(message["prev"], message["offset"]) for message in peer.of("publication")] == [(0, 5001)]
    assert peer.of("gap") == []


async def test_a_position_that_another_node_told_is_accepted(scene: Scene) -> None:
    """A client told by another node to begin at 5000 has missed nothing here, where the channel was quiet since 9."""
    await scene.follow(A)
    epoch = scene.bus.epoch(A)

    async def quiet(channel: str, after: int, limit: int) -> HistoryPage:
        return HistoryPage(epoch, 0, 5000, [])

    scene.bus.history = quiet  # type: ignore[method-assign]
    peer = await scene.follow(A, a=5000)
    (ack,) = peer.of("subscription_ack")
    assert ack["positions"][A] == {"epoch": epoch, "offset": 5000, "recovered": True, "replayed": 0}


async def test_a_position_is_not_called_wrong_while_the_bus_is_away(scene: Scene) -> None:
    """A client that has seen more than this node gets UNAVAILABLE, not `epoch_changed`, when nobody can be asked."""
    await scene.publish(A)
    # This one's recovery leaves history in memory, so that the node could answer without the bus.
    await scene.follow(A, a=0)
    await scene.publish(A, 3, deliver=False)
    scene.bus.down()
    peer = scene.open.peer()
    scene.ask(peer, A, a=4)
    await scene.until(lambda: peer.seen)
    assert [message.get("code") for message in peer.seen] == ["UNAVAILABLE"]


async def test_a_channel_that_moves_on_while_another_is_read_is_recovered(scene: Scene) -> None:
    """Nothing was missed when it was looked at, something is when the ack is written: it is brought, not `expired`."""
    await scene.publish(A, 3)
    await scene.publish(B, 3)
    await scene.follow(A, B)
    scene.bus.after = 10
    peer = scene.open.peer()
    scene.ask(peer, A, B, a=3, b=1)
    await scene.turn(4)
    await scene.publish(A)
    await scene.until(lambda: peer.of("subscription_ack"))
    await scene.turn(2)
    assert peer.of("subscription_ack")[0]["positions"][A]["recovered"] is True
    assert sorted((message["channel"], message["offset"]) for message in peer.of("publication")) == [
        (A, 4),
        (B, 2),
        (B, 3),
    ]


async def test_history_that_begins_anew_during_a_long_recovery_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that still waits for its second channel hears that this one's epoch ended, and goes on from there."""
    monkeypatch.setattr(publications, "PIECE_BYTES", 200)
    await scene.publish(A, 8)
    await scene.publish(B, 8)
    peer = scene.open.peer()
    scene.ask(peer, A, B, a=1, b=1)
    peer.transport.stalled = True
    await scene.until(lambda: peer.connection.blocked)
    await scene.bus.begin_anew()
    await scene.publish(B, 3)
    await scene.turn(20)
    peer.transport.stalled = False
    peer.transport.drain()
    await scene.turn(20)
    await scene.publish(A)
    await scene.publish(B)
    await scene.turn(20)
    new = scene.bus.epoch(B)
    (gap,) = [gap for gap in peer.of("gap") if gap["channel"] == B]
    assert (gap["epoch"], gap["after"], gap["before"], gap["reason"]) == (new, None, 4, "epoch_changed")
    last = [message for message in peer.of("publication") if message["channel"] == B][-1]
    assert (last["epoch"], last["prev"], last["offset"]) == (new, 3, 4)


async def test_a_replay_tells_what_went_while_it_was_written(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes a replay slowly gets what is still there, and is told exactly what is not."""
    monkeypatch.setattr(publications, "PIECE_BYTES", 200)
    peer = await scene.follow(A)
    await scene.publish(A, 20)
    await scene.turn(2)
    peer.transport.stalled = True
    peer.say({"type": "replay", "id": "r", "channel": A, "from": 1, "to": 20})
    await scene.until(lambda: peer.connection.blocked)
    before = len(frames_in(bytes(peer.transport.taken + peer.transport.waiting)))
    # The oldest fifteen are pushed out of the window meanwhile; this client is not interested in the new ones.
    scene.hub.remove(scene.hub.channels[A], peer.connection)
    await scene.publish(A, 15)
    peer.transport.stalled = False
    peer.transport.drain()
    await scene.until(lambda: peer.of("replay_incomplete", "replay_complete"))
    (end,) = peer.of("replay_incomplete")
    again = offsets(peer)[20:]
    assert before > 21
    gone = [offset for offset in range(1, 21) if offset not in again]
    assert (end["missing_from"], end["missing_to"]) == (gone[0], gone[-1])
    assert end["sent"] == len(again)
    assert again[0] == 1


async def test_a_channel_stays_while_a_client_reads_what_it_missed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node does not let go of a channel under a client that is no subscriber yet."""
    monkeypatch.setattr(publications, "PIECE_BYTES", 200)
    await scene.publish(A, 8)
    peer = scene.open.peer()
    peer.transport.stalled = True
    scene.ask(peer, A, a=1)
    await scene.until(lambda: peer.connection.blocked)
    held = scene.hub.channels[A]
    scene.hub.tick(scene.open.runtime.clock.now + 2 * hub.LINGER_S)
    assert scene.hub.channels.get(A) is held
    peer.transport.stalled = False
    peer.transport.drain()
    await scene.until(lambda: offsets(peer) == list(range(2, 9)))
    peer.leave()
    scene.hub.tick(scene.open.runtime.clock.now + 2 * hub.LINGER_S)
    assert A not in scene.hub.channels


async def test_a_request_of_a_connection_that_ended_subscribes_nobody(scene: Scene) -> None:
    """A subscribe that waited behind another request when the connection was lost leaves nothing behind."""
    await scene.follow(A)
    peer = scene.open.peer()
    scene.bus.before = 5
    scene.ask(peer, B)
    scene.ask(peer, A)
    await scene.turn(2)
    peer.leave()
    await scene.until(lambda: not scene.open.registry.tasks)
    for channel in scene.hub.channels.values():
        assert peer.connection not in channel.subscribers


async def test_a_faulty_listener_stops_nothing(scene: Scene) -> None:
    """Listeners after it hear the publication, its sender gets the ack, subscribers the next one."""
    peer = await scene.follow(A)
    heard: list[int | None] = []

    def faulty(publication: Publication) -> None:
        scene.hub.unlisten(A, faulty)
        raise ValueError("no")

    await scene.hub.listen(A, faulty)
    await scene.hub.listen(A, lambda publication: heard.append(publication.offset))
    await scene.hub.publish_to_others(A, b"1", peer.connection, "x")
    scene.bus.deliver(1)
    await scene.publish(A)
    await scene.turn(2)
    assert heard == [1, 2]
    assert [(message["type"], message["prev"]) for message in peer.of("publish_ack", "publication")] == [
        ("publish_ack", 0),
        ("publication", 1),
    ]


async def test_a_sender_whose_publication_comes_from_history_is_answered(scene: Scene) -> None:
    """The delivery with its mark was lost: it gets its publication like all others, and an ack without a place."""
    peer = await scene.follow(A)
    await scene.hub.publish_to_others(A, b"1", peer.connection, "x")
    scene.bus.lose(1)
    await scene.hub.bus_state(True)
    await scene.until(lambda: offsets(peer) == [1])
    scene.hub.tick(scene.open.runtime.clock.now)
    (ack,) = peer.of("publish_ack")
    assert (ack["id"], ack["offset"], "prev" in ack) == ("x", 1, False)
    assert not scene.hub.senders


@pytest.mark.parametrize("left", [False, True])
async def test_a_sender_whose_publication_never_comes_is_answered(scene: Scene, left: bool) -> None:
    """Without history a lost delivery does not come again: the sender is answered after a while, or when it left."""
    peer = await scene.follow(LIVE_ONLY)
    await scene.hub.publish_to_others(LIVE_ONLY, b"1", peer.connection, "x")
    scene.bus.lose(1)
    scene.hub.tick(scene.open.runtime.clock.now)
    assert peer.of("publish_ack") == []
    if left:
        scene.hub.remove(scene.hub.channels[LIVE_ONLY], peer.connection)
    else:
        scene.open.runtime.clock.now += senders.SENDER_WAIT_S + 1
    scene.hub.tick(scene.open.runtime.clock.now)
    assert [message["id"] for message in peer.of("publish_ack")] == ["x"]
    assert not scene.hub.senders


async def test_one_channel_that_fails_to_write_does_not_stop_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in one channel's fan-out leaves the other channels of the tick their publications."""
    peer = await scene.follow(A, B)

    def faulty(*_: object) -> None:
        raise ValueError("no")

    broken = scene.open.peer()
    await scene.follow(A, peer=broken)
    broken.connection.deflate_bits = 15
    await scene.publish(A, deliver=False)
    await scene.publish(B, deliver=False)
    monkeypatch.setattr("trunkline.server.channels.publications.deflate", faulty)
    monkeypatch.setattr(scene.hub.fan_out, "_deflate_min_bytes", 0)
    scene.bus.deliver(2)
    await scene.turn(2)
    assert B in [message["channel"] for message in peer.of("publication")]


# --- slow clients -----------------------------------------------------------------------------------------------------


async def slow(scene: Scene, *channels: str) -> Peer:
    """A client that stopped reading and for which publications of the first channel were dropped."""
    peer = await scene.follow(*channels)
    peer.transport.stalled = True
    while not scene.open.runtime.meter.publications_dropped.values.get(("slow_client",)):
        await scene.publish(channels[0])
        await scene.turn()
    return peer


async def test_nothing_follows_the_close_frame_of_a_slow_client(scene: Scene) -> None:
    """A client that is sent away while it owes reading hears of its gap before the goodbye, and nothing after it."""
    peer = await slow(scene, A)
    peer.connection.end(close_codes.DRAINING.code, close_codes.DRAINING.reason, 10)
    peer.transport.stalled = False
    peer.transport.drain()
    frames = frames_in(bytes(peer.transport.taken))
    assert frames[-1][0] == 8
    assert [message["type"] for message in peer.seen][-2:] == ["gap", "goodbye"]
    assert peer.of("gap")[0]["after"] == offsets(peer)[-1]


async def test_gaps_of_one_channel_are_told_in_order(scene: Scene) -> None:
    """What expires while publications are dropped for a slow client becomes part of the gap it is told later."""
    peer = await slow(scene, A)
    for _ in range(30):
        await scene.publish(A, deliver=False)
    scene.bus.lose(30)
    await scene.hub.bus_state(True)
    await scene.turn(5)
    peer.transport.stalled = False
    peer.transport.drain()
    await scene.publish(A)
    await scene.turn(2)
    chain = [
        (message["prev"], message["offset"])
        if message["type"] == "publication"
        else (message["after"], message["before"] - 1)
        for message in peer.of("publication", "gap")
    ]
    assert len(peer.of("gap")) == 1
    assert [prev for prev, _ in chain] == [0, *[offset for _, offset in chain[:-1]]]
    assert chain[-1][1] == scene.hub.channels[A].last


async def test_a_slow_client_that_subscribes_again_hears_of_its_gap_first(scene: Scene) -> None:
    """The position of the new ack lies behind everything that was told before it."""
    peer = await slow(scene, A)
    scene.ask(peer, A)
    peer.transport.stalled = False
    peer.transport.drain()
    await scene.turn()
    kinds = [message["type"] for message in peer.of("gap", "subscription_ack")]
    assert kinds == ["subscription_ack", "gap", "subscription_ack"]
    position = peer.of("subscription_ack")[1]["positions"][A]["offset"]
    assert position == peer.of("gap")[0]["before"] - 1


async def test_a_subscriber_that_subscribes_again_is_told_where_it_stands(scene: Scene) -> None:
    """What waits for it in this tick goes out before the ack that counts it in."""
    peer = await scene.follow(A)
    await scene.publish(A)
    scene.ask(peer, A)
    await scene.turn(2)
    assert [message["type"] for message in peer.seen] == ["subscription_ack", "publication", "subscription_ack"]
    assert peer.seen[-1]["positions"][A]["offset"] == 1


async def test_the_close_frame_of_a_client_that_was_held_back_is_read(scene: Scene) -> None:
    """A connection that ends while its client is not read from reads on: only the client's close can follow."""
    peer = await scene.follow(A)
    peer.connection.pause_reading()
    peer.connection.end(close_codes.NORMAL.code, "")
    assert peer.transport.reading
    peer.connection.data_received(b"\x88\x82" + bytes(4) + b"\x03\xe8")
    assert peer.transport.closed


async def test_channels_of_one_request_come_together(scene: Scene) -> None:
    """Forty fresh channels take the round trips of a few, and forty recoveries as well; one ack has them all."""
    names = [f"a{number}" for number in range(40)]
    channels = [f"public.{name}" for name in names]
    for channel in channels:
        await scene.publish(channel, 3, deliver=False)
    scene.bus.before = 30  # turns of the loop for each request; one after another they would take 1,200
    peer = await scene.follow(*channels)
    assert len(peer.of("subscription_ack")[0]["subscribed"]) == 40
    recovered = await scene.follow(*channels, **dict.fromkeys(names, 1))
    positions = recovered.of("subscription_ack")[0]["positions"]
    assert [position["replayed"] for position in positions.values()] == [2] * 40
