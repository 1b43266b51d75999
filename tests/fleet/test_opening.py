"""A fleet that starts again has clients, whatever the traffic table of the one before says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.fleet.conftest import StartFleet
from trunkline.bus.open import open_store
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.fleet.opening import open_to
from trunkline.protocol.traffic import TRAFFIC_KEY, TrafficTable
from trunkline.settings.sections import BusSettings


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[BusSettings]:
    """A NATS of the test's own."""
    server = await NatsServer.start(tmp_path / "nats")
    yield BusSettings(url=server.url)
    await server.stop()


async def stored(bus: BusSettings, table: bytes | None = None) -> bytes | None:
    """What is in the store, after `table` was written."""
    store = open_store(bus, Path())
    await store.start()
    try:
        if table is not None:
            await store.put(TRAFFIC_KEY, table, None)
        entry = await store.get(TRAFFIC_KEY)
        return None if entry is None else entry.value
    finally:
        await store.close()


async def test_a_table_that_holds_the_fleet_is_replaced(bus: BusSettings) -> None:
    """The reader is told; a table that gives it something, and none at all, are left as they are."""
    assert await open_to("blue", bus) == ""
    assert await stored(bus) is None
    green = msgspec.json.encode(TrafficTable(4, {"green": 100.0}, "2026-01-01T00:00:00Z"))
    assert await stored(bus, green) == green
    assert await open_to("green", bus) == ""
    assert await stored(bus) == green
    assert "held it (green 100)" in await open_to("blue", bus)
    table = msgspec.json.decode(await stored(bus) or b"", type=TrafficTable)
    assert (table.generation, table.weights, table.changed_by) == (5, {"blue": 100.0}, "trunkline up")


async def test_a_table_that_cannot_be_read_stops_no_start(bus: BusSettings) -> None:
    """It is left to whoever wrote it."""
    await stored(bus, b'{"generation":"of a later release"}')
    assert "could not be looked at" in await open_to("blue", bus)
    assert await stored(bus) == b'{"generation":"of a later release"}'


async def test_a_fleet_that_starts_again_serves_its_clients(start_fleet: StartFleet, tmp_path: Path) -> None:
    """The fleet before ended with green; this one starts with blue, over the same NATS."""
    server = await NatsServer.start(tmp_path / "data" / "nats")
    table = msgspec.json.encode(TrafficTable(4, {"green": 100.0}, "2026-01-01T00:00:00Z"))
    await stored(BusSettings(url=server.url), table)
    await server.stop()
    fleet = await (await start_fleet("--nodes", "1")).ready()
    await fleet.hear_event("note", "", "new connections go to blue")
    async with connect(fleet.addresses["edge"]["websocket"]) as client:
        assert "connection_established" in str(await client.recv())
