"""A balancer's rebalancer, real nodes and a real NATS: clients end up where there is room."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
from structlog.testing import capture_logs

from tests.support.balancer.talking import Caller, Scene, until
from trunkline.balancer.rebalance.driver import Rebalancer, home_of, rows_of
from trunkline.balancer.sources.nats import NatsSource
from trunkline.balancer.talk import FleetTalk
from trunkline.metrics.exposition import Labelled
from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.protocol.control import LoadReport, NodeReport
from trunkline.server.node.node import Node
from trunkline.settings.balancer import BalancerSettings

SETTINGS = BalancerSettings(rebalance_delay_ms=200, rebalance_per_s=100.0, slow_start_ms=0)


class Crowd:
    """Clients that come back, when they are told to, to the node that has the fewest."""

    def __init__(self, scene: Scene, nodes: list[Node]) -> None:
        self.scene = scene
        self.nodes = nodes
        self.goodbyes = 0
        self.homes: dict[str, Node] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, node: Node, count: int, path: str = "/ws") -> None:
        """So many connect to `node`."""
        for caller in [await self.scene.call(node, path) for _ in range(count)]:
            self._tasks.append(asyncio.create_task(self._stay(caller, path)))

    async def _stay(self, caller: Caller, path: str) -> None:
        with contextlib.suppress(OSError):
            while goodbye := await self._goodbye(caller):
                self.goodbyes += 1
                await asyncio.sleep(goodbye["reconnect_after_ms"] / 1000)
                least = min(self.nodes, key=lambda node: len(node.registry.connections))
                caller = await self.scene.call(self.homes.get(path, least), path)

    @staticmethod
    async def _goodbye(caller: Caller) -> dict[str, int]:
        while caller.open:
            found = await caller.goodbye()
            if found:
                return found
        return {}

    async def leave(self) -> None:
        """Nobody comes back any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Watcher:
    """A balancer as far as rebalancing goes: a fleet that hears the nodes, and the rebalancer."""

    def __init__(self, scene: Scene, settings: BalancerSettings) -> None:
        self.fleet = Fleet(settings, random.Random(1))
        self.moves = Labelled()
        self.source = NatsSource(900.0)
        self.talk = FleetTalk(scene.bus, "b", self._heard, lambda *_: None, self.source.connected)
        self.rests = False
        self.rebalancer = Rebalancer(settings, self.fleet, self.talk, self.moves, lambda: self.rests)

    def told(self, specs: Sequence[BackendSpec]) -> None:
        self.fleet.set_backends(specs, time.monotonic())

    def _heard(self, said: NodeReport) -> None:
        now = time.monotonic()
        self.source.reported(said)
        self.fleet.take_report(said.url, said.report, asked_at=now, now=now)


@contextlib.asynccontextmanager
async def watching(scene: Scene, settings: BalancerSettings = SETTINGS) -> AsyncIterator[Watcher]:
    """A running one."""
    watcher = Watcher(scene, settings)
    tasks = [
        asyncio.create_task(watcher.source.run(watcher.told)),
        asyncio.create_task(watcher.rebalancer.run()),
    ]
    await watcher.talk.start()
    try:
        await until(lambda: watcher.talk.connected)
        yield watcher
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await watcher.talk.close()


def url_of(node: Node) -> str:
    return f"http://127.0.0.1:{node.port}"


async def test_a_new_node_fills_up(scene: Scene) -> None:
    """After a node has joined, as many clients as were too many move to it, and then there is peace."""
    nodes = [await scene.node("n1")]
    crowd = Crowd(scene, nodes)
    await crowd.come(nodes[0], 40)
    try:
        async with watching(scene) as watcher:
            await until(lambda: watcher.talk.leads)
            nodes.append(await scene.node("n2"))
            await until(lambda: [len(node.registry.connections) for node in nodes] == [20, 20], "20 on each")
            done = time.monotonic() + 1.5
            await until(lambda: time.monotonic() > done)
            assert watcher.moves.values == {(url_of(nodes[0]),): 20}
        assert crowd.goodbyes == 20
        assert [len(node.registry.connections) for node in nodes] == [20, 20]
    finally:
        await crowd.leave()


