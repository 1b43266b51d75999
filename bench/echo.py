"""Echo: 100 connections with one 64-byte message in flight each; CPU of the server per message."""

from __future__ import annotations

from bench.rows import CpuMeter, Options, Result, compare, in_turn
from bench.servers import AIOHTTP, BUN, UVICORN, WEBSOCKETS, WEBSOCKETS_DEFLATE, Server, ours, peers, running
from bench.swarm import Swarm, frame

CONNECTIONS = 100
MESSAGE = frame(b"The quick brown fox jumps over the lazy dog; 64 bytes of plain text."[:64])
OURS, OURS_OFFERED = "trunkline", "trunkline, compression offered"


def run(options: Options) -> Result:
    """Measure it."""
    total = 3_000 if options.quick else 50_000
    contenders = [
        ours(OURS),
        *peers(WEBSOCKETS, AIOHTTP, UVICORN, BUN),
        ours(OURS_OFFERED, offer_deflate=True),
        *peers(WEBSOCKETS_DEFLATE),
    ]
    with running(contenders) as servers:

        def measure(name: str) -> float:
            return cost(servers[name], total)

        names = [contender.name for contender in contenders]
        in_turn(names, 1, measure)
        figures = in_turn(names, options.runs, measure)
    what = "echo of 64 B"
    rows = compare(what, figures, "us CPU/message", {WEBSOCKETS: 0.45, AIOHTTP: 0.75, UVICORN: 0.45, BUN: 1.25}, OURS)
    if WEBSOCKETS_DEFLATE in figures:
        rows += compare(
            f"{what}, client offers compression", figures, "us CPU/message", {WEBSOCKETS_DEFLATE: 0.45}, OURS_OFFERED,
            "default settings; both answer compressed",
        )  # fmt: skip
    return Result(rows, ["All Python servers run on uvloop; Bun, websockets and aiohttp without an access log."])


def cost(server: Server, total: int) -> float:
    """CPU microseconds a message, over `total` messages after a fifth as many to warm up."""
    contender = server.contender
    with Swarm(server, contender.echo_path, CONNECTIONS, offer_deflate=contender.offer_deflate) as swarm:
        swarm.echo(MESSAGE, total // 5)
        with CpuMeter(server) as cpu:
            swarm.echo(MESSAGE, total)
    return cpu.used_s / total * 1e6
