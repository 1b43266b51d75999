"""This version beside an earlier one (`--base DIR`, a checkout with a `.venv`): CPU and memory of the hot paths.

Every round measures both, so that the ratio of a round holds while the machine's speed drifts. There is no peer here;
the other benchmarks have them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import echo, fanout, memory, relay
from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import Proxy
from bench.proxies import relay as relay_of
from bench.rows import CpuMeter, Options, Result, Row, compare, in_turn
from bench.servers import Contender, Server, ours, running
from bench.swarm import WAVE, Swarm

NOW, BEFORE = "trunkline", "the earlier version"
WORSE = 1.03
"""A ratio above this is a regression."""

Measure = Callable[[Server], float]


def run(options: Options) -> Result:
    """Measure echo, fan-out, accepting, relaying and idle memory."""
    if options.base is None:
        raise BenchError("name a checkout of the earlier version, which has a .venv: --base DIR")
    pythons = {NOW: sys.executable, BEFORE: earlier_python(options.base)}
    nodes = [ours(name, python=python) for name, python in pythons.items()]
    rows: list[Row] = []
    with running(nodes) as servers:
        for what, unit, measure in (
            ("echo of 64 B", "us CPU/message", lambda server: echo.cost(server, 3_000 if options.quick else 50_000)),
            ("fan-out to 1,000, one at a time", "us CPU/delivery", lambda server: _fan_out(server, options, 1)),
            ("fan-out to 1,000, bursts of 10", "us CPU/delivery", lambda server: _fan_out(server, options, 10)),
            ("accept", "us CPU/connection", _accept(200 if options.quick else 2_000)),
        ):
            rows += _beside(what, unit, options, lambda name, measure=measure: measure(servers[name]))  # type: ignore[misc]
    with ExitStack() as stack:
        urls = stack.enter_context(Backends(1)).urls
        relays = {
            name: stack.enter_context(Proxy(relay_of(urls, name=name, python=python)))
            for name, python in pythons.items()
        }
        total = 1_000 if options.quick else 30_000
        rows += _beside(
            "relayed message of 64 B", "us CPU/message", options, lambda name: relay.cost(relays[name], 64, total)
        )
    count = 500 if options.quick else 10_000
    by_name = {node.name: node for node in nodes}
    rows += _beside(
        f"idle subscribed connection, of {count:,}", "KB resident", options, lambda name: _idle_kb(by_name[name], count)
    )
    return Result(rows)


def earlier_python(base: Path) -> str:
    """The interpreter of an earlier checkout's environment; raises BenchError."""
    python = base / ".venv" / "bin" / "python"
    if not python.exists():
        raise BenchError(f"{base} has no .venv/bin/python; run `make lint` there first")
    return str(python.absolute())


def _beside(what: str, unit: str, options: Options, measure: Callable[[str], float]) -> list[Row]:
    in_turn([NOW, BEFORE], 1, measure)
    return compare(what, in_turn([NOW, BEFORE], options.runs, measure), unit, {BEFORE: WORSE}, NOW)


def _accept(count: int) -> Measure:
    def measure(server: Server) -> float:
        swarms = []
        with CpuMeter(server) as cpu:
            for _ in range(count // WAVE):
                swarms.append(Swarm(server, server.contender.echo_path, WAVE))
        for swarm in swarms:
            swarm.close()
        return cpu.used_s / count * 1e6

    return measure


def _fan_out(server: Server, options: Options, burst: int) -> float:
    subscribers, total = (100, 20) if options.quick else (1_000, 100)
    return fanout.cost(server, fanout.publication_size(server), subscribers, burst, total // burst)


def _idle_kb(contender: Contender, count: int) -> float:
    before, after = memory.with_and_without(contender, count)
    return (after["rss"] - before["rss"]) / count / 1024
