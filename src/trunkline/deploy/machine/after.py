"""What a deploy decides once clients move: from `moving` to `retiring`, and the ways back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from trunkline.deploy.machine.before import marked, set_back, watched
from trunkline.deploy.machine.pacing import next_wave, pace, pressed, refused
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.rules import (
    Decided,
    accepts_per_s,
    asked,
    capacity,
    clients,
    due,
    give_all_to,
    gives_all_to,
    gone,
    may_remove,
    names,
    recovering,
    unapplied,
    usable,
)
from trunkline.deploy.machine.seen import Action, Drain, Move, Remove, Seen, Undrain
from trunkline.deploy.machine.table import Event
from trunkline.deploy.world.base import NodeView

PAUSE_S: Final = 1.0
"""Pause of waves before they look again whether what they wait for is over."""

UNMOVED: Final = 2
"""Waves in a row that found nobody to ask, after which who is left is a straggler."""


def moving(deploy: Deploy, seen: Seen) -> Decided:
    """Waves from the old colour to the new one, as long as there is somebody to ask."""
    plan = deploy.plan
    if seen.fleet is None:
        return Decided(_waits(deploy, seen))
    old, new = seen.fleet.colour(plan.from_colour), seen.fleet.colour(plan.to_colour)
    deploy, why = watched(deploy, seen)
    if why:
        return Decided(deploy, event=Event.FAILS, why=why)
    if changed := set_back(deploy, seen.fleet):
        # Who was picked meanwhile still arrives; then it is watched again.
        return replace(changed, deploy=replace(changed.deploy, wave_ends=seen.at + plan.limits.settle_s))
    if deploy.marks is None and seen.at >= deploy.wave_ends:
        deploy = replace(deploy, marks=marked({}, seen, plan))
    # Of what was measured, the share of the nodes that are there now.
    there = min(1.0, len(usable(new)) / max(1, plan.nodes))
    accepts = None if deploy.accepts_per_s is None else deploy.accepts_per_s * there
    decided = _waves(deploy, seen, old, new, accepts)
    if decided.event is not None or plan.on_slow == "wait":
        return decided
    meant_s = max(plan.over_s, deploy.to_move / max(deploy.rate, 1.0)) + plan.limits.settle_s
    if deploy.to_move < 0 or seen.at - deploy.since <= meant_s * plan.limits.slow:
        return decided
    why = f"{clients(old)} clients are still on {plan.from_colour} after {seen.at - deploy.since:.0f} s"
    return replace(decided, actions=(), event=Event.FORCED if plan.on_slow == "force" else Event.ROLLBACK, why=why)


def _waves(
    deploy: Deploy, seen: Seen, source: Sequence[NodeView], target: Sequence[NodeView], accepts: float | None
) -> Decided:
    """The next wave, if it is time for one; holds when nobody is left who can be asked."""
    plan, limits = deploy.plan, deploy.plan.limits
    movable = tuple(node for node in source if node.name and node.connections and node.state != "down")
    if not movable and recovering(deploy, seen) and any(node.connections for node in source):
        return Decided(_waits(deploy, seen))
    if not movable:
        return Decided(deploy, event=Event.HOLDS)
    if deploy.to_move < 0:
        count = clients(source)
        chosen = pace(count, over_s=plan.over_s, rate=plan.rate, accepts_per_s=accepts, share=limits.share)
        deploy = replace(deploy, to_move=count, rate=chosen.per_s, wave_ends=seen.at, unmoved=0)
    if seen.asked is not None:
        deploy = replace(deploy, unmoved=0 if seen.asked else deploy.unmoved + 1)
        if not seen.asked:
            # Who was asked already has a slot or a closing handshake to end; only then it is a straggler.
            deploy = replace(deploy, wave_ends=seen.at + limits.settle_s)
        deploy = replace(deploy, unheard_at=-1.0)
    if seen.failed:
        unheard = seen.at if deploy.unheard_at < 0 and seen.asked is None else deploy.unheard_at
        deploy = replace(deploy, unheard_at=unheard).noted(seen.failed)
    if seen.at < deploy.wave_ends:
        return Decided(deploy)
    # Nodes that take no orders will not by waiting: who is there is a straggler as well.
    unheard_s = seen.at - deploy.unheard_at if deploy.unheard_at >= 0 else 0.0
    if deploy.unmoved >= UNMOVED or unheard_s >= limits.unheard_s:
        return Decided(deploy, event=Event.HOLDS)
    now = refused(seen.counts[node.url] for node in target if node.url in seen.counts)
    why = pressed(target, refused=now, refused_before=deploy.refused, lag_ms=limits.lag_ms)
    deploy = replace(deploy, refused=now)
    room = capacity(target)
    free = None if room is None else room - clients(target)
    if why or (free is not None and free <= 0):
        return Decided(_waits(deploy, seen))
    most = pace(clients(movable), over_s=0, rate=deploy.rate, accepts_per_s=accepts, share=limits.share)
    wave = next_wave(movable, most.per_s, free)
    deploy = replace(deploy, wave_ends=seen.at + wave.over_ms / 1000, asked_at=seen.at)
    return Decided(deploy, tuple(Move(part.node, part.count, wave.over_ms) for part in wave.parts))


def _waits(deploy: Deploy, seen: Seen) -> Deploy:
    """The next wave is put off by what has to be observed at least once more."""
    if deploy.to_move < 0:
        return deploy
    ends = max(deploy.wave_ends, seen.at + PAUSE_S)
    return replace(deploy, wave_ends=ends, waited_s=deploy.waited_s + ends - max(deploy.wave_ends, seen.at))


def finishing(deploy: Deploy, seen: Seen) -> Decided:
    """Drain whoever is left; who does not leave in time is cut when the old colour is removed."""
    plan = deploy.plan
    if seen.failed:
        deploy = deploy.noted(seen.failed)
    if seen.fleet is None:
        return Decided(deploy)
    deploy, why = watched(deploy, seen)
    if why:
        return Decided(deploy, event=Event.FAILS, why=why)
    if changed := set_back(deploy, seen.fleet):
        return changed
    old = seen.fleet.colour(plan.from_colour)
    if recovering(deploy, seen) and any(node.connections and node.state == "down" for node in old):
        return Decided(deploy)
    left = [node for node in old if node.connections and node.state != "down"]
    if not left:
        # Who was asked last is on the way; who has gone for good is not waited for.
        back = not seen.away or seen.at - max(deploy.since, deploy.wave_ends) >= plan.limits.away_s
        return Decided(deploy, event=Event.HOLDS if back else None)
    # A foreign backend takes no orders: nobody there is asked.
    over_s = clients([node for node in left if node.name]) / max(deploy.rate, 1.0)
    if due(deploy, seen):
        return Decided(replace(asked(deploy, seen), wave_ends=seen.at + over_s), _drains(left, over_s))
    if seen.at - deploy.wave_ends > plan.limits.finish_s:
        why = f"{clients(left)} clients have not left {names(left)}"
        return Decided(replace(deploy, left=clients(left)).noted(why), event=Event.FORCED, why=why)
    if seen.failed and seen.at - deploy.asked_at >= plan.limits.again_s:
        return Decided(asked(deploy, seen), _drains(left, over_s))
    return Decided(deploy)


def _drains(nodes: Sequence[NodeView], over_s: float) -> tuple[Action, ...]:
    return tuple(Drain(node, int(over_s * 1000)) for node in nodes if node.name)


def holding(deploy: Deploy, seen: Seen) -> Decided:
    """The old colour stays until its time is over."""
    if seen.at - deploy.since >= deploy.plan.keep_s:
        return Decided(deploy, event=Event.HOLDS)
    return (seen.fleet and set_back(deploy, seen.fleet)) or Decided(deploy)


def retiring(deploy: Deploy, seen: Seen) -> Decided:
    """The old colour is removed, as often as it takes; unless it gets connections, or holds more than the new one."""
    if seen.fleet is not None and (changed := set_back(deploy, seen.fleet)):
        return changed
    return _removing(deploy, seen, deploy.plan.from_colour, guarded=deploy.asked_at < 0)


def undoing(deploy: Deploy, seen: Seen) -> Decided:
    """The new colour is removed."""
    return _removing(deploy, seen, deploy.plan.to_colour)


def _removing(deploy: Deploy, seen: Seen, colour: str, *, guarded: bool = True) -> Decided:
    """Remove a colour, and see that it is gone."""
    if seen.processes is None or not colour:
        # Whoever started its nodes ends them.
        return Decided(deploy, event=Event.HOLDS)
    if seen.failed:
        deploy = deploy.noted(seen.failed)
    if seen.fleet is None:
        return Decided(deploy)
    if deploy.asked_at >= 0 and gone(deploy, seen, colour):
        return Decided(deploy, event=Event.HOLDS)
    if guarded and (why := may_remove(deploy, seen.fleet, colour)):
        return Decided(deploy, event=Event.BLOCKED, why=why)
    if not due(deploy, seen, every_s=deploy.plan.limits.again_s):
        return Decided(deploy)
    return Decided(asked(deploy, seen), (Remove(colour),))


def returning(deploy: Deploy, seen: Seen) -> Decided:
    """Traffic to the old colour, clients back in waves, and the new colour removed; if the old one is ready."""
    plan, limits = deploy.plan, deploy.plan.limits
    if seen.fleet is None:
        return Decided(_waits(deploy, seen))
    old, new = seen.fleet.colour(plan.from_colour), seen.fleet.colour(plan.to_colour)
    traffic = seen.fleet.traffic
    draining = [node for node in old if node.state == "draining" and node.name]
    if draining and due(deploy, seen, every_s=limits.again_s):
        return Decided(asked(deploy, seen), tuple(Undrain(node) for node in draining))
    if not usable(old):
        if seen.at - deploy.since < limits.back_s:
            return Decided(deploy)
        return Decided(deploy, event=Event.BLOCKED, why=f"no node of {plan.from_colour or 'an old colour'} is ready")
    if not gives_all_to(traffic, plan.from_colour):
        if seen.failed and seen.at - deploy.since >= limits.back_s:
            return Decided(deploy, event=Event.BLOCKED, why=seen.failed)
        return Decided(deploy, (give_all_to(traffic, plan.from_colour, force=not usable(new)),))
    early = seen.at - deploy.since < limits.back_s
    if waiting := unapplied(traffic, plan.without, silent_too=early, harmless=deploy.held_at):
        why = f"the traffic table is not applied by {', '.join(waiting)}"
        return Decided(deploy) if early else Decided(deploy, event=Event.BLOCKED, why=why)
    if any(node.connections for node in new):
        decided = _waves(deploy, seen, new, old, accepts_per_s(old))
        if decided.event is None:
            return decided
        deploy = decided.deploy
        left = [node for node in new if node.connections and node.state != "down"]
        if left and seen.at - deploy.wave_ends < limits.finish_s:
            if any(node.state != "draining" for node in left):
                return Decided(deploy, _drains(left, clients(left) / max(deploy.rate, 1.0)))
            return Decided(deploy)
        if left and deploy.left < clients(left):
            why = f"{clients(left)} clients have not left {names(left)}"
            deploy = replace(deploy, left=clients(left)).noted(why)
    if seen.away and seen.at - max(deploy.since, deploy.wave_ends) < limits.away_s:
        return Decided(deploy)
    return _removing(deploy, seen, plan.to_colour)


def stuck(deploy: Deploy, seen: Seen) -> Decided:
    """A process that takes it over tries again where it could not go on."""
    return Decided(deploy, event=Event.AGAIN, why="tried again") if seen.entered else Decided(deploy)
