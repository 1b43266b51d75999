"""An office moves: thousands of clients behind one address are asked to reconnect, with every limit per address on.

They came from many addresses; then their node is drained, and all of them come back from one, through our relay or a
steered Traefik, where nothing is exempt. With each of them knocks one from the same address that nobody asked, half of
these with a session that they made up. Nobody who was asked may be refused; of the others only as many get in as the
limits let.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench.errors import BenchError
from bench.nats_child import NatsChild
from bench.proxies import RELAY, STEERED, Proxy, installed, relay, steered
from bench.rows import Options, Result, Row
from bench.servers import Server, free_port, ours
from bench.swarm import CLOSE, PATIENCE_S, frames

OFFICE = "127.0.0.9"
TOKEN = "an-admin-token-of-the-benchmark"
NODE_BURST, NODE_PER_S = 10, 5
"""The defaults of `limits.handshake_burst` and `limits.handshake_per_s`: no edge before it lets more through."""

WORKERS = "relay with 2 workers"
AT_ONCE = 50
NOBODY = "192.0.2.1/32"


class Plan:
    """Sizes of a run."""

    def __init__(self, *, quick: bool) -> None:
        self.clients = 100 if quick else 5_000
        self.over_s = 1.0 if quick else 50.0


class Visitor:
    """One client, or what became of it: the status of its handshake, its session, and its connection."""

    def __init__(self, port: int, address: str, session: str = "") -> None:
        self._port = port
        self._address = address
        self.session = session
        self.status = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._rest = b""

    async def come(self) -> int:
        """Connect; returns the status."""
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._address, 0)
        )
        query = f"?session={self.session}" if self.session else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            f"GET /ws{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        if self.status != 101:
            self.leave()
            return self.status
        greeting = await self._message("connection_established")
        self.session = str(greeting["session"])
        return self.status

    async def until_asked(self) -> float:
        """Wait for the goodbye and answer the close; returns after how many seconds to come back."""
        goodbye = await self._message("goodbye")
        assert self._writer is not None
        self._writer.write(CLOSE)
        self.leave()
        return float(goodbye["reconnect_after_ms"] or 0) / 1000

    async def _message(self, kind: str) -> dict[str, object]:
        assert self._reader is not None
        while True:
            found, self._rest = frames(self._rest)
            for _, payload in found:
                if payload.startswith(b'{"type":"%b"' % kind.encode()):
                    message: dict[str, object] = json.loads(payload)
                    return message
            data = await self._reader.read(65_536)
            if not data:
                raise BenchError(f"a client was cut off before its {kind}")
            self._rest += data

    def leave(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.close()


class Found:
    """What became of all of them: handshakes by status, and seconds from the goodbye to the 101."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.others: Counter[int] = Counter()
        self.took_s = 0.0
        self.resumed = 0.0


def run(options: Options) -> Result:
    """Measure it behind each edge."""
    plan = Plan(quick=options.quick)
    names, missing = installed(RELAY, STEERED)
    # A smoke run takes one of them: tests move an office through each.
    names = [WORKERS] if options.quick else [RELAY, WORKERS, *names[1:]]
    rows: list[Row] = []
    notes = []
    for name in names:
        found = _measure(plan, name)
        rows += _rows(plan, name, found)
        notes.append(
            f"{name}: asked clients by status {dict(found.asked)}, the others {dict(found.others)}, in "
            f"{found.took_s:.1f} s; the new node counted {found.resumed:g} sessions back."
        )
    return Result(rows, [*notes, *missing])


def _rows(plan: Plan, name: str, found: Found) -> list[Row]:
    refused = sum(count for status, count in found.asked.items() if status != 101)
    let_in, allowed = found.others[101], NODE_BURST + NODE_PER_S * found.took_s
    return [
        Row(f"{name}: asked clients refused", refused, f"of {plan.clients:,}", target=0),
        Row(f"{name}: others refused", found.others[429], f"of {found.others.total():,}"),
        Row(f"{name}: others let in", let_in, "clients", "what the node's limit lets in", allowed, 1.0),
        Row(
            f"{name}: sessions that the new node did not see return", plan.clients - found.resumed, "sessions", target=0
        ),
    ]


