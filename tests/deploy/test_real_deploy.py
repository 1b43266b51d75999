"""A deploy over real nodes, a real balancer and a real NATS: nobody loses a message, and nobody is cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.deploy.real_fleet import real_fleet
from trunkline.deploy.run import read_status, run_deploy
from trunkline.load.deploys.witnesses import Witnesses


@pytest.mark.process
async def test_clients_of_a_real_fleet_are_moved_and_lose_nothing(tmp_path: Path) -> None:
    """Every client accounts for every message; the verdict is made of what the nodes and the witnesses counted."""
    async with real_fleet(tmp_path) as fleet, fleet.parts() as parts:
        clients = Witnesses(fleet.edge, 50)
        await clients.start()
        assert fleet.clients("blue") == 50
        outcome = await run_deploy(fleet.options(), parts)
        assert (fleet.clients("blue"), fleet.clients("green")) == (0, 50)
        theirs = await clients.finish()
        status = await read_status(parts.store)
    verdict = outcome.verdict
    assert (outcome.state, outcome.exit_code) == ("done", 0), verdict
    assert (theirs.lost, theirs.duplicated, theirs.gaps, theirs.moved) == (0, 0, 0, 50), theirs
    assert status is not None
    assert (status.state, status.holder) == ("done", "")
    facts = verdict.facts
    assert facts.witnesses is not None
    assert (facts.witnesses.lost, facts.witnesses.moved) == (0, 10)
    assert (facts.clients.at_switch, facts.clients.asked, facts.clients.returned) == (60, 60, 60)
    assert (facts.clients.forced, facts.clients.never_back, facts.clients.refused) == (0, 0, {})
    assert facts.rates.accepts_from in ("measured", "reported")
    assert 0 < facts.rates.peak_per_s <= 0.8 * facts.rates.accepts_per_s
    assert len(facts.samples) > 5
