"""`trunkline up` and `trunkline deploy run` together, with clients, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.deploy.command import deploy, start
from tests.support.fleet_process import FleetProcess
from tests.support.patience import patient
from trunkline.deploy.runtimes.local import LocalRuntime

StartFleet = Callable[..., Awaitable[FleetProcess]]

CLIENTS = 20
QUICK = ("--over", "1s", "--verify", "1s", "--keep", "0s", "--witnesses", "5", "--yes", "--data-dir", "data")


class Mover:
    """A client that comes back with its session when it is asked to move; `nodes` are those that it was at."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.nodes: list[str] = []
        self.codes: list[int | None] = []
        self._session = ""
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                query = f"?session={self._session}" if self._session else ""
                async with connect(self._url + query) as client:
                    await self._stay(client)
            except OSError:
                await asyncio.sleep(0.1)

    async def _stay(self, client: ClientConnection) -> None:
        try:
            greeting = json.loads(await client.recv())
            self.nodes.append(greeting["node"])
            self._session = greeting["session"]
            async for _ in client:
                pass
        except ConnectionClosed:
            pass
        self.codes.append(client.close_code)


async def movers(url: str) -> list[Mover]:
    found = [Mover(url) for _ in range(CLIENTS)]
    async with asyncio.timeout(patient(20)):
        while not all(mover.nodes for mover in found):
            await asyncio.sleep(0.05)
    return found


async def gone(found: list[Mover]) -> None:
    for mover in found:
        mover.running.cancel()
    await asyncio.gather(*(mover.running for mover in found), return_exceptions=True)


async def interrupted(tmp_path: Path) -> str:
    """Begin a deploy to green; once a second command was refused for it, Ctrl-C it: standard error."""
    process = await start(tmp_path, "run", "green", "--runtime", "local", *QUICK)
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(patient(60)):
            while b"starting" not in said:
                said += await process.stderr.readline()
            code, out, errors = await deploy(tmp_path, "run", "red", "--runtime", "local", *QUICK)
            assert (code, out) == (5, ""), errors
            assert f"process {process.pid}" in errors
            process.send_signal(signal.SIGINT)
            out, errors = await process.communicate()
        assert (process.returncode, out) == (130, b""), errors
        return (said + errors).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(("edge", "nodes"), [("relay", 2), ("traefik", 1)])
async def test_everybody_is_moved_and_the_new_colour_is_the_fleet(
    start_fleet: StartFleet, tmp_path: Path, edge: str, nodes: int
) -> None:
    """Exit 0; each client is told to move once and is at the new colour; the old processes are gone.

    At the relay it is held against a second deploy, interrupted, watched and resumed; Traefik's has it in one go.
    """
    fleet = await (await start_fleet("--edge", edge, "--nodes", str(nodes))).ready()
    fleet.children()
    clients = await movers(fleet.addresses["edge"]["websocket"])
    try:
        command, watching = ["run", "green", "--runtime", "local", *QUICK], None
        if edge == "relay":
            assert "; go on with: trunkline deploy resume" in await interrupted(tmp_path)
            command = ["resume", "--data-dir", "data"]
            watching = await start(tmp_path, "status", "--watch", "--json", "--data-dir", "data")
        code, out, errors = await deploy(tmp_path, *command, "--json", "--html", "verdict.html")
        assert code == 0, f"{out}\n{errors}"
        verdict: dict[str, Any] = json.loads(out)
        assert verdict["passed"]
        assert verdict["facts"]["witnesses"]["lost"] == 0
        assert verdict["facts"]["clients"]["forced"] == 0
        assert [node.name for node in await LocalRuntime(tmp_path / "data").list("")] == [
            f"green-{number}" for number in range(1, nodes + 1)
        ]
        async with asyncio.timeout(patient(10)):
            while not all(mover.nodes[-1].startswith("green-") for mover in clients):
                await asyncio.sleep(0.05)
        assert {tuple(mover.codes) for mover in clients} == {(1012,)}
        assert (tmp_path / "verdict.html").stat().st_size > 10_000
        assert "moving" in errors
        if watching is None:
            return
        seen, _ = await asyncio.wait_for(watching.communicate(), patient(10))
        states = [json.loads(line)["state"] for line in seen.splitlines()]
        assert (watching.returncode, states[-1]) == (0, "done")
        assert len(states) > 2
        code, out, _ = await deploy(tmp_path, "verdict", "--data-dir", "data")
        assert (code, "passed" in out) == (0, True)
        code, out, _ = await deploy(tmp_path, "verdict", "--data-dir", "data", "--threshold", "lasted<1s")
        assert (code, "lasted<1s" in out) == (1, True)
        code, out, _ = await deploy(tmp_path, "history", "--data-dir", "data")
        assert (code, out.count("blue -> green")) == (0, 1)
        code, out, _ = await deploy(tmp_path, "status", "--data-dir", "data", "--json")
        assert (code, json.loads(out)["state"]) == (0, "done")
    finally:
        await gone(clients)
        assert await fleet.stop() == 0
        assert await fleet.left() == []
