"""Nodes announce themselves over a NATS that really dies."""

from __future__ import annotations

import asyncio

import aiohttp
import structlog

from tests.support.balancer.talking import PATIENCE_S, Scene, until
from tests.support.patience import patient
from trunkline.server.node.announce import EVERY_S


async def test_a_node_announces_itself(scene: Scene) -> None:
    """At its start a node says its name, URL and load, without being asked, and then every two seconds."""
    ear = await scene.ear()
    node = await scene.node("n.1", colour="green", max_connections=7)
    said = await ear.hears(node, lambda _: True)
    assert said.url == f"http://127.0.0.1:{node.port}"
    assert not said.leaving
    report = said.report
    assert (report.state, report.colour, report.capacity) == ("up", "green", 7)
    assert (report.agentsConnections, report.opened, report.keys) == (0, 0, ())
    await until(lambda: len(ear.of(node)) == 2, "a heartbeat")
    assert len(ear.of(node)) == 2


async def test_address_facing_nats(scene: Scene) -> None:
    """A node that listens on all addresses names the one that faces NATS; its settings come before that."""
    ear = await scene.ear()
    for name, settings, host in (
        ("any", {"host": "0.0.0.0"}, "http://127.0.0.1"),
        ("pod", {"host": "0.0.0.0", "pod_ip": "fd00::7"}, "http://[fd00::7]"),
    ):
        node = await scene.node(name, **settings)
        assert (await ear.hears(node, lambda _: True)).url == f"{host}:{node.port}"
    node = await scene.node("network", host="0.0.0.0", advertise_network="::1/128")
    assert (await ear.hears(node, lambda _: True)).url == f"http://[::1]:{node.port}"
    node = await scene.node("told", advertise="WSS://Node.Example.org")
    assert (await ear.hears(node, lambda _: True)).url == "https://node.example.org:443"


async def test_no_address_in_the_network(scene: Scene) -> None:
    """A node without an address in server.advertise_network says so once, and is not announced."""
    ear = await scene.ear()
    with structlog.testing.capture_logs() as lines:
        node = await scene.node("elsewhere", host="0.0.0.0", advertise_network="203.0.113.0/24")
        other = await scene.node("here", host="0.0.0.0", advertise_network="127.0.0.0/8")
        assert (await ear.hears(other, lambda _: True)).url == f"http://127.0.0.1:{other.port}"
        await ear.talk.hello()
        await until(lambda: len(ear.of(other)) >= 2)
    assert not ear.of(node)
    (said,) = [line for line in lines if line["event"] == "address_unknown"]
    assert "server.advertise_network (203.0.113.0/24)" in said["text"]


async def test_hello(scene: Scene) -> None:
    """A balancer that says hello hears from all nodes at once, with the keys of what they have opened."""
    nodes = [await scene.node("n1"), await scene.node("n2")]
    caller = await scene.call(nodes[0])
    began = asyncio.get_running_loop().time()
    ear = await scene.ear()
    found = [await ear.hears(node, lambda said: said.report.keys is not None) for node in nodes]
    assert asyncio.get_running_loop().time() - began < patient(EVERY_S / 2)
    assert [said.report.keys for said in found] == [(caller.key,), ()]
    heard = len(ear.reports)
    await ear.talk.hello()
    await until(lambda: len(ear.reports) >= heard + 2)


async def test_a_burst_is_one_message(scene: Scene) -> None:
    """Thirty connections at once are told in one or two messages, every key once, and their end too."""
    ear = await scene.ear()
    node = await scene.node("n1")
    await ear.hears(node, lambda _: True)
    callers = await asyncio.gather(*(scene.call(node) for _ in range(30)))
    said = await ear.hears(node, lambda said: said.report.opened == 30)
    assert said.report.agentsConnections == 30
    keys = [key for said in ear.of(node) for key in said.report.keys]
    assert sorted(keys) == sorted(caller.key for caller in callers)
    assert len(ear.of(node)) <= 5
    await asyncio.gather(*(caller.socket.close() for caller in callers))
    await ear.hears(node, lambda said: said.report.opened == 30 and said.report.agentsConnections == 0)


async def test_draining_and_leaving(scene: Scene) -> None:
    """A drain, its end and a stop are said at once."""
    ear = await scene.ear()
    node = await scene.node("n1")
    await ear.hears(node, lambda said: said.report.state == "up")
    began = asyncio.get_running_loop().time()
    node.draining.begin(0)
    await ear.hears(node, lambda said: said.report.state == "draining")
    node.draining.end()
    await until(lambda: ear.of(node)[-1].report.state == "up")
    assert asyncio.get_running_loop().time() - began < patient(EVERY_S / 2)
    await scene.stop(node)
    last = await ear.hears(node, lambda said: said.leaving)
    assert last is ear.of(node)[-1]
    assert last.report.state == "draining"


async def test_nats_restart(scene: Scene) -> None:
    """After a loss of NATS both sides come back by themselves, and what was opened meanwhile is told."""
    ear = await scene.ear()
    node = await scene.node("n1")
    await ear.hears(node, lambda _: True)
    await scene.kill_nats()
    await until(lambda: ear.states == [True, False] and not node.bus.connected)
    caller = await scene.call(node)
    await scene.bring_nats_back()
    said = await ear.hears(node, lambda said: said.report.opened == 1)
    assert caller.key in said.report.keys
    assert ear.states == [True, False, True]


async def test_a_node_starts_without_nats(scene: Scene) -> None:
    """A node that finds no NATS at its start announces itself when there is one, and can stop without."""
    await scene.kill_nats()
    node = await scene.node("n1")
    other = await scene.node("n2")
    async with asyncio.timeout(PATIENCE_S):
        await scene.stop(other)
    await scene.bring_nats_back()
    ear = await scene.ear()
    await ear.hears(node, lambda said: said.report.state == "up")


async def test_metric_after(scene: Scene) -> None:
    """`/metric?after=N` gives the keys behind N of this run; without it there are none."""
    node = await scene.node("n1")
    callers = [await scene.call(node) for _ in range(3)]
    keys = [caller.key for caller in callers]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{node.port}") as session:

        async def ask(query: str) -> dict[str, object]:
            async with session.get(f"/metric{query}") as answer:
                assert answer.status == 200
                found: dict[str, object] = await answer.json()
                return found

        plain = await ask("")
        assert "keys" not in plain
        assert plain["opened"] == 3
        run = plain["run"]
        assert (await ask("?after=0"))["keys"] == keys
        assert (await ask(f"?after=2&run={run}"))["keys"] == keys[2:]
        assert (await ask(f"?after=3&run={run}"))["keys"] == []
        assert (await ask("?after=3&run=another"))["keys"] == keys
        assert (await ask("?after=99"))["keys"] == keys
        for wrong in ("x", "-1", "", "9" * 30):
            async with session.get(f"/metric?after={wrong}") as answer:
                assert answer.status == 400
