"""The fleet as a deploy sees it, over real nodes and a real bus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.balancer.balance_process import Command
from tests.support.balancer.talking import PATIENCE_S, Scene, until
from tests.support.deploy.scripted_balancer import ScriptedBalancer
from tests.support.free_ports import free_port
from trunkline.bus.base import Retention
from trunkline.bus.nats.bus import NatsBus
from trunkline.deploy.world.balancers import Balancers
from trunkline.deploy.world.base import FleetRefused, FleetUnreachable, NodeView
from trunkline.deploy.world.fleet import FleetWorld
from trunkline.protocol.control import Problem
from trunkline.protocol.subjects import move_subject
from trunkline.server.node.node import Node

TOKEN = "a-token-of-the-test"
TABLE = json.dumps({"generation": 0, "weights": {}, "held": [], "balancers": []})


class Deploy:
    """A world over a scripted balancer and the scene's NATS."""

    def __init__(self, scene: Scene, balancer: ScriptedBalancer) -> None:
        self._scene = scene
        self.balancer = balancer
        self.bus = NatsBus(scene.bus, lambda _: Retention(0, 0))
        self.world = FleetWorld(Balancers([balancer.url]), self.bus.fleet_link, changed_by="ann")

    async def start(self) -> FleetWorld:
        await self.bus.start(lambda _: None)
        await self.world.start()
        return self.world

    def shows(self, *services: dict[str, Any]) -> None:
        """What the balancer shows from now on."""
        usual = {
            "name": "", "group": "blue", "source": "list", "state": "up", "connections": 0, "capacity": 100,
            "weight": 1.0, "podMetrics": 7,
        }  # fmt: skip
        body = json.dumps({"services": [{**usual, **service} for service in services]})
        self.balancer.answers["GET", "/balancer-metrics"] = (200, body)
        self.balancer.answers["GET", "/api/traffic"] = (200, TABLE)

    async def view(self, node: Node) -> NodeView:
        """The world's view of a node that has announced itself."""
        self.shows({"url": f"http://127.0.0.1:{node.port}", "name": node.name, "source": "nats"})
        view = (await self.world.look()).nodes[0]
        assert view.name == node.name
        return view


@pytest.fixture
async def deploy(scene: Scene) -> AsyncIterator[Deploy]:
    """A world that has not begun."""
    deploy = Deploy(scene, await ScriptedBalancer().start())
    yield deploy
    await deploy.world.close()
    await deploy.bus.close()
    await deploy.balancer.stop()


async def sees(world: FleetWorld, wanted: Callable[[tuple[NodeView, ...]], bool]) -> None:
    """Look until the fleet is as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted((await world.look()).nodes):
            await asyncio.sleep(0.02)


async def test_a_look_joins_what_balancers_and_nodes_say(scene: Scene, deploy: Deploy) -> None:
    """Whether connections go there is the balancer's word; lag, rate, release and count are the node's own."""
    node = await scene.node("green-1", colour="green", version="2.0")
    listed = await scene.node("blue-1", colour="blue")
    await scene.call(node)
    world = await deploy.start()
    deploy.shows(
        {"url": f"http://127.0.0.1:{node.port}", "name": "green-1", "group": "green", "source": "nats", "usable": True},
        {"url": f"http://127.0.0.1:{listed.port}", "name": "", "usable": False},
        {"url": "http://foreign:1", "name": "web", "connections": 7, "version": "x", "state": "ejected"},
        {"url": "http://foreign:2", "weight": 0, "capacity": None},
    )
    await sees(world, lambda nodes: nodes[0].connections == 1)
    green, blue, foreign, weightless = (await world.look()).nodes
    assert (green.name, green.colour, green.version, green.state) == ("green-1", "green", "2.0", "up")
    assert (green.usable, green.connections, green.capacity) == (True, 1, 100)
    assert green.lag_ms is not None
    assert green.accepts_per_s
    assert (blue.name, blue.usable, blue.version) == ("blue-1", False, "")
    assert (foreign.name, foreign.usable, foreign.connections, foreign.version) == ("", False, 7, "x")
    assert (foreign.accepts_per_s, foreign.lag_ms) == (None, None)
    assert (weightless.usable, weightless.capacity) == (False, None)
    assert [view.name for view in (await world.look()).colour("green")] == ["green-1"]


async def test_moves_and_counts_at_a_node(scene: Scene, deploy: Deploy) -> None:
    """As many clients as ordered are asked, and the node's counts show them; a drain asks those that are left."""
    node = await scene.node("blue-1", colour="blue")
    callers = [await scene.call(node) for _ in range(5)]
    world = await deploy.start()
    view = await deploy.view(node)
    assert await world.move(view, 2, 0) == 2
    await until(lambda: sum(not caller.open for caller in callers) == 2)
    counts = await world.counts(view)
    assert counts is not None
    assert (counts.node, counts.asked, counts.connections) == ("blue-1", 2, 3)
    goodbyes = [await caller.goodbye() for caller in callers if not caller.open]
    assert {goodbye["reason"] for goodbye in goodbyes} == {"deploy"}
    assert await world.drain(view, 0) == 3
    await until(lambda: not node.registry.connections)
    assert node.state.condition == "draining"
    assert "draining" in await world.ready(view)
    await world.undrain(view)
    assert node.state.condition == "up"


