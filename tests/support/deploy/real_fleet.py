"""Two colours of real nodes behind a real balancer on a real NATS, as a deploy without a runtime finds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from tests.support.balancer.balance_process import Command
from tests.support.balancer.talking import Scene, open_scene
from tests.support.patience import patient
from trunkline.bus.base import FleetStore
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Limits
from trunkline.deploy.parts import DeployOptions, Parts
from trunkline.deploy.runtimes.none import NoRuntime
from trunkline.deploy.world.reach import fleet_of
from trunkline.errors import BusUnavailable
from trunkline.server.node.node import Node
from trunkline.settings.sections import Settings

TOKEN = "t0ken-of-the-test-that-deploys"
LIMITS = Limits(settle_s=1.0, finish_s=5.0, lag_ms=5_000.0)
"""A busy machine lags; what lag does is tested without it."""


class RealFleet:
    """The fleet; `edge` is where clients connect."""

    def __init__(self, scene: Scene, balancer: Command, nodes: dict[str, Node]) -> None:
        self.scene = scene
        self.balancer = balancer
        self.nodes = nodes
        self.edge = f"ws://127.0.0.1:{balancer.port}/ws"

    def clients(self, colour: str) -> int:
        """Connections to the nodes of a colour."""
        return sum(len(node.registry.connections) for name, node in self.nodes.items() if name.startswith(colour))

    @contextlib.asynccontextmanager
    async def parts(self) -> AsyncIterator[Parts]:
        """Those of one tool."""
        admin = f"http://127.0.0.1:{self.balancer.up['admin_port']}"
        async with fleet_of(Settings(bus=self.scene.bus_of("deploy")), (admin,), token=TOKEN, owner="a test") as fleet:
            async with asyncio.timeout(patient(10)):
                while not await self._answers(fleet.store):
                    await asyncio.sleep(0.02)
            yield Parts(
                store=fleet.store, world=fleet.world, runtime=lambda _plan: NoRuntime(), smoke=smoking(),
                witnesses=lambda count: LoadWitnesses(self.edge, count), tick_s=0.25,
            )  # fmt: skip

    @staticmethod
    async def _answers(store: FleetStore) -> bool:
        with contextlib.suppress(BusUnavailable):
            await store.get("traffic")
            return True
        return False

    @staticmethod
    def options(**changed: object) -> DeployOptions:
        """From blue to green, quickly."""
        made = DeployOptions("green", over_s=3.0, verify_s=3.0, keep_s=0.0, witnesses=10, owner="a test", limits=LIMITS)
        return msgspec.structs.replace(made, **changed)


@contextlib.asynccontextmanager
async def real_fleet(folder: Path, *, each: int = 2, scene: Scene | None = None) -> AsyncIterator[RealFleet]:
    """`each` nodes of blue, which get all connections, and of green, which is held."""
    scene = scene or await open_scene(folder)
    balancer: Command | None = None
    try:
        nodes: dict[str, Node] = {}
        for colour in ("blue", "green"):
            for number in range(1, each + 1):
                name = f"{colour}-{number}"
                nodes[name] = await scene.node(name, colour=colour, limits={"exempt": ("127.0.0.0/8",)})
        balancer = await Command.start(
            folder, "balance", "--listen", "127.0.0.1:0", "--bus", scene.bus_of("balancer").url,
            TRUNKLINE_BUS_PREFIX=scene.bus.prefix, TRUNKLINE_ADMIN_TOKEN=TOKEN,
        )  # fmt: skip
        await balancer.ready("balancer_up")
        fleet = RealFleet(scene, balancer, nodes)
        async with fleet.parts() as parts:
            async with asyncio.timeout(patient(15)):
                while len([node for node in (await parts.world.look()).nodes if node.usable]) < 2 * each:
                    await asyncio.sleep(0.05)
            await parts.world.put_traffic(0, {"blue": 100.0})
        yield fleet
    finally:
        if balancer is not None:
            await balancer.stop()
        await scene.close()
