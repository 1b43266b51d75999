"""The commands of a deploy over a fleet in memory: driven, stopped, taken over, ordered about, and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode, PretendRuntime, PretendWorld
from tests.support.patience import patient
from trunkline.bus.store.memory import MemoryStore
from trunkline.deploy.lease.lease import LeaseHeld, LeaseTimes, NothingToResume
from trunkline.deploy.machine.plan import Limits
from trunkline.deploy.machine.seen import Smoke, SmokeSeen, WitnessSeen
from trunkline.deploy.parts import ORDER_KEY, DeployOptions, Outcome, Parts, Progress
from trunkline.deploy.run import Order, abort_deploy, deploy_of, read_status, resume_deploy, roll_back, run_deploy
from trunkline.deploy.verdict.facts import WitnessFacts
from trunkline.deploy.verdict.kept import read
from trunkline.deploy.world.base import FleetUnreachable
from trunkline.errors import TrunklineError
from trunkline.protocol.deploys import DEPLOY_KEY, DeployState

QUICK = LeaseTimes(renew_s=0.1, holds_s=0.4, expired_s=0.5)
LIMITS = Limits(settle_s=0.05, again_s=0.05, back_s=0.5, finish_s=0.5, start_s=2.0, gate_s=2.0, switch_s=2.0)


class Scene:
    """A fleet, a store, and what was shown and judged."""

    def __init__(self) -> None:
        self.fleet = PretendFleet(PretendNode("blue-1", "blue", 30), PretendNode("blue-2", "blue", 30))
        self.world = PretendWorld(self.fleet)
        self.runtime = PretendRuntime(self.fleet)
        self.store = MemoryStore()
        self.shown: list[Progress] = []

    def parts(self) -> Parts:
        """Those of one process."""
        return Parts(
            store=self.store, world=self.world, runtime=lambda _plan: self.runtime, smoke=self._smoke,
            on_progress=self.shown.append, tick_s=0.02, times=QUICK,
        )  # fmt: skip

    def options(self, **changed: object) -> DeployOptions:
        """From blue to green, quickly."""
        made = DeployOptions("green", over_s=0.2, verify_s=0.1, keep_s=0.0, owner="a test", limits=LIMITS)
        return msgspec.structs.replace(made, **changed)

    async def reaches(self, state: DeployState) -> None:
        """Wait until the stored deploy is in a state."""
        async with asyncio.timeout(patient(10)):
            while (status := await read_status(self.store)) is None or status.state != state:
                await asyncio.sleep(0.01)

    async def _smoke(self, action: Smoke) -> SmokeSeen:
        there = [self.fleet.nodes[node.name] for node in action.nodes]
        return SmokeSeen("; ".join(filter(None, (node.smokes for node in there))), {})


@pytest.fixture
def scene() -> Scene:
    """Sixty clients on two blue nodes."""
    return Scene()


async def test_a_deploy_from_beginning_to_end(scene: Scene) -> None:
    """Each state is stored and shown; the verdict is made before it is over; the lease is given up."""
    outcome = await run_deploy(scene.options(), scene.parts())
    assert (outcome.state, outcome.exit_code) == ("done", 0), outcome.verdict.words
    assert scene.fleet.clients("green") == 60
    status = await read_status(scene.store)
    assert status is not None
    assert (status.state, status.holder, status.from_colour, status.owner) == ("done", "", "blue", "a test")
    assert await read(scene.store) == outcome.verdict
    assert {progress.state for progress in scene.shown} >= {"starting", "moving", "done"}
    facts = outcome.verdict.facts
    assert (facts.clients.at_switch, facts.clients.asked, facts.clients.forced) == (60, 60, 0)
    assert facts.samples


async def test_it_can_be_interrupted_while_an_image_is_pulled(scene: Scene) -> None:
    """A runtime may take minutes to find out whether anything speaks against it."""
    parts, asked = scene.parts(), asyncio.Event()

    async def check(_colour: str, _what: object) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    scene.runtime.check = check  # type: ignore[method-assign]
    deploying = asyncio.create_task(run_deploy(scene.options(), parts))
    async with asyncio.timeout(patient(10)):
        await asked.wait()
        parts.stop.set()
        outcome = await deploying
    assert (outcome.state, outcome.interrupted) == ("planned", True)


async def test_a_new_colour_that_fails_is_rolled_back(scene: Scene) -> None:
    """Exit code 3, with what was wrong."""
    scene.fleet.new.smokes = "echo: nothing came back"
    outcome = await run_deploy(scene.options(), scene.parts())
    assert (outcome.state, outcome.exit_code) == ("rolled_back", 3)
    assert any("echo" in span.why for span in outcome.verdict.facts.spans)
    assert scene.fleet.colour("green") == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"to_colour": "blue"}, "deploy to another one"),
        ({"nodes": 0, "over_s": 0.01}, "--over 0.01s is too short"),
    ],
)
async def test_what_speaks_against_it_is_found_before_anything_is_touched(
    scene: Scene, changed: dict[str, object], why: str
) -> None:
    """Exit code 6, and nothing was ordered."""
    scene.fleet.generation, scene.fleet.weights = 1, {"blue": 100.0}
    outcome = await run_deploy(scene.options(**changed), scene.parts())
    assert (outcome.state, outcome.exit_code) == ("refused", 6)
    assert why in outcome.why
    assert (scene.fleet.generation, len(scene.fleet.nodes)) == (1, 2)


async def test_a_second_deploy_meanwhile(scene: Scene) -> None:
    """It is refused with who drives the first one and its state; the first one goes on."""
    first = asyncio.create_task(run_deploy(scene.options(verify_s=1.0), scene.parts()))
    await scene.reaches("verifying")
    with pytest.raises(LeaseHeld, match="a test"):
        await run_deploy(scene.options(to_colour="red"), scene.parts())
    with pytest.raises(LeaseHeld, match="verifying"):
        await resume_deploy(scene.parts(), "another")
    assert (await first).state == "done"


@pytest.mark.parametrize("state", ["starting", "gating", "verifying", "moving", "holding"])
async def test_a_process_that_stops_leaves_the_deploy_to_the_next(scene: Scene, state: DeployState) -> None:
    """Interrupted in order: exit code 130, and it is resumed at once."""
    parts = scene.parts()
    parts.on_progress = lambda progress: parts.stop.set() if progress.state == state else None
    outcome = await run_deploy(scene.options(over_s=0.4, verify_s=0.2, keep_s=0.2), parts)
    assert (outcome.state, outcome.interrupted, outcome.exit_code) == (state, True, 130)
    resumed = await resume_deploy(scene.parts(), "the next one")
    assert (resumed.state, resumed.exit_code) == ("done", 0)
    assert any("taken over" in note for note in resumed.verdict.facts.notes)
    assert resumed.verdict.facts.clients.asked == 60


async def test_a_process_that_dies_is_followed_when_its_lease_has_expired(scene: Scene) -> None:
    """Without a word: the deploy is taken over after the lease's time, not before."""
    first = asyncio.create_task(run_deploy(scene.options(over_s=5.0), scene.parts()))
    await scene.reaches("moving")
    await _dies(first)
    resumed = await resume_deploy(scene.parts(), "the next one")
    assert resumed.state == "done"
    assert scene.fleet.clients("green") == 60