def _measure(plan: Plan, name: str) -> Found:
    with ExitStack() as stack:
        nats = stack.enter_context(NatsChild())
        admin_port = free_port()
        blue = stack.enter_context(_node(nats.url, "blue", TRUNKLINE_ADMIN_PORT=str(admin_port)))
        shared = {"TRUNKLINE_BUS_URL": nats.url, "TRUNKLINE_BALANCER_EXEMPT": NOBODY}
        if name != STEERED:
            arguments = ("--workers", "2") if name == WORKERS else ()
            edge: Server = stack.enter_context(Proxy(relay(arguments=arguments, **shared)))
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            limits = {"TRUNKLINE_TRAEFIK_RATE_PER_S": "10", "TRUNKLINE_TRAEFIK_RATE_BURST": "20"}
            edge = stack.enter_context(steered(directory, [], **shared, **limits))
        return uvloop.run(_office(plan, edge.port, stack, nats.url, blue, admin_port))


async def _office(plan: Plan, port: int, stack: ExitStack, bus: str, blue: Server, admin_port: int) -> Found:
    found = Found()
    turns = asyncio.Semaphore(AT_ONCE)
    clients = [Visitor(port, f"127.1.{number // 250}.{1 + number % 250}") for number in range(plan.clients)]
    strangers: list[Visitor] = []

    async def come(visitor: Visitor, counts: Counter[int]) -> None:
        async with turns:
            counts[await visitor.come()] += 1

    arrived: Counter[int] = Counter()
    await asyncio.gather(*(come(client, arrived) for client in clients))
    if arrived[101] != plan.clients:
        raise BenchError(f"clients did not all get in at first: {dict(arrived)}")
    green = stack.enter_context(_node(bus, "green"))
    # Until balancer and Traefik know of it: nodes speak every two seconds, and Traefik fetches.
    await asyncio.sleep(2.5)

    async def knock() -> None:
        number = len(strangers)
        strangers.append(Visitor(port, OFFICE, f"{number:020}" if number % 2 else ""))
        await come(strangers[-1], found.others)

    back: list[Visitor] = []

    async def move(client: Visitor) -> None:
        await asyncio.sleep(await client.until_asked())
        back.append(Visitor(port, OFFICE, client.session))
        await asyncio.gather(come(back[-1], found.asked), knock())

    _drain(admin_port, plan.over_s)
    began = time.monotonic()
    async with asyncio.timeout(plan.over_s * 2 + PATIENCE_S):
        await asyncio.gather(*map(move, clients))
        while found.others[429] < plan.clients:
            await asyncio.gather(*(knock() for _ in range(AT_ONCE)))
    found.took_s = time.monotonic() - began
    found.resumed = _resumed(green)
    for visitor in (*back, *strangers):
        visitor.leave()
    return found


def _node(bus: str, colour: str, **more: str) -> Server:
    return Server(
        ours(
            TRUNKLINE_BUS_URL=bus,
            TRUNKLINE_SERVER_NAME=f"{colour}-1",
            TRUNKLINE_SERVER_COLOUR=colour,
            TRUNKLINE_SERVER_TRUSTED_PROXIES="127.0.0.1/32",
            TRUNKLINE_LIMITS_EXEMPT=NOBODY,
            TRUNKLINE_ADMIN_TOKEN=TOKEN,
            **more,
        )
    )


def _drain(port: int, over_s: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        order = json.dumps({"over_ms": int(over_s * 1000)})
        connection.request("POST", "/api/drain", order, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise BenchError(f"the node refused to drain: {answer.read()[:200].decode(errors='replace')}")
    finally:
        connection.close()


def _resumed(node: Server) -> float:
    connection = http.client.HTTPConnection(*node.address, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("ws_sessions_resumed_total{"))
