"""Two colours of nodes, two balancers and a NATS, each a process that a test can kill, behind one edge of TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from tests.support.balancer.balance_process import Command
from tests.support.load.switched_edge import SwitchedEdge
from tests.support.patience import patient
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Limits
from trunkline.deploy.parts import DeployOptions, Parts, Progress
from trunkline.deploy.runtimes.none import NoRuntime
from trunkline.deploy.world.reach import fleet_of
from trunkline.errors import BusUnavailable
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.settings.sections import BusSettings, Settings

TOKEN = "t0ken-of-the-test-that-deploys"
OUTAGE_S = 3.0
LIMITS = Limits(settle_s=1.0, finish_s=5.0, away_s=2.0, lag_ms=5_000.0)
"""A busy machine lags; what lag does is tested without it."""


class KillableFleet:
    """The fleet: `nodes` by name, `balancers` of which the edge leads to the first one that lives."""

    def __init__(self, folder: Path, nats: NatsServer) -> None:
        self._folder = folder
        self._prefix = f"t{secrets.token_hex(4)}"
        self.nats = nats
        self.nodes: dict[str, Command] = {}
        self.balancers: list[Command] = []
        self.edge = SwitchedEdge(0)

    @property
    def bus(self) -> BusSettings:
        return BusSettings(url=self.nats.url, prefix=self._prefix)

    async def add_node(self, name: str) -> None:
        """Start one; its colour is the first part of its name."""
        self.nodes[name] = await self._start(
            "serve", "--host", "127.0.0.1", "--port", "0", "--name", name, "--colour", name.partition("-")[0]
        )

    async def add_balancer(self) -> None:
        """Start one; the edge leads to it."""
        self.balancers.append(await self._start("balance", "--listen", "127.0.0.1:0"))

    async def _start(self, *arguments: str) -> Command:
        return await Command.start(
            self._folder, *arguments, "--bus", self.nats.url,
            TRUNKLINE_BUS_PREFIX=self._prefix, TRUNKLINE_ADMIN_TOKEN=TOKEN, TRUNKLINE_ADMIN_PORT="0",
        )  # fmt: skip

    async def kill_node(self, name: str) -> None:
        """SIGKILL."""
        await self.nodes[name].stop(signal.SIGKILL)

    async def kill_balancer(self) -> None:
        """SIGKILL the one that clients go through; new connections go through the other one."""
        self.edge.port = self.balancers[1].port
        await self.balancers[0].stop(signal.SIGKILL)

    async def kill_nats(self) -> None:
        """SIGKILL it, and start it again after `OUTAGE_S` with what it has on the disk."""
        os.kill(self.nats.pid, signal.SIGKILL)
        await self.nats.wait()
        await self.nats.stop()
        await asyncio.sleep(OUTAGE_S)
        self.nats = await NatsServer.start(self.nats.store_dir, port=self.nats.port)

    @contextlib.asynccontextmanager
    async def parts(self, on_progress: Callable[[Progress], None] = lambda _: None) -> AsyncIterator[Parts]:
        """Those of one tool."""
        smoke = smoking()
        admin = [f"http://127.0.0.1:{each.up['admin_port']}" for each in self.balancers]
        async with fleet_of(Settings(bus=self.bus), admin, token=TOKEN, owner="a test") as fleet:
            async with asyncio.timeout(patient(10)):
                while True:
                    with contextlib.suppress(BusUnavailable):
                        await fleet.store.get("traffic")
                        break
                    await asyncio.sleep(0.02)
            yield Parts(
                store=fleet.store, world=fleet.world, runtime=lambda _plan: NoRuntime(),
                smoke=lambda order: smoke(msgspec.structs.replace(order, briefly=True)),
                witnesses=lambda count: LoadWitnesses(self.edge.url, count), tick_s=0.25, on_progress=on_progress,
            )  # fmt: skip

    @staticmethod
    def options(**changed: object) -> DeployOptions:
        """From blue to green, quickly."""
        made = DeployOptions("green", over_s=4.0, verify_s=1.0, keep_s=0.0, witnesses=10, owner="a test", limits=LIMITS)
        return msgspec.structs.replace(made, **changed)


@contextlib.asynccontextmanager
async def killable_fleet(folder: Path, *, each: int = 2) -> AsyncIterator[KillableFleet]:
    """`each` nodes of blue, which get all connections, and of green, which is held."""
    fleet = KillableFleet(folder, await NatsServer.start(folder / "nats"))
    try:
        await asyncio.gather(
            fleet.add_balancer(),
            fleet.add_balancer(),
            *(fleet.add_node(f"{colour}-{number}") for colour in ("blue", "green") for number in range(1, each + 1)),
        )
        for balancer in fleet.balancers:
            await balancer.ready("balancer_up")
        fleet.edge.port = fleet.balancers[0].port
        async with fleet.edge, fleet.parts() as parts:
            async with asyncio.timeout(patient(20)):
                while len([node for node in (await parts.world.look()).nodes if node.usable]) < 2 * each:
                    await asyncio.sleep(0.05)
            await parts.world.put_traffic(0, {"blue": 100.0})
            yield fleet
    finally:
        for command in (*fleet.balancers, *fleet.nodes.values()):
            await command.stop(signal.SIGKILL)
        await fleet.nats.stop()
