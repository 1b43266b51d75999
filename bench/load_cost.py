"""What a received message costs the load generator, by ours and by others: pushed ones (fan-out), and echoes.

Judged is what messages add: CPU of a run minus that of one that opens the same connections for as long and in which
nothing is sent. So neither a start-up nor a long one counts; a second line has all CPU, from start to end.
"""

from __future__ import annotations

import contextlib
import functools
import re
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bench.bare_echo import bare_echo
from bench.errors import BenchError
from bench.generators import ARTILLERY_DEAF, OURS, PEERS, WEBSOCKETS_UVLOOP, Generator, Load, Outcome, generators
from bench.rows import Options, Result, Row, compare, in_turn
from bench.servers import Server, ours
from bench.swarm import Publisher, frame

CONNECTIONS = 100
PUSHED = 10_000
"""Messages pushed to a generator a second: 100 publications of 64 bytes to all connections."""

ECHOED = 8_000
DURATION_S = 15.0
SILENT_RUNS = 3
QUICK_S, QUICK_SHARE = 1.0, 0.1
"""A smoke run is shorter, and has a tenth of the messages, which a busy machine carries too."""

TARGET = 0.3
UNJUDGED = (WEBSOCKETS_UVLOOP,)
"""A plain client has no uvloop; with it the line shows what the library can do at best."""

KEPT = 0.7
"""Share of the messages due that must have come; fewer would be another load."""


def run(options: Options) -> Result:
    """Measure it."""
    duration_s, share = (QUICK_S, QUICK_SHARE) if options.quick else (DURATION_S, 1.0)
    with Server(ours()) as node:
        load = Load(f"ws://127.0.0.1:{node.port}/ws", CONNECTIONS, PUSHED * share, duration_s, fan_out=True)
        pushed = _measure("pushed message", options, load, (*PEERS, ARTILLERY_DEAF), functools.partial(_pushed, node))
    with bare_echo() as server:
        load = Load(f"ws://127.0.0.1:{server.port}/", CONNECTIONS, ECHOED * share, duration_s)
        echoed = _measure("echo", options, load, PEERS, lambda generator, load: generator.run(load))
    return Result(
        [*pushed.rows, *echoed.rows],
        [
            "CPU is that of a generator's whole tree of processes: of ours, the coordinator and one worker.",
            "Pushed: all connections subscribe to one channel of a stock node; a publication has 64 bytes of data. Ours"
            " publishes by itself, which its CPU includes; for the peers another process does, which is not counted."
            " All but the one that is not looking parse every message, record its latency and check the order.",
            f"{ARTILLERY_DEAF}: its steps see answers to messages they sent, and no push; its messages are counted at"
            " the node. The other line has a function in JavaScript, as users may add, that reads the socket.",
            "Of an echo, artillery records no latency.",
            *pushed.notes,
            *echoed.notes,
        ],
    )


def _measure(
    what: str, options: Options, load: Load, peers: tuple[str, ...], run_once: Callable[[Generator, Load], Outcome]
) -> Result:
    found, missing = generators(*peers)
    names = list(found)
    runs: dict[str, list[Outcome]] = {name: [] for name in names}
    quiet = in_turn(
        names,
        min(options.runs, SILENT_RUNS),
        lambda name: run_once(found[name], replace(load, rate=0)).spent.cpu_s,
    )
    silent = {name: statistics.median(cpu_s) for name, cpu_s in quiet.items()}

    def measure(name: str) -> float:
        outcome = run_once(found[name], load)
        if not options.quick and outcome.received < KEPT * load.rate * load.duration_s:
            raise BenchError(f"{name} received {outcome.received:,} of {load.rate * load.duration_s:,.0f} messages")
        runs[name].append(outcome)
        return (outcome.spent.cpu_s - silent[name]) / outcome.received * 1e6

    added = in_turn(names, options.runs, measure)
    whole = {name: [each.spent.cpu_s / each.received * 1e6 for each in runs[name]] for name in names}
    targets = {name: None if name in UNJUDGED else TARGET for name in peers}
    untold: dict[str, float | None] = dict.fromkeys(peers)
    rows = compare(f"{what}, CPU that messages add", added, "us CPU/message", targets, OURS)
    rows += compare(f"{what}, all CPU from start to end", whole, "us CPU/message", untold, OURS)
    rows += compare(f"{what}: a run of {load.duration_s:g} s without any", quiet, "s CPU", untold, OURS)
    first = statistics.median(each.spent.first_s / each.spent.cpu_s for each in runs[OURS])
    rows.append(Row(f"{what}: share of all CPU that the coordinator used", first, "of 1"))
    came = ", ".join(f"{name} {statistics.median(each.received for each in runs[name]):,.0f}" for name in names)
    versions = ", ".join(f"{name} {each.version}" for name, each in found.items() if each.version)
    return Result(
        rows,
        [
            f"{what}: {load.rate:,.0f} a second over {load.connections} connections for {load.duration_s:g} s. Came: "
            f"{came}. Versions: {versions}.",
            *missing,
        ],
    )


def _pushed(node: Server, generator: Generator, load: Load) -> Outcome:
    before = _messages_sent(node)
    with _publishing(node, 0 if generator.name == OURS else load.rate_each):
        outcome = generator.run(load)
    return outcome if generator.counts else replace(outcome, received=_messages_sent(node) - before)


@contextlib.contextmanager
def _publishing(node: Server, rate: float) -> Iterator[None]:
    """Publish from a thread of this process, which waits meanwhile."""
    over = threading.Event()

    def publish() -> None:
        due = time.monotonic()
        with Publisher(node) as publisher:
            while rate and not over.wait(due - time.monotonic()):
                data = b'{"t":%d,"p":"%b"}' % (time.time_ns() // 1000, b"x" * 35)
                publisher.send(frame(node.contender.publication(data, 0)))
                due += 1 / rate

    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish)
        try:
            yield
        finally:
            over.set()
        publishing.result()


def _messages_sent(node: Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.port}/metrics", timeout=5) as answer:
        found = re.search(rb"^ws_messages_sent_total\S* (\S+)", answer.read(), re.MULTILINE)
    if found is None:
        raise BenchError("the node's /metrics has no ws_messages_sent_total")
    return int(float(found[1]))  # from a million on it is written with an exponent
