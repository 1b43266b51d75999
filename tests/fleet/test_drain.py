"""`trunkline drain` and `undrain` on a real fleet."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from websockets.asyncio.client import connect

from tests.support.environment import environment
from tests.support.fleet_process import FleetProcess
from tests.support.patience import patient

StartFleet = Callable[..., Awaitable[FleetProcess]]


async def trunkline(tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command of the same user; returns exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", *arguments,
        cwd=tmp_path, env=environment(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(patient(30)):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_node_is_emptied_and_takes_clients_again(start_fleet: StartFleet, tmp_path: Path) -> None:
    """By its name, found through the tokens that the nodes keep, or its address; the client is asked to move."""
    fleet = await (await start_fleet("--nodes", "2")).ready()
    admin = next(node["admin"] for node in fleet.addresses["nodes"] if node["name"] == "node-2")
    async with connect(fleet.websocket(1)) as client:
        code, out, err = await trunkline(tmp_path, "drain", "node-2", "--over", "0ms", "--wait")
        assert (code, err) == (0, "")
        assert out.splitlines()[0] == "node-2: draining, asks 1 client to move within 0 s"
        assert out.splitlines()[-1] == "node-2: 0 clients left"
        await client.wait_closed()
        assert client.close_code == 1012
    await fleet.hear_event("state", "node-2", "draining")
    code, out, _ = await trunkline(tmp_path, "undrain", admin, "--json")
    assert code == 0
    assert json.loads(out) == {"node": "node-2", "state": "up", "connections": 0, "over_ms": None}
    await fleet.hear_event("state", "node-2", "is up")
    code, _, err = await trunkline(tmp_path, "drain", "node-3")
    assert code == 2
    assert err.startswith("trunkline: no node is called 'node-3' on this machine; there are node-1, node-2.")
    code, _, err = await trunkline(tmp_path, "drain", "node-1", "--over", "soon")
    assert code == 2
    assert "--over" in err
