"""Clients of a load test whose token expires: they refresh it, or come back with a newer one, against a real node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.patience import patient
from tests.support.server.live_node import settings_with
from trunkline.errors import SettingsError, StartError
from trunkline.load.client.generator import Generator
from trunkline.load.client.probe import probe
from trunkline.load.model.messages import Begin, Job, Settle
from trunkline.load.model.plan import Scenario, Stage, Step, Target, Traffic
from trunkline.load.model.tally import Sum
from trunkline.load.token_file import TokenFile
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.secret import Secret

KEY = "0123456789abcdef0123456789abcdef"
STEPS = (Step(send='{"type":"heartbeat"}', expect="pong", pause_s=0.2),)


def token(lasts_s: float) -> str:
    return jwt.encode({"sub": "load", "exp": time.time() + lasts_s}, KEY, algorithm="HS256")


@asynccontextmanager
async def a_node() -> AsyncIterator[Node]:
    """A node that lets nobody in without a token."""
    auth = {"auth__algorithms": ("HS256",), "auth__secret": Secret(KEY), "auth__required": True}
    node = Node(settings_with(**auth, auth__leeway_s=0.0), stock.create())
    await node.start()
    try:
        yield node
    finally:
        await node.stop(drain_ms=0, deadline_ms=300)


def url_of(node: Node) -> str:
    return f"ws://127.0.0.1:{node.port}/ws"


async def generate(node: Node, first: str, renewed_after_s: float, seconds: float, **scenario: Any) -> Sum:
    """Five clients; a newer token is there so many seconds after all were let in."""
    scenario = {"protocol": "feed", "traffic": Traffic(rate=20), **scenario}
    total = Sum()
    job = Job(
        "abc",
        Target(url_of(node), token=first),
        Scenario("t", (Stage(0, 5), Stage(seconds, 5)), **scenario),
        0,
        1,
        1,
        settle_s=patient(1.0),
    )
    generator = Generator(job, total.add)
    await generator.prepare()

    async def renew() -> None:
        while len(node.registry.connections) < 5:
            await asyncio.sleep(0.01)
        await asyncio.sleep(renewed_after_s)
        generator.take_token(token(3600))

    renewing = asyncio.create_task(renew())
    sent = await generator.run(Begin(time.monotonic()))
    await generator.settle(Settle(sent.ends))
    await renewing
    return total


@pytest.mark.parametrize("renewed_after_s", [0.2, 1.6], ids=["before the warning", "after the warning"])
async def test_a_renewed_token_keeps_the_clients_in(renewed_after_s: float) -> None:
    """Each is warned once, sends the newer token at once or when there is one, and nothing ends or is lost."""
    async with a_node() as node:
        ran = await generate(node, token(2.4), renewed_after_s, 3.0)
    totals = ran.totals
    assert (totals.opened, totals.refreshed, totals.closed, totals.failed) == (5, 5, 0, 0)
    assert (totals.errors, totals.lost, totals.duplicates, totals.unanswered) == (0, 0, 0, 0)
    assert totals.deliveries > 0


async def test_flows_of_the_users_own_refresh_too() -> None:
    """The messages about tokens are the protocol's, whatever a flow sends."""
    async with a_node() as node:
        ran = await generate(node, token(2.0), 0.1, 2.6, protocol="steps", steps=STEPS, traffic=Traffic())
    assert (ran.totals.refreshed, ran.totals.closed, ran.totals.errors) == (5, 0, 0)


async def test_without_a_newer_token_they_come_back_when_there_is_one() -> None:
    """4002 is a goodbye that asks to come back; what was missed is recovered."""
    async with a_node() as node:
        ran = await generate(node, token(1.0), 1.2, 3.5)
    totals = ran.totals
    assert (totals.closed, totals.goodbyes, ran.closes) == (5, 5, {4002: 5})
    assert (totals.opened, totals.refreshed, totals.lost, totals.duplicates) == (10, 0, 0, 0)


async def test_a_token_that_is_refused_is_named_before_the_run() -> None:
    """Clients of our subprotocol get no 401, and the first connection says what they get."""
    async with a_node() as node:
        with pytest.raises(StartError) as caught:
            await probe(Target(url_of(node), token="nonsense"), "auto")
        assert "answered 401" in caught.value.what
        with pytest.raises(StartError) as caught:
            await probe(Target(url_of(node), token="nonsense", subprotocols=("trunkline",)), "auto")
        assert "4001 the token is not accepted" in caught.value.what


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    """A new token is noticed within a second; what is no token, or no file, leaves the old one in use."""
    file = tmp_path / "token"
    file.write_text("one\n")
    found = TokenFile(file)
    assert (found.token, found.renewed(10.0)) == ("one", None)
    file.write_text("two\n")
    assert found.renewed(10.9) is None, "it was looked at less than a second ago"
    assert found.renewed(11.0) == "two"
    for text in ("", "two words", "t\x01", "tökn"):
        file.write_text(text)
        assert found.renewed(time.monotonic() + 1e6) is None
    file.unlink()
    assert found.renewed(1e9) is None
    assert found.token == "two"


def test_a_file_that_holds_no_token_stops_the_start(tmp_path: Path) -> None:
    """It is named, its content is not."""
    with pytest.raises(StartError, match="--token-file"):
        TokenFile(tmp_path / "nothing")
    file = tmp_path / "token"
    file.write_text("secret\nsecret\n")
    with pytest.raises(SettingsError, match="one token") as caught:
        TokenFile(file)
    assert "secret" not in str(caught.value)