async def test_a_match_moves_whole(scene: Scene) -> None:
    """A match whose home is another node moves there whole, and the match that is at home stays."""
    nodes = [await scene.node("n1"), await scene.node("n2")]
    crowd = Crowd(scene, nodes)
    try:
        async with watching(scene) as watcher:
            await until(lambda: len(watcher.fleet.backends) == 2)
            now = time.monotonic()
            homes = {home_of(watcher.fleet, ("", ""), f"m{number}", now): f"m{number}" for number in range(50)}
            stays, goes = homes[url_of(nodes[0])], homes[url_of(nodes[1])]
            crowd.homes[f"/api/game?matchId={goes}"] = nodes[1]
            for match in (stays, goes):
                await crowd.come(nodes[0], 5, f"/api/game?matchId={match}")
            await until(lambda: len(nodes[1].registry.connections) == 5, "the match")
            assert (await watcher.talk.keys("n2", "query:matchId")).counts == {goes: 5}
            assert (await watcher.talk.keys("n1", "query:matchId")).counts == {stays: 5}
        assert crowd.goodbyes == 5
    finally:
        await crowd.leave()


async def test_a_dry_run_only_tells(scene: Scene) -> None:
    """A dry run says what it would move, and moves nobody."""
    nodes = [await scene.node("n1"), await scene.node("n2")]
    callers = [await scene.call(nodes[0]) for _ in range(6)]
    with capture_logs() as lines:
        async with watching(scene, msgspec.structs.replace(SETTINGS, rebalance="dry-run")) as watcher:
            await until(lambda: any(line["event"] == "rebalance_dry_run" for line in lines), "the line")
            assert not watcher.moves.values
    [line] = [line for line in lines if line["event"] == "rebalance_dry_run"]
    assert (line["node"], line["clients"], line["reason"]) == ("n1", 3, "over_full")
    assert all(caller.open for caller in callers)


async def test_it_rests_while_a_deploy_runs(scene: Scene) -> None:
    """However uneven the nodes are; and whom the deploy has moved is left alone for a while afterwards."""
    nodes = [await scene.node("n1"), await scene.node("n2")]
    callers = [await scene.call(nodes[0]) for _ in range(6)]
    async with watching(scene) as watcher:
        watcher.rests = True
        await until(lambda: watcher.talk.leads)
        done = time.monotonic() + 1.0
        await until(lambda: time.monotonic() > done)
        assert not watcher.moves.values
        watcher.rests = False
        await until(lambda: watcher.moves.values, "an order, for those that have been there for long")
    assert list(watcher.moves.values.values()) == [0]
    assert all(caller.open for caller in callers)


async def test_room_is_where_something_was_heard_lately(scene: Scene) -> None:
    """A node for a report and a half, a foreign backend while its polls succeed; neither while it is on trial."""
    foreign = "http://foreign:1"
    async with watching(scene) as watcher:
        node = url_of(await scene.node("n1"))
        await until(lambda: node in watcher.fleet.backends)

        def room() -> dict[str, bool]:
            return {row.url: row.room for row in rows_of(watcher.fleet, watcher.talk, time.monotonic())}

        assert room() == {node: True}
        watcher.fleet.set_backends([BackendSpec(node), BackendSpec(foreign)], time.monotonic())
        assert room() == {node: True, foreign: False}, "nothing was heard of it yet"
        now = time.monotonic()
        watcher.fleet.take_report(foreign, LoadReport(0), asked_at=now, now=now)
        assert room()[foreign]
        watcher.fleet.report_failed(foreign, "no answer", now)
        assert not room()[foreign]
        watcher.fleet.take_report(foreign, LoadReport(0), asked_at=now, now=now)
        watcher.fleet.checked(foreign, False, "no answer", now)
        watcher.fleet.checked(foreign, False, "no answer", now)
        assert not room()[foreign]
        await scene.kill_nats()
        await until(lambda: not room()[node], "silence")


def test_a_full_home_is_a_home() -> None:
    """A key is not sent away from its home because that is full, nor to a home that is."""
    fleet = Fleet(SETTINGS, random.Random(1))
    fleet.set_backends([BackendSpec(url, capacity=2) for url in ("http://a:1", "http://b:1")], 0.0)
    [key, *_] = [key for key in map(str, range(50)) if home_of(fleet, ("", ""), key, 0.0) == "http://a:1"]
    fleet.take_report("http://a:1", LoadReport(2), asked_at=1.0, now=1.0)
    assert home_of(fleet, ("", ""), key, 1.0) is None
    assert home_of(fleet, ("other", ""), key, 1.0) is None
