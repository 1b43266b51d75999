"""What a reader of the verdict should know of the fleet: parts that went away while a deploy ran, and came back. Pure.

Rules:

- Each is noted once when it goes and once when it is there again; not before traffic is switched, nor when the deploy
  itself removes it.
- While the bus or the store is away both colours suffer: what happened meanwhile is no fault of the new colour, and
  what was not seen was not watched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.rules import silent
from trunkline.deploy.machine.seen import Seen
from trunkline.deploy.world.base import FleetView, NodeView
from trunkline.protocol.deploys import DeployState

NOTICED: Final[Mapping[DeployState, tuple[str, ...]]] = {
    "switching": ("from", "to"),
    "verifying": ("from", "to"),
    "moving": ("from", "to"),
    "finishing": ("from", "to"),
    "holding": ("from", "to"),
    "retiring": ("to",),
    "returning": ("from",),
}
"""The states in which parts are noticed, and of which colour nodes are."""


def noticed(deploy: Deploy, seen: Seen) -> Deploy:
    """The deploy with notes of what has gone, and of what has come back."""
    if seen.fleet is None or deploy.state not in NOTICED:
        return deploy
    parts, missing = dict(_parts(deploy, seen.fleet)), set(deploy.missing)
    there = {name for name, is_there in parts.items() if is_there}
    gone = parts.keys() - there
    for names, what in ((gone - missing, "is gone"), (there & missing, "is there again")):
        for name in sorted(names):
            deploy = deploy.noted(f"{name} {what}, {seen.at:.0f} s after the beginning")
    # What is not listed any more has not come back.
    return replace(deploy, missing=tuple(sorted(missing - there | gone)))


def outage(deploy: Deploy, seen: Seen) -> Deploy:
    """The deploy as it goes on after a time in which it could not be stored, or no node answered over the bus."""
    if seen.unstored_s:
        why = f"the fleet's store was away for {seen.unstored_s:.0f} s"
    elif not seen.counts and _answered_before(deploy, seen):
        why = "no node answered over the bus"
    else:
        return deploy
    return replace(
        deploy.noted(f"{why}, {seen.at:.0f} s after the beginning"),
        outage_at=seen.at,
        marks={} if deploy.marks is not None else None,  # each node is watched again from its next answer
        unwell_at=-1.0,
        unheard_at=-1.0,
        asked_at=-1.0 if deploy.state == "verifying" else deploy.asked_at,
    )


def _answered_before(deploy: Deploy, seen: Seen) -> bool:
    """Whether a node that should be there has once been watched: foreign ones and those of older releases never are."""
    if seen.fleet is None or deploy.state not in NOTICED:
        return False
    return any(node.url in (deploy.marks or {}) for node in _nodes(deploy, seen.fleet))


def _nodes(deploy: Deploy, fleet: FleetView) -> Iterator[NodeView]:
    """Those of the colours that are noticed in this state."""
    plan = deploy.plan
    colours = {"from": plan.from_colour, "to": plan.to_colour}
    for colour in NOTICED[deploy.state]:
        yield from fleet.colour(colours[colour]) if colours[colour] else ()


def _parts(deploy: Deploy, fleet: FleetView) -> Iterator[tuple[str, bool]]:
    """Each part that counts, in words, and whether it is there."""
    for node in _nodes(deploy, fleet):
        yield f"node {node.name or node.url}", node.state != "down"
    gone = silent(fleet.traffic, deploy.plan.without)
    for balancer in fleet.traffic.balancers:
        place = f" ({balancer.place})" if balancer.place else ""
        yield f"balancer {balancer.id}{place}", balancer.id not in gone