async def test_readiness_is_asked_of_the_node_and_its_bus(scene: Scene, deploy: Deploy) -> None:
    """A node is ready when it says so and has its bus; one that cannot be reached is named with its address."""
    node = await scene.node("green-1", colour="green")
    world = await deploy.start()
    view = await deploy.view(node)
    assert await world.ready(view) == ""
    await scene.kill_nats()
    await until(lambda: not node.bus.connected)
    assert await world.ready(view) == "its bus (nats) is disconnected"
    await scene.stop(node)
    assert str(node.port) in await world.ready(view)
    deploy.shows({"url": "http://foreign:1"}, {"url": "http://foreign:2", "state": "down"})
    up, down = (await world.look()).nodes
    assert await world.ready(up) == ""
    assert "down" in await world.ready(down)


async def test_who_does_not_answer_and_who_refuses(scene: Scene, deploy: Deploy) -> None:
    """A node that is gone, a bus that is away and an order that no node takes are told apart."""
    node = await scene.node("blue-1")
    world = await deploy.start()
    view = await deploy.view(node)
    with pytest.raises(FleetRefused, match="refused"):
        await world.move(view, 100_001, 0)
    deploy.shows({"url": "http://foreign:1"})
    foreign = (await world.look()).nodes[0]
    assert await world.counts(foreign) is None
    await scene.stop(node)
    assert await world.counts(view) is None
    with pytest.raises(FleetUnreachable, match="gone"):
        await world.move(view, 1, 0)
    await scene.kill_nats()
    await until(lambda: not deploy.bus.connected)
    for ask in (world.counts(view), world.move(view, 1, 0), world.drain(view, 0)):
        with pytest.raises(FleetUnreachable, match="NATS"):
            await ask


async def test_it_begins_without_a_bus_and_hears_nodes_when_there_is_one(scene: Scene, deploy: Deploy) -> None:
    """What nodes alone know is unknown until the bus is there."""
    node = await scene.node("green-1", colour="green", version="2.0")
    await scene.kill_nats()
    world = await deploy.start()
    deploy.shows({"url": f"http://127.0.0.1:{node.port}", "source": "list"})
    view = (await world.look()).nodes[0]
    assert (view.name, view.lag_ms) == ("", None)
    await scene.bring_nats_back()
    await sees(world, lambda nodes: bool(nodes[0].name))
    assert (await world.look()).nodes[0].version == "2.0"


async def test_a_fleet_without_a_balancer_cannot_be_seen(scene: Scene, deploy: Deploy) -> None:
    """With nobody to ask there is no view, rather than an empty one."""
    await deploy.balancer.stop()
    world = await deploy.start()
    with pytest.raises(FleetUnreachable):
        await world.look()


