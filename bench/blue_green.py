"""A deploy by our own tool, under clients that follow a channel: `deploys` has the same with plain restarts.

`trunkline up` runs two nodes and the edge; `trunkline deploy run` has two new ones started and moves everybody. Its
witnesses account for their messages, and our clients for theirs. Publications come from a node whose colour gets no
clients. Over the relay and over Traefik, and with more clients over a relay of two workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from msgspec.structs import replace

from bench.deploys import LAST_S
from bench.errors import BenchError
from bench.followers import Followers, Scene
from bench.proxies import RELAY, STEERED, TRAEFIK, installed
from bench.rows import Options, Result, Row
from bench.servers import Contender, Server, ours
from bench.swarm import Publisher, frame
from trunkline.deploy.runtimes.base import RuntimeFailed
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.world.base import FleetUnreachable
from trunkline.deploy.world.reach import fleet_of
from trunkline.process.control.messages import Places
from trunkline.settings.sections import Settings

CHANNEL = "public.bench"
NODES = 2
PORTS = 16
ACCEPTS_PER_S = 999.0
"""What a node says that it accepts, the lag of an idle one taken off: a move may take half of it."""

START_S = 30.0
DEPLOY_S = 300.0
PEAK = 0.8
TIME = 1.2


class Plan(NamedTuple):
    """Sizes of one deploy; `verify_s` and `witnesses` are options of the tool."""

    edge: str
    clients: int
    publications_per_s: float
    workers: int = 1
    witnesses: int = 50
    verify_s: float = 5.0

    @property
    def name(self) -> str:
        """What its rows are called."""
        edge = "relay with 2 workers" if self.workers > 1 else self.edge
        return f"{edge}, {self.clients:,} clients"

    @property
    def over_s(self) -> float:
        """The shortest time that the nodes' own word on what they accept allows, to a tenth of a second."""
        return max(2.0, math.ceil((self.clients + self.witnesses) / (0.5 * NODES * ACCEPTS_PER_S) * 10) / 10)


def run(options: Options) -> Result:
    """Deploy once over each; a quick run over the relay alone."""
    if options.quick:
        plans, missing = [Plan(RELAY, 200, 20.0, witnesses=10, verify_s=2.0)], []
    else:
        names, missing = installed(RELAY, STEERED)
        plans = [Plan(name, 4_000, 2.0) for name in names]
        plans.append(Plan(RELAY, 10_000, 0.5, workers=2))
    rows, notes = [], []
    for plan in plans:
        more, note = _deploy(plan)
        rows += more
        notes.append(note)
    how = (
        f"{NODES} old and {NODES} new nodes. Lost and twice: of all our clients' deliveries. Peak: handshakes begun by "
        "our clients within one second. Time: of the move without waits, beside clients / (half of what the new nodes "
        "accept, by the tool's own measure)."
    )
    return Result(rows, [how, *notes, *missing])


def _deploy(plan: Plan) -> tuple[list[Row], str]:
    with ExitStack() as stack, ExitStack() as clients:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        up = stack.enter_context(Server(_up(plan, folder), port=_free_row()))
        places = asyncio.run(_ready(folder))
        apart = {"TRUNKLINE_BUS_URL": places.bus, "TRUNKLINE_SERVER_NAME": "publisher"}
        node = stack.enter_context(Server(ours(**apart, TRUNKLINE_SERVER_COLOUR="apart")))
        followers = clients.enter_context(Followers(up, CHANNEL, plan.clients, of=node))
        publisher = clients.enter_context(Publisher(node))
        scene = Scene(followers, lambda number: publisher.send(_publication(number)), plan.publications_per_s)
        scene.go_on(1.0)
        old = _nodes(up)
        with _tool(plan, folder) as tool:
            scene.until(lambda: tool.poll() is not None, "the deploy to end", DEPLOY_S)
            verdict = _verdict(tool, folder)
        scene.until(lambda: followers.subscribed == plan.clients, "all clients to be back", START_S)
        publisher.wait_acknowledged(scene.published)
        scene.read_out(LAST_S)
        left = len(old & _nodes(up))
    return _rows(plan, scene, verdict, left), _note(plan, verdict)


def _up(plan: Plan, folder: Path) -> Contender:
    edge = RELAY if plan.edge == RELAY else TRAEFIK.lower()
    arguments = ["--nodes", str(NODES), "--edge", edge, "--data-dir", str(folder / "data")]
    return Contender(
        "trunkline up",
        lambda port: [sys.executable, "-m", "trunkline", "up", "--port", str(port), *arguments],
        {
            "MAX_CONNECTIONS": "12000",
            "TRUNKLINE_BALANCER_WORKERS": str(plan.workers),
            "TRUNKLINE_LOG_ACCESS": "false",
        },
    )


