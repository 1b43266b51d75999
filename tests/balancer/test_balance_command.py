"""`trunkline balance` with real processes and real backends: evenness, faults, pages, an orderly end."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.support.balancer.balance_process import (
    Command,
    ForeignBackend,
    close_all,
    connect_many,
    overview,
    spread,
    until,
)
from tests.support.patience import patient
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.metrics.series import BALANCER_SERIES

Start = Callable[..., Awaitable[Command]]


def urls(backends: list[ForeignBackend]) -> list[str]:
    return [backend.url for backend in backends]


async def test_burst_over_nodes_is_even_with_old_reports(start_balancer: Start, start_node: Start) -> None:
    """300 connections at once over three nodes, with reports made before any of them, differ by at most one."""
    nodes = await asyncio.gather(*(start_node() for _ in range(3)))
    balancer = await start_balancer("--cache-ttl", "30s", backends=[node.url for node in nodes])
    await until(lambda seen: all(each["reported"] == 0 for each in seen["services"]), balancer)
    clients = await connect_many(balancer.port, 300)
    greetings = [json.loads(await client.recv()) for client in clients]
    assert spread(list(Counter(each["node"] for each in greetings).values())) <= 1
    assert (await overview(balancer))["totalConnections"] == 300
    await close_all(clients)
    await until(lambda seen: seen["totalConnections"] == 0, balancer)


async def test_two_balancers_share_their_picks(
    start_balancer: Start, foreign: list[ForeignBackend], tmp_path: Path
) -> None:
    """300 connections through two balancers on one NATS, over foreign backends, differ by two at most."""
    nats = await NatsServer.start(tmp_path / "nats")
    try:
        pair = [await start_balancer("--cache-ttl", "30s", "--bus", nats.url, backends=urls(foreign)) for _ in range(2)]
        await asyncio.gather(*(until(lambda seen: len(seen["podMetrics"]) == 3, each) for each in pair))
        halves = await asyncio.gather(*(connect_many(each.port, 150) for each in pair))
        assert sum(len(backend.open) for backend in foreign) == 300
        assert spread([len(backend.open) for backend in foreign]) <= 2
        for each in pair:
            await until(lambda seen: seen["totalConnections"] == 300, each)
        await close_all([client for half in halves for client in half])
        for each in pair:
            await until(lambda seen: seen["totalConnections"] == 0, each)
    finally:
        await nats.stop()


@pytest.mark.parametrize("retries", ["0", "2"])
async def test_one_clients_requests_take_no_fleet_out(
    start_balancer: Start, foreign: list[ForeignBackend], retries: str
) -> None:
    """A path that every backend answers with 500, asked for again and again, costs the others nothing."""
    balancer = await start_balancer(backends=urls(foreign), TRUNKLINE_BALANCER_RETRIES=retries)
    for _ in range(30):
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{balancer.port}/broken")
        assert refused.value.response.status_code == 500
    states = Counter(each["state"] for each in (await overview(balancer))["services"])
    assert states["up"] >= (3 if retries == "2" else 2), states
    clients = await connect_many(balancer.port, 30)
    await close_all(clients)


async def test_pods_behind_one_url_are_shown_and_added_up(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """Every request for a load report reaches another pod; the page has all of them, and their sum."""
    pods = itertools.cycle([("a", 3), ("b", 5), ("c", 7)])

    def report(_: int) -> str:
        name, count = next(pods)
        return json.dumps({"agentsConnections": count, "podName": name, "podIP": f"10.9.9.{count}"})

    foreign[0].report = report
    balancer = await start_balancer("--cache-ttl", "50ms", backends=[foreign[0].url])
    seen = await until(lambda seen: seen["totalConnections"] == 15, balancer)
    for _ in range(5):
        assert seen["totalConnections"] == 15
        assert sorted(pod["podName"] for pod in seen["podMetrics"][foreign[0].url]) == ["a", "b", "c"]
        polls = foreign[0].polls
        seen = await until(lambda _, polls=polls: foreign[0].polls > polls, balancer)


async def test_restarted_balancer_is_right_within_one_report(
    start_balancer: Start, foreign: list[ForeignBackend]
) -> None:
    """A balancer that starts beside uneven backends evens them out with the next connections."""
    early = [await connect_many(backend.port, count) for backend, count in zip(foreign, (20, 5, 0), strict=True)]
    balancer = await start_balancer("--cache-ttl", "30s", backends=urls(foreign))
    await until(lambda seen: len(seen["podMetrics"]) == 3, balancer)
    late = await connect_many(balancer.port, 35)
    assert [len(backend.open) for backend in foreign] == [20, 20, 20]
    await close_all([client for some in early for client in some] + late)


async def test_cache_ttl_zero_asks_before_every_pick(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """With a time to live of 0 a connection that came by another way counts for the very next pick."""
    balancer = await start_balancer("--cache-ttl", "0", backends=urls(foreign))
    for _ in range(3):
        beside = await connect_many(foreign[0].port, 2) + await connect_many(foreign[1].port, 2)
        async with connect(f"ws://127.0.0.1:{balancer.port}/x"):
            assert len(foreign[2].open) == 1
        async with asyncio.timeout(patient(5)):
            while foreign[2].open:
                await asyncio.sleep(0.01)
        await close_all(beside)


async def test_thousand_connects_while_a_backend_dies(start_balancer: Start, start_node: Start) -> None:
    """A node that is killed in the middle of 1,000 connects costs only those that it had; all others get through."""
    nodes = await asyncio.gather(*(start_node() for _ in range(3)))
    balancer = await start_balancer(backends=[node.url for node in nodes])
    opened: list[ClientConnection] = []
    refused: list[BaseException] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number / 1000)
        try:
            opened.append(await connect(f"ws://127.0.0.1:{balancer.port}/ws", open_timeout=patient(20)))
        except Exception as error:
            refused.append(error)

    work = [asyncio.create_task(one(number)) for number in range(1000)]
    while len(opened) < 300:
        await asyncio.sleep(0.005)
    nodes[0].process.kill()
    await asyncio.gather(*work)
    assert refused == []
    seen = await until(lambda seen: sum(each["relayed"] > 0 for each in seen["services"]) == 2, balancer)
    alive = [each["relayed"] for each in seen["services"] if each["relayed"]]
    assert sum(alive) >= 1000 - 334
    assert spread(alive) <= 0.05 * sum(alive)
    assert any(each["state"] != "up" for each in seen["services"])
    await close_all(opened)


async def test_flapping_and_lying_backends(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """What is no believable count leaves our own one in place, and a backend that refuses gets no client of its own."""
    lies = iter(["-5", "1e999", '"many"', "[]", "99999999999", "{", "x" * 10_000_000] * 1000)
    foreign[0].report = lambda _: f'{{"agentsConnections": {next(lies)}}}'
    foreign[1].report = lambda _: '{"agentsConnections": 0}'
    balancer = await start_balancer("--cache-ttl", "50ms", backends=urls(foreign))
    clients: list[ClientConnection] = []
    for round_ in range(6):
        foreign[2].alive = round_ % 2 == 0
        clients += await connect_many(balancer.port, 20)
    assert sum(len(backend.open) for backend in foreign) == 120
    assert spread([len(backend.open) for backend in foreign[:2]]) <= 1
    failed = await balancer.hear(lambda line: line["event"] == "report_failed")
    assert failed["backend"] == foreign[0].url
    await close_all(clients)


async def test_nodes_announce_themselves_and_nats_may_go(
    start_balancer: Start, start_node: Start, tmp_path: Path
) -> None:
    """Nodes are found over NATS without a list; with NATS gone the balancer still places, evenly, on those it knew."""
    nats = await NatsServer.start(tmp_path / "nats")
    nodes = await asyncio.gather(*(start_node("--name", f"n{n}", "--bus", nats.url) for n in range(2)))
    balancer = await start_balancer("--bus", nats.url, TRUNKLINE_BALANCER_HEALTH_INTERVAL_MS="100")
    await until(lambda seen: len(seen["services"]) == 2, balancer)
    first = await connect_many(balancer.port, 10)
    await nats.stop()
    # The nodes say that they are unhealthy, all of them, which says nothing about where a client is best off.
    await until(lambda seen: all(each["state"] == "down" for each in seen["services"]), balancer)
    second = await connect_many(balancer.port, 10)
    seen = await overview(balancer)
    assert sorted(each["relayed"] for each in seen["services"]) == [10, 10]
    await close_all(first + second)
    for node in nodes:
        assert node.process.returncode is None


async def test_match_route_keeps_players_together(start_balancer: Start, start_node: Start) -> None:
    """All players of a match meet on one node, under the path that the edge rewrites; matches are spread."""
    nodes = await asyncio.gather(*(start_node("--name", f"n{n}") for n in range(3)))
    balancer = await start_balancer(backends=[node.url for node in nodes])
    homes = []
    clients = []
    for match in range(12):
        players = await connect_many(balancer.port, 3, f"/api/match/game?matchId=m{match}")
        clients += players
        found = {json.loads(await player.recv())["node"] for player in players}
        assert len(found) == 1
        homes.append(found.pop())
    assert len(set(homes)) > 1
    await close_all(clients)


async def test_canary_groups_get_their_share(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """With 90 to 10, ten of a hundred new connections go to the canary, however many backends the others are."""
    entries = [{"url": each.url, "group": group} for each, group in zip(foreign, "aab", strict=True)]
    balancer = await start_balancer(
        TRUNKLINE_BALANCER_BACKENDS=json.dumps(entries),
        TRUNKLINE_BALANCER_GROUPS='[{"name": "a", "weight": 90}, {"name": "b", "weight": 10}]',
    )
    clients = await connect_many(balancer.port, 100)
    assert [len(each.open) for each in foreign] == [45, 45, 10]
    await close_all(clients)


async def test_full_fleet_says_when_to_come_back(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """At capacity clients get 503 with Retry-After, and a place that becomes free is given out again."""
    entries = json.dumps([{"url": each.url, "capacity": 2} for each in foreign])
    balancer = await start_balancer(TRUNKLINE_BALANCER_BACKENDS=entries)
    clients = await connect_many(balancer.port, 6)
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{balancer.port}/ws")
    assert refused.value.response.status_code == 503
    assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 6
    await clients.pop().close()
    await until(lambda seen: seen["totalConnections"] == 5, balancer)
    clients += await connect_many(balancer.port, 1)
    await close_all(clients)


async def test_workers_share_one_truth(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """Two workers place a burst as one would; a killed one is replaced, and what it had is counted no more."""
    balancer = await start_balancer("--workers", "2", backends=urls(foreign))
    clients = await connect_many(balancer.port, 90)
    assert [len(each.open) for each in foreign] == [30, 30, 30]
    workers = [child for child in _children(balancer) if "trunkline.balancer.workers.child" in child.cmdline()]
    assert len(workers) == 2
    workers[0].kill()
    await balancer.hear(lambda line: line["event"] == "worker_ended")
    left = await until(lambda seen: seen["totalConnections"] == sum(len(each.open) for each in foreign), balancer)
    assert left["totalConnections"] < 90
    more = await connect_many(balancer.port, 90 - left["totalConnections"])
    assert [len(each.open) for each in foreign] == [30, 30, 30]
    async with aiohttp.ClientSession() as http:
        # No query is a worker's end.
        for query in ("", "?" + "&" * 40):
            async with http.get(f"{balancer.url}/balancer-metrics{query}") as answer:
                assert (await answer.json())["totalConnections"] == 90
        async with http.get(f"{balancer.url}/somewhere") as answer:
            assert int(await answer.text()) in [each.port for each in foreign]
    await close_all(clients + more)


def _children(balancer: Command) -> list[psutil.Process]:
    return psutil.Process(balancer.process.pid).children()


async def test_own_page_has_three_shapes(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """One path is JSON in the documented shape, a page for a browser with a refresh choice, and text for Prometheus."""
    balancer = await start_balancer(backends=urls(foreign))
    await until(lambda seen: len(seen["podMetrics"]) == 3, balancer)
    clients = await connect_many(balancer.port, 3)
    page = f"{balancer.url}/balancer-metrics"
    async with aiohttp.ClientSession() as http:
        async with http.get(page) as answer:
            seen = await answer.json()
            assert answer.headers["Cache-Control"] == "no-store"
        assert list(seen)[:5] == ["timestamp", "services", "podMetrics", "totalConnections", "agentsConnections"]
        assert seen["totalConnections"] == seen["agentsConnections"] == 3
        assert {each["url"]: each["connections"] for each in seen["services"]} == dict.fromkeys(urls(foreign), 1)
        assert set(seen["podMetrics"]) == set(urls(foreign))
        async with http.get(f"{page}?refresh=10", headers={"Accept": "text/html,*/*;q=0.8"}) as answer:
            assert answer.content_type == "text/html"
            text = await answer.text()
            assert '<meta http-equiv="refresh" content="10">' in text
            assert all(url in text for url in urls(foreign))
        scraper = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
        async with http.get(page, headers=scraper) as answer:
            text = await answer.text()
            for series in BALANCER_SERIES:
                assert f"# HELP {series.name} " in text, series.name
            assert f'ws_balancer_backend_connections{{backend="{foreign[0].url}",group="",pool=""}} 1.0' in text
        async with http.get(page, headers={"X-Forwarded-For": "203.0.113.9"}) as answer:
            assert answer.status == 403
        async with http.get(f"http://127.0.0.1:{balancer.up['admin_port']}/ready") as answer:
            assert answer.status == 200
    await close_all(clients)


async def test_each_connection_has_its_lines(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """Opening and closing are one line each, with backend and reason, and no query, for it may hold a token."""
    balancer = await start_balancer(backends=urls(foreign))
    async with connect(f"ws://127.0.0.1:{balancer.port}/room?token=very-secret"):
        pass
    opened = await balancer.hear(lambda line: line["event"] == "connection_opened")
    closed = await balancer.hear(lambda line: line["event"] == "connection_closed")
    assert opened["reason"] == "least_connections"
    assert opened["backend"] == closed["backend"] in urls(foreign)
    assert opened["path"] == "/room"
    assert "very-secret" not in str(balancer.said) + "".join(balancer.other)


async def test_debug_shows_what_the_balancer_decides(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """Each pick has its line with backend and reason, each failed check and pick its cause, and each refusal."""
    balancer = await start_balancer(
        backends=[foreign[0].url], LOG_LEVEL="debug", TRUNKLINE_BALANCER_HEALTH_INTERVAL_MS="100"
    )
    async with connect(f"ws://127.0.0.1:{balancer.port}/room"):
        pass
    placed = await balancer.hear(lambda line: line["event"] == "placed")
    assert (placed["level"], placed["backend"], placed["reason"]) == ("debug", foreign[0].url, "only")
    await foreign[0].stop()
    with pytest.raises(InvalidStatus):
        await connect(f"ws://127.0.0.1:{balancer.port}/room")
    for event in ("pick_failed", "check_failed"):
        found = await balancer.hear(lambda line, event=event: line["event"] == event)  # type: ignore[misc]
        assert found["backend"] == foreign[0].url
    await balancer.hear(lambda line: line["event"] == "not_placed")


async def test_sigterm_lets_clients_go_on_for_a_while(start_balancer: Start, foreign: list[ForeignBackend]) -> None:
    """After SIGTERM no new client is let in, an open one goes on, and with its end the balancer ends with 0."""
    balancer = await start_balancer(backends=urls(foreign), TRUNKLINE_BALANCER_DRAIN_MS="20000")
    async with connect(f"ws://127.0.0.1:{balancer.port}/ws") as client:
        balancer.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(patient(10)):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", balancer.port), 1).close()
                except ConnectionRefusedError:
                    break
                except ConnectionResetError:
                    pass  # it was waiting to be accepted when the port was closed
                await asyncio.sleep(0.02)
        await client.send("still here")
        assert await client.recv() == "still here"
    began = time.monotonic()
    assert await balancer.ended() == 0
    assert time.monotonic() - began < patient(10)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_second_signal_ends_at_once(start_balancer: Start, foreign: list[ForeignBackend], workers: str) -> None:
    """A second signal does not wait for open clients."""
    balancer = await start_balancer("--workers", workers, backends=urls(foreign), TRUNKLINE_BALANCER_DRAIN_MS="60000")
    async with connect(f"ws://127.0.0.1:{balancer.port}/ws"):
        balancer.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        assert balancer.process.returncode is None
        assert await balancer.stop(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "8080"], "--listen"),
        (["--backend", "10.0.0.1"], "balancer.backends"),
        (["--mode", "stear"], "balancer.mode"),
        (["--cache-ttl", "soon"], "balancer.cache_ttl_ms"),
        (["--workers", "0"], "balancer.workers"),
    ],
)
async def test_wrong_flags_are_named(start_command: Start, arguments: list[str], said: str) -> None:
    """A value that cannot be used ends it with 2 and one line that names the setting."""
    command = await start_command("balance", *arguments)
    assert await command.ended() == 2
    assert len(command.other) == 1
    assert said in command.other[0]


async def test_taken_port_is_named(start_balancer: Start, start_command: Start, foreign: list[ForeignBackend]) -> None:
    """A second balancer on the same port ends with 2 and says which port and what to do."""
    balancer = await start_balancer(backends=urls(foreign))
    for more in ([], ["--workers", "2"], ["--mode", "steer"]):
        second = await start_command("balance", "--listen", f"127.0.0.1:{balancer.port}", *more)
        assert await second.ended() == 2
        assert f"cannot listen on 127.0.0.1:{balancer.port}" in second.other[-1]
        assert "--listen" in second.other[-1]