async def test_real_balancers_take_the_table_and_are_named(scene: Scene, tmp_path: Path) -> None:
    """A written table is applied by every balancer, and holds colours; one that is killed is passed over, and named."""
    blue, green = await scene.node("blue-1", colour="blue"), await scene.node("green-1", colour="green")
    balancers, ports = [], [free_port(), free_port()]
    for port in ports:
        environ = {
            "TRUNKLINE_BUS_URL": scene.bus.url, "TRUNKLINE_BUS_PREFIX": scene.bus.prefix,
            "TRUNKLINE_BALANCER_ADMIN_PORT": str(port), "TRUNKLINE_ADMIN_TOKEN": TOKEN,
        }  # fmt: skip
        balancers.append(await Command.start(tmp_path, "balance", "--listen", "127.0.0.1:0", **environ))
    bus = NatsBus(scene.bus, lambda _: Retention(0, 0))
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    world = FleetWorld(Balancers(addresses, TOKEN), bus.fleet_link, changed_by="ann")
    try:
        for balancer in balancers:
            await balancer.ready("balancer_up")
        await bus.start(lambda _: None)
        await world.start()
        await sees(world, lambda nodes: {node.name for node in nodes if node.usable} == {"blue-1", "green-1"})
        assert {node.url for node in (await world.look()).nodes} == {
            f"http://127.0.0.1:{node.port}" for node in (blue, green)
        }
        state = await world.put_traffic(0, {"blue": 100.0})
        assert state is not None
        assert (state.generation, state.weights, state.held, state.changed_by) == (
            1,
            {"blue": 100.0},
            ("green",),
            "ann",
        )
        assert await world.put_traffic(0, {"green": 100.0}) is None
        with pytest.raises(FleetRefused, match="red"):
            await world.put_traffic(1, {"red": 100.0})
        async with asyncio.timeout(PATIENCE_S):
            while [each.generation for each in (await world.look()).traffic.balancers] != [1, 1]:
                await asyncio.sleep(0.02)
        # Held is not unusable: it is a matter of its colour.
        assert all(node.usable for node in (await world.look()).nodes)
        balancers[0].process.kill()
        async with asyncio.timeout(PATIENCE_S):
            while not any(each.silent_s for each in (await world.look()).traffic.balancers):
                await asyncio.sleep(0.02)
        state = await world.put_traffic(1, {"green": 100.0})
        assert state is not None
        assert state.held == ("blue",)
    finally:
        await world.close()
        await bus.close()
        for balancer in balancers:
            await balancer.stop()


async def test_a_node_of_an_older_release_gets_the_orders_that_it_knows(scene: Scene, deploy: Deploy) -> None:
    """It refuses a move with a reason, and hears of no drain."""
    orders: list[bytes] = []
    world = await deploy.start()
    link = deploy.bus.fleet_link

    def on_order(data: bytes, reply: str) -> None:
        orders.append(data)
        refused = msgspec.json.encode(Problem("bad_request", "Object contains unknown field `reason`"))
        answers.append(asyncio.ensure_future(link.send(reply, refused if b"reason" in data else b'{"moving":3}')))

    answers: list[asyncio.Future[None]] = []
    listening = await link.listen(move_subject(link.prefix, "blue-1"), on_order)
    deploy.shows({"url": "http://127.0.0.1:1", "name": "blue-1", "source": "nats"})
    node = (await world.look()).nodes[0]
    assert await world.move(node, 3, 500) == 3
    assert await world.drain(node, 900_000) == 3
    assert [msgspec.json.decode(order) for order in orders] == [
        {"count": 3, "over_ms": 500, "reason": "deploy"}, {"count": 3, "over_ms": 500},
        {"count": 100_000, "over_ms": 600_000, "reason": "deploy"}, {"count": 100_000, "over_ms": 600_000},
    ]  # fmt: skip
    await asyncio.gather(*answers)
    await listening.close()
