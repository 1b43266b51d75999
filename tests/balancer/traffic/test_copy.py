"""The copy of the traffic table on this machine, by which a balancer begins until the store has answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.support.balancer.talking import until
from trunkline.balancer.deploys import DeployWatch
from trunkline.balancer.traffic.control import TrafficControl
from trunkline.balancer.traffic.copy import TableCopy, copy_for
from trunkline.bus.store.memory import MemoryStore
from trunkline.placement.fleet import Fleet
from trunkline.process.bounds import end_tasks
from trunkline.protocol.traffic import TRAFFIC_KEY, TrafficTable
from trunkline.settings.balancer import BalancerSettings, GroupEntry
from trunkline.settings.sections import BusSettings, Settings

TABLE = TrafficTable(3, {"green": 100.0}, "2026-01-01T00:00:00Z", "anna")


def settings(path: Path, url: str = "nats://anna:secret@host:4222", prefix: str = "chat", port: int = 8080) -> Settings:
    return Settings(bus=BusSettings(url=url, prefix=prefix), balancer=BalancerSettings(store_dir=path, port=port))


def copy_in(path: Path, url: str = "nats://anna:secret@host:4222", prefix: str = "chat") -> TableCopy:
    found = copy_for(settings(path, url, prefix))
    assert found is not None
    return found


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[TrafficControl]:
    """One whose copy holds `TABLE`, and whose store is away at first."""
    copy = copy_in(tmp_path)
    await copy.keep(TABLE)
    store = MemoryStore()
    store.reachable = False
    fleet = Fleet(BalancerSettings(groups=(GroupEntry("blue", 1),)), random.Random(1))
    found = TrafficControl(store, fleet, DeployWatch(), lambda: None, copy)
    running = asyncio.create_task(found.run())
    await until(lambda: found.table == TABLE, "the copy")
    yield found
    await end_tasks([running])


def store_of(control: TrafficControl) -> MemoryStore:
    assert isinstance(control._store, MemoryStore)
    return control._store


async def test_the_store_counts_once_it_answers(control: TrafficControl, tmp_path: Path) -> None:
    """Its table is the next copy."""
    assert not control.learned.is_set()
    assert control._fleet.shares.holds("blue")
    store = store_of(control)
    fresh = msgspec.structs.replace(TABLE, generation=4, weights={"blue": 1.0})
    store._reachable = True
    await store.put(TRAFFIC_KEY, msgspec.json.encode(fresh), None)
    assert control.learned.is_set()
    assert control.table == fresh
    async with asyncio.timeout(10):
        while await copy_in(tmp_path).read() != fresh:
            await asyncio.sleep(0.01)


async def test_a_store_without_a_table_ends_the_copy(control: TrafficControl, tmp_path: Path) -> None:
    """It was an earlier fleet's: the setting counts, and the next start does not find it."""
    store_of(control).reachable = True
    assert control.learned.is_set()
    assert (control.table, control.generation) == (None, 0)
    assert control._fleet.shares.weights == {"blue": 1}
    assert not control._fleet.shares.holds("green")
    async with asyncio.timeout(10):
        while await copy_in(tmp_path).read() is not None:
            await asyncio.sleep(0.01)


async def test_a_copy_is_of_one_fleet(tmp_path: Path) -> None:
    """Whoever logs in there; another address or prefix is another fleet, and what is no table is none."""
    await copy_in(tmp_path).keep(TABLE)
    assert await copy_in(tmp_path, "nats://host").read() == TABLE
    assert await copy_in(tmp_path, "nats://elsewhere").read() is None
    assert await copy_in(tmp_path, prefix="games").read() is None
    [file] = tmp_path.glob("*.entry")
    for data in (b"1\n{", b"nothing"):
        file.write_bytes(data)
        assert await copy_in(tmp_path).read() is None


async def test_a_copy_that_cannot_be_kept_ends_nothing(tmp_path: Path) -> None:
    """The directory may be read-only; a balancer on any free port has none, and a store in files needs no copy."""
    (tmp_path / "file").write_text("")
    copy = copy_in(tmp_path / "file")
    await copy.keep(TABLE)
    await copy.keep(None)
    assert await copy.read() is None
    assert copy_for(settings(tmp_path, "memory")) is None
    free = settings(tmp_path, port=0)
    assert copy_for(msgspec.structs.replace(free, balancer=BalancerSettings(port=0))) is None
