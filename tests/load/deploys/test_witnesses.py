"""Witnesses: they move with real nodes and lose nothing, and see each kind of loss of a server that has it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.load.switched_edge import SwitchedEdge
from tests.support.load.two_colours import two_colours
from tests.support.patience import patient
from tests.support.server.live_node import settings_with
from trunkline.errors import StartError
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.load.deploys import witnesses as module
from trunkline.load.deploys.witnesses import WitnessCounts, Witnesses, WitnessNow
from trunkline.protocol.control import MoveOrder
from trunkline.server.app import stock
from trunkline.server.node.node import Node


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come is given up soon."""
    monkeypatch.setattr(module, "QUIET_S", patient(0.5))


async def until(witnesses: Witnesses, holds: Callable[[WitnessNow], bool]) -> WitnessNow:
    async with asyncio.timeout(patient(15)):
        while not holds(now := witnesses.now()):
            await asyncio.sleep(0.02)
    return now


@pytest.mark.process
async def test_witnesses_move_and_lose_nothing(tmp_path: Path) -> None:
    """From the old node to the new one and back: each message is accounted for, and each move has its time away."""
    async with two_colours(tmp_path) as (blue, green), SwitchedEdge(blue.port) as edge:
        witnesses = Witnesses(edge.url, 10)
        await witnesses.start()
        assert witnesses.now().nodes == {"blue-1": 10}
        for old, new in ((blue, green), (green, blue)):
            edge.port = new.port
            await old.mover.move(MoveOrder(count=10, over_ms=200))
            await until(witnesses, lambda now, new=new: now.nodes == {new.settings.server.name: 10})  # type: ignore[misc]
        counts = await witnesses.finish()
        async with asyncio.timeout(patient(5)):
            while blue.registry.connections:
                await asyncio.sleep(0.01)
    assert (counts.lost, counts.duplicated, counts.gaps, counts.absent) == (0, 0, 0, 0), counts
    assert counts.published >= 10
    # Channels of five: each publication is owed to so many.
    assert counts.expected >= 5 * counts.published
    assert set(counts.places) == {("blue-1", "green-1", "blue-1")}
    assert counts.moved == counts.moved_to(frozenset({"green-1"})) == 10
    assert counts.moved_to(frozenset({"blue-1"})) == 0
    assert 0 < counts.away_ms["p50"] <= counts.away_ms["p99"] <= counts.away_ms["max"] < patient(5000)
    assert counts.why == ""


