"""What steering costs: a Traefik that asks before each connection, beside the same Traefik on a path where it does not.

The time to connect (TCP, handshake, 101) is taken at 200 connects a second, in turns of seconds (plain, steered, plain,
...); what is added is the median of the differences of neighbouring turns. After the 101 nothing should differ: so the
CPU that Traefik spends on a message is compared too.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import time
from contextlib import ExitStack

import uvloop

from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import STEERED, Proxy, Steered, installed, proxy
from bench.rows import CpuMeter, Options, Result, Row, compare, in_turn
from bench.swarm import PATIENCE_S, Swarm, frame

PER_S = 200
TURN_S = 2.0
PLAIN = "the same Traefik without the pick"
PATHS = {STEERED: "/ws/echo", PLAIN: "/plain/echo"}
TARGETS_MS = {"p50": (0.5, 2.0), "p99": (0.99, 10.0)}
SAME = 1.05
"""1.00, and the noise of this measurement."""

BACKENDS = 3
CONNECTIONS = 100
MESSAGE = frame(b"m" * 64)


def run(options: Options) -> Result:
    """Measure it."""
    names, missing = installed(STEERED)
    if not names:
        return Result([], missing)
    pairs = 2 if options.quick else 2 * options.runs
    turn_s = 0.5 if options.quick else TURN_S
    with ExitStack() as stack:
        backends = stack.enter_context(Backends(BACKENDS))
        running = stack.enter_context(proxy(STEERED, backends.urls, plain_path="/plain"))
        for path in PATHS.values():
            uvloop.run(_turn(running, path, turn_s / 2))
        turns: dict[str, list[list[float]]] = {name: [] for name in PATHS}
        for _ in range(pairs):
            for name in (PLAIN, STEERED):
                turns[name].append(uvloop.run(_turn(running, PATHS[name], turn_s)))
        rows = _added(turns)
        if isinstance(running, Steered):
            running.check_picks(sum(map(len, turns[STEERED])))
        total = 1_000 if options.quick else 30_000

        def measure(name: str) -> float:
            with Swarm(running, PATHS[name], CONNECTIONS) as swarm:
                swarm.exchange(MESSAGE, len(MESSAGE) - 4, total // 5)
                with CpuMeter(running) as cpu:
                    swarm.exchange(MESSAGE, len(MESSAGE) - 4, total)
            return cpu.used_s / (2 * total) * 1e6

        in_turn(list(PATHS), 1, measure)
        figures = in_turn(list(PATHS), options.runs, measure)
    rows += compare("message of 64 B through Traefik", figures, "us CPU/message", {PLAIN: SAME}, STEERED)
    return Result(
        rows, [f"{pairs} turns of {turn_s:g} s each; {BACKENDS} backends; Traefik has as many threads as it likes."]
    )


def _added(turns: dict[str, list[list[float]]]) -> list[Row]:
    rows = []
    for shown, (q, target) in TARGETS_MS.items():
        plain, steered = ([_quantile(turn, q) * 1000 for turn in turns[name]] for name in (PLAIN, STEERED))
        added = [more - less for more, less in zip(steered, plain, strict=True)]
        note = (
            f"{statistics.median(steered):.2f} ms beside {statistics.median(plain):.2f} ms; "
            f"differences {min(added):.2f} to {max(added):.2f}"
        )
        what = f"time that steering adds to a connect, {PER_S}/s, {shown}"
        rows.append(Row(what, statistics.median(added), "ms", target=target, note=note))
    return rows


def _quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


async def _turn(running: Proxy, path: str, seconds: float) -> list[float]:
    """Connect so long at the even rate; returns how long each one took."""
    took: list[float] = []
    tasks = []
    began = time.perf_counter()
    for number in range(int(PER_S * seconds)):
        wait_s = began + number / PER_S - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(_connect(running, path, took)))
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)
    return took


async def _connect(running: Proxy, path: str, took: list[float]) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(*running.address)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        took.append(time.perf_counter() - began)
        if not head.startswith(b"HTTP/1.1 101"):
            raise BenchError(f"{running.name} answered a handshake with {head[:200]!r}")
    finally:
        writer.close()
