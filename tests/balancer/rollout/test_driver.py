"""Balancers that share the order of versions by the fleet's store."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests.support.balancer.talking import until
from trunkline.balancer.rollout import driver
from trunkline.balancer.rollout.driver import VersionKeeper
from trunkline.bus.store.memory import MemoryStore
from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.protocol.control import LoadReport
from trunkline.protocol.versions import VERSIONS_KEY, VersionOrder
from trunkline.settings.balancer import BalancerSettings

OLD, NEW = "http://10.0.0.1:3001", "http://10.0.0.2:3001"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that follow each other at once, and an order that begins at the first."""
    monkeypatch.setattr(driver, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("trunkline.balancer.rollout.order.SETTLE_S", 0.0)


class Balancer:
    """A fleet, and what keeps its versions in order."""

    def __init__(self, store: MemoryStore) -> None:
        self.fleet = Fleet(BalancerSettings(), random.Random(1))
        self.hears = True
        self.keeper = VersionKeeper(store, self.fleet, lambda: self.hears)

    def hear(self, **versions: str) -> None:
        """Hear one backend for each name, of these versions."""
        urls = {f"http://{name}:1": version for name, version in versions.items()}
        self.fleet.set_backends([BackendSpec(url) for url in urls], 0.0)
        for url, version in urls.items():
            self.fleet.take_report(url, LoadReport(0, version=version), asked_at=0.0, now=0.0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Balancer]:
        """Keep the order meanwhile."""
        task = asyncio.create_task(self.keeper.run())
        yield self
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def has(self, numbers: dict[str, int]) -> None:
        """Wait until the fleet has these numbers."""
        await until(lambda: self.fleet.versions == numbers, f"{numbers}, there is {self.fleet.versions}")


async def _stored(store: MemoryStore) -> list[tuple[str, int]]:
    entry = await store.get(VERSIONS_KEY)
    assert entry is not None
    return [(each.version, each.number) for each in msgspec.json.decode(entry.value, type=VersionOrder).seen]


async def test_balancers_agree_whoever_hears_first() -> None:
    """Each hears the new version first in turn; both have the same order, and a third one finds it."""
    store = MemoryStore()
    one, two, three = Balancer(store), Balancer(store), Balancer(store)
    async with one.running(), two.running():
        one.hear(a="1")
        await two.has({"1": 1})
        two.hear(a="1", b="2")
        await one.has({"1": 1, "2": 2})
        one.hear(a="1", b="2", c="0")
        await two.has({"1": 1, "2": 2, "0": 3})
        assert await _stored(store) == [("1", 1), ("2", 2), ("0", 3)]
    async with three.running():
        await three.has({"1": 1, "2": 2, "0": 3})


async def test_an_order_is_kept_through_an_outage_and_a_loss() -> None:
    """While the store is away the last order counts; one that has lost it is given it again."""
    store = MemoryStore()
    one = Balancer(store)
    async with one.running():
        one.hear(a="1")
        await one.has({"1": 1})
        one.hear(a="1", b="2")
        await one.has({"1": 1, "2": 2})
        store.reachable = False
        one.hear(a="1", b="2", c="3")
        await asyncio.sleep(0.05)
        assert one.fleet.versions == {"1": 1, "2": 2}
        store.reachable = True
        await one.has({"1": 1, "2": 2, "3": 3})
        await store.delete(VERSIONS_KEY, None)
        found = asyncio.Event()
        async with contextlib.AsyncExitStack() as watches:
            watch = await store.watch(VERSIONS_KEY, lambda key, entry: found.set() if entry else None)
            watches.push_async_callback(watch.close)
            async with asyncio.timeout(10):
                await found.wait()
        assert await _stored(store) == [("1", 1), ("2", 2), ("3", 3)]


async def test_an_order_of_a_later_release_is_left_alone() -> None:
    """What cannot be read is not written over; all versions are equal until it can."""
    store = MemoryStore()
    await store.put(VERSIONS_KEY, b'{"seen": {"1": "first"}}', 0)
    one = Balancer(store)
    async with one.running():
        one.hear(a="1", b="2")
        await asyncio.sleep(0.1)
        assert one.fleet.versions is None
        entry = await store.get(VERSIONS_KEY)
        assert entry is not None
        assert entry.revision == 1


async def test_nobody_is_missed_while_nothing_can_be_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A balancer without NATS hears no node, and forgets no version for it."""
    for name in ("ABSENT_S", "OBJECTION_S"):
        monkeypatch.setattr(f"trunkline.balancer.rollout.order.{name}", 0.05)
    store = MemoryStore()
    one = Balancer(store)
    async with one.running():
        one.hear(a="1", b="2")
        await one.has({"1": 1, "2": 1})
        one.hears = False
        await asyncio.sleep(0.05)
        one.hear(b="2")
        await asyncio.sleep(0.3)
        assert one.fleet.versions == {"1": 1, "2": 1}
        one.hears = True
        await one.has({"2": 1})