@pytest.mark.process
async def test_a_node_that_dies_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Its witnesses come back elsewhere and recover; the cut publications are told apart."""
    async with two_colours(tmp_path) as (blue, green), SwitchedEdge(blue.port) as edge:
        witnesses = Witnesses(edge.url, 5)
        await witnesses.start()
        edge.port = green.port
        for connection in list(blue.registry.connections):
            connection.abort()
        await until(witnesses, lambda now: now.nodes == {"green-1": 5})
        counts = await witnesses.finish()
    assert (counts.lost, counts.duplicated, counts.gaps) == (0, 0, 0), counts
    assert counts.reasons["closed: 1006"] == 5


@pytest.mark.process
async def test_witnesses_that_move_while_the_bus_is_down(tmp_path: Path) -> None:
    """They are refused for now, ask again, and recover all that was acknowledged before."""
    nats = await NatsServer.start(tmp_path / "nats")
    shared = {"bus__url": nats.url, "bus__prefix": f"t{secrets.token_hex(4)}"}
    blue, green = (Node(settings_with(server__name=name, **shared), stock.create()) for name in ("blue-1", "green-1"))
    await blue.start()
    await green.start()
    async with SwitchedEdge(blue.port) as edge:
        witnesses = Witnesses(edge.url, 5)
        await witnesses.start()
        edge.port = green.port
        os.kill(nats.pid, signal.SIGKILL)
        await nats.wait()
        await nats.stop()
        await blue.mover.move(MoveOrder(count=5, over_ms=100))
        async with asyncio.timeout(patient(10)):
            while len(green.registry.connections) < 5:
                await asyncio.sleep(0.02)
        before = witnesses.now().published
        nats = await NatsServer.start(tmp_path / "nats", port=nats.port)
        await until(witnesses, lambda now: now.nodes == {"green-1": 5} and now.published > before)
        counts = await witnesses.finish()
    for node in (blue, green):
        await node.stop(drain_ms=0, deadline_ms=300)
    await nats.stop()
    assert (counts.lost, counts.duplicated, counts.gaps, counts.absent) == (0, 0, 0, 0), counts
    assert counts.moved == 5


async def watched(faults: Faults, seconds: float = 1.5, count: int = 5) -> tuple[WitnessNow, WitnessCounts]:
    async with FaultyServer(faults) as server:
        witnesses = Witnesses(server.url(), count)
        await witnesses.start()
        await asyncio.sleep(seconds)
        return witnesses.now(), await witnesses.finish()


async def test_a_lost_message_is_seen() -> None:
    """What never came is counted and the first named, also while the witnesses still watch."""
    now, counts = await watched(Faults(drop=7))
    assert now.lost > 0
    assert "never came to witness" in now.why
    assert counts.lost >= now.lost
    assert counts.expected >= counts.lost
    assert "never came to witness" in counts.why


async def test_a_double_message_is_seen() -> None:
    """What came twice is counted and the first named."""
    now, counts = await watched(Faults(duplicate=5))
    assert now.duplicated > 0
    assert (counts.lost, counts.duplicated > 0) == (0, True)
    assert "came twice to witness" in counts.why


async def test_a_gap_is_seen() -> None:
    """What a server announces as dropped is a gap and no loss."""
    now, counts = await watched(Faults(gap=5))
    assert now.gaps > 0
    assert counts.lost == 0
    assert counts.gaps > 0
    assert counts.why.startswith("gap: ")


async def test_a_refused_recovery_is_a_gap() -> None:
    """A witness that is told that its history is gone has a gap."""
    _, counts = await watched(Faults(lose_history=True, drain_at=1.0), 2)
    assert counts.gaps == 5
    assert counts.why == "feed: not recovered (expired)"


async def test_who_never_comes_back_has_lost_the_rest() -> None:
    """What was published while a witness was away, and stayed away, is lost to it."""
    faults = Faults()
    async with FaultyServer(faults) as server:
        witnesses = Witnesses(server.url(), 10)
        await witnesses.start()
        faults.refuse = 503
        gone = witnesses._witnesses[0]
        assert gone.link is not None
        gone.link.abort()  # as its network would
        gone.link.ended_by_us = False  # type: ignore[attr-defined]
        await until(witnesses, lambda now: now.published >= 20)
        counts = await witnesses.finish(back_s=0.5)
    assert counts.absent == 1
    assert counts.lost > 0
    assert f"to witness {gone.number}" in counts.why
    assert any("answered 503" in reason for reason in counts.reasons)


@pytest.mark.parametrize("known", [True, False])
async def test_a_history_that_is_lost_loses_what_was_not_delivered(known: bool) -> None:
    """A channel that starts again, with or without notice: what was acknowledged before and never came is lost."""
    faults = Faults()
    async with FaultyServer(faults) as server:
        witnesses = Witnesses(server.url(), 5)
        await witnesses.start()
        faults.drop = 1
        before = witnesses.now().published
        await until(witnesses, lambda now: now.published >= before + 5)
        faults.drop = 0
        for channel in server.channels.values():
            channel.epoch, channel.last = secrets.token_hex(4), 0
            channel.kept.clear()
        if known:
            for witness in witnesses._witnesses:
                assert witness.link is not None
                witness.link.abort()  # as its network would
                witness.link.ended_by_us = False  # type: ignore[attr-defined]
        before = witnesses.now().published
        await until(witnesses, lambda now: now.published >= before + 5)
        counts = await witnesses.finish()
    assert counts.lost >= 25, counts
    assert counts.gaps == 5
    assert "never came to witness" in counts.why


async def test_a_whole_channel_that_starts_again_while_its_witnesses_are_away() -> None:
    """Who never came to the new epoch is owed all of it, beside the rest of the old one."""
    faults = Faults()
    async with FaultyServer(faults) as server:
        witnesses = Witnesses(server.url(), 10)
        await witnesses.start()
        faults.refuse = 503
        gone = witnesses._witnesses[0]
        assert gone.link is not None
        gone.link.abort()
        gone.link.ended_by_us = False  # type: ignore[attr-defined]
        for channel in server.channels.values():
            channel.epoch, channel.last = secrets.token_hex(4), 0
            channel.kept.clear()
        before = witnesses.now().published
        await until(witnesses, lambda now: now.published >= before + 20)
        counts = await witnesses.finish(back_s=0.5)
    assert counts.absent == 1
    assert counts.lost >= 8, counts


async def test_an_offset_that_two_publications_have() -> None:
    """A history that lost its end gives the same offsets again: what was there before is lost to all of its readers."""
    async with FaultyServer() as server:
        witnesses = Witnesses(server.url(), 5)
        await witnesses.start()
        for channel in server.channels.values():
            channel.last -= 1
            channel.kept.pop()
        before = witnesses.now().published
        await until(witnesses, lambda now: now.published >= before + 5)
        counts = await witnesses.finish()
    assert counts.lost == 5, counts
    assert "was acknowledged for two publications" in counts.why


async def test_a_reorder_is_seen() -> None:
    """It is counted, loses nothing, and a hole that was open for a moment is in no words of the end."""
    _, counts = await watched(Faults(reorder=4))
    assert (counts.lost, counts.reordered > 0) == (0, True)
    assert "never came" not in counts.why
    assert "came behind later ones" in counts.why


async def test_late_deliveries_show_while_nothing_overtakes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes publications and delivers none is seen long before the end."""
    monkeypatch.setattr(module, "LATE_S", 0.5)
    async with FaultyServer(Faults(drop=1)) as server:
        witnesses = Witnesses(server.url(), 5)
        await witnesses.start()
        now = await until(witnesses, lambda now: now.late > 0)
        counts = await witnesses.finish()
    assert now.deliveries == 0
    assert counts.lost == counts.expected > 0


async def test_no_place_for_all() -> None:
    """Where the edge does not take all of them in time, the error names how many, and why; nothing is left."""
    async with FaultyServer(Faults(refuse=503)) as server:
        with pytest.raises(StartError, match=r"of 5 witnesses 0 got a place.* answered 503"):
            await Witnesses(server.url(), 5).start(1.0)
    with pytest.raises(StartError, match="nobody listens there"):
        await Witnesses(f"ws://127.0.0.1:{free_port()}/ws", 5).start(1.0)
