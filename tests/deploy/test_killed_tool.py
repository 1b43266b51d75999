"""kill -9 of the tool in each state, on real nodes: the next one takes over, and nobody loses a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.deploy.killed import DiesAt
from tests.support.deploy.real_fleet import TOKEN, RealFleet, real_fleet
from tests.support.deploy.tool import NEVER, ToolOrder, use_tool
from trunkline.deploy.run import deploy_of, read_status
from trunkline.load.deploys.witnesses import Witnesses

FORWARD = ("planned", "starting", "gating", "smoking", "switching", "verifying", "moving", "finishing", "holding")


async def drive(
    fleet: RealFleet,
    command: str,
    dies_at: DiesAt = NEVER,
    *,
    dies_in: str = "",
    after_s: float = 0.0,
    over_s: float = 1.0,
) -> str:
    """Run a tool to its end: the state that it printed, empty when it was killed."""
    options = fleet.options(over_s=over_s, verify_s=0.5, keep_s=0.2, witnesses=5)
    admin = f"http://127.0.0.1:{fleet.balancer.up['admin_port']}"
    bus = fleet.scene.bus
    return await use_tool(
        ToolOrder(
            command, bus.url, bus.prefix, admin, TOKEN, fleet.edge, options, dies_at=dies_at, dies_in=dies_in,
            after_s=after_s,
        )
    )  # fmt: skip


@pytest.mark.process
async def test_killed_in_every_state_a_deploy_is_done(tmp_path: Path) -> None:
    """One deploy, driven by as many tools as it has states: each dies in its own, once its intent is stored.

    What dies between two actions of one state is tested over a fleet in memory.
    """
    async with real_fleet(tmp_path) as fleet, fleet.parts() as parts:
        clients = Witnesses(fleet.edge, 40)
        await clients.start()
        ended, command = "", "run"
        for state in FORWARD:
            ended = ended or await drive(fleet, command, DiesAt(state=state))
            command = "resume"
        status = await read_status(parts.store)
        assert status is not None
        notes = deploy_of(status).notes
        ended = ended or await drive(fleet, command)
        assert (fleet.clients("blue"), fleet.clients("green")) == (0, 40)
        theirs = await clients.finish()
    assert ended == "done"
    assert (theirs.lost, theirs.duplicated, theirs.gaps) == (0, 0, 0), theirs
    assert sum("taken over" in note for note in notes) >= len(FORWARD) - 1


@pytest.mark.process
async def test_killed_on_the_way_forth_and_back_it_is_rolled_back(tmp_path: Path) -> None:
    """It dies while clients move; the next tool returns them and dies as well; the third one ends it."""
    async with real_fleet(tmp_path) as fleet:
        clients = Witnesses(fleet.edge, 40)
        await clients.start()
        assert await drive(fleet, "run", dies_in="moving", after_s=1.0, over_s=3.0) == ""
        assert await drive(fleet, "rollback", dies_in="returning", after_s=0.5) == ""
        assert await drive(fleet, "resume") == "rolled_back"
        assert (fleet.clients("blue"), fleet.clients("green")) == (40, 0)
        theirs = await clients.finish()
    assert (theirs.lost, theirs.duplicated, theirs.gaps) == (0, 0, 0), theirs
