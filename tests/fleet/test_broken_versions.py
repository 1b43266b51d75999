"""A version that is broken, in whatever way, is rolled back by itself: its users are served, and lose nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from tests.support.deploy.command import deploy
from tests.support.deploy.up_fleet import LIMITS, TOKEN, UpFleet, up_fleet
from tests.support.patience import patient
from trunkline.deploy import load_parts
from trunkline.deploy.run import read_status
from trunkline.load.deploys.witnesses import Witnesses

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.process]

USERS = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[UpFleet, Witnesses]]:
    """One fleet for all of them, with clients that account for every message from the first test to the last."""
    with pytest.MonkeyPatch.context() as patched:
        # How fast a node is, is measured for longer where it matters.
        patched.setattr(load_parts, "MEASURE_S", 0.5)
        async with up_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
            users = Witnesses(fleet.edge, USERS)
            await users.start()
            try:
                yield fleet, users
            finally:
                counts = await users.finish()
            assert (counts.lost, counts.duplicated, counts.gaps, counts.absent) == (0, 0, 0, 0), counts


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(shared: tuple[UpFleet, Witnesses]) -> AsyncIterator[UpFleet]:
    """The fleet; each test leaves it as it was: one node, with all users."""
    found, users = shared
    yield found
    async with asyncio.timeout(patient(10)):
        while users.now().nodes != {"node-1": USERS}:
            await asyncio.sleep(0.05)
    now = users.now()
    assert (now.lost, now.duplicated, now.gaps) == (0, 0, 0), now
    assert [node.name for node in await found.local.list("")] == ["node-1"]


@pytest.mark.parametrize(
    ("app", "state", "why", "last"),
    [
        ("versions:waits", "starting", "0 of 1 nodes of green are announced", "waiting for the database"),
        ("versions:doubles", "smoking", "returned another text than it was sent", ""),
    ],
)
async def test_what_shows_before_the_switch_is_undone(
    fleet: UpFleet, shared: tuple[UpFleet, Witnesses], app: str, state: str, why: str, last: str
) -> None:
    """Exit 3, with the reason and what its node wrote last; no user is moved."""
    moved = shared[1].now().moved
    waits = app.endswith("waits")
    outcome = await fleet.deploy(app, limits=msgspec.structs.replace(LIMITS, start_s=1.5) if waits else LIMITS)
    assert (outcome.state, outcome.exit_code) == ("rolled_back", 3), outcome
    assert why in outcome.why
    facts = outcome.verdict.facts
    assert [span.state for span in facts.spans][-3:] == [state, "undoing", "rolled_back"]
    assert any(last in line for line in facts.last_lines["green-1"]), facts.last_lines
    assert shared[1].now().moved == moved
    if waits:
        # Its start hangs: it is ended by its own bound, not by that of the fleet.
        assert facts.spans[-2].to_s - facts.spans[-2].from_s < patient(10)


@pytest.mark.parametrize(
    ("app", "state", "why"),
    [
        ("versions:fails", "verifying", "500"),
        ("versions:lags", "verifying", "green"),
        ("versions:fails", "moving", "green"),
    ],
)
async def test_what_breaks_after_the_switch_is_taken_back(fleet: UpFleet, app: str, state: str, why: str) -> None:
    """Exit 3; traffic, and who was moved already, go back to the old colour."""
    limits = msgspec.structs.replace(LIMITS, lag_ms=500.0) if app.endswith("lags") else LIMITS
    outcome = await fleet.deploy(app, breaks_in={"verifying": "switching"}.get(state, state), limits=limits)
    assert (outcome.state, outcome.exit_code) == ("rolled_back", 3), outcome
    assert why in outcome.why
    facts = outcome.verdict.facts
    assert [span.state for span in facts.spans][-3:] == [state, "returning", "rolled_back"]
    assert facts.witnesses is not None
    assert (facts.witnesses.lost, facts.witnesses.duplicated, facts.witnesses.gaps) == (0, 0, 0)
    assert facts.clients.forced == 0


async def test_the_command_says_what_its_module_wrote(fleet: UpFleet) -> None:
    """One that does not import is undone, exit 3; one that cannot be found is refused, exit 6: nobody is moved."""

    async def run(app: str) -> tuple[int, str, str]:
        return await deploy(
            fleet.folder, "run", "green", "--runtime", "local", "--app", app, "--yes", "--data-dir", "data",
            TRUNKLINE_ADMIN_TOKEN=TOKEN,
        )  # fmt: skip

    code, _, errors = await run("no_such:app")
    assert code == 6, errors
    assert "there is no module 'no_such'" in errors
    code, out, errors = await run("unimportable:app")
    assert code == 3, (out, errors)
    assert "rolled back from starting: green-1 cannot start: the module 'unimportable' cannot be imported" in errors
    assert "LookupError: the moon is missing" in out.partition("green-1 wrote last:")[2]


async def test_an_application_that_is_not_there_is_refused(fleet: UpFleet) -> None:
    """Exit 6, before anything is begun."""
    outcome = await fleet.deploy("nowhere:app")
    assert (outcome.state, outcome.exit_code) == ("refused", 6)
    assert "there is no module 'nowhere'" in outcome.why
    assert [span.state for span in outcome.verdict.facts.spans] == ["planned", "refused"]


async def test_a_second_deploy_meanwhile_is_told_of_the_first(fleet: UpFleet) -> None:
    """Exit 5 with its owner and state, and it does not disturb it; an order to roll back reaches the first one."""
    first = asyncio.create_task(fleet.deploy("", verify_s=60.0))
    try:
        async with fleet.parts() as parts, asyncio.timeout(patient(30)):
            while (status := await read_status(parts.store)) is None or status.state != "verifying":
                await asyncio.sleep(0.1)
        code, _, errors = await deploy(
            fleet.folder, "run", "red", "--runtime", "local", "--yes", "--data-dir", "data", TRUNKLINE_ADMIN_TOKEN=TOKEN
        )
        assert code == 5, errors
        assert "to green is verifying since" in errors
        assert "driven by a test" in errors
        assert not first.done()
        code, out, errors = await deploy(fleet.folder, "rollback", "--data-dir", "data", TRUNKLINE_ADMIN_TOKEN=TOKEN)
        assert code == 3, (out, errors)
        assert "rolled back from verifying: rollback was asked for" in errors
        async with asyncio.timeout(patient(10)):
            outcome = await first
        assert (outcome.state, outcome.why) == ("rolled_back", "rollback was asked for")
    finally:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