@pytest.mark.parametrize("dies", [True, False])
async def test_a_verdict_says_that_nothing_is_known_of_witnesses(scene: Scene, dies: bool) -> None:
    """Those of a process that dies cannot be asked any more; one that stops in order leaves what they saw."""
    parts = scene.parts()
    parts.witnesses = PretendWitnesses
    first = asyncio.create_task(run_deploy(scene.options(over_s=5.0), parts))
    await scene.reaches("moving")
    if dies:
        await _dies(first)
    else:
        parts.stop.set()
        await first
    facts = (await resume_deploy(scene.parts(), "the next one")).verdict.facts
    assert (facts.witnesses is None) is dies
    assert any("what the witnesses had seen" in note for note in facts.notes) is dies


@pytest.mark.parametrize(
    ("command", "state"), [(roll_back, "rolled_back"), (abort_deploy, "refused")], ids=["rollback", "abort"]
)
@pytest.mark.parametrize("driven", [True, False])
async def test_a_person_ends_it(
    scene: Scene, command: Callable[[Parts, str], Awaitable[Outcome]], state: DeployState, driven: bool
) -> None:
    """Whether a process drives it, which then hears of it, or none does."""
    first = asyncio.create_task(run_deploy(scene.options(keep_s=60.0), scene.parts()))
    await scene.reaches("holding")
    if not driven:
        await _dies(first)
    outcome = await command(scene.parts(), "a person")
    assert outcome.state == state
    if driven:
        assert (await first).state == state
    if command is roll_back:
        assert (scene.fleet.clients("blue"), scene.fleet.colour("green")) == (60, [])
    else:
        assert (scene.fleet.clients("green"), len(scene.fleet.nodes)) == (60, 4)


