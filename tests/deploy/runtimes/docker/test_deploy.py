"""Deploys of a fleet whose every part is a container of the one image, on a real daemon that is also killed."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.fleet import container_fleet, said
from tests.support.patience import patient

pytest.importorskip("aiodocker", reason="the runtime needs the package aiodocker")


@pytest.mark.process
@pytest.mark.timeout(300)  # three deploys of real nodes in containers, and the daemon is killed twice
async def test_deploys_of_containers(docker: DockerDaemon, image: str, tmp_path: Path) -> None:
    """Refused without its image; rolled back when a node cannot start or the daemon goes away; then done."""
    async with container_fleet(docker, image, tmp_path, nodes=2) as fleet:
        blue = ["websocket-blue-1", "websocket-blue-2"]
        # An image that there is not.
        process = await fleet.deploy("green", "--image", "no-such-image:1")
        printed = await said(process)
        assert process.returncode == 6, printed
        assert "there is no image no-such-image:1" in printed
        assert fleet.nodes() == blue

        # One that starts and ends.
        wrong = f"FROM {image}\nENV TRUNKLINE_SERVER_APP=no:app\n"
        docker.docker("build", "--quiet", "--tag=broken:1", "-", stdin=wrong)
        process = await fleet.deploy("green", "--image", "broken:1", "--nodes", "1")
        printed = await said(process)
        assert process.returncode == 3, printed
        assert "rolled back from starting: websocket-green-1 cannot start: it exited with code 2" in printed
        assert fleet.nodes() == blue

        # The daemon is killed while a container is awaited that never says anything.
        silent = ("--entrypoint=sleep", "--stop-timeout=0")
        fleet.add("websocket-green", *silent, verb="create", colour="green", command=("300",))
        process = await fleet.deploy("green", "--nodes", "1")
        printed = await said(process, "starting")
        async with asyncio.timeout(patient(30)):
            while "websocket-green" not in docker.docker("ps", "--format", "{{.Names}}"):
                await asyncio.sleep(0.1)
        await asyncio.to_thread(docker.crash)
        printed += await said(process, "undoing")
        await asyncio.to_thread(docker.start)
        printed += await said(process)
        assert process.returncode == 3, printed
        assert "cannot be reached" in printed
        assert fleet.nodes() == blue

        # A release that works; the daemon is away while clients move, and back when blue is to be removed.
        load = ("load", "ws://edge:8080/ws", "--connections", "40", "--duration", "300s")
        fleet.add("clients", "--detach", colour="", command=load)
        docker.docker("tag", image, "trunkline:next")
        process = await fleet.deploy("green", "--image", "trunkline:next", "--version", "2", "--json")
        printed = await said(process, "moving")
        await asyncio.to_thread(docker.crash)
        printed += await said(process, "retiring")
        await asyncio.to_thread(docker.start)
        printed += await said(process)
        assert process.returncode == 0, printed
        running = docker.docker("ps", "--format", '{{.Image}} {{.Label "trunkline.colour"}}').splitlines()
        assert running.count("trunkline:next green") == 2
        assert fleet.nodes() == ["websocket-green-1", "websocket-green-2"]
        assert await fleet.ready() == 2
        verdict = json.loads(printed[printed.index("\n{") :])
        assert verdict["passed"]
        assert re.match(r"lost 0 of [1-9]\d* to 5 witnesses; (\d+) of \1 moved clients came back", verdict["words"])
