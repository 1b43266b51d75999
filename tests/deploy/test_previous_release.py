"""A fleet goes to the previous release and back, by real processes, behind a balancer of this release.

It takes half a minute: two whole deploys, each with its smoking, its watching and its waves.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.support.environment import environment
from tests.support.fleet_process import FleetProcess
from tests.support.previous_release import previous_python
from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Limits
from trunkline.deploy.parts import DeployOptions, Outcome, Parts
from trunkline.deploy.run import run_deploy
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.world.reach import fleet_of
from trunkline.settings.sections import BusSettings, Settings

WITNESSES = 40
LIMITS = Limits(settle_s=1.0, finish_s=5.0, lag_ms=5_000.0)
"""A busy machine lags; what lag does is tested without it."""


@pytest.mark.process
async def test_to_the_previous_release_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody moves and loses nothing; what nodes of the previous release do not report is unknown, not 0."""
    python = previous_python(tmp_path / "previous")
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, environment(tmp_path)[name])
    fleet = await FleetProcess.start(tmp_path, "--nodes", "1")
    try:
        await fleet.ready()
        there = await deployed(tmp_path, "green", What(python=str(python)))
        back = await deployed(tmp_path, "blue", What())
    finally:
        await fleet.stop()
        assert await fleet.left() == []
    for outcome in (there, back):
        facts = outcome.verdict.facts
        assert (outcome.state, outcome.exit_code, facts.notes) == ("done", 0, ()), outcome.verdict
        assert facts.witnesses is not None
        assert (facts.witnesses.lost, facts.witnesses.duplicated, facts.witnesses.gaps) == (0, 0, 0), facts.witnesses
        assert facts.witnesses.moved == WITNESSES
        clients = facts.clients
        assert (clients.at_switch, clients.asked, clients.forced) == (WITNESSES, WITNESSES, 0)
        assert (clients.returned, clients.never_back, clients.gaps, clients.away_s) == (None, None, None, {})
        assert "whether they came back is unknown; " in outcome.verdict.words
    # Nodes of this release count who comes to them, whoever sent them.
    assert (there.verdict.facts.clients.recovered, there.verdict.facts.clients.refused) == (None, None)
    assert there.verdict.facts.rates.peak_per_s is None
    assert back.verdict.facts.clients.recovered
    assert back.verdict.facts.clients.refused == {}
    assert back.verdict.facts.rates.peak_per_s


async def deployed(tmp_path: Path, colour: str, what: What) -> Outcome:
    """Deploy to a colour of the fleet that runs."""
    runtime = LocalRuntime(tmp_path / "data")
    places = await runtime.places()
    async with fleet_of(Settings(bus=BusSettings(url=places.bus)), [places.balancer], owner="a test") as fleet:
        parts = Parts(fleet.store, fleet.world, lambda _name: runtime, smoking(), partial(LoadWitnesses, places.edge))
        options = DeployOptions(
            colour, "local", what, over_s=2.0, verify_s=1.0, keep_s=0.0, witnesses=WITNESSES, owner="a test",
            limits=LIMITS,
        )  # fmt: skip
        return await run_deploy(options, parts)
