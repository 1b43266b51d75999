"""One step of a deploy: what it is and what is seen go in, what it becomes and what to do come out. Pure.

Rules:

- A step carries nothing out. Its caller stores what the deploy has become, and only then carries out the actions: so
  what is stored is the intent, and what was observed is known to the next step.
- A person's order is heard before anything else, where the table lets it lead somewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from trunkline.deploy.machine import after, before
from trunkline.deploy.machine.noticing import noticed, outage
from trunkline.deploy.machine.plan import MOST_SPANS, Deploy, shortened
from trunkline.deploy.machine.rules import Decided
from trunkline.deploy.machine.seen import Action, Seen
from trunkline.deploy.machine.table import TRANSITIONS, Event
from trunkline.deploy.verdict.facts import StateSpan
from trunkline.protocol.deploys import OVER, DeployState

DECIDE: Final[Mapping[DeployState, Callable[[Deploy, Seen], Decided]]] = {
    "planned": before.planned,
    "starting": before.starting,
    "gating": before.gating,
    "smoking": before.smoking,
    "switching": before.switching,
    "verifying": before.verifying,
    "moving": after.moving,
    "finishing": after.finishing,
    "holding": after.holding,
    "retiring": after.retiring,
    "returning": after.returning,
    "undoing": after.undoing,
    "stuck": after.stuck,
}

ORDERS: Final = {"rollback": Event.ROLLBACK, "abort": Event.ABORT}


def step(deploy: Deploy, seen: Seen) -> tuple[Deploy, tuple[Action, ...]]:
    """What the deploy becomes by an observation, and what is to be done once that is stored."""
    if deploy.state in OVER:
        return deploy, ()
    if seen.entered:
        deploy = taken_over(deploy, seen.at)
    deploy = noticed(outage(deploy, seen), seen)
    if seen.order:
        deploy, ordered = replace(deploy, heard=seen.order_number), ORDERS[seen.order]
        if (deploy.state, ordered) in TRANSITIONS:
            return entered(deploy, ordered, f"{seen.order} was asked for", seen.at), ()
        deploy = deploy.noted(f"{seen.order} was asked for while {deploy.state}: nothing leads back from there")
    decided = DECIDE[deploy.state](deploy, seen)
    if decided.event is None:
        return decided.deploy, decided.actions
    return entered(decided.deploy, decided.event, decided.why, seen.at), ()


def taken_over(deploy: Deploy, at: float) -> Deploy:
    """The deploy in a process that did not begin its state: what was ordered may not have been carried out.

    The time that the state has begins again; only the old colour is not kept any longer than was asked for.
    """
    deploy = replace(
        deploy.noted(f"taken over by another process while {deploy.state}"),
        asked_at=-1.0,
        unwell_at=-1.0,
        unheard_at=-1.0,
    )
    if deploy.switched and deploy.plan.witnesses:
        deploy = deploy.noted(
            "the witnesses ended with the process before: what was published afterwards is accounted for by nobody"
        )
    if deploy.state in ("holding", "stuck"):
        return deploy
    return replace(
        deploy,
        since=at,
        spans=(*deploy.spans, StateSpan(deploy.state, deploy.since, at, "taken over"))[-MOST_SPANS:],
        passes=0,
        unmoved=0,
        moving_s=deploy.moving_s + (at - deploy.since if deploy.state == "moving" else 0.0),
    )


def entered(deploy: Deploy, event: Event, why: str, at: float) -> Deploy:
    """The deploy in the state that an event leads to, with nothing ordered in it yet."""
    state: DeployState
    why = shortened(why)
    if event is Event.AGAIN and deploy.stuck_in is not None:
        state = deploy.stuck_in
    else:
        state = TRANSITIONS[deploy.state, event]
    span = StateSpan(deploy.state, deploy.since, at, why)
    forward = deploy.state == "moving" and state == "finishing"
    return replace(
        deploy,
        state=state,
        since=at,
        why=why,
        spans=(*deploy.spans, span)[-MOST_SPANS:],
        asked_at=-1.0,
        passes=0,
        unwell_at=-1.0,
        unheard_at=-1.0,
        to_move=deploy.to_move if forward else -1,
        refused=None,
        moving_s=deploy.moving_s + (at - deploy.since if deploy.state == "moving" else 0.0),
        stuck_in=deploy.state if state == "stuck" else None,
    )
