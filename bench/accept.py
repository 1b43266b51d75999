"""CPU to take one connection: TCP, WebSocket handshake and clean close, in waves of 50."""

from __future__ import annotations

from bench.rows import CpuMeter, Options, Result, compare, in_turn
from bench.servers import BUN, WEBSOCKETS, ours, peers, running
from bench.swarm import WAVE, Swarm

OURS, QUIET, FEED = "trunkline", "trunkline, access log off", "trunkline, /ws with its greeting"


def run(options: Options) -> Result:
    """Measure it."""
    count = 200 if options.quick else 2_000
    feed = ours(FEED)
    contenders = [
        ours(OURS), *peers(WEBSOCKETS, BUN), ours(QUIET, TRUNKLINE_LOG_ACCESS="false"), feed,
    ]  # fmt: skip
    with running(contenders) as servers:

        def measure(name: str) -> float:
            server = servers[name]
            path = "/ws" if name == FEED else server.contender.echo_path
            until = b"connection_established" if name == FEED else b""
            with CpuMeter(server) as cpu:
                for _ in range(count // WAVE):
                    Swarm(server, path, WAVE, until=until).close()
            return cpu.used_s / count * 1e6

        names = [contender.name for contender in contenders]
        in_turn(names, 1, measure)
        figures = in_turn(names, options.runs, measure)
    rows = []
    for name, note in ((OURS, "access log on, to /dev/null"), (QUIET, "access log off"), (FEED, "/ws, access log on")):
        targets = {WEBSOCKETS: 0.4, BUN: 2.0} if name != FEED else {WEBSOCKETS: None, BUN: None}
        rows += compare("connect and close", figures, "us CPU/connection", targets, name, note)
    return Result(rows, ["The peers write no access log."])
