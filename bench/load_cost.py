"""What a message costs the load generator: 100 connections, 2,000 echoes of 64 B a second, by ours and by others.

Judged is what messages add: CPU of a run minus that of one that opens the same connections for as long and sends
nothing. So neither a start-up nor a long one counts; a second line has all CPU, from start to end.
"""

from __future__ import annotations

from dataclasses import replace

from bench.bare_echo import bare_echo
from bench.errors import BenchError
from bench.generators import OURS, PEERS, WEBSOCKETS_UVLOOP, Echoed, Load, generators
from bench.rows import Options, Result, Row, compare, in_turn

CONNECTIONS = 100
RATE = 2_000
DURATION_S = 20.0
QUICK_S = 5.0
TARGETS: dict[str, float | None] = {**dict.fromkeys(PEERS, 0.3), WEBSOCKETS_UVLOOP: None}
"""A plain client has no uvloop; with it the line shows what the library can do at best."""

KEPT = 0.7
"""Share of the messages due that must have come; fewer would be another load."""


def run(options: Options) -> Result:
    """Measure it."""
    duration_s = QUICK_S if options.quick else DURATION_S
    found, missing = generators(*PEERS)
    names = list(found)
    runs: dict[str, list[Echoed]] = {name: [] for name in names}
    with bare_echo() as server:
        load = Load(f"ws://127.0.0.1:{server.port}/", CONNECTIONS, RATE, duration_s)
        silent = {name: found[name].run(replace(load, rate=0)).spent for name in names}

        def measure(name: str) -> float:
            echoed = found[name].run(load)
            if echoed.received < KEPT * RATE * duration_s:
                raise BenchError(f"{name} received {echoed.received:,} of {RATE * duration_s:,.0f} messages")
            runs[name].append(echoed)
            return (echoed.spent.cpu_s - silent[name].cpu_s) / echoed.received * 1e6

        added = in_turn(names, options.runs, measure)
    whole = {name: [each.spent.cpu_s / each.received * 1e6 for each in runs[name]] for name in names}
    idle = {name: [silent[name].cpu_s] for name in names}
    rows = compare("received message, CPU that messages add", added, "us CPU/message", TARGETS, OURS)
    untold: dict[str, float | None] = dict.fromkeys(PEERS)
    rows += compare("received message, all CPU from start to end", whole, "us CPU/message", untold, OURS)
    rows += compare(f"start, connecting and {duration_s:g} s of silence", idle, "s CPU", untold, OURS)
    first = [each.spent.first_s / each.spent.cpu_s for each in runs[OURS]]
    rows.append(Row("share of all CPU that the coordinator used", sorted(first)[len(first) // 2], "of 1"))
    notes = [
        "CPU is that of a generator's whole tree of processes: of ours, the coordinator and one worker.",
        f"Asked of each: {RATE:,} messages a second over {CONNECTIONS} connections for {duration_s:g} s. Came: "
        + ", ".join(f"{name} {max(each.received for each in runs[name]):,}" for name in names) + ".",
        "Versions: " + ", ".join(f"{name} {each.version}" for name, each in found.items() if each.version) + ".",
        *(note for each in found.values() for note in each.notes),
        *missing,
    ]  # fmt: skip
    return Result(rows, notes)
