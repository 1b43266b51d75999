"""Whether a deploy may begin: what is planned from what there is, and all that speaks against it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trunkline.deploy.machine.plan import Limits, OnSlow, Plan
from trunkline.deploy.machine.rules import accepts_per_s, capacity, clients, silent, usable
from trunkline.deploy.runtimes.base import What
from trunkline.deploy.world.base import FleetView, NodeView


def colours_with_traffic(fleet: FleetView, but: str) -> tuple[str, ...]:
    """The colours that get new connections, `but` this one; without a table all that there are.

    Those that take none now count only when no other does: a dead old colour is still the old one.
    """
    weights = fleet.traffic.weights
    if weights:
        return tuple(sorted(colour for colour, weight in weights.items() if weight > 0 and colour != but))
    there = [node for node in fleet.nodes if node.colour and node.colour != but]
    return tuple(sorted({node.colour for node in usable(there) or there}))


def plan(
    fleet: FleetView,
    *,
    id: str,
    to_colour: str,
    nodes: int,
    runtime: str,
    what: What,
    over_s: float,
    rate: float | None,
    verify_s: float,
    keep_s: float,
    witnesses: int,
    on_slow: OnSlow,
    without: tuple[str, ...],
    limits: Limits,
) -> Plan:
    """What was asked for, with what there is; `nodes` 0 is as many as the old colour has."""
    present = colours_with_traffic(fleet, to_colour)
    from_colour = present[0] if len(present) == 1 else ""
    from_nodes = len(usable(fleet.colour(from_colour))) if from_colour else 0
    return Plan(
        id=id,
        from_colour=from_colour,
        from_nodes=from_nodes,
        to_colour=to_colour,
        nodes=nodes or from_nodes,
        runtime=runtime,
        what=what,
        over_s=over_s,
        rate=rate,
        verify_s=verify_s,
        keep_s=keep_s,
        witnesses=witnesses,
        on_slow=on_slow,
        without=without,
        limits=limits,
    )


def refusals(plan: Plan, fleet: FleetView, *, starts: bool, others: Sequence[str] = ()) -> tuple[str, ...]:
    """Everything that speaks against it, each with its next step.

    Args:
        plan: what is planned.
        fleet: what there is.
        starts: whether the runtime starts the nodes, so that there must be none yet.
        others: what runtime and load tester found.
    """
    found = [why for why in others if why]
    to, weights = plan.to_colour, fleet.traffic.weights
    old, new = fleet.colour(plan.from_colour) if plan.from_colour else (), fleet.colour(to)
    present = colours_with_traffic(fleet, to)
    if len(present) > 1:
        found.append(f"{' and '.join(present)} get new connections: give them to one colour first (PUT /api/traffic)")
    elif not present and (weights.get(to, 0) > 0 or (not fleet.traffic.generation and usable(new))):
        found.append(f"{to} is the colour that gets new connections: deploy to another one")
    if nameless := [node for node in usable(fleet.nodes) if not node.colour]:
        found.append(f"{_first(nameless)} has no colour, and would get no connections any more: set server.colour")
    if starts and (there := [node for node in new if node.state != "down"]):
        found.append(f"{to} has nodes already ({_first(there)}): remove them, or deploy to another colour")
    if plan.nodes < 1:
        found.append(f"no node of an old colour is ready: say how many nodes {to} is to have (--nodes)")
    for balancer in silent(fleet.traffic, plan.without):
        found.append(f"the balancer {balancer} is silent and may go by an old table: end it, or accept it (--without)")
    return (*found, *_of_size(plan, old, new if not starts else ()))


def _of_size(plan: Plan, old: Sequence[NodeView], new: Sequence[NodeView]) -> list[str]:
    """What is too small or too quick, judged by the new nodes that there are, else by the old ones."""
    found: list[str] = []
    count, ready = clients(old), usable(new)
    like = ready if ready else usable(old)
    if not like or plan.nodes < 1:
        return found
    room, takes = capacity(like), accepts_per_s(like)
    share = 1.0 if ready else plan.nodes / len(like)
    need = math.ceil(count * plan.limits.headroom)
    if room is not None and room * share < need:
        found.append(
            f"{plan.nodes} nodes of {plan.to_colour} take {room * share:.0f} connections, and {count} clients need "
            f"{need}: start more nodes (--nodes)"
        )
    if takes is not None and takes > 0:
        least_s = count / (takes * share * plan.limits.share)
        if plan.over_s < least_s:
            found.append(
                f"--over {plan.over_s:g}s is too short for {count} clients: {plan.to_colour} takes {takes * share:.0f} "
                f"handshakes/s, of which a move may use {plan.limits.share:.0%}: {math.ceil(least_s)}s at least"
            )
    return found


def _first(nodes: Sequence[NodeView]) -> str:
    return nodes[0].name or nodes[0].url
