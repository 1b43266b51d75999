"""What a deploy does to a real fleet, replayed to every rule: nobody is alerted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.support.fleet_process import FleetProcess
from tests.support.monitor.replayed import Recording, Target
from tests.support.monitor.watchers import DEADLINE_S, needs
from trunkline.bus.base import FleetStore
from trunkline.deploy.reach import fleet_of
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.world import FleetView, World
from trunkline.load.deploys.smoke import SmokeTarget, smoke
from trunkline.load.deploys.witnesses import Witnesses
from trunkline.protocol.deploys import DEPLOY_KEY, DeployState, DeployStatus
from trunkline.settings.sections import Settings

CLIENTS = 40
WAVE = 10


@pytest_asyncio.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FleetProcess]:
    # Tokens of the fleet's parts are kept there, for commands of the same user.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    fleet = await FleetProcess.start(tmp_path, "--nodes", "2")
    try:
        yield await fleet.ready()
    finally:
        await fleet.stop()
        assert await fleet.left() == []


async def seen(world: World, colour: str, count: int) -> FleetView:
    """The fleet once it has so many usable nodes of a colour."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            view = await world.look()
            if sum(node.usable or not view.traffic.weights.get(colour) for node in view.colour(colour)) == count:
                return view
            await asyncio.sleep(0.1)


class Steps:
    """A deploy by hand, as its tool does it; each state is written to the fleet's store."""

    def __init__(self, store: FleetStore, world: World, runtime: LocalRuntime) -> None:
        self._store = store
        self.world = world
        self.runtime = runtime
        self._status = DeployStatus("d1", "planned", "blue", "green", "a test", "h1", 0, "", "")

    async def enter(self, state: DeployState) -> None:
        self._status = msgspec.structs.replace(self._status, state=state, renewals=self._status.renewals + 1)
        await self._store.put(DEPLOY_KEY, msgspec.json.encode(self._status), None)

    async def carry_out(self) -> None:
        """Blue to green."""
        await self.enter("starting")
        await self.world.put_traffic(0, {"blue": 100})
        await self.runtime.ensure("green", 2, What(version="2"))
        view = await seen(self.world, "green", 2)
        await self.enter("smoking")
        old = [SmokeTarget(node.name, f"{node.url.replace('http', 'ws')}/ws") for node in view.colour("blue")]
        for node in view.colour("green"):
            await smoke(SmokeTarget(node.name, f"{node.url.replace('http', 'ws')}/ws"), old)
        await self.enter("switching")
        assert await self.world.put_traffic(1, {"green": 100}) is not None
        await self.enter("moving")
        for node in view.colour("blue"):
            while await self.world.move(node, WAVE, 500):
                await asyncio.sleep(0.5)
        await self.enter("finishing")
        for node in view.colour("blue"):
            await self.world.drain(node, 500)
        await self.enter("holding")
        await asyncio.sleep(2)
        await self.enter("retiring")
        await self.runtime.remove("blue")
        await self.enter("done")


@needs("promtool")
async def test_a_deploy_alerts_nobody(fleet: FleetProcess, tmp_path: Path) -> None:
    """Not while it moves everybody, nor with the old colour gone; the same moves without a deploy are an alert."""
    runtime = LocalRuntime(tmp_path / "data")
    places = await runtime.places()
    settings = Settings()
    bus = msgspec.structs.replace(settings.bus, url=places.bus)
    witnesses = Witnesses(places.edge, CLIENTS)
    async with fleet_of(msgspec.structs.replace(settings, bus=bus), [places.balancer]) as (store, world):

        async def targets() -> Collection[Target]:
            nodes = (await world.look()).nodes
            page = f"http://127.0.0.1:{fleet.edge_port}/balancer-metrics?format=prometheus"
            return [
                Target("trunkline-balancer", f"127.0.0.1:{fleet.edge_port}", page),
                *(Target("trunkline-node", node.url.removeprefix("http://"), f"{node.url}/metrics") for node in nodes),
            ]

        await seen(world, "blue", 2)
        await witnesses.start()
        async with Recording(targets) as recording:
            await asyncio.sleep(2)
            await Steps(store, world, runtime).carry_out()
            await asyncio.sleep(2)
        counts = await witnesses.finish()
    assert (counts.lost, counts.duplicated) == (0, 0)
    assert recording.firing(tmp_path) == set()
    storm = recording.firing(tmp_path, without=("ws_deploy_state", "ws_draining", "ws_start_time_seconds"))
    assert storm == {"TrunklineReconnectStorm"}
