"""What a scrape of /metrics costs a node, and that it costs the same however many connections there are."""

from __future__ import annotations

import http.client
import statistics
import sys
import time
from dataclasses import replace
from typing import NamedTuple

from bench.errors import BenchError
from bench.rows import CpuMeter, Options, Result, Row, compare
from bench.servers import HERE, Contender, Server, ours
from bench.swarm import Swarm

LIMIT_MS = 20.0
LIMIT_BYTES = 64 * 1024
LIMIT_RATIO = 1.25
"""Few against many: a figure that grew with the connections would be 100 times as large."""

SETTLE_S = 1.0
LIBRARY = Contender(
    "prometheus_client",
    lambda port: [sys.executable, str(HERE / "peers" / "prometheus_series.py"), str(port)],
    ready_path="/metrics",
)

OWN = replace(
    ours(),
    command=lambda port: [
        *(sys.executable, "-m", "trunkline", "serve", "bench.peers.own_tasks_app:app"),
        *("--host", "127.0.0.1", "--port", str(port)),
    ],
)


class Scrape(NamedTuple):
    """Figures of scrapes of one server over one connection, as Prometheus makes them."""

    median_ms: float
    slowest_ms: float
    cpu_ms: float
    bytes: int


def run(options: Options) -> Result:
    """Measure it with few and many connections, each a subscriber of one channel, and a peer, in turn."""
    few, many = (10, 200) if options.quick else (100, 10_000)
    times = 20 if options.quick else 200
    rounds: dict[str, list[Scrape]] = {"few": [], "many": [], "peer": [], "own": []}
    for _ in range(options.runs):
        with (
            Server(ours()) as small,
            Server(ours()) as large,
            Server(LIBRARY) as library,
            _subscribed(small, few),
            _subscribed(large, many),
        ):
            time.sleep(SETTLE_S)
            for name, found in zip(("few", "many", "peer"), _scrape([small, large, library], times), strict=True):
                rounds[name].append(found)
        with Server(OWN) as server, Swarm(server, "/own", many, until=b'"connection_established"'):
            time.sleep(SETTLE_S)
            rounds["own"] += _scrape([server], times)
    middle = {name: _middle(found) for name, found in rounds.items()}
    large_one, worst = middle["many"], middle["own"]
    what = f"scrape of a node with {many:,} connections"
    against = f"itself with {few:,}"
    hard = f"{what}, each with a task and a channel of its own"
    cpu = {name: [each.cpu_ms for each in found] for name, found in rounds.items()}
    took = {name: [each.median_ms for each in found] for name, found in rounds.items()}
    rows = [
        Row(f"{what}, time", large_one.median_ms, "ms", target=LIMIT_MS),
        Row(f"{what}, slowest of {times}", large_one.slowest_ms, "ms", note="with what else the machine did"),
        Row(f"{what}, size", large_one.bytes, "B", target=LIMIT_BYTES),
        Row(f"{what}, size", large_one.bytes, "B", against, middle["few"].bytes, LIMIT_RATIO),
        *compare(f"{what}, time", {"many": took["many"], against: took["few"]}, "ms", {against: LIMIT_RATIO}, "many"),
        *compare(
            f"{what}, CPU of the node",
            {"many": cpu["many"], against: cpu["few"], LIBRARY.name: cpu["peer"]},
            "ms CPU/scrape",
            {against: LIMIT_RATIO, LIBRARY.name: None},
            "many",
        ),
        Row(f"{hard}, time", worst.median_ms, "ms", target=LIMIT_MS),
        Row(f"{hard}, CPU of the node", worst.cpu_ms, "ms CPU/scrape"),
        Row(f"{hard}, size", worst.bytes, "B", target=LIMIT_BYTES),
    ]
    return Result(
        rows,
        [
            f"With a scrape every 15 s that is {large_one.cpu_ms / 15_000 * 100:.3f} % of one core, at worst "
            f"{worst.cpu_ms / 15_000 * 100:.3f} %: tasks and channels are counted at the scrape.",
            "The peer has as many families of each kind with the same buckets, and no connections. Its counters and "
            "histograms are objects with a lock each; ours are plain attributes, made into families and text at the "
            "scrape.",
        ],
    )


def _subscribed(server: Server, count: int) -> Swarm:
    contender = server.contender
    return Swarm(server, contender.subscribe_path, count, subscribe=contender.subscribe, until=contender.subscribed)


def _scrape(servers: list[Server], times: int) -> list[Scrape]:
    """Scrape them in turn, so that whatever else the machine does meets all of them."""
    links = [http.client.HTTPConnection(*server.address, timeout=20) for server in servers]
    took: list[list[float]] = [[] for _ in servers]
    cpu_s = [0.0 for _ in servers]
    sizes = [0 for _ in servers]
    try:
        # The first one loads what the others find loaded.
        for link in links:
            _get(link)
        for _ in range(times):
            for number, (server, link) in enumerate(zip(servers, links, strict=True)):
                with CpuMeter(server) as cpu:
                    began = time.perf_counter()
                    sizes[number] = _get(link)
                    took[number].append((time.perf_counter() - began) * 1000)
                cpu_s[number] += cpu.used_s
    finally:
        for link in links:
            link.close()
    return [
        Scrape(statistics.median(took[number]), max(took[number]), cpu_s[number] * 1000 / times, sizes[number])
        for number in range(len(servers))
    ]


def _get(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise BenchError(f"/metrics was answered with {response.status}")
    return len(body)


def _middle(found: list[Scrape]) -> Scrape:
    return Scrape(
        statistics.median(each.median_ms for each in found),
        statistics.median(each.slowest_ms for each in found),
        statistics.median(each.cpu_ms for each in found),
        max(each.bytes for each in found),
    )
