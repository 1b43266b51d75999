"""Deploys of a fleet of containers, by the command, on a real daemon that is also killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.fleet import container_fleet, said
from tests.support.docker.image import add_image
from tests.support.docker.namespace import CannotRun
from tests.support.patience import patient

pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")


@pytest.fixture
def daemon() -> Iterator[DockerDaemon]:
    """One that leaves its containers alive when it ends."""
    try:
        daemon = DockerDaemon("--live-restore")
        daemon.start()
    except CannotRun as why:
        pytest.skip(str(why))
    try:
        yield daemon
    finally:
        daemon.remove()


@pytest.mark.process
@pytest.mark.timeout(300)  # four deploys of real nodes in containers, and the daemon is killed twice
async def test_deploys_of_containers(daemon: DockerDaemon, tmp_path: Path) -> None:
    """Refused without its image; rolled back when a node cannot start or the daemon goes away; then done."""
    try:
        image = await asyncio.to_thread(add_image, daemon)
    except CannotRun as why:
        pytest.skip(str(why))
    async with container_fleet(daemon, image, tmp_path) as fleet:
        # An image that there is not.
        process = await fleet.deploy("green", "--image", "no-such-image:1")
        printed = await said(process)
        assert process.returncode == 6, printed
        assert "there is no image no-such-image:1" in printed
        assert fleet.containers() == ["websocket-blue"]

        # One that starts and ends.
        daemon.docker(
            "build", "--quiet", "--tag=broken:1", "-", stdin=f"FROM {image}\nENV TRUNKLINE_SERVER_APP=no:app\n"
        )
        process = await fleet.deploy("green", "--image", "broken:1")
        printed = await said(process)
        assert process.returncode == 3, printed
        assert "rolled back from starting: websocket-green cannot start: it exited with code 2" in printed
        assert fleet.containers() == ["websocket-blue"]

        # The daemon is killed while a container is awaited that never says anything.
        fleet.add(
            "websocket-green", "--entrypoint=sleep", "--stop-timeout=0", verb="create", colour="green", command=("300",)
        )
        process = await fleet.deploy("green")
        printed = await said(process, "starting")
        async with asyncio.timeout(patient(30)):
            while "websocket-green" not in daemon.docker("ps", "--format", "{{.Names}}"):
                await asyncio.sleep(0.1)
        await asyncio.to_thread(daemon.crash)
        printed += await said(process, "undoing")
        await asyncio.to_thread(daemon.start)
        printed += await said(process)
        assert process.returncode == 3, printed
        assert "cannot be reached" in printed
        assert fleet.containers() == ["websocket-blue"]

        # A release that works; the daemon is away while clients move, and back when blue is to be removed.
        process = await fleet.deploy("green", "--version", "2", "--json")
        printed = await said(process, "moving")
        await asyncio.to_thread(daemon.crash)
        printed += await said(process, "retiring")
        await asyncio.to_thread(daemon.start)
        printed += await said(process)
        assert process.returncode == 0, printed
        assert fleet.containers() == ["websocket-green"]
        assert await fleet.ready() == 1
        facts = json.loads(printed[printed.index("\n{") :])
        assert facts["passed"]
