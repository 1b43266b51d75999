"""Questions about the fleet that several states ask. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.seen import Action, PutTraffic, Seen
from trunkline.deploy.machine.table import Event
from trunkline.deploy.world.base import FleetView, NodeView
from trunkline.protocol.traffic import TrafficState

SILENT_S: Final = 6.0
"""A balancer that was not heard for so long is silent: three of its signs of life are missing."""


class Decided(msgspec.Struct, frozen=True):
    """What a state makes of an observation.

    Attributes:
        deploy: with what is remembered of it.
        actions: to be carried out, in order.
        event: that leads to another state, None to stay.
        why: the event happens.
    """

    deploy: Deploy
    actions: tuple[Action, ...] = ()
    event: Event | None = None
    why: str = ""


def clients(nodes: Sequence[NodeView]) -> int:
    """Connections of some nodes."""
    return sum(node.connections for node in nodes)


def usable(nodes: Sequence[NodeView]) -> tuple[NodeView, ...]:
    """Those that take connections."""
    return tuple(node for node in nodes if node.usable)


def capacity(nodes: Sequence[NodeView]) -> int | None:
    """Connections that the usable ones take in all; None when one of them does not say."""
    total = 0
    for node in usable(nodes):
        if node.capacity is None:
            return None
        total += node.capacity
    return total


def accepts_per_s(nodes: Sequence[NodeView]) -> float | None:
    """Handshakes a second that the usable ones report to take; None when one does not say."""
    rates = [node.accepts_per_s for node in usable(nodes)]
    return sum(rate for rate in rates if rate is not None) if rates and None not in rates else None


def unapplied(
    traffic: TrafficState, without: Sequence[str], *, silent_too: bool = True, harmless: int = 0
) -> tuple[str, ...]:
    """Balancers that do not apply the table yet.

    `silent_too` asks also those that are not heard any more; up to the `harmless` generation an old table will do.
    """
    return tuple(
        balancer.id
        for balancer in traffic.balancers
        if balancer.generation < traffic.generation
        and not 0 < balancer.generation <= harmless
        and balancer.id not in without
        and (silent_too or balancer.silent_s <= SILENT_S)
    )


def silent(traffic: TrafficState, without: Sequence[str]) -> tuple[str, ...]:
    """Balancers that are not heard, and whose silence nobody has accepted."""
    return tuple(each.id for each in traffic.balancers if each.silent_s > SILENT_S and each.id not in without)


def gives_all_to(traffic: TrafficState, colour: str) -> bool:
    """Whether the table gives new connections to this colour, and to no other."""
    given = {name for name, weight in traffic.weights.items() if weight > 0}
    return traffic.generation > 0 and given == {colour}


def give_all_to(traffic: TrafficState, colour: str, *, force: bool) -> PutTraffic:
    """The order that makes it so."""
    return PutTraffic(traffic.generation, {colour: 100.0}, force)


def may_remove(deploy: Deploy, fleet: FleetView, colour: str) -> str:
    """Why a colour must not be removed, empty when it may be.

    The one that is left has to have at least its ready capacity; or else all the nodes that it is meant to have, and
    all clients or room for them.
    """
    plan = deploy.plan
    other = plan.from_colour if colour == plan.to_colour else plan.to_colour
    if not other:
        return ""
    nodes, others = fleet.colour(colour), fleet.colour(other)
    ready, left = len(usable(nodes)), len(usable(others))
    if not ready and not clients(nodes):
        return ""
    room, room_left = capacity(nodes), capacity(others)
    if room is None or room_left is None:
        if left >= ready and left > 0:
            return ""
    elif room_left >= room and room_left > 0:
        return ""
    meant = plan.nodes if other == plan.to_colour else plan.from_nodes
    everybody = clients(nodes) + clients(others)
    enough = room_left is None or not clients(nodes) or room_left >= everybody * plan.limits.headroom
    if 0 < meant <= left and enough:
        return ""
    return (
        f"{colour} has {ready} ready nodes and {clients(nodes)} clients, {other} has {left} ready nodes: "
        "the colour that holds more is not removed"
    )


def gone(deploy: Deploy, seen: Seen, colour: str) -> bool:
    """Whether a colour that was to be removed is: no process of it runs, and no node of it takes or has clients."""
    if seen.fleet is None or seen.processes is None:
        return False
    nodes = seen.fleet.colour(colour)
    running = any(each.running for each in seen.processes if each.colour == colour)
    return not running and not usable(nodes) and (not clients(nodes) or all(node.state == "down" for node in nodes))


def due(deploy: Deploy, seen: Seen, *, every_s: float | None = None) -> bool:
    """Whether what the state orders has to be ordered (again)."""
    if deploy.asked_at < 0 or seen.entered:
        return True
    return every_s is not None and seen.at - deploy.asked_at >= every_s


def asked(deploy: Deploy, seen: Seen) -> Deploy:
    """Remember that it was ordered now."""
    return msgspec.structs.replace(deploy, asked_at=seen.at)


def recovering(deploy: Deploy, seen: Seen) -> bool:
    """Whether the bus was away a moment ago, so that nodes which are shown as down may only have been without it."""
    return deploy.outage_at >= 0 and seen.at - deploy.outage_at < deploy.plan.limits.back_s


def names(nodes: Sequence[NodeView]) -> str:
    """Nodes in words."""
    return ", ".join(node.name or node.url for node in nodes)
