"""`trunkline up --edge traefik` with the real Traefik: even, and open to clients whatever part dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.fleet_process import DEADLINE_S, FleetProcess
from trunkline.errors import StartError
from trunkline.traefik.process import find_binary

try:
    find_binary()
    MISSING = ""
except StartError as error:
    MISSING = str(error)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

StartFleet = Callable[..., Awaitable[FleetProcess]]


async def node_of(client: ClientConnection) -> str:
    """The node that a client has met."""
    return str(json.loads(await client.recv())["node"])


async def open_many(url: str, count: int) -> list[ClientConnection]:
    """Open connections at once."""
    async with asyncio.timeout(DEADLINE_S):
        return list(await asyncio.gather(*(connect(url) for _ in range(count))))


async def test_burst_through_traefik_is_even_and_outlives_its_balancer(start_fleet: StartFleet) -> None:
    """60 at once end 20, 20, 20; with the balancer killed clients still get in; once it is back the fleet is even."""
    fleet = await (await start_fleet("--edge", "traefik", "--nodes", "3")).ready()
    edge = fleet.addresses["edge"]
    assert edge["kind"] == "traefik"
    clients = await open_many(edge["websocket"], 60)
    assert Counter([await node_of(client) for client in clients]) == {f"node-{n}": 20 for n in (1, 2, 3)}

    said = len(fleet.said)
    os.kill(edge["pids"]["balancer"], signal.SIGKILL)
    late = await open_many(edge["websocket"], 15)
    clients += late
    assert {await node_of(client) for client in late} <= {"node-1", "node-2", "node-3"}
    await fleet.hear_event("state", "balancer", "ready again", after=said)

    async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE_S):
        while True:
            async with http.get(edge["balancer"]) as answer:
                seen = await answer.json()
            if sum(each["reported"] or 0 for each in seen["services"]) == 75:
                break
            await asyncio.sleep(0.05)
    # What Traefik did by itself meanwhile is known now, and made good.
    async with asyncio.timeout(DEADLINE_S):
        while len(clients) < 105:
            clients.append(await connect(edge["websocket"]))
    async with aiohttp.ClientSession() as http, http.get(edge["balancer"]) as answer:
        counts = [each["connections"] for each in (await answer.json())["services"]]
    assert max(counts) - min(counts) <= 1, counts
    await asyncio.gather(*(client.close() for client in clients))


async def test_killed_traefik_comes_back_steered(start_fleet: StartFleet) -> None:
    """When Traefik dies its clients reconnect through the next one, evenly, with no state that was wrong."""
    fleet = await (await start_fleet("--edge", "traefik")).ready()
    edge = fleet.addresses["edge"]
    clients = await open_many(edge["websocket"], 10)
    said = len(fleet.said)
    os.kill(edge["pids"]["traefik"], signal.SIGKILL)
    await asyncio.gather(*(client.wait_closed() for client in clients))
    await fleet.hear_event("state", "traefik", "ready again", after=said)
    async with aiohttp.ClientSession() as http, asyncio.timeout(DEADLINE_S):
        while True:
            async with http.get(edge["balancer"]) as answer:
                seen = await answer.json()
            if sum(each["connections"] for each in seen["services"]) == 0:
                break
            await asyncio.sleep(0.05)
    clients = await open_many(edge["websocket"], 10)
    assert Counter([await node_of(client) for client in clients]) == {"node-1": 5, "node-2": 5}
    await asyncio.gather(*(client.close() for client in clients))


PRODUCTION = """
[traefik]
steer = false
domain = "live.example.org"
https_port = 443
acme_email = "ops@example.org"
same_site = "none"
metrics_port = 8082
ping_port = 8083
cert_file = "no.pem"
key_file = "no.key"
forward_auth = "{auth}"
dashboard_host = "traefik.example.org"
dashboard_users = [{{ name = "ops", hash = "$2y$05$abcdefghijklmnopqrstuu" }}]
"""


async def test_the_real_places_settings_make_a_fleet_here_too(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Names, TLS and ports of the public place are left aside; what guards the routes stays."""

    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=401)

    auth = web.Application()
    auth.router.add_get("/", refuse)
    runner = web.AppRunner(auth)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        (tmp_path / "trunkline.toml").write_text(PRODUCTION.format(auth=f"http://127.0.0.1:{runner.addresses[0][1]}/"))
        fleet = await (await start_fleet("--edge", "traefik")).ready()
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{fleet.addresses['edge']['page']}/healthz") as answer:
                assert answer.status == 401
            dashboard = {"Host": "traefik.example.org"}
            async with http.get(f"{fleet.addresses['edge']['page']}/api/overview", headers=dashboard) as answer:
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="traefik"')
        assert (tmp_path / "data" / "traefik" / "dynamic.yml").stat().st_mode & 0o077 == 0
    finally:
        await runner.cleanup()


async def test_it_listens_on_loopback_and_stops_in_order(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Nobody but this machine reaches it, and Traefik is gone before the balancer that it asks."""
    fleet = await (await start_fleet("--edge", "traefik")).ready()
    traefik = psutil.Process(fleet.addresses["edge"]["pids"]["traefik"])
    listening = {each.laddr.ip for each in traefik.net_connections() if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    log = tmp_path / "data" / "logs" / "traefik.log"
    before = len(log.read_text())
    assert await fleet.stop() == 0
    assert "rovider error" not in log.read_text()[before:]


async def test_a_second_fleet_leaves_the_firsts_files_alone(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Two fleets cannot share a directory: the second one says so, and Traefik's files are those of the first."""
    await (await start_fleet("--edge", "traefik")).ready()
    file = tmp_path / "data" / "traefik" / "traefik.yml"
    written = file.read_text()
    second = await start_fleet("--edge", "traefik")
    assert await second.ended() == 2
    assert file.read_text() == written


async def test_match_and_page_come_through_traefik(start_fleet: StartFleet) -> None:
    """The match path is rewritten and keeps players together, and plain HTTP reaches a node."""
    fleet = await (await start_fleet("--edge", "traefik")).ready()
    edge = fleet.addresses["edge"]
    base = edge["websocket"].removesuffix("/ws")
    for match in range(6):
        players = await open_many(f"{base}/api/match/game?matchId=m{match}", 3)
        assert len({await node_of(player) for player in players}) == 1
        await asyncio.gather(*(player.close() for player in players))
    async with aiohttp.ClientSession() as http, http.get(f"{edge['page']}/api/instance") as answer:
        assert (await answer.json())["name"].startswith("node-")
    with pytest.raises((WebSocketException, OSError)):
        await connect(f"{base}/nowhere")


async def test_relay_edge_is_the_port_and_outlives_a_kill(start_fleet: StartFleet) -> None:
    """Through our own edge a burst is even; when it is killed it comes back, and so do clients, evenly."""
    fleet = await (await start_fleet("--nodes", "3")).ready()
    edge = fleet.addresses["edge"]
    clients = await open_many(edge["websocket"], 60)
    assert Counter([await node_of(client) for client in clients]) == {f"node-{n}": 20 for n in (1, 2, 3)}
    said = len(fleet.said)
    os.kill(edge["pids"]["edge"], signal.SIGKILL)
    await asyncio.gather(*(client.wait_closed() for client in clients))
    await fleet.hear_event("state", "edge", "ready again", after=said)
    clients = await open_many(edge["websocket"], 60)
    assert Counter([await node_of(client) for client in clients]) == {f"node-{n}": 20 for n in (1, 2, 3)}
    await asyncio.gather(*(client.close() for client in clients))
