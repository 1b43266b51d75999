"""`trunkline balance` with a traffic table: relays in several processes obey it, and one without NATS keeps it."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import aiohttp
import pytest

from tests.balancer.conftest import Start
from tests.support.balancer.balance_process import Command, ForeignBackend, close_all, connect_many
from tests.support.free_ports import free_port

TOKEN = "a token for tests"


def environ(backends: list[ForeignBackend]) -> dict[str, str]:
    """The first is blue, the second green."""
    listed = [{"url": backend.url, "group": group} for backend, group in zip(backends, ("blue", "green"), strict=False)]
    return {"TRUNKLINE_BALANCER_BACKENDS": json.dumps(listed), "TRUNKLINE_ADMIN_TOKEN": TOKEN}


async def traffic(balancer: Command, expect: int | None = None, **weights: float) -> dict[str, Any]:
    """The table; with `expect` after it was written."""
    url = f"http://127.0.0.1:{balancer.up['admin_port']}/api/traffic"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = None if expect is None else {"expect": expect, "weights": weights}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.request("GET" if body is None else "PUT", url, json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_relays_obey_the_table(start_balancer: Start, foreign: list[ForeignBackend], workers: str) -> None:
    """New connections by its shares, in whichever process they arrive; those that are open stay where they are."""
    balancer = await start_balancer("--workers", workers, **environ(foreign))
    blue, green = foreign[0], foreign[1]
    clients = await connect_many(balancer.port, 10)
    assert (len(blue.open), len(green.open)) == (5, 5)
    assert (await traffic(balancer, 0, green=100))["held"] == ["blue"]
    clients += await connect_many(balancer.port, 20)
    assert (len(blue.open), len(green.open)) == (5, 25)
    await traffic(balancer, 1, blue=75, green=25)
    clients += await connect_many(balancer.port, 20)
    assert (len(blue.open), len(green.open)) == (20, 30)
    await clients[0].send("still here")
    async with asyncio.timeout(10):
        assert await clients[0].recv() == "still here"
    await close_all(clients)


async def test_a_single_balancer_keeps_its_table(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """Without NATS, through a kill -9, on the same port; another one on this machine knows nothing of it."""
    port = free_port()
    settings = environ(foreign)
    first = await start_balancer("--listen", f"127.0.0.1:{port}", **settings)
    written = await traffic(first, 0, green=100)
    assert written["stored"] == "file"
    await first.stop(signal.SIGKILL)
    second = await start_balancer("--listen", f"127.0.0.1:{port}", **settings)
    found = await traffic(second)
    assert (found["generation"], found["weights"], found["held"]) == (1, {"green": 100.0}, ["blue"])
    clients = await connect_many(port, 6)
    assert (len(foreign[0].open), len(foreign[1].open)) == (0, 6)
    await close_all(clients)
    other = await start_balancer("--listen", f"127.0.0.1:{free_port()}", **settings)
    assert (await traffic(other))["generation"] == 0
