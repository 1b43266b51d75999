"""`trunkline load` against a whole fleet: every message is accounted for, through the edge and over all nodes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.environment import environment
from tests.support.fleet_process import FleetProcess
from tests.support.patience import patient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FleetProcess]:
    """Two nodes behind the relay."""
    fleet = await FleetProcess.start(tmp_path_factory.mktemp("fleet"), "--nodes", "2")
    try:
        yield await fleet.ready()
    finally:
        await fleet.stop()


async def load(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it; exit code and report."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", "load", *arguments, "--json",
        cwd=tmp_path, env=environment(tmp_path), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), patient(100))
    assert process.returncode is not None
    assert out, err.decode()
    return process.returncode, json.loads(out)


async def test_a_short_smoke(fleet: FleetProcess, tmp_path: Path) -> None:
    """A minute's worth of trust in three seconds: exit 0, nothing missing, the nodes' own counts meet ours exactly."""
    url = fleet.addresses["edge"]["websocket"]
    code, report = await load(tmp_path, url, "--connections", "60", "--duration", "3s", "--rate", "80")
    assert (code, report["verdict"]) == (0, "passed"), report["thresholds"]
    assert report["protocol"] == "feed"
    totals = report["totals"]
    assert totals["opened"] == 60
    assert totals["published"] == totals["acknowledged"] > 200
    assert totals["lost"] == totals["duplicates"] == totals["reordered"] == 0
    assert {line["what"]: line["ours"] - line["theirs"] for line in report["balances"]} == {
        "connections opened": 0, "messages to the servers": 0, "messages from the servers": 0,
        "publications dropped": 0, "connections ended": 0,
    }  # fmt: skip
    assert any(second["server"] and second["server"]["servers"] == 2 for second in report["seconds"])


async def test_connections_that_break_lose_nothing(fleet: FleetProcess, tmp_path: Path) -> None:
    """The scenario of drops and recovery, over two processes: each client recovers, across nodes, exactly once."""
    url = fleet.addresses["edge"]["websocket"]
    code, report = await load(
        tmp_path, url, "--scenario", "replay", "--connections", "40", "--duration", "8s", "--processes", "2"
    )
    assert (code, report["verdict"]) == (0, "passed"), (report["thresholds"], report["reasons"], report["warnings"])
    assert report["workers"] == 2
    assert report["totals"]["cut"] >= 10
    assert report["totals"]["recovered"] > 0
    assert report["totals"]["unrecovered"] == report["totals"]["lost"] == report["totals"]["duplicates"] == 0


@pytest.mark.parametrize("path", ["/ws/echo", "/ws/chat/tester", "/api/game?matchId=1"])
async def test_other_endpoints(fleet: FleetProcess, tmp_path: Path, path: str) -> None:
    """The echo is found out by itself; what takes no subscription is told to need a scenario of its own."""
    url = fleet.addresses["nodes"][0]["websocket"].removesuffix("/ws") + path
    if path == "/ws/echo":
        code, report = await load(tmp_path, url, "--connections", "10", "--duration", "2s", "--rate", "50")
        assert (code, report["protocol"]) == (0, "echo")
        return
    scenario = tmp_path / "own.toml"
    send = '{"type":"message","text":"line {n}"}' if "chat" in path else '{"id":{n},"x":{connection}}'
    expect = "message_response" if "chat" in path else "publish_ack"
    scenario.write_text(
        f"[[stages]]\nduration = 0.2\nconnections = 5\n\n[[stages]]\nduration = 2\nconnections = 5\n\n"
        f"[[steps]]\nsend = '{send}'\nexpect = '{expect}'\npause = 0.2\n"
    )
    code, report = await load(tmp_path, url, "--scenario", str(scenario))
    assert (code, report["protocol"]) == (0, "steps"), report["reasons"]
    assert report["latencies"]["round_trip"]["quantiles"]["count"] > 30
    assert os.path.basename(report["scenario"]) == "own"
