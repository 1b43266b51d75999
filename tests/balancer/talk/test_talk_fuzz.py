"""Whatever comes over NATS on the subjects of a fleet: nodes and balancers go on, and subscribers get JSON alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect

from tests.support import fuzz
from tests.support.balancer.talking import Ear, Scene, open_scene
from tests.support.fuzz import odd
from tests.support.server.live_node import settings_with
from trunkline.bus.nats.bus import NatsBus
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.channels import ChannelRule

KEPT, LIVE = "public.kept", "public.live"


class Entrance:
    """A NATS, a node and a balancer's ear on it, a client that follows two channels, and somebody who publishes."""

    def __init__(self, stage: fuzz.Stage, directory: Path) -> None:
        self.stage = stage
        stage.run(self._open(directory))

    async def _open(self, directory: Path) -> None:
        self.scene: Scene = await open_scene(directory)
        self.ear: Ear = await self.scene.ear()
        rules = (ChannelRule("public.live", subscribe="anyone", publish="anyone", history=0),)
        self.node = Node(settings_with(server__name="n1", channels__rules=rules, bus__url=self.scene.bus.url,
                                       bus__prefix=self.scene.bus.prefix, bus__max_bytes=16 << 20),
                                       stock.create())  # fmt: skip
        await self.node.start()
        self.client: ClientConnection = await connect(f"ws://127.0.0.1:{self.node.port}/ws", proxy=None)
        await self.client.send(json.dumps({"type": "subscribe", "channels": [KEPT, LIVE]}))
        self.sender = await nats.connect(self.scene.bus.url)
        bus = self.node.bus
        assert isinstance(bus, NatsBus)
        await bus.publish(KEPT, b"0")
        self.stream = next(iter(bus._logs.values())).name

    async def say(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Publish, and wait until node and ear have read it."""
        await self.sender.publish(f"{self.scene.bus.prefix}.{subject}", data, reply=reply, headers=headers)
        await self.sender.flush()
        bus = self.node.bus
        assert isinstance(bus, NatsBus)
        with contextlib.suppress(Exception):  # a forged offset makes the node connect again
            await bus.fleet_link.flush(1.0)
        await self.ear.talk._connected().flush()

    async def followed(self) -> list[Any]:
        """What the client has got, once a publication of the node's own has come; JSON all of it."""
        got: list[Any] = []
        async with asyncio.timeout(fuzz.WAIT_S):
            while True:
                with contextlib.suppress(Exception):
                    await self.node.hub.publish(LIVE, b'"the last"')
                    break
                await asyncio.sleep(0.05)
            while not got or got[-1].get("data") != "the last":
                got.append(json.loads(await self.client.recv()))
        return got

    async def close(self) -> None:
        await self.client.close()
        await self.sender.close()
        await self.node.stop(drain_ms=0, deadline_ms=500)
        await self.scene.close()


@pytest.fixture(scope="module")
def entrance() -> Iterator[Entrance]:
    """All of it in a loop of its own."""
    with fuzz.stage() as stage, tempfile.TemporaryDirectory() as directory:
        made = Entrance(stage, Path(directory))
        stage.check()
        yield made
        stage.run(made.close())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800",
    "http://a", "1" * 2000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = (
    "node",
    "url",
    "report",
    "leaving",
    "balancer",
    "notices",
    "count",
    "over_ms",
    "affinity",
    "values",
    "by",
    "keys",
)
orders = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
reports = st.builds(
    lambda url, report: {"node": "x", "url": url, "report": {"agentsConnections": 1, **report}},
    st.sampled_from(["http://a:1", "ws://[::1]", "http://[::1%\ud800]:1", "x", "http://a:99999"]) | st.text(max_size=8),
    st.dictionaries(
        st.sampled_from(["podName", "state", "colour", "capacity", "run", "opened", "keys", "loop_lag_ms"]), values
    ),
)
notices = st.builds(
    lambda listed: {"balancer": "b", "notices": listed},
    st.lists(
        st.tuples(st.sampled_from("pfcmx"), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8)), max_size=3
    ),
)
bodies = st.one_of(
    odd,
    orders.map(json.dumps).map(str.encode),
    reports.map(json.dumps).map(str.encode),
    notices.map(json.dumps).map(str.encode),
)
subjects = st.sampled_from(["fleet.report", "fleet.hello", "fleet.picks", "fleet.move.n1", "fleet.keys.n1"])


@given(subjects, bodies, st.sampled_from(["", "an.answer"]))
@settings(max_examples=60)
@example("fleet.move.n1", b'{"count":0,"affinity":"query:\\ud800"}', "a")
@example("fleet.keys.n1", b'{"by":"path:99999999999999999999"}', "a")
def test_fleet(entrance: Entrance, subject: str, body: bytes, reply: str) -> None:
    """Reports, notices and orders of any content."""
    entrance.stage.run(entrance.say(subject, body, reply, None))
    entrance.stage.check()


headers = st.none() | st.dictionaries(
    st.sampled_from(["Nats-Stream", "Nats-Sequence", "Nats-Last-Sequence", "Nats-Time-Stamp", "Trunkline-Origin"]),
    st.sampled_from(["", "x", "-1", "0", "9" * 40, "THE STREAM", "2026-01-01T00:00:00Z", "é"]),
)


@given(st.sampled_from([KEPT, LIVE]), st.one_of(odd, st.sampled_from([b"{}", b"{", b"1 2", b'"\xff"'])), headers)
@settings(max_examples=60)
@example(LIVE, b"no JSON", None)
@example(LIVE, b'"\xff"', None)
@example(KEPT, b"1", {"Nats-Stream": "THE STREAM"})
@example(
    KEPT, b"1", {"Nats-Stream": "THE STREAM", "Nats-Sequence": "x", "Nats-Last-Sequence": "0", "Nats-Time-Stamp": "x"}
)
def test_publications(entrance: Entrance, channel: str, body: bytes, forged: dict[str, str] | None) -> None:
    """What others publish where nodes listen, with headers as the server's and without."""
    if forged is not None:
        forged = {name: entrance.stream if value == "THE STREAM" else value for name, value in forged.items()}
    entrance.stage.run(entrance.say(f"live.{channel}", body, "", forged))
    for message in entrance.stage.run(entrance.followed()):
        assert isinstance(message, dict)
    entrance.stage.check()
