"""Smoke of a new node: real nodes on one NATS, well and ill in each way that a check is for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.load.two_colours import target_of, two_colours
from tests.support.server.live_node import settings_with
from trunkline import App, Client, Endpoint
from trunkline.load.deploys import smoke as smoke_module
from trunkline.load.deploys.smoke import Smoked, SmokeTarget, smoke
from trunkline.server.app import stock
from trunkline.server.node.node import Node

pytestmark = pytest.mark.process


def names(smoked: Smoked) -> list[str]:
    return [check.name for check in smoked.checks]


def gone(name: str) -> SmokeTarget:
    return SmokeTarget(name, f"ws://127.0.0.1:{free_port()}/ws")


async def test_a_node_that_is_well(tmp_path: Path) -> None:
    """All checks pass, nothing is left out, and its handshakes are measured; nobody stays connected."""
    async with two_colours(tmp_path) as (blue, green):
        smoked = await smoke(target_of(green), [target_of(blue)], measure_s=0.5)
        while green.registry.connections or blue.registry.connections:
            await asyncio.sleep(0.01)
    assert (smoked.why, smoked.passed) == ("", True)
    assert names(smoked) == ["handshake", "echo", "publish", "recover", "connects"]
    assert {check.note for check in smoked.checks} == {""}
    assert smoked.accepts_per_s is not None
    assert smoked.accepts_per_s > 20


async def test_the_first_old_node_that_answers_is_asked(tmp_path: Path) -> None:
    """A dead node of the old colour fails nothing, and is named."""
    async with two_colours(tmp_path) as (blue, green):
        smoked = await smoke(target_of(green), [gone("blue-2"), target_of(blue)], connects=2, measure_s=0)
    assert smoked.passed
    assert "blue-2 was not asked: connect: refused" in smoked.checks[2].note
    assert smoked.checks[3].note == ""


async def test_a_dead_old_colour_is_no_reason(tmp_path: Path) -> None:
    """Without any old node the new one is checked by itself."""
    async with two_colours(tmp_path) as (_, green):
        smoked = await smoke(target_of(green), [gone("blue-1")], connects=2, measure_s=0)
    assert smoked.passed
    assert "no node of the old colour could be asked" in smoked.checks[2].note


async def test_nodes_that_share_no_bus(tmp_path: Path) -> None:
    """What one publishes does not reach the other's subscribers."""
    alone = Node(settings_with(server__name="green-2", server__colour="green"), stock.create())
    await alone.start()
    try:
        async with two_colours(tmp_path) as (blue, _):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(smoke_module, "ANSWER_S", 1.0)
                smoked = await smoke(target_of(alone), [target_of(blue)])
    finally:
        await alone.stop(drain_ms=0, deadline_ms=300)
    assert not smoked.passed
    assert smoked.why.startswith("publish: of what was published at blue-1, green-2 delivered something else")
    assert "no publication came within 1 s" in smoked.why


async def test_another_node_answers_there(tmp_path: Path) -> None:
    """A port that belongs to another node is not taken for the new one."""
    async with two_colours(tmp_path) as (blue, _):
        target = SmokeTarget("green-1", target_of(blue).url)
        smoked = await smoke(target, [])
    assert not smoked.passed
    assert "answers as the node blue-1, not as green-1" in smoked.why
    assert names(smoked) == ["handshake"]


class Feed(Endpoint):
    """A feed and nothing else."""


class Room(Endpoint):
    """An endpoint of the application's own, where others have an echo."""


class Shouting(Endpoint):
    """An echo that has a fault."""

    def on_message(self, client: Client, message: str | bytes) -> None:
        """Another text than came."""
        client.send(message.upper())


class Failing(Endpoint):
    """A feed whose clients cannot be greeted."""

    async def on_connect(self, client: Client) -> None:
        """A fault."""
        raise RuntimeError("a fault of this version")


def app_with(feed: type[Endpoint] | None = None, echo: type[Endpoint] | None = None) -> App:
    app = App()
    if feed is not None:
        app.websocket("/ws", channels=True)(feed)
    if echo is not None:
        app.websocket("/ws/echo", envelope=echo is Room)(echo)
    return app


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (app_with(Feed, Shouting), "/ws/echo returned another text than it was sent"),
        (app_with(Failing), "handshake: the server answered with the error INTERNAL in place of pong"),
        (app_with(), "answered 404"),
    ],
)
async def test_a_version_that_answers_wrongly(tmp_path: Path, app: App, why: str) -> None:
    """Smoke fails, and says what the node did."""
    async with two_colours(tmp_path, new=app) as (blue, green):
        smoked = await smoke(target_of(green), [target_of(blue)])
    assert not smoked.passed
    assert why in smoked.why
    assert not smoked.checks[-1].passed


@pytest.mark.parametrize("app", [app_with(Feed), app_with(Feed, Room)])
async def test_an_application_without_an_echo(tmp_path: Path, app: App) -> None:
    """It need not have one; and an endpoint that greets is none."""
    async with two_colours(tmp_path, new=app) as (blue, green):
        smoked = await smoke(target_of(green), [target_of(blue)], connects=2, measure_s=0)
    assert smoked.passed, smoked.why
    assert smoked.checks[1].note == "the application has no echo endpoint"


async def test_without_history_there_is_nothing_to_recover(tmp_path: Path) -> None:
    """What the channel rules do not keep is not required, and the note says that it was not checked."""
    async with two_colours(tmp_path, channels__history=0) as (blue, green):
        smoked = await smoke(target_of(green), [target_of(blue)], connects=2, measure_s=0)
    assert smoked.passed
    assert "keeps no history" in smoked.checks[3].note


async def test_a_limit_by_address_says_nothing_about_the_node(tmp_path: Path) -> None:
    """Where this address alone may not connect so often, connects wait as they are asked, and no rate is measured."""
    limits = {"limits__exempt": (), "limits__handshake_per_s": 20.0, "limits__handshake_burst": 20}
    async with two_colours(tmp_path, **limits) as (blue, green):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(smoke_module, "_SOURCES", 0)
            smoked = await smoke(target_of(green), [target_of(blue)], connects=20)
    assert (smoked.passed, smoked.accepts_per_s) == (True, None)


async def test_a_node_that_refuses_many_connects(tmp_path: Path) -> None:
    """With fewer than 95 % of its connects the node is not well."""
    async with two_colours(tmp_path, server__max_connections=10) as (blue, green):
        smoked = await smoke(target_of(green), [target_of(blue)], connects=20)
    assert not smoked.passed
    assert "10 of 20 connects succeeded, 95% have to; most failed with handshake: answered 503" in smoked.why


async def test_a_foreign_server_is_only_connected(tmp_path: Path) -> None:
    """Of a server with a protocol of its own only handshakes are checked."""
    async with two_colours(tmp_path) as (blue, _):
        smoked = await smoke(SmokeTarget("", target_of(blue, "/ws/echo").url, feed=False), [], connects=2, measure_s=0)
    assert smoked.passed
    assert names(smoked) == ["handshake", "connects"]
