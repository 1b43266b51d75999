"""CPU to accept one connection (TCP and WebSocket handshake), and to close it again, in waves of 50."""

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
        closing: dict[str, list[float]] = {}

        def measure(name: str) -> float:
            server = servers[name]
            path = "/ws" if name == FEED else server.contender.echo_path
            until = b"connection_established" if name == FEED else b""
            accepted = 0.0
            with CpuMeter(server) as whole:
                swarms = []
                with CpuMeter(server) as cpu:
                    for _ in range(count // WAVE):
                        swarms.append(Swarm(server, path, WAVE, until=until))
                accepted = cpu.used_s
                for swarm in swarms:
                    swarm.close()
            closing.setdefault(name, []).append(whole.used_s / count * 1e6)
            return accepted / count * 1e6

        names = [contender.name for contender in contenders]
        in_turn(names, 1, measure)
        closing.clear()
        figures = in_turn(names, options.runs, measure)
    rows = []
    for name, note in ((OURS, ""), (FEED, "/ws, with its greeting")):
        targets = {WEBSOCKETS: 0.4, BUN: 2.0} if name == OURS else {WEBSOCKETS: None, BUN: None}
        rows += compare("accept", figures, "us CPU/connection", targets, name, note)
    for name, note in ((OURS, "access log on, to /dev/null"), (QUIET, "access log off")):
        rows += compare("accept and close", closing, "us CPU/connection", {WEBSOCKETS: None, BUN: None}, name, note)
    return Result(rows, ["The peers write no access log."])