def _free_row() -> int:
    """The first of so many free ports in a row, below those that connections take: `up` counts on from its own."""
    for first in range(random.randrange(15_000, 25_000), 32_000, PORTS):
        with contextlib.suppress(OSError), ExitStack() as probes:
            for port in range(first, first + PORTS):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise BenchError(f"there are no {PORTS} free ports in a row")


async def _ready(folder: Path) -> Places:
    """Wait until the fleet is whole, and give all connections to blue."""
    deadline = time.monotonic() + START_S
    settings = Settings()
    while True:
        with contextlib.suppress(RuntimeFailed, FleetUnreachable):
            places = await LocalRuntime(folder / "data").places()
            bus = replace(settings.bus, url=places.bus)
            async with fleet_of(replace(settings, bus=bus), [places.balancer], owner="bench") as (_, world):
                view = await world.look()
                if sum(node.usable for node in view.colour("blue")) == NODES:
                    await world.put_traffic(view.traffic.generation, {"blue": 100.0})
                    return places
        if time.monotonic() > deadline:
            raise BenchError(f"`trunkline up` had no {NODES} nodes within {START_S:g} s")
        await asyncio.sleep(0.2)


@contextlib.contextmanager
def _tool(plan: Plan, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable, "-m", "trunkline", "deploy", "run", "green", "--runtime", "local", "--yes", "--json",
        "--over", f"{plan.over_s:g}s", "--verify", f"{plan.verify_s:g}s", "--keep", "1s",
        "--witnesses", str(plan.witnesses), "--data-dir", str(folder / "data"),
    ]  # fmt: skip
    with (folder / "verdict.json").open("w+") as out, (folder / "said").open("w+") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=said, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _verdict(tool: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    text = (folder / "verdict.json").read_text()
    if not text:
        raise BenchError(f"the deploy ended with {tool.returncode}: {(folder / 'said').read_text()[-600:]}")
    found: dict[str, Any] = json.loads(text)
    return found


def _nodes(up: Server) -> set[int]:
    """Processes of nodes below `up`."""
    below = psutil.Process(up.pid).children(recursive=True)
    return {child.pid for child in below if "--colour" in child.cmdline()}


def _rows(plan: Plan, scene: Scene, verdict: dict[str, Any], left: int) -> list[Row]:
    followers, facts, name = scene.followers, verdict["facts"], plan.name
    counts, rates, witnesses = facts["clients"], facts["rates"], facts["witnesses"] or {}
    away = sorted(followers.away_s) or [0.0]
    accepts = rates["accepts_per_s"]
    moving_s, waited_s = facts["moving_s"], facts["waited_s"]
    ideal_s = (plan.clients + plan.witnesses) / (0.5 * accepts) if accepts else 0.0
    forced = f"{counts['forced']} forced"
    not_once = sum(moves != 1 for moves in followers.moves)
    said = f"witnesses {witnesses.get('lost')} of {witnesses.get('expected', 0):,}"
    return [
        Row(f"{name}: lost", scene.lost, f"of {plan.clients * scene.published:,}", target=0, note=said),
        Row(f"{name}: twice", followers.repeated, "deliveries", target=0),
        Row(f"{name}: told of a gap", followers.gaps, "times", target=0),
        Row(f"{name}: connections cut", followers.cut, f"of {plan.clients:,}", target=0, note=forced),
        Row(f"{name}: clients that did not move once", not_once, "clients", target=0),
        Row(f"{name}: never back", counts["never_back"], f"of {counts['asked']:,} asked", target=0),
        Row(f"{name}: handshakes refused", followers.refused, f"of {len(followers.attempts):,}", target=0),
        Row(f"{name}: peak reconnects", followers.peak_per_s(), "/s", f"{rates['accepts_from']} limit", accepts, PEAK),
        Row(f"{name}: away p50", away[len(away) // 2], "s"),
        Row(f"{name}: away p99", away[len(away) * 99 // 100], "s"),
        Row(f"{name}: moving without waits", moving_s - waited_s, "s", "the least", ideal_s, TIME,
            note=f"waited {waited_s:.1f} s"),
        Row(f"{name}: old nodes left", left, "processes", target=0),
    ]  # fmt: skip


def _note(plan: Plan, verdict: dict[str, Any]) -> str:
    spans = ", ".join(f"{each['state']} {each['to_s'] - each['from_s']:.1f} s" for each in verdict["facts"]["spans"])
    return f"{plan.name}: {verdict['result']}; {verdict['words']}. {spans}."


def _publication(number: int) -> bytes:
    return frame(b'{"type":"publish","channel":"%b","data":{"n":%d}}' % (CHANNEL.encode(), number))
