"""`trunkline up --monitor`: Prometheus and its neighbours start and end with the fleet, and watch every part of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.environment import environment
from tests.support.fleet_process import command
from tests.support.patience import patient

StartFleet = Any
PROGRAMS = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
missing = [name for name in PROGRAMS if shutil.which(name) is None]


async def targets(prometheus: str) -> dict[str, list[str]]:
    """Health of the targets by job."""
    async with aiohttp.ClientSession() as http, http.get(f"{prometheus}/api/v1/targets") as answer:
        found: dict[str, list[str]] = {}
        for target in (await answer.json())["data"]["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found


@pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
@pytest.mark.parametrize("edge", ["relay", "traefik"])
async def test_every_part_is_watched(start_fleet: StartFleet, edge: str) -> None:
    """Nodes, balancer, machine, Traefik and the watchers are scraped; a fleet that ends or is killed leaves nothing."""
    fleet = await (
        await start_fleet("--monitor", "--edge", edge, TRUNKLINE_MONITOR_SCRAPE_INTERVAL_MS="1000",
                          TRUNKLINE_MONITOR_SCRAPE_TIMEOUT_MS="900")
    ).ready()  # fmt: skip
    wanted = {"trunkline-node": 2, "trunkline-balancer": 1, "node": 1, "prometheus": 1, "alertmanager": 1}
    if edge == "traefik":
        wanted["traefik"] = 1
    async with asyncio.timeout(patient(40)):
        while await targets(fleet.addresses["prometheus"]) != {job: ["up"] * count for job, count in wanted.items()}:
            await asyncio.sleep(0.2)
    if edge == "relay":
        fleet.children()
        fleet.process.kill()
        await fleet.ended()
        assert await fleet.left() == []


async def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    """Without the programs on the PATH the fleet does not start, and says what to install."""
    process = await asyncio.create_subprocess_exec(
        *command("--monitor", "--port", "0", "--data-dir", str(tmp_path / "data")), cwd=tmp_path,
        env=environment(tmp_path, PATH=str(tmp_path)), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await asyncio.wait_for(process.communicate(), patient(40))
    assert process.returncode == 2
    assert "not installed: Prometheus, Alertmanager, node_exporter" in err.decode()
    assert "apt-get install prometheus" in err.decode()
