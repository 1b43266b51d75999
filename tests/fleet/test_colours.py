"""Nodes of other colours come and go in a running `trunkline up`, over its control socket."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.support.fleet_process import FleetProcess, refuses
from tests.support.patience import patient
from trunkline.deploy.runtimes.base import RuntimeFailed, What
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.process.control.messages import ListNodes, NodeProcess, Nodes
from trunkline.process.control.socket import ControlClient

StartFleet = Callable[..., Awaitable[FleetProcess]]


async def nodes_of(tmp_path: Path, colour: str = "") -> tuple[NodeProcess, ...]:
    answer = await ControlClient(tmp_path / "data").ask(ListNodes(colour), patient(5))
    assert isinstance(answer, Nodes)
    return answer.nodes


async def test_a_colour_joins_takes_over_and_the_old_one_leaves(start_fleet: StartFleet, tmp_path: Path) -> None:
    """Both colours are shown; what stays is the fleet: it is restarted, counted and stopped as the first nodes were."""
    fleet = await (await start_fleet("--nodes", "1")).ready()
    runtime = LocalRuntime(tmp_path / "data")
    assert (await runtime.places()).edge == fleet.addresses["edge"]["websocket"]
    said = len(fleet.said)
    await runtime.ensure("green", 2, What(version="v2"))
    await runtime.ensure("green", 2, What(version="v2"))
    both = await fleet.hear(lambda message: message["type"] == "addresses", after=said)
    assert [(node["name"], node["colour"]) for node in both["nodes"]] == [
        ("node-1", "blue"), ("green-1", "green"), ("green-2", "green"),
    ]  # fmt: skip
    assert [(node.name, node.running) for node in await runtime.list("green")] == [("green-1", True), ("green-2", True)]
    async with connect(both["nodes"][1]["websocket"]) as client:
        assert json.loads(await client.recv())["node"] == "green-1"

    fleet.children()
    said = len(fleet.said)
    await runtime.remove("blue")
    assert refuses(fleet.port(0))
    after = await fleet.hear(lambda message: message["type"] == "addresses", after=said)
    assert [node["name"] for node in after["nodes"]] == ["green-1", "green-2"]
    assert await runtime.list("blue") == ()
    assert "started by trunkline up" in (await runtime.logs("node-1", 1000))[0]

    said = len(fleet.said)
    os.kill(after["nodes"][0]["pid"], signal.SIGKILL)
    await fleet.hear_event("state", "green-1", "ready again", after=said)
    assert [node.failures for node in await nodes_of(tmp_path, "green")] == [1, 0]
    assert await fleet.stop() == 0
    assert await fleet.left() == []
    with pytest.raises(RuntimeFailed, match="no `trunkline up` answers"):
        await runtime.list("green")


async def test_nodes_that_cannot_run_are_given_up_alone(start_fleet: StartFleet, tmp_path: Path) -> None:
    """An application that does not import, at once, and one that ends at its start, after three; the fleet goes on."""
    (tmp_path / "broken.py").write_text("raise LookupError('the moon is missing')\n")
    (tmp_path / "falls.py").write_text(
        "import os\nfrom trunkline import App\napp = App('falls')\n\n\n"
        "@app.on_startup\nasync def begin() -> None:\n    os._exit(7)\n"
    )
    fleet = await (await start_fleet("--nodes", "1")).ready()
    runtime = LocalRuntime(tmp_path / "data")
    await runtime.ensure("green", 1, What(app="broken:app"))
    await runtime.ensure("red", 1, What(app="falls:app"))
    await fleet.hear_event("ended", "green-1", "given up: green-1 cannot start: the module 'broken' cannot be imported")
    await fleet.hear_event("ended", "red-1", "given up: red-1 cannot start")
    found = {node.name: (node.state, node.pid, node.failures) for node in (await nodes_of(tmp_path))[1:]}
    assert found == {"green-1": ("stopped", 0, 1), "red-1": ("stopped", 0, 3)}
    (green,) = await runtime.list("green")
    assert "LookupError: the moon is missing" in green.given_up
    assert [node.given_up for node in await runtime.list("blue")] == [""]
    assert "LookupError: the moon is missing" in "\n".join(await runtime.logs("green-1"))
    # Still there until it is removed: asked for again it is not started again.
    await runtime.ensure("green", 1, What(app="broken:app"))
    assert [node.running for node in await runtime.list("green")] == [False]
    await runtime.remove("green")
    assert await runtime.list("green") == ()
    assert [node.state for node in await nodes_of(tmp_path, "blue")] == ["up"]
    assert await fleet.stop() == 0


async def test_what_cannot_be_found_is_named_before_anything_starts(start_fleet: StartFleet, tmp_path: Path) -> None:
    """No module, no interpreter, an interpreter without Trunkline, no `up`; an application that raises is found."""
    (tmp_path / "broken.py").write_text("raise LookupError('the moon is missing')\n")
    await (await start_fleet("--nodes", "1")).ready()
    runtime = LocalRuntime(tmp_path / "data")
    assert await runtime.check("green", What()) == ""
    assert await runtime.check("green", What(app="broken:app", python=sys.executable)) == ""
    assert "there is no module 'no_such'" in await runtime.check("green", What(app="no_such:app"))
    assert "module:attribute" in await runtime.check("green", What(app="broken"))
    assert "cannot be run" in await runtime.check("green", What(python=str(tmp_path / "no-python")))
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    assert "trunkline is not installed there" in await runtime.check("green", What(python=str(bare)))
    assert "--app" in await runtime.check("green", What(image="shop:2"))
    assert "no `trunkline up` answers" in await LocalRuntime(tmp_path / "elsewhere").check("green", What())
    assert [node.name for node in await nodes_of(tmp_path)] == ["node-1"]
