"""A rolling update that others drive: nodes of a new release come, those of the old one get SIGTERM.

It takes some seconds, for clients are moved at the pace of what the new nodes accept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.support.balancer.talking import Scene, until
from tests.support.patience import patient
from trunkline.balancer.rollout import driver, order
from trunkline.balancer.service import RelayService
from trunkline.load.deploys import witnesses as module
from trunkline.load.deploys.witnesses import Witnesses
from trunkline.server.node.node import Node
from trunkline.settings.sections import Settings

NODES = 6
CLIENTS = 60
ACCEPT_PER_S = 10.0
"""Handshakes that one new node takes; all of them take a client of the old ones each second."""

LOOK_S = 0.05


@pytest.fixture
async def relay(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RelayService]:
    """A relay that knows the order of versions soon."""
    monkeypatch.setattr(order, "SETTLE_S", 0.2)
    monkeypatch.setattr(driver, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "QUIET_S", patient(0.5))
    settings = Settings(bus=scene.bus)
    balancer = msgspec.structs.replace(settings.balancer, host="127.0.0.1", port=0, admin_port=0, drain_ms=0)
    service = RelayService(msgspec.structs.replace(settings, balancer=balancer))
    await service.start()
    yield service
    await service.stop()


@contextlib.asynccontextmanager
async def peak_of(nodes: list[Node]) -> AsyncIterator[list[int]]:
    """Counts what these nodes open in each second, a window every `LOOK_S`."""
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(sum(node.state.arrivals.opened for node in nodes))
            await asyncio.sleep(LOOK_S)

    windows: list[int] = []
    task = asyncio.create_task(look())
    yield windows
    task.cancel()
    second = int(1 / LOOK_S)
    windows += [after - before for before, after in zip(seen, seen[second:], strict=False)]


@pytest.mark.parametrize("together", [False, True], ids=["one after another", "all at once"])
async def test_each_client_moves_once(scene: Scene, relay: RelayService, together: bool) -> None:
    """Six new nodes are ready, then six old ones end: nobody is moved twice, and nothing is lost."""
    old = [await scene.node(f"old-{number}", version="1") for number in range(NODES)]
    fleet = relay.balancer.fleet
    await until(lambda: fleet.versions == {"1": 1} and len(fleet.backends) == NODES, "the old nodes")
    witnesses = Witnesses(f"ws://127.0.0.1:{relay.port}/ws", CLIENTS)
    await witnesses.start()
    limits = {"accept_per_s": ACCEPT_PER_S}
    # Smaller ones, so that by their load alone the old ones would be chosen until they are gone.
    size = {"max_connections": 2 * CLIENTS // NODES}
    new = [await scene.node(f"new-{number}", version="2", limits=limits, **size) for number in range(NODES)]
    await until(lambda: fleet.versions == {"1": 1, "2": 2} and len(fleet.backends) == 2 * NODES, "the new nodes")
    assert {node: count for node, count in witnesses.now().nodes.items() if node.startswith("new")} == {}
    async with peak_of(new) as peaks, asyncio.timeout(patient(30)):
        if together:
            await asyncio.gather(*(scene.stop(node, drain_ms=300, deadline_ms=20_000) for node in old))
        else:
            for node in old:
                await scene.stop(node, drain_ms=300, deadline_ms=20_000)
        await until(lambda: witnesses.now().connected == CLIENTS, "all to be back")
    counts = await witnesses.finish()
    assert (counts.lost, counts.duplicated, counts.gaps, counts.absent) == (0, 0, 0, 0), counts
    assert {len(places) for places in counts.places} == {2}
    assert counts.moved_to(frozenset(f"new-{number}" for number in range(NODES))) == CLIENTS
    assert [node.runtime.meter.cut for node in old] == [0] * NODES
    assert max(peaks) <= 0.8 * NODES * ACCEPT_PER_S
