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
from trunkline.deploy.load_parts import smoking
from trunkline.deploy.machine.seen import Smoke, SmokeSeen
from trunkline.deploy.parts import DeployOptions, Parts
from trunkline.deploy.run import run_deploy
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.world.base import World
from trunkline.deploy.world.reach import fleet_of
from trunkline.load.deploys.witnesses import Witnesses
from trunkline.settings.sections import Settings

CLIENTS = 40
OVER_S = 2.0


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


async def ready(world: World) -> None:
    """Wait until both blue nodes take connections."""
    async with asyncio.timeout(DEADLINE_S):
        while sum(node.usable for node in (await world.look()).colour("blue")) < 2:
            await asyncio.sleep(0.1)


async def briefly(order: Smoke) -> SmokeSeen:
    """Use the new nodes, and do not take the time to measure them."""
    return await smoking()(msgspec.structs.replace(order, briefly=True))


@needs("promtool")
async def test_a_deploy_alerts_nobody(fleet: FleetProcess, tmp_path: Path) -> None:
    """Not while it moves everybody, nor with the old colour gone; the same moves without a deploy are an alert."""
    data = tmp_path / "data"
    places = await LocalRuntime(data).places()
    settings = Settings()
    bus = msgspec.structs.replace(settings.bus, url=places.bus)
    clients = Witnesses(places.edge, CLIENTS)
    async with fleet_of(msgspec.structs.replace(settings, bus=bus), [places.balancer]) as (store, world):

        async def targets() -> Collection[Target]:
            nodes = (await world.look()).nodes
            page = f"http://127.0.0.1:{fleet.edge_port}/balancer-metrics?format=prometheus"
            return [
                Target("trunkline-balancer", f"127.0.0.1:{fleet.edge_port}", page),
                *(Target("trunkline-node", node.url.removeprefix("http://"), f"{node.url}/metrics") for node in nodes),
            ]

        await ready(world)
        await clients.start()
        async with Recording(targets) as recording:
            await asyncio.sleep(1)
            outcome = await run_deploy(
                DeployOptions("green", runtime="local", what=What(version="2"), over_s=OVER_S, verify_s=1, keep_s=1),
                Parts(store, world, lambda _name: LocalRuntime(data), briefly, tick_s=0.2),
            )
            await asyncio.sleep(1)
        counts = await clients.finish(back_s=2)
    assert (outcome.state, outcome.why) == ("done", "")
    assert (counts.lost, counts.duplicated, counts.moved) == (0, 0, CLIENTS)
    assert recording.firing(tmp_path) == set()
    storm = recording.firing(tmp_path, without=("ws_deploy_state", "ws_draining", "ws_start_time_seconds"))
    assert storm == {"TrunklineReconnectStorm"}
