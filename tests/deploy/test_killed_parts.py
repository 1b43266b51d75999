"""kill -9 of a part of the fleet during a deploy: nobody loses a message, and the verdict says what has happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.deploy.killable_fleet import KillableFleet, killable_fleet
from tests.support.patience import patient
from trunkline.deploy.parts import Outcome, Progress
from trunkline.deploy.run import run_deploy
from trunkline.load.deploys.witnesses import WitnessCounts, Witnesses

CLIENTS = 50

pytestmark = pytest.mark.process


EACH_IS_GONE = ("node blue-1 is gone", "node green-1 is gone", r"balancer .* is gone")


async def one_of_each(fleet: KillableFleet) -> None:
    """Kill a node of each colour and the balancer that clients go through, all at once."""
    await asyncio.gather(fleet.kill_node("blue-1"), fleet.kill_node("green-1"), fleet.kill_balancer())


def assert_nothing_lost(outcome: Outcome, theirs: WitnessCounts) -> None:
    """The deploy is done, and its clients are all there with all messages, each once."""
    assert outcome.state == "done", outcome.verdict
    assert (theirs.lost, theirs.duplicated, theirs.gaps, theirs.absent) == (0, 0, 0, 0), theirs
    assert {places[-1].partition("-")[0] for places in theirs.places} == {"green"}


@pytest.mark.parametrize(
    ("kill", "notes", "keep_s"),
    [
        pytest.param(one_of_each, EACH_IS_GONE, 8.0, id="an old node, a new one and a balancer"),
        pytest.param(KillableFleet.kill_nats, (r"the fleet's store was away",), 0.0, id="NATS"),
    ],
)
async def test_killed_while_clients_move(
    kill: Callable[[KillableFleet], Awaitable[None]], notes: tuple[str, ...], keep_s: float, tmp_path: Path
) -> None:
    """Acknowledged publications are not lost, clients end on the new colour, and the verdict names what was killed.

    A balancer takes some seconds to call a node or another balancer gone: `keep_s` has the deploy last as long.
    """
    killing: list[asyncio.Future[None]] = []
    async with killable_fleet(tmp_path) as fleet:

        def on_progress(progress: Progress) -> None:
            if progress.state == "moving" and progress.to_move and progress.left < progress.to_move and not killing:
                killing.append(asyncio.ensure_future(kill(fleet)))

        async with fleet.parts(on_progress) as parts:
            clients = Witnesses(fleet.edge.url, CLIENTS)
            await clients.start()
            outcome = await run_deploy(fleet.options(keep_s=keep_s), parts)
            await asyncio.gather(*killing)
            theirs = await clients.finish()
    assert len(killing) == 1
    assert_nothing_lost(outcome, theirs)
    facts = outcome.verdict.facts
    assert facts.witnesses is not None
    assert (facts.witnesses.lost, facts.witnesses.duplicated, facts.witnesses.gaps) == (0, 0, 0)
    for note in notes:
        assert any(re.match(note, each) for each in facts.notes), (note, facts.notes)
    failed = [each for each in outcome.verdict.thresholds if not each.passed]
    assert not failed, (failed, facts.clients)


async def test_a_dead_old_colour_is_no_reason_not_to_deploy_a_fix(tmp_path: Path) -> None:
    """Its nodes are dead and its clients nowhere: the new colour gets them all, with all that they had missed."""
    async with killable_fleet(tmp_path) as fleet, fleet.parts() as parts:
        clients = Witnesses(fleet.edge.url, CLIENTS)
        await clients.start()
        await asyncio.gather(fleet.kill_node("blue-1"), fleet.kill_node("blue-2"))
        async with asyncio.timeout(patient(20)):
            while any(node.usable for node in (await parts.world.look()).colour("blue")):
                await asyncio.sleep(0.1)
        outcome = await run_deploy(fleet.options(nodes=2), parts)
        theirs = await clients.finish()
    assert_nothing_lost(outcome, theirs)
    assert (outcome.verdict.facts.from_colour, outcome.verdict.facts.clients.asked) == ("blue", 0)
