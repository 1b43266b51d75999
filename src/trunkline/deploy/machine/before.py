"""What a deploy decides before clients are moved: from `planned` to `verifying`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from trunkline.deploy.machine.pacing import refused
from trunkline.deploy.machine.plan import AcceptsFrom, Deploy, Mark, Plan, shortened
from trunkline.deploy.machine.rules import (
    Decided,
    asked,
    capacity,
    clients,
    due,
    give_all_to,
    gives_all_to,
    names,
    recovering,
    unapplied,
    usable,
)
from trunkline.deploy.machine.seen import (
    AskReady,
    Ensure,
    Preflight,
    PutTraffic,
    Seen,
    Smoke,
    SmokeSeen,
    StartWitnesses,
)
from trunkline.deploy.machine.table import Event
from trunkline.deploy.world.base import FleetView, NodeView
from trunkline.protocol.goodbyes import MoveCounts

CRASHES: Final = 3
"""A node that has ended so often by itself does not come up."""

STRAY: Final = 2
"""Connections that may still land on the old colour, or fail on the new one, beside 1 % of all."""

SMOKE_EVERY_S: Final = 5.0


def planned(deploy: Deploy, seen: Seen) -> Decided:
    """Whether anything speaks against it."""
    if seen.failed and seen.refusals is None:
        return Decided(deploy, event=Event.FAILS, why=seen.failed)
    if seen.refusals is None:
        return Decided(deploy, (Preflight(),))
    if seen.refusals:
        return Decided(deploy, event=Event.FAILS, why="; ".join(seen.refusals))
    return Decided(deploy, event=Event.HOLDS)


def starting(deploy: Deploy, seen: Seen) -> Decided:
    """The new colour is held before its first node is there; then its nodes are announced, with the right version."""
    plan, limits = deploy.plan, deploy.plan.limits
    if seen.failed:
        return Decided(deploy, event=Event.FAILS, why=seen.failed)
    waits = [f"{each.name} waits: {each.waits}" for each in seen.processes or () if each.waits]
    late = seen.at - deploy.since > (limits.fetch_s if waits else limits.start_s)
    for process in seen.processes or ():
        if process.colour == plan.to_colour and process.given_up:
            return Decided(deploy, event=Event.FAILS, why=f"{process.name} cannot start: {process.given_up}")
        if process.colour == plan.to_colour and process.failures >= CRASHES:
            why = f"{process.name} has ended by itself {process.failures} times"
            return Decided(deploy, event=Event.FAILS, why=why)
    if seen.fleet is None:
        return _late(deploy, late, "the fleet cannot be reached")
    traffic, nodes = seen.fleet.traffic, usable(seen.fleet.colour(plan.to_colour))
    if traffic.generation == 0 or traffic.weights.get(plan.to_colour, 0) > 0:
        if traffic.weights.get(plan.to_colour, 0) > 0:
            deploy = deploy.noted(f"the traffic table was {traffic.weights}; {plan.to_colour} is held until the switch")
        return Decided(deploy, (_hold(deploy, seen.fleet),))
    if waiting := unapplied(traffic, plan.without):
        return _late(deploy, late, f"the traffic table is not applied by {', '.join(waiting)}")
    if due(deploy, seen):
        return Decided(asked(deploy, seen), (Ensure(plan.to_colour, plan.nodes),))
    if plan.what.version and (others := [node for node in nodes if node.version != plan.what.version]):
        why = f"{names(others)} of {plan.to_colour} has version {others[0].version!r}, not {plan.what.version!r}"
        return Decided(deploy, event=Event.FAILS, why=why)
    if len(nodes) >= plan.nodes:
        return Decided(deploy, event=Event.HOLDS)
    why = "; ".join([f"{len(nodes)} of {plan.nodes} nodes of {plan.to_colour} are announced", *waits[:1]])
    return _late(replace(deploy, why=shortened("".join(waits[:1]))), late, why)


def gating(deploy: Deploy, seen: Seen) -> Decided:
    """All nodes ready, several times in a row, and room for everybody."""
    plan, late = deploy.plan, seen.at - deploy.since > deploy.plan.limits.gate_s
    if seen.fleet is None:
        return _late(replace(deploy, passes=0), late, "the fleet cannot be reached")
    nodes = usable(seen.fleet.colour(plan.to_colour))
    ask = (AskReady(nodes),)
    if len(nodes) < plan.nodes:
        why = f"{len(nodes)} of {plan.nodes} nodes of {plan.to_colour} take connections"
        return _late(replace(deploy, passes=0), late, why, ask)
    if seen.unready is None:
        return _late(deploy, late, "the nodes have not answered", ask)
    if seen.unready:
        return _late(replace(deploy, passes=0), late, seen.unready, ask)
    everybody = clients(seen.fleet.colour(plan.from_colour)) + clients(nodes)
    room, need = capacity(nodes), everybody * plan.limits.headroom
    if room is not None and room < need:
        why = f"{plan.to_colour} takes {room} connections; {everybody} clients need {need:.0f}: start more nodes"
        return _late(replace(deploy, passes=0), late, why, ask)
    deploy = replace(deploy, passes=deploy.passes + 1)
    if deploy.passes < plan.limits.gates:
        return Decided(deploy, ask)
    if room is None:
        deploy = deploy.noted(f"the capacity of {plan.to_colour} is unknown: its nodes do not report it")
    return Decided(deploy, event=Event.HOLDS)


def smoking(deploy: Deploy, seen: Seen) -> Decided:
    """Each node works as a client uses it; what it takes is measured."""
    if seen.failed:
        return Decided(deploy, event=Event.FAILS, why=seen.failed)
    late = seen.at - deploy.since > deploy.plan.limits.smoke_s
    if seen.fleet is None:
        return _late(deploy, late, "the fleet cannot be reached")
    nodes = usable(seen.fleet.colour(deploy.plan.to_colour))
    if seen.smoked is None:
        if not due(deploy, seen):
            return _late(deploy, late, "smoking has not ended")
        return Decided(asked(deploy, seen), (Smoke(nodes, usable(seen.fleet.colour(deploy.plan.from_colour))),))
    if seen.smoked.why:
        return Decided(deploy, event=Event.FAILS, why=seen.smoked.why)
    rate, source = accepted(nodes, seen.smoked)
    return Decided(replace(deploy, accepts_per_s=rate, accepts_from=source), event=Event.HOLDS)


def accepted(nodes: Sequence[NodeView], smoked: SmokeSeen) -> tuple[float | None, AcceptsFrom]:
    """Handshakes a second that nodes take in all, of each the lower of measured and reported, and which that was."""
    total, measured, reported = 0.0, 0, 0
    for node in nodes:
        said, seen = node.accepts_per_s, smoked.accepts_per_s.get(node.url)
        if said is None and seen is None:
            return None, "unknown"
        if said is None or (seen is not None and seen <= said):
            total, measured = total + (seen or 0.0), measured + 1
        else:
            total, reported = total + said, reported + 1
    if not nodes:
        return None, "unknown"
    return total, "measured" if measured >= reported else "reported"


def switching(deploy: Deploy, seen: Seen) -> Decided:
    """Witnesses on the old colour first; then the table, until every balancer applies it."""
    plan = deploy.plan
    # Witnesses come one by one where addresses are limited; the table has its time from when it was written.
    late = seen.at - max(deploy.since, deploy.asked_at) > plan.limits.switch_s
    if seen.failed:
        return Decided(deploy, event=Event.FAILS, why=seen.failed)
    if seen.fleet is None:
        return _late(deploy, late, "the fleet cannot be reached")
    old, new = seen.fleet.colour(plan.from_colour), seen.fleet.colour(plan.to_colour)
    if gives_all_to(seen.fleet.traffic, plan.to_colour):
        if waiting := unapplied(seen.fleet.traffic, plan.without):
            return _late(deploy, late, f"the traffic table is not applied by {', '.join(waiting)}")
        # By somebody else's hand it may be so without our order.
        return Decided(replace(deploy, switched=True), event=Event.HOLDS)
    if plan.witnesses and usable(old) and not deploy.switched:
        if seen.witnesses is None:
            if deploy.asked_at < 0:
                return Decided(asked(deploy, seen), (StartWitnesses(plan.witnesses),))
            return Decided(deploy, event=Event.FAILS, why="the witnesses are not there")
        if seen.witnesses.connected < seen.witnesses.count:
            why = f"{seen.witnesses.connected} of {seen.witnesses.count} witnesses are connected"
            return _late(deploy, late, why)
    if not usable(new):
        return Decided(deploy, event=Event.FAILS, why=f"no node of {plan.to_colour} takes connections")
    if deploy.switched and seen.at - deploy.asked_at > plan.limits.switch_s and deploy.asked_at >= 0:
        return Decided(deploy, event=Event.FAILS, why="the traffic table could not be written in time")
    if not deploy.switched or deploy.asked_at < 0:
        deploy = asked(deploy, seen)
    deploy = replace(deploy, switched=True, at_switch=clients(old), held_at=seen.fleet.traffic.generation)
    return Decided(deploy, (give_all_to(seen.fleet.traffic, plan.to_colour, force=not usable(old)),))


def verifying(deploy: Deploy, seen: Seen) -> Decided:
    """Nothing is wrong with the new colour for the whole time, which begins again in a process that takes over."""
    plan = deploy.plan
    if seen.fleet is None:
        return Decided(replace(deploy, hidden_at=seen.at) if deploy.hidden_at < 0 else deploy)
    if deploy.hidden_at >= 0:
        # What was not seen was not watched.
        again = seen.at - deploy.hidden_at > plan.limits.settle_s
        deploy = replace(deploy, hidden_at=-1.0, asked_at=-1.0 if again else deploy.asked_at)
    deploy, why = watched(deploy, seen)
    if why:
        return Decided(deploy, event=Event.FAILS, why=why)
    if changed := set_back(deploy, seen.fleet):
        return replace(changed, deploy=replace(changed.deploy, asked_at=-1.0))
    if due(deploy, seen):
        # Connections that were picked before the switch are still on their way.
        return Decided(replace(asked(deploy, seen), marks=None))
    if deploy.marks is None and seen.at - deploy.asked_at >= min(plan.limits.settle_s, plan.verify_s / 2):
        return Decided(replace(deploy, marks=marked({}, seen, plan)))
    if seen.at - deploy.asked_at >= plan.verify_s:
        return Decided(deploy, event=Event.HOLDS)
    if seen.at - deploy.smoked_at >= SMOKE_EVERY_S:
        nodes = usable(seen.fleet.colour(plan.to_colour))
        return Decided(replace(deploy, smoked_at=seen.at), (Smoke(nodes, (), briefly=True),))
    return Decided(deploy)


def set_back(deploy: Deploy, fleet: FleetView) -> Decided | None:
    """Give traffic to the new colour again where somebody took it away; None where nobody did."""
    plan = deploy.plan
    if gives_all_to(fleet.traffic, plan.to_colour):
        return None
    note = f"somebody changed the traffic table to {fleet.traffic.weights}; it is set back"
    # Where connections have landed meanwhile is no fault of the new colour.
    deploy = replace(deploy.noted(note), marks=None)
    return Decided(deploy, (give_all_to(fleet.traffic, plan.to_colour, force=True),))


def marked(known: dict[str, Mark], seen: Seen, plan: Plan) -> dict[str, Mark]:
    """The counts from which on nodes are watched: of those that have none yet, what they say now."""
    found = dict(known)
    for node in seen.fleet.nodes if seen.fleet is not None else ():
        if node.colour in (plan.from_colour, plan.to_colour) and node.url in seen.counts:
            found.setdefault(node.url, _mark(seen.counts[node.url]))
    return found


def _mark(counts: MoveCounts) -> Mark:
    return Mark(counts.run, counts.opened, counts.failed + counts.refused.get("internal", 0), refused((counts,)))


def _since(marks: dict[str, Mark], seen: Seen, nodes: Sequence[NodeView]) -> Mark:
    """What happened on these nodes since they are watched. One that has started again counts from 0."""
    opened = faults = refusals = 0
    for node in nodes:
        if node.url in marks and node.url in seen.counts:
            then, now = marks[node.url], _mark(seen.counts[node.url])
            then = then if then.run == now.run else Mark(now.run)
            opened, faults = opened + now.opened - then.opened, faults + now.faults - then.faults
            refusals += now.refused - then.refused
    return Mark("", opened, faults, refusals)


def watched(deploy: Deploy, seen: Seen) -> tuple[Deploy, str]:
    """What is wrong with the new colour since it takes connections, empty for nothing."""
    plan, fleet = deploy.plan, seen.fleet
    if seen.witnesses is not None and (seen.witnesses.lost or seen.witnesses.duplicated):
        lost, twice = seen.witnesses.lost, seen.witnesses.duplicated
        return deploy, f"witnesses lost {lost} messages and got {twice} twice: {seen.witnesses.why}"
    if seen.smoked is not None and seen.smoked.why:
        return deploy, seen.smoked.why
    if fleet is None:
        return deploy, ""
    new = fleet.colour(plan.to_colour)
    if deploy.marks is not None:
        deploy = replace(deploy, marks=marked(deploy.marks, seen, plan))
        if why := _faulty(deploy, deploy.marks or {}, seen, fleet):
            return deploy, why
    unwell = _unwell(deploy, seen, new)
    if not unwell:
        return replace(deploy, unwell_at=-1.0), ""
    if recovering(deploy, seen):
        # It has its time to pass; until then nothing is verified.
        return replace(deploy, asked_at=-1.0 if deploy.state == "verifying" else deploy.asked_at), ""
    if deploy.unwell_at < 0:
        return replace(deploy, unwell_at=seen.at), ""
    return deploy, unwell if seen.at - deploy.unwell_at >= plan.limits.settle_s else ""


def _faulty(deploy: Deploy, marks: dict[str, Mark], seen: Seen, fleet: FleetView) -> str:
    """What the nodes have counted that should not be."""
    plan = deploy.plan
    new, old = (_since(marks, seen, fleet.colour(colour)) for colour in (plan.to_colour, plan.from_colour))
    bound = STRAY + new.opened // 100
    if new.faults > bound:
        return f"{plan.to_colour} had {new.faults} server faults"
    if old.opened > bound and gives_all_to(fleet.traffic, plan.to_colour):
        return f"{old.opened} new connections landed on {plan.from_colour}, which gets none any more"
    if deploy.state == "verifying" and new.refused > bound:
        return f"{plan.to_colour} refused {new.refused} handshakes"
    return ""


def _unwell(deploy: Deploy, seen: Seen, new: Sequence[NodeView]) -> str:
    """What is wrong for the moment, and may pass."""
    plan = deploy.plan
    if not usable(new):
        return f"no node of {plan.to_colour} takes connections"
    if deploy.state != "verifying":
        return ""
    if len(usable(new)) < plan.nodes:
        return f"{len(usable(new))} of {plan.nodes} nodes of {plan.to_colour} take connections"
    for node in usable(new):
        if node.lag_ms is not None and node.lag_ms > plan.limits.lag_ms:
            return f"{node.name or node.url} lags by {node.lag_ms:.0f} ms"
    if seen.witnesses is not None and seen.witnesses.connected < seen.witnesses.count:
        return f"{seen.witnesses.connected} of {seen.witnesses.count} witnesses are connected"
    if seen.witnesses is not None and seen.witnesses.late:
        return f"{seen.witnesses.late} witnesses wait for messages that were acknowledged some seconds ago"
    return ""


def _hold(deploy: Deploy, fleet: FleetView) -> PutTraffic:
    """Give nothing to the new colour, and all to the old one."""
    old = deploy.plan.from_colour
    if not old:
        return PutTraffic(fleet.traffic.generation, {deploy.plan.to_colour: 0.0}, force=True)
    return give_all_to(fleet.traffic, old, force=not usable(fleet.colour(old)))


def _late(deploy: Deploy, late: bool, why: str, actions: tuple[AskReady, ...] = ()) -> Decided:
    """Go on waiting, or fail with what was waited for."""
    return Decided(deploy, event=Event.FAILS, why=f"{why}, after the time it has") if late else Decided(deploy, actions)
