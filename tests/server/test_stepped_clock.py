"""Two nodes on one NATS, of which one's wall clock is set: both answer alike, before, meanwhile and after."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.support.balancer.balance_process import Command
from tests.support.environment import environment
from tests.support.server.live_node import Peer
from trunkline.fleet.children.nats_server import NatsServer

CHANNEL = "public.a"
HOUR_S = 3600.0

STEPPED = """
import runpy, sys, time
from pathlib import Path
step = Path(sys.argv.pop(1))
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + float(step.read_text())
time.time_ns = lambda: real_ns() + int(float(step.read_text()) * 1e9)
runpy.run_module("trunkline", run_name="__main__")
"""


class SteppedNode:
    """A node as a process whose wall clock the test sets; its monotonic time goes on."""

    def __init__(self, step: Path, command: Command) -> None:
        self._step = step
        self.command = command

    @classmethod
    async def start(cls, tmp_path: Path, name: str, url: str) -> SteppedNode:
        step = tmp_path / f"{name}.step"
        step.write_text("0")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STEPPED, str(step), "serve", "--host", "127.0.0.1", "--port", "0", "--bus", url,
            cwd=tmp_path,
            env=environment(
                tmp_path,
                TRUNKLINE_LOG_FORMAT="json",
                TRUNKLINE_ADMIN_PORT="0",
                TRUNKLINE_SERVER_DRAIN_MS="0",
                TRUNKLINE_BUS_MAX_BYTES=str(16 << 20),
            ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return cls(step, await Command(process).ready("node_up"))

    async def set_clock(self, by_s: float) -> None:
        """Set it; returns when the node has read it."""
        fresh = self._step.with_suffix(".new")
        fresh.write_text(str(by_s))
        fresh.replace(self._step)
        await asyncio.sleep(0.1)  # two of the node's ticks

    async def peer(self) -> Peer:
        peer = Peer(await connect(f"ws://127.0.0.1:{self.command.port}/ws", proxy=None))
        await peer.expect("connection_established")
        return peer

    async def recover(self, position: dict[str, Any]) -> tuple[bool, int]:
        """What a client that was at `position` gets: whether it recovered, and how many publications."""
        peer = await self.peer()
        request = {"type": "subscribe", "channels": [CHANNEL], "recover": {CHANNEL: position}}
        ack = await peer.ask(request, "subscription_ack")
        await peer.socket.close()
        return ack["positions"][CHANNEL]["recovered"], ack["positions"][CHANNEL]["replayed"]

    async def uptime(self) -> float:
        async with aiohttp.ClientSession() as http, http.get(f"{self.command.url}/health") as answer:
            return float((await answer.json())["uptime"])


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[SteppedNode, SteppedNode]]:
    nats = await NatsServer.start(tmp_path / "nats")
    nodes = await asyncio.gather(*(SteppedNode.start(tmp_path, name, nats.url) for name in ("right", "set")))
    yield nodes[0], nodes[1]
    for node in nodes:
        await node.command.stop()
    await nats.stop()


async def test_a_clock_that_is_set_expires_nothing(pair: tuple[SteppedNode, SteppedNode]) -> None:
    """An hour forward, an hour back, and right again: each recovery is whole on both nodes, and up-times only grow."""
    right, stepped = pair
    peer = await right.peer()
    first = await peer.ask({"type": "publish", "channel": CHANNEL, "data": 1}, "publish_ack")
    for number in (2, 3):
        await peer.ask({"type": "publish", "channel": CHANNEL, "data": number}, "publish_ack")
    position = {"epoch": first["epoch"], "offset": first["offset"]}
    before = await stepped.uptime()
    for by_s in (0.0, HOUR_S, -HOUR_S, 0.0):
        await stepped.set_clock(by_s)
        for node in pair:
            assert await node.recover(position) == (True, 2), by_s
        uptime = await stepped.uptime()
        assert before < uptime < before + HOUR_S / 2
        before = uptime
    await peer.socket.close()
