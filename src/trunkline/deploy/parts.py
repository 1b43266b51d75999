"""What a deploy is driven with, what it shows while it runs, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from trunkline.bus.base import FleetStore
from trunkline.deploy.lease.rules import LeaseTimes
from trunkline.deploy.machine.plan import Limits, OnSlow, Plan
from trunkline.deploy.machine.seen import Smoke, SmokeSeen, WitnessSeen
from trunkline.deploy.runtimes.base import Runtime, What
from trunkline.deploy.verdict.facts import Sample, StateSpan, WitnessFacts
from trunkline.deploy.verdict.verdict import DeployVerdict
from trunkline.deploy.world.base import World
from trunkline.load.scenario.comparison import Threshold
from trunkline.protocol.deploys import DeployState

ORDER_KEY: Final = "deploy-order"
"""Where a person's order to whoever drives the deploy is in the fleet's store."""


class DeployOptions(msgspec.Struct, frozen=True):
    """What `trunkline deploy run` was asked for.

    Attributes:
        nodes: of the new colour; 0 for as many as the old one has.
        without: balancers whose silence is accepted.
        owner: who runs it, in words for people: user, machine and process.
    """

    to_colour: str
    runtime: str = "none"
    what: What = What()
    nodes: int = 0
    over_s: float = 60.0
    rate: float | None = None
    verify_s: float = 30.0
    keep_s: float = 300.0
    witnesses: int = 50
    on_slow: OnSlow = "wait"
    without: tuple[str, ...] = ()
    owner: str = ""
    limits: Limits = Limits()


class WitnessRun(Protocol):
    """Sessions that publish and account for every message."""

    async def start(self) -> None:
        """Have all of them connected; raises TrunklineError."""

    def now(self) -> WitnessSeen:
        """How they are."""

    async def finish(self, back_s: float = ...) -> WitnessFacts:
        """Stop publishing, wait `back_s` for those that are away, and say what became of all messages."""


class Progress(msgspec.Struct, frozen=True):
    """What a view shows, about once a second and at each change of state.

    Attributes:
        since_s: seconds for which the state has lasted.
        to_move: clients that the move under way began with, None while nobody is moved; `left` of these are there.
        rate_per_s: pace of the move under way.
        why: the state was entered, or what it waits for.
        sample: the newest second, None before the first.
        witnesses: None while there are none.
    """

    id: str
    state: DeployState
    from_colour: str
    to_colour: str
    at_s: float
    since_s: float
    spans: tuple[StateSpan, ...]
    to_move: int | None
    left: int
    rate_per_s: float
    why: str
    sample: Sample | None
    witnesses: WitnessSeen | None
    notes: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True):
    """How a deploy, or this process' part of it, ended.

    Attributes:
        verdict: what was measured, and whether it passes; it is kept in the store once the deploy is over or stuck.
        interrupted: the process stopped, and the deploy goes on from this state when it is resumed.
    """

    id: str
    state: DeployState
    why: str
    verdict: DeployVerdict
    interrupted: bool = False

    @property
    def exit_code(self) -> Literal[0, 1, 3, 4, 6, 130]:
        """Of `trunkline deploy run` and `resume`."""
        if self.interrupted:
            return 130
        match self.state:
            case "done":
                return 0 if self.verdict.passed else 1
            case "rolled_back":
                return 3
            case "refused":
                return 6
            case _:
                return 4


async def _nothing_against(witnesses: int) -> str:
    return ""


@dataclass
class Parts:
    """What the driver works with. The caller starts and closes store and world; runtimes are closed by the driver.

    Attributes:
        runtime: opens the runtime of a plan; raises TrunklineError for one that there is not.
        smoke: uses nodes as a client does.
        witnesses: makes so many witnesses; None has a deploy go without.
        preflight: why so many witnesses cannot be run from here, empty when they can.
        thresholds: what the verdict has to keep to beside the default ones.
        on_progress: called with what a view shows.
        on_wait: called with what is waited for before this process drives, or instead of it.
        stop: once it is set the driver gives the lease up and returns; the deploy stays as it is.
        tick_s: between observations.
    """

    store: FleetStore
    world: World
    runtime: Callable[[Plan], Runtime]
    smoke: Callable[[Smoke], Awaitable[SmokeSeen]]
    witnesses: Callable[[int], WitnessRun] | None = None
    preflight: Callable[[int], Awaitable[str]] = _nothing_against
    thresholds: tuple[Threshold, ...] = ()
    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_wait: Callable[[str], None] = lambda _text: None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tick_s: float = 0.5
    times: LeaseTimes = LeaseTimes()  # noqa: RUF009 - a constant
