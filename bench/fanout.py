"""Fan-out to 1,000 subscribers of one channel: one publication at a time, and in bursts; server CPU per delivery."""

from __future__ import annotations

from bench.rows import CpuMeter, Options, Result, Row, compare, in_turn
from bench.servers import BUN, WEBSOCKETS, Server, ours, peers, running
from bench.swarm import MARK, Publisher, Swarm, frame

OURS = "trunkline"
DATA = b'"' + b"x" * 61 + MARK + b'"'
"""64 bytes of JSON that hold the mark once."""

BURSTS = {10: 1.20, 100: 1.20, 500: 1.20}


def run_single(options: Options) -> Result:
    """Publish one message when the one before has reached everybody."""
    count = 20 if options.quick else 100
    rows = _run(options, 1, count, {WEBSOCKETS: 0.80, BUN: 1.20})
    return Result(rows, [_SAME_SIZE])


def run_burst(options: Options) -> Result:
    """Publish bursts, each in one write."""
    rows: list[Row] = []
    for burst, target in BURSTS.items():
        count = max(1, (20 if options.quick else 400) // burst) if burst < 500 else 1 if options.quick else 2
        rows += _run(options, burst, count, {BUN: target})
    return Result(rows, [_SAME_SIZE])


_SAME_SIZE = (
    "Every server delivers messages of the same size: the peers pass on a text as long as our whole publication "
    "(envelope, channel, position and 64 B of data), which they need not build."
)


def _run(options: Options, burst: int, count: int, targets: dict[str, float | None]) -> list[Row]:
    subscribers = 100 if options.quick else 1_000
    contenders = [ours(OURS), *peers(*targets)]
    with running(contenders) as servers:
        size = publication_size(servers[OURS])

        def measure(name: str) -> float:
            return cost(servers[name], size, subscribers, burst, count)

        names = [contender.name for contender in contenders]
        in_turn(names, 1, measure)
        figures = in_turn(names, options.runs, measure)
    what = f"fan-out to {subscribers:,}, " + ("one at a time" if burst == 1 else f"bursts of {burst}")
    return compare(what, figures, "us CPU/delivery", targets, OURS)


def cost(server: Server, size: int, subscribers: int, burst: int, count: int) -> float:
    """CPU microseconds a delivery, over `count` bursts after some to warm up.

    Args:
        server: whose CPU.
        size: bytes of a publication as it reaches a subscriber.
        subscribers: of the channel.
        burst: publications in one write.
        count: bursts.
    """
    contender = server.contender
    message = frame(contender.publication(DATA, size)) * burst
    with (
        Swarm(server, contender.subscribe_path, subscribers, subscribe=contender.subscribe,
              until=contender.subscribed) as swarm,
        Publisher(server) as publisher,
    ):  # fmt: skip
        for _ in range(max(2, count // 10)):
            publisher.send(message)
            swarm.receive(burst)
        with CpuMeter(server) as cpu:
            for _ in range(count):
                publisher.send(message)
                swarm.receive(burst)
    return cpu.used_s / (count * burst * subscribers) * 1e6


def publication_size(server: Server) -> int:
    """Bytes of one of our publications as it reaches a subscriber, without the frame's header."""
    contender = server.contender
    with (
        Swarm(server, contender.subscribe_path, 1, subscribe=contender.subscribe, until=contender.subscribed) as swarm,
        Publisher(server) as publisher,
    ):
        fd = next(iter(swarm.sockets))
        publisher.send(frame(contender.publication(DATA, 0)))
        swarm.sockets[fd].settimeout(5)
        received = swarm.sockets[fd].recv(4096)
        return len(received) - 4
