"""The load tester as a part of a deploy, on real nodes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.load.switched_edge import SwitchedEdge
from tests.support.load.two_colours import two_colours
from tests.support.patience import patient
from trunkline import App
from trunkline.deploy.load_parts import LoadWitnesses, feed_url, smoking
from trunkline.deploy.machine.seen import Smoke
from trunkline.deploy.world.base import NodeView
from trunkline.load.deploys.smoke import Smoked
from trunkline.server.node.node import Node


def view(name: str, url: str) -> NodeView:
    return NodeView(name, url, name.partition("-")[0], "", "up", True, 0, None, None, None)


def view_of(node: Node) -> NodeView:
    return view(node.settings.server.name, f"http://127.0.0.1:{node.port}")


@pytest.mark.process
async def test_smoking_measures_each_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the URL that the balancer has; not when it is to be brief. A node that fails is named."""
    monkeypatch.setattr("trunkline.deploy.load_parts.MEASURE_S", 0.2)
    async with two_colours(tmp_path) as (blue, green):
        gone = view("green-2", f"http://127.0.0.1:{free_port()}")
        seen = await smoking()(Smoke((view_of(green),), (view_of(blue),)))
        brief = await smoking()(Smoke((view_of(green), gone), (), briefly=True))
    assert (seen.why, list(seen.accepts_per_s)) == ("", [f"http://127.0.0.1:{green.port}"])
    assert brief.why.startswith("green-2: handshake: connect: refused")
    assert brief.accepts_per_s == {}


@pytest.mark.process
async def test_a_wrong_version_fails(tmp_path: Path) -> None:
    """An application without the endpoint that clients use."""
    async with two_colours(tmp_path, new=App()) as (blue, green):
        seen = await smoking()(Smoke((view_of(green),), (view_of(blue),)))
    assert seen.why.startswith("green-1: handshake: answered 404")


@pytest.mark.process
async def test_witnesses_end_in_facts(tmp_path: Path) -> None:
    """What they see now, and what they saw in the end."""
    async with two_colours(tmp_path) as (blue, _), SwitchedEdge(blue.port) as edge:
        witnesses = LoadWitnesses(edge.url, 5)
        await witnesses.start()
        now = witnesses.now()
        facts = await witnesses.finish()
    assert (now.connected, now.count, now.lost, now.late) == (5, 5, 0, 0)
    assert (facts.count, facts.lost, facts.moved, facts.why) == (5, 0, 0, "")
    assert facts.expected >= 5 * facts.published > 0
    assert (facts.reordered, facts.absent, facts.refused, facts.unanswered) == (0, 0, 0, 0)


async def test_what_is_no_loss_reaches_the_verdict() -> None:
    """A reorder, and a witness that did not come back."""
    faults = Faults(reorder=4)
    async with FaultyServer(faults) as server:
        witnesses = LoadWitnesses(server.url(), 5)
        await witnesses.start()
        async with asyncio.timeout(patient(10)):
            while len(server.done("reorder")) < 5:
                await asyncio.sleep(0.02)
        faults.refuse = 503
        server.cut()
        facts = await witnesses.finish(back_s=0.5)
    assert (facts.reordered > 0, facts.absent) == (True, 5)
    assert facts.why.startswith("5 witnesses did not come back")


@pytest.mark.process
async def test_a_newer_token_is_used(tmp_path: Path) -> None:
    """Of witnesses of a long deploy the first one expires."""
    tokens = ["newer"]
    async with two_colours(tmp_path) as (blue, _), SwitchedEdge(blue.port) as edge:
        witnesses = LoadWitnesses(edge.url, 1, renewed=lambda: tokens.pop() if tokens else None)
        await witnesses.start()
        witnesses.now()
        witnesses.now()
        assert witnesses._witnesses._witnesses[0].shared.token == "newer"
        await witnesses.finish(0.0)


async def test_brief_smoking_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """While users are there a node is tried so seldom that the limit of this address does not count as its refusal."""
    connects: list[int] = []

    async def smoked(*_: object, connects: int, seen: list[int] = connects, **__: object) -> Smoked:
        seen.append(connects)
        return Smoked("green-1", True, "", ())

    monkeypatch.setattr("trunkline.deploy.load_parts.smoke", smoked)
    for briefly in (False, True):
        await smoking()(Smoke((view("green-1", "http://127.0.0.1:1"),), (), briefly=briefly))
    assert connects == [50, 3]


def test_the_url_of_a_feed() -> None:
    """TLS stays TLS, and the path is the feed's."""
    assert feed_url("http://10.0.0.1:3001", "/ws") == "ws://10.0.0.1:3001/ws"
    assert feed_url("https://node.example", "/live") == "wss://node.example/live"
