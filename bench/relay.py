"""What it costs a proxy to carry a message: 100 connections to one backend, one message in flight each.

An echo is two relayed messages. All get one processor's worth of threads: HAProxy one thread, nginx one worker, Traefik
GOMAXPROCS=1, which makes it cheaper; a line without a target shows it as it comes.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench.backend import Backends
from bench.proxies import HAPROXY, NGINX, RELAY, TRAEFIK, installed, proxy
from bench.rows import CpuMeter, Options, Result, Row, compare, in_turn
from bench.servers import Server
from bench.swarm import Swarm, frame

CONNECTIONS = 100
TRAEFIK_FREE = "Traefik as it comes"
TARGETS = {HAPROXY: 1.1, NGINX: 1.2, TRAEFIK: 1.05, TRAEFIK_FREE: None}
SIZES = {64: "64 B", 16_384: "16 KB"}
OPTIONS: dict[str, dict[str, object]] = {
    HAPROXY: {"threads": 1, "master": False},
    NGINX: {"workers": "1"},
    TRAEFIK: {"one_core": True},
}


def run(options: Options) -> Result:
    """Measure it."""
    names, missing = installed(RELAY, *TARGETS)
    rows: list[Row] = []
    with ExitStack() as stack:
        backends = stack.enter_context(Backends(1))
        running = {name: stack.enter_context(proxy(name, backends.urls, **OPTIONS.get(name, {}))) for name in names}
        for size, shown in SIZES.items():
            total = 1_000 if options.quick else 30_000 if size == 64 else 6_000

            def measure(name: str, size: int = size, total: int = total) -> float:
                return cost(running[name], size, total)

            in_turn(names, 1, measure)
            figures = in_turn(names, options.runs, measure)
            rows += compare(f"relayed message of {shown}", figures, "us CPU/message", TARGETS, RELAY)
    how = (
        "CPU of the proxy's processes alone. HAProxy has one thread, nginx one worker, Traefik GOMAXPROCS=1 except in "
        "the lines that say so; none writes an access log."
    )
    return Result(rows, [how, *missing])


def cost(proxy: Server, size: int, total: int) -> float:
    """CPU microseconds a relayed message of `size` bytes, over `total` echoes after a fifth as many to warm up."""
    message = frame(b"m" * size)
    answer = len(message) - 4  # a server does not mask
    with Swarm(proxy, "/ws/echo", CONNECTIONS) as swarm:
        swarm.exchange(message, answer, total // 5)
        with CpuMeter(proxy) as cpu:
            swarm.exchange(message, answer, total)
    return cpu.used_s / (2 * total) * 1e6
