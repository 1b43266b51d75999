"""Idle TCP connections, more than a process may open files, lock nobody out of any port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.support.balancer.authority import Authority
from tests.support.balancer.balance_process import Command
from tests.support.free_ports import free_port
from tests.support.patience import patient

Start = Callable[..., Awaitable[Command]]
FILES = (100, 256)
FLOOD = 400


@contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """So many connections that say nothing; those that the server ends are kept as well."""
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            found.append(sock)
        yield
    finally:
        for sock in found:
            sock.close()


async def series(url: str, name: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)))


def lines(command: Command, port: str) -> list[dict[str, Any]]:
    return [line for line in command.said if line["event"] == "pending_connections_full" and line["port"] == port]


async def echoes(url: str, **options: Any) -> None:
    async with asyncio.timeout(patient(10)), connect(url, proxy=None, **options) as client:
        await client.send("hello")
        assert await client.recv() == "hello"


async def test_a_node(start_node: Start) -> None:
    """A client gets through on the data port and an order on the admin port; the log says it once, a series counts."""
    admin = free_port()
    node = await start_node(files=FILES, TRUNKLINE_ADMIN_PORT=str(admin))
    with idle(node.port, FLOOD), idle(admin, 50):
        await echoes(f"ws://127.0.0.1:{node.port}/ws/echo")
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{admin}/api/channels") as answer:
            assert answer.status == 401
        assert await series(node.url, 'ws_pending_dropped_total{port="data"}') >= FLOOD - FILES[1]
        assert await series(node.url, 'ws_pending_dropped_total{port="admin"}') >= 40
    assert len(lines(node, "data")) == len(lines(node, "admin")) == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_a_relay(start_balancer: Start, start_node: Start, tmp_path: Path, tls: bool) -> None:
    """The same for a relay; behind TLS idle clients are those that never begin a handshake."""
    environ, options = {}, {}
    if tls:
        authority = Authority(tmp_path)
        authority.sign(tmp_path / "edge.pem", "edge")
        environ = {"TRUNKLINE_BALANCER_TLS_CERT_FILE": str(tmp_path / "edge.pem")}
        options = {"ssl": authority.client()}
    node = await start_node()
    balancer = await start_balancer(backends=[node.url], files=FILES, **environ)
    admin = f"http://127.0.0.1:{balancer.up['admin_port']}"
    with idle(balancer.port, FLOOD), idle(balancer.up["admin_port"], 50):
        await echoes(f"{'wss' if tls else 'ws'}://127.0.0.1:{balancer.port}/ws/echo", **options)
        assert await series(admin, 'ws_balancer_pending_dropped_total{port="data"}') >= FLOOD - FILES[1]
        assert await series(admin, 'ws_balancer_pending_dropped_total{port="admin"}') >= 40
    assert len(lines(balancer, "data")) == len(lines(balancer, "admin")) == 1


async def test_a_limit_that_does_not_fit_is_fitted(start_balancer: Start, start_node: Start) -> None:
    """More connections than open files allow are never taken, and the start names both numbers."""
    node = await start_node("--bus", "memory", files=FILES, MAX_CONNECTIONS="5000")
    bounded = await node.hear(lambda line: line["event"] == "capacity_bounded_by_files")
    assert (bounded["wanted"], bounded["open_files"]) == (5000, FILES[1])
    balancer = await start_balancer(backends=[node.url], files=FILES, TRUNKLINE_BALANCER_MAX_CONNECTIONS="5000")
    bounded = await balancer.hear(lambda line: line["event"] == "max_connections_bounded_by_files")
    assert bounded["limit"] * 2 < FILES[1]