async def test_an_order_outlives_the_process_that_was_to_hear_it(scene: Scene) -> None:
    """It dies before it hears: whoever gave the order carries it out once the lease has expired."""
    first = asyncio.create_task(run_deploy(scene.options(keep_s=60.0), scene.parts()))
    await scene.reaches("holding")
    scene.store = DeafStore(scene.store)
    ordered = asyncio.create_task(roll_back(scene.parts(), "a person"))
    await asyncio.wait_for(scene.store.ordered.wait(), patient(10))
    await _dies(first)
    outcome = await ordered
    assert outcome.state == "rolled_back"
    assert scene.fleet.clients("blue") == 60


async def test_an_order_is_heard_once(scene: Scene) -> None:
    """One that led nowhere is none for a process that takes over later."""
    parts = scene.parts()
    parts.on_progress = lambda progress: parts.stop.set() if progress.state == "holding" else None
    await run_deploy(scene.options(keep_s=60.0), parts)
    status = await read_status(scene.store)
    assert status is not None
    heard = msgspec.structs.replace(deploy_of(status), heard="n1", since=-60.0)
    record = msgspec.Raw(msgspec.json.encode(heard))
    await scene.store.put(DEPLOY_KEY, msgspec.json.encode(msgspec.structs.replace(status, record=record)), None)
    await scene.store.put(ORDER_KEY, msgspec.json.encode(Order(status.id, "rollback", "a person", "n1")), None)
    assert (await resume_deploy(scene.parts(), "the next one")).state == "done"


async def test_without_a_deploy_there_is_nothing_to_resume(scene: Scene) -> None:
    """It is said so, and a deploy that is over counts as none."""
    with pytest.raises(NothingToResume):
        await resume_deploy(scene.parts(), "a person")
    await run_deploy(scene.options(), scene.parts())
    with pytest.raises(NothingToResume, match="done"):
        await roll_back(scene.parts(), "a person")


async def test_without_a_balancer_nothing_begins(scene: Scene) -> None:
    """Nothing is stored."""
    scene.fleet.reachable = False
    with pytest.raises(FleetUnreachable):
        await run_deploy(scene.options(), scene.parts())
    assert await scene.store.get(DEPLOY_KEY) is None


async def test_a_runtime_that_there_is_not(scene: Scene) -> None:
    """The lease is given up again."""

    def none(name: str) -> PretendRuntime:
        raise TrunklineError(f"no runtime {name}")

    parts = scene.parts()
    parts.runtime = none
    with pytest.raises(TrunklineError, match="no runtime"):
        await run_deploy(scene.options(), parts)
    status = await read_status(scene.store)
    assert status is not None
    assert status.holder == ""


class PretendWitnesses:
    """Witnesses that are well."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def start(self) -> None:
        """They are there at once."""

    def now(self) -> WitnessSeen:
        return WitnessSeen(self._count, self._count)

    async def finish(self, back_s: float = 0.0) -> WitnessFacts:
        return WitnessFacts(self._count, 10, 50, 0, 0, 0, self._count, {})


class DeafStore:
    """A store that keeps orders from whoever watches for them."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.ordered = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, key: str, value: bytes, expected: int | None) -> int:
        if key == ORDER_KEY:
            self.ordered.set()
            return 1
        return await self._store.put(key, value, expected)


async def _dies(process: asyncio.Task[Outcome]) -> None:
    """End it as a kill does: its lease is not given up."""
    process.cancel()
    await asyncio.wait({process})
