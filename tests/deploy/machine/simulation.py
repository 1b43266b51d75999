"""Runs the machine against a fleet in memory, and kills what drives it wherever a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from tests.support.deploy.pretend_fleet import PretendFleet, PretendNode
from trunkline.deploy.machine.plan import Deploy, Limits, Plan
from trunkline.deploy.machine.seen import Seen
from trunkline.deploy.machine.step import step
from trunkline.protocol.deploys import OVER

TICK_S = 0.25
LONGEST = 20_000


def fleet(clients: int = 200, *, starts: bool = True) -> PretendFleet:
    """Two blue nodes that share the clients."""
    return PretendFleet(
        PretendNode("blue-1", "blue", clients // 2),
        PretendNode("blue-2", "blue", clients - clients // 2),
        starts=starts,
    )


def plan(**changed: object) -> Plan:
    """From blue to two nodes of green, quickly."""
    made = Plan("d1", "blue", "green", 2, 2, over_s=10.0, verify_s=6.0, keep_s=5.0, witnesses=5, limits=Limits())
    return msgspec.structs.replace(made, **changed)


def run(
    fleet: PretendFleet,
    deploy: Deploy,
    *,
    on_step: Callable[[Deploy, PretendFleet], Seen | None] = lambda _deploy, _fleet: None,
    kills: Iterable[int] = (),
    entered: bool = False,
) -> Deploy:
    """Drive it until it is over or stuck.

    Args:
        fleet: what it is about.
        deploy: as it is stored.
        on_step: looks at each step and changes the fleet; what it returns adds a person's order.
        entered: another process has begun it.
        kills: number of actions after which the process dies, counted from its predecessor's death.
    """
    stored, found = msgspec.json.encode(deploy), Seen(fleet.now)
    ahead = iter(kills)
    dies, done = next(ahead, None), 0
    for _ in range(LONGEST):
        before = msgspec.json.decode(stored, type=Deploy)
        ordered = on_step(before, fleet)
        if ordered is not None:
            found = msgspec.structs.replace(found, order=ordered.order)
        seen = fleet.seen(msgspec.structs.replace(found, entered=entered), before.state)
        deploy, actions = step(before, seen)
        entered, found = False, Seen(fleet.now)
        stored = msgspec.json.encode(deploy)
        if deploy.state in OVER or (deploy.state == "stuck" and before.state == "stuck"):
            return deploy
        if dies is not None and done + len(actions) >= dies:
            # It dies after one of its actions, or before the first: no outcome reaches the next process.
            fleet.carry_out(actions[: dies - done], deploy.plan.what.version)
            entered, dies, done, fleet.witnesses = True, next(ahead, None), 0, None
            continue
        done += max(1, len(actions))
        found = fleet.carry_out(actions, deploy.plan.what.version)
        if deploy.state == before.state:
            fleet.pass_time(TICK_S)
    raise AssertionError(f"it goes on for ever in {deploy.state}: {deploy}")
