"""What a deploy is to do, and how far it has come: all that is stored of it, so that any process can go on. Pure.

Rules:

- Times are seconds since the deploy began, so that they mean the same to a process that takes it over.
- Nothing in here was only ordered: what is remembered was observed, or is a bound for what may be ordered next.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from trunkline.deploy.runtimes.base import What
from trunkline.deploy.verdict.facts import StateSpan
from trunkline.protocol.deploys import DeployState

OnSlow = Literal["wait", "rollback", "force"]
AcceptsFrom = Literal["measured", "reported", "unknown"]

MOST_SPANS: Final = 64
MOST_NOTES: Final = 100
LONGEST_WHY: Final = 400
"""Characters of a note and of a cause: all of them are stored with the deploy, and every balancer reads it."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the machine; tests use shorter times.

    Attributes:
        start_s: until all nodes of the new colour are announced.
        fetch_s: the same while their runtime says that they wait for an image or a machine.
        gate_s: until they are ready.
        gates: times in a row that they have to be.
        smoke_s: for smoking all of them.
        switch_s: until every balancer applies the table.
        settle_s: time that is given to what was ordered to show, before it is judged.
        unheard_s: after which nodes that carry no order out are given no more of them.
        finish_s: for the last clients to leave once a drain has asked them.
        away_s: for those that were asked last to come back, before the deploy goes on without them.
        back_s: until the old colour is ready again, when clients go back to it; and nodes after an outage of the bus.
        again_s: between tries of what has to be repeated.
        headroom: capacity of the new colour over the clients there are.
        share: of the accept limit that a move may use.
        lag_ms: event-loop lag at which waves wait, and at which verifying fails.
        slow: a move is slow when it takes so many times what was planned, waits included.
    """

    start_s: float = 60.0
    fetch_s: float = 600.0
    gate_s: float = 30.0
    gates: int = 3
    smoke_s: float = 60.0
    switch_s: float = 15.0
    settle_s: float = 3.0
    unheard_s: float = 30.0
    finish_s: float = 30.0
    away_s: float = 10.0
    back_s: float = 15.0
    again_s: float = 2.0
    headroom: float = 1.2
    share: float = 0.5
    lag_ms: float = 250.0
    slow: float = 2.0


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """Counts of one process of a node: connections opened, server faults, handshakes refused for want of room."""

    run: str
    opened: int = 0
    faults: int = 0
    refused: int = 0


class Plan(msgspec.Struct, frozen=True):
    """What was asked for, with what was found at the start.

    Attributes:
        from_colour: the colour that has the clients; empty for none.
        from_nodes: nodes of it that took connections at the start.
        nodes: that the new colour has to have.
        runtime: who starts and stops them.
        over_s: time over which clients are moved at least.
        rate: most clients to move a second, None for no bound of its own.
        verify_s: time that the new colour is watched before clients are moved.
        keep_s: time that the old colour is kept, empty.
        witnesses: sessions that account for every message, 0 for none.
        without: balancers whose silence is accepted.
    """

    id: str
    from_colour: str
    to_colour: str
    nodes: int
    from_nodes: int = 0
    runtime: str = "none"
    what: What = What()
    over_s: float = 60.0
    rate: float | None = None
    verify_s: float = 30.0
    keep_s: float = 300.0
    witnesses: int = 50
    on_slow: OnSlow = "wait"
    without: tuple[str, ...] = ()
    limits: Limits = Limits()


class Deploy(msgspec.Struct, frozen=True):
    """How far it has come: the state of the machine.

    Attributes:
        since: when the state was entered.
        why: it was entered, empty when all went well.
        spans: the states before it.
        asked_at: when what the state does was ordered last; below 0 for not yet.
        passes: gates that have held in a row.
        accepts_per_s: handshakes a second that the new colour takes, None when unknown.
        switched: whether the new colour was given traffic.
        held_at: generation of the table that held it before.
        at_switch: clients on the old colour then.
        to_move: clients that the present move began with; below 0 before it.
        rate: at which it asks them, a second.
        wave_ends: when the wave or the drain under way is over.
        unmoved: waves in a row that found nobody to ask.
        unheard_at: since when no node carries a wave out; below 0 while one does.
        waited_s: time for which waves waited.
        refused: handshakes that the receiving colour had refused, as seen last; None before.
        marks: counts by URL when each node began to be watched; None while none is.
        unwell_at: since when the new colour has been unwell; below 0 while it is well.
        hidden_at: since when the fleet cannot be seen; below 0 while it can.
        smoked_at: when it was used as a client does last.
        left: clients on the colour that is given up at the deadline, who were then left to be cut.
        stuck_in: the state that could not go on.
        outage_at: when bus or store were away last; below 0 for never.
        heard: number of a person's last order.
        missing: parts of the fleet that are gone, in words.
        notes: what a reader should know, in order.
    """

    plan: Plan
    state: DeployState = "planned"
    since: float = 0.0
    why: str = ""
    spans: tuple[StateSpan, ...] = ()
    asked_at: float = -1.0
    passes: int = 0
    accepts_per_s: float | None = None
    accepts_from: AcceptsFrom = "unknown"
    switched: bool = False
    held_at: int = 0
    at_switch: int = 0
    to_move: int = -1
    rate: float = 0.0
    wave_ends: float = 0.0
    unmoved: int = 0
    unheard_at: float = -1.0
    waited_s: float = 0.0
    moving_s: float = 0.0
    refused: int | None = None
    marks: dict[str, Mark] | None = None
    unwell_at: float = -1.0
    hidden_at: float = -1.0
    smoked_at: float = 0.0
    left: int = 0
    stuck_in: DeployState | None = None
    outage_at: float = -1.0
    heard: str = ""
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> Deploy:
        """With a note, unless it is one of the last already."""
        note = shortened(note)
        if not note or note in self.notes[-3:]:
            return self
        return msgspec.structs.replace(self, notes=(*self.notes, note)[-MOST_NOTES:])


def shortened(text: str) -> str:
    """A cause that may name every node of a fleet, no longer than `LONGEST_WHY`."""
    return text if len(text) <= LONGEST_WHY else text[: LONGEST_WHY - 1] + "…"
