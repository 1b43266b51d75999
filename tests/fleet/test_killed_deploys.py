"""kill -9 of the tool around what it orders of `trunkline up`: the next one goes on, and nobody loses a message."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.support.deploy.killed import DiesAt, When
from tests.support.deploy.real_fleet import LIMITS
from tests.support.deploy.tool import NEVER, ToolOrder, use_tool
from tests.support.environment import environment
from tests.support.fleet_process import FleetProcess
from trunkline.deploy.parts import DeployOptions
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.load.deploys.witnesses import Witnesses
from trunkline.process.control.messages import Places
from trunkline.protocol.deploys import OVER
from trunkline.settings.sections import BusSettings

StartFleet = Callable[..., Awaitable[FleetProcess]]

CLIENTS = 20
WHEN: Final[tuple[When, ...]] = ("stored", "observed")
FULL = "KILL_AT_EVERY_WRITE"
"""Environment variable that has the sweeps run, which take half an hour."""


class Fleet:
    """`trunkline up` with one node, clients that account for every message, and tools that die."""

    def __init__(self, folder: Path, places: Places) -> None:
        self._folder = folder
        self._places = places
        self._runtime = LocalRuntime(folder / "data")
        self.clients = Witnesses(places.edge, CLIENTS)

    async def use(self, command: str, dies_at: DiesAt = NEVER, *, to: str = "green") -> str:
        """A tool that dies, or drives a deploy to its end: the state, empty when it was killed."""
        places = self._places
        options = DeployOptions(
            to, runtime="local", nodes=1, over_s=1.0, verify_s=0.5, keep_s=0.3, witnesses=3, owner="a test",
            limits=LIMITS,
        )  # fmt: skip
        order = ToolOrder(
            command, places.bus, BusSettings().prefix, places.balancer, "", places.edge, options,
            data_dir=str(self._folder / "data"), dies_at=dies_at,
        )  # fmt: skip
        return await use_tool(order, environment(self._folder))

    async def nodes(self) -> tuple[str, ...]:
        """The colours that run, one for each node."""
        return tuple(node.colour for node in await self._runtime.list("") if node.running)


@pytest_asyncio.fixture
async def fleet(start_fleet: StartFleet, tmp_path: Path) -> Fleet:
    await (await start_fleet("--nodes", "1")).ready()
    made = Fleet(tmp_path, await LocalRuntime(tmp_path / "data").places())
    await made.clients.start()
    return made


async def unharmed(fleet: Fleet) -> None:
    """Every message has come once."""
    theirs = await fleet.clients.finish()
    assert (theirs.lost, theirs.duplicated, theirs.gaps) == (0, 0, 0), theirs


async def test_killed_around_the_removal_of_the_old_colour(fleet: Fleet) -> None:
    """In `retiring`, at each point between its intent and its outcome; there is no way back from it."""
    assert await fleet.use("run", DiesAt(state="starting", when="observed")) == ""
    assert await fleet.use("resume", DiesAt(state="retiring")) == ""
    assert await fleet.nodes() == ("blue", "green")
    assert await fleet.use("resume", DiesAt(remove="before")) == ""
    assert await fleet.nodes() == ("blue", "green")
    assert await fleet.use("rollback", DiesAt(remove="after")) == ""
    assert await fleet.nodes() == ("green",)
    assert await fleet.use("resume") == "done"
    assert await fleet.nodes() == ("green",)
    await unharmed(fleet)


async def test_killed_around_the_removal_of_the_new_colour(fleet: Fleet) -> None:
    """In `undoing`, before anybody was moved, and in `returning`, afterwards."""
    assert await fleet.use("run", DiesAt(state="gating")) == ""
    assert await fleet.use("rollback", DiesAt(state="undoing")) == ""
    assert await fleet.nodes() == ("blue", "green")
    assert await fleet.use("resume", DiesAt(remove="before")) == ""
    assert await fleet.use("resume", DiesAt(remove="after")) == ""
    assert await fleet.nodes() == ("blue",)
    assert await fleet.use("resume") == "rolled_back"

    assert await fleet.use("run", DiesAt(state="finishing")) == ""
    assert await fleet.use("rollback", DiesAt(state="returning")) == ""
    assert await fleet.use("resume", DiesAt(state="returning", when="observed")) == ""
    assert await fleet.use("resume", DiesAt(remove="before")) == ""
    assert await fleet.nodes() == ("blue", "green")
    assert await fleet.use("resume", DiesAt(remove="after")) == ""
    assert await fleet.nodes() == ("blue",)
    assert await fleet.use("resume") == "rolled_back"
    await unharmed(fleet)


SWEEPS: Final = {
    "a deploy, then resumed": (NEVER, "run", "resume"),
    "a deploy, then rolled back": (NEVER, "run", "rollback"),
    "while it is undone": (DiesAt(state="smoking"), "rollback", "resume"),
    "while clients return": (DiesAt(state="finishing"), "rollback", "resume"),
}
"""Where the first tool dies, if it is not the one that is swept; which one is; what the next one does."""


@pytest.mark.skipif(FULL not in os.environ, reason=f"set {FULL}=1 to run it")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("sweep", SWEEPS)
async def test_killed_at_every_write(fleet: Fleet, sweep: str) -> None:
    """One deploy for each write, killed once it is stored, and another one once it was carried out."""
    first, swept, then = SWEEPS[sweep]
    at, other = "blue", "green"
    for write in itertools.count(1):
        killed = False
        for when in WHEN:
            if first is not NEVER:
                assert await fleet.use("run", first, to=other) == ""
            state = await fleet.use(swept, DiesAt(write, when=when), to=other)
            killed = killed or not state
            state = state or await fleet.use(then)
            print(f"{sweep}: write {write}, {when}: {state}", flush=True)
            assert state in OVER
            if state == "done":
                at, other = other, at
            assert await fleet.nodes() == (at,)
        if not killed:
            break
    await unharmed(fleet)
