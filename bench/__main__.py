"""`python -m bench [names] [--quick] [--runs N] [--json FILE] [--write]`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    accept,
    autobahn_perf,
    blue_green,
    burst,
    deploys,
    echo,
    fanout,
    floods,
    image,
    load_capacity,
    load_cost,
    load_omission,
    load_targets,
    memory,
    nine_thousand,
    office,
    picks,
    recover,
    regression,
    relay,
    relay_memory,
    report,
    rollouts,
    scale_out,
    scrape,
    spread,
    startup,
    steering,
    ten_thousand,
)
from bench.errors import BenchError
from bench.rows import Options, Result

BENCHMARKS: dict[str, tuple[str, Callable[[Options], Result]]] = {
    "autobahn_perf": ("Autobahn's performance cases against /ws/echo.", autobahn_perf.run),
    "echo": ("100 connections, 64 B of text, one message in flight each.", echo.run),
    "fanout_single": (
        "1,000 subscribers, 64 B of data, the next publication once all have the one before.",
        fanout.run_single,
    ),
    "fanout_burst": ("1,000 subscribers, publications sent back to back in one write.", fanout.run_burst),
    "memory": ("Memory of 10,000 idle subscribed connections: after minus before.", memory.run),
    "accept": (
        "TCP connect and WebSocket handshake, 50 at a time; in rows of their own, with the clean close.",
        accept.run,
    ),
    "ten_thousand": ("10,000 subscribers of one channel, 10 publications a second for 15 s.", ten_thousand.run),
    "recover": ("1,000 clients come back at once and recover 100 publications each, over NATS.", recover.run),
    "picks": ("Placement alone: CPU of a pick, and how even bursts end on old reports.", picks.run),
    "burst": ("Bursts through our relay over foreign backends, by reports that are 30 s old.", burst.run),
    "spread": ("How even connections are after a burst, a backend's restart and a reload, by balancer.", spread.run),
    "relay": ("100 connections through a proxy to one backend, one message in flight each.", relay.run),
    "relay_memory": ("Memory of idle relayed connections: after minus before.", relay_memory.run),
    "nine_thousand": ("9,000 connections through one relay process within 20,000 files, for 10 s.", nine_thousand.run),
    "steering": (
        "Traefik with steering beside the same Traefik without: time to connect, CPU a message.",
        steering.run,
    ),
    "office": ("5,000 clients behind one address move at once, and as many knock that nobody asked.", office.run),
    "scale_out": ("2 nodes become 4 under 4,000 clients that follow a channel through our relay.", scale_out.run),
    "rollouts": ("Six nodes are replaced by six of a new release under clients that follow a channel.", rollouts.run),
    "blue_green": (
        "`trunkline deploy run` under clients that follow a channel: relay, Traefik, two workers.",
        blue_green.run,
    ),
    "deploys": ("All nodes are replaced under clients that follow a channel.", deploys.run),
    "floods": ("The longest wait of another client, in CPU time of the server, while one floods it.", floods.run),
    "scrape": ("/metrics of a node, asked for again and again: 100 and 10,000 subscribers.", scrape.run),
    "load_cost": (
        "CPU of load generators over 100 connections: 10,000 pushed messages a second from a node, 8,000 echoes.",
        load_cost.run,
    ),
    "load_capacity": ("Connections that `trunkline load` holds, and opens a second.", load_capacity.run),
    "load_targets": (
        "ramp to 1,000, 2,000 for ten minutes, a spike to 5,000: `trunkline load` at full size against `trunkline up`.",
        load_targets.run,
    ),
    "startup": (
        "CPU of `config show` and of the import, resident memory of an idle node and of an idle fleet.",
        startup.run,
    ),
    "image": ("Our image beside plain ones from the same base: size, and time to the first WebSocket.", image.run),
    "regression": ("This version beside an earlier one: echo, fan-out, accept, relay, memory.", regression.run),
    "load_omission": ("A server that stands still: what p99 a load generator reports.", load_omission.run),
}


WITH_BASE = frozenset({"regression"})
"""Run by default only with `--base`."""


def main() -> int:
    """Run the named benchmarks; returns 1 when one of them could not be completed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ours and its peers, side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of a few seconds each; its figures mean little"
    )
    parser.add_argument("--runs", type=int, help="rounds for each contender (5; quick: 1)")
    parser.add_argument("--base", type=Path, metavar="DIR", help="a checkout of an earlier version, with a .venv")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as JSON")
    parser.add_argument("--write", action="store_true", help=f"write them into {report.RESULTS.name}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    options = Options(arguments.quick, arguments.runs or (1 if arguments.quick else 5), arguments.base)
    gc.disable()
    results: dict[str, Result] = {}
    failed = 0
    for name in arguments.names or [name for name in BENCHMARKS if arguments.base or name not in WITH_BASE]:
        began = time.monotonic()
        try:
            results[name] = BENCHMARKS[name][1](options)
        except BenchError as error:
            failed = 1
            print(f"\n{name}\n  not completed: {error}", file=sys.stderr)
            continue
        report.show(name, results[name])
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
        gc.collect()
    if arguments.json is not None:
        shown = {
            name: {"rows": [row.as_dict() for row in each.rows], "notes": each.notes} for name, each in results.items()
        }
        arguments.json.write_text(json.dumps(shown, indent=2) + "\n")
    if arguments.write:
        sections = {name: report.section(name, BENCHMARKS[name][0], each, options) for name, each in results.items()}
        report.write(sections, list(BENCHMARKS))
    return failed


if __name__ == "__main__":
    sys.exit(main())
