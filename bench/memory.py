"""Resident memory of an idle, subscribed connection, at 10,000 of them."""

from __future__ import annotations

import time

from bench.rows import Options, Result, Row, compare, in_turn
from bench.servers import AIOHTTP, BUN, WEBSOCKETS, Contender, Server, ours, peers
from bench.swarm import Swarm

OURS = "trunkline"
TARGET_KB = 4.0
SETTLE_S = 1.0
"""Servers give back what a handshake needed some time after it."""


def run(options: Options) -> Result:
    """Measure it, with a fresh server each time."""
    count = 500 if options.quick else 10_000
    contenders = {contender.name: contender for contender in (ours(OURS), *peers(WEBSOCKETS, AIOHTTP, BUN))}
    ours_by_kind: dict[str, list[float]] = {"pss": [], "uss": []}

    def measure(name: str) -> float:
        before, after = with_and_without(contenders[name], count)
        if name == OURS:
            for kind, figures in ours_by_kind.items():
                if kind in after:
                    figures.append((after[kind] - before[kind]) / count / 1024)
        return (after["rss"] - before["rss"]) / count / 1024

    figures = in_turn(list(contenders), options.runs, measure)
    what = f"idle subscribed connection, of {count:,}"
    mine = sorted(figures[OURS])[len(figures[OURS]) // 2]
    rows = [Row(what, mine, "KB resident", target=TARGET_KB)]
    rows += [
        Row(f"{what} ({kind.upper()})", sorted(values)[len(values) // 2], "KB", target=TARGET_KB)
        for kind, values in ours_by_kind.items()
        if values
    ]
    rows += compare(what, figures, "KB resident", {WEBSOCKETS: None, AIOHTTP: None, BUN: None}, OURS)
    return Result(rows, ["Memory of the kernel's socket buffers is the same for all and not in these figures."])


def with_and_without(contender: Contender, count: int) -> tuple[dict[str, int], dict[str, int]]:
    """Memory of a fresh server in bytes, by kind: before, and with `count` subscribed connections."""
    with Server(contender) as server:

        def swarm(size: int) -> Swarm:
            return Swarm(
                server, contender.subscribe_path, size, subscribe=contender.subscribe, until=contender.subscribed
            )

        with swarm(50):
            # What is loaded or compiled at the first connections is no cost of a connection.
            time.sleep(0.2)
        time.sleep(0.2)
        before = server.memory()
        with swarm(count):
            time.sleep(SETTLE_S)
            after = server.memory()
    return before, after
