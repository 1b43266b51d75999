"""What was measured during a deploy: the record that the verdict is made from, and that is kept with it. Pure.

Rules:

- Witnesses, who account for every message, and everybody else, as the nodes count them, are never mixed.
- What could not be measured is None, and is shown as unknown, never as 0.
- Samples are taken once a second, and thinned when there are more than `MOST_SAMPLES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec

from trunkline.protocol.deploys import DeployState

MOST_SAMPLES: Final = 3_600
MOST_LINES: Final = 20
"""Of what a node wrote last."""


class WitnessFacts(msgspec.Struct, frozen=True):
    """What the witnesses saw.

    Attributes:
        count: sessions that were placed on the old colour.
        published: publications of theirs that were acknowledged.
        expected: deliveries that were owed to them; `lost` of these never came.
        duplicated: deliveries that came twice.
        gaps: times that they were told of a gap, that a recovery was refused, or that a channel started again.
        moved: of them those that changed to the new colour.
        away_ms: quantiles of the time without a connection at each move, by name (`p50`, `p99`, `max`).
        why: of a loss or a gap, the first in words; empty without.
        reordered: deliveries that came behind later ones.
        absent: witnesses that had no connection at the end.
        refused: publications that a node answered with an error; nobody is owed them.
        unanswered: publications that were neither acknowledged nor refused; whether they exist is unknown.
    """

    count: int
    published: int
    expected: int
    lost: int
    duplicated: int
    gaps: int
    moved: int
    away_ms: dict[str, float]
    why: str = ""
    reordered: int = 0
    absent: int = 0
    refused: int = 0
    unanswered: int = 0


class ClientFacts(msgspec.Struct, frozen=True):
    """Everybody else, as the nodes counted them; nodes cannot tell witnesses from others.

    Attributes:
        at_switch: clients on the old colour when traffic was switched.
        asked: asked to move.
        returned: of these came back within 60 s; None where nodes do not report it.
        recovered: channels that were recovered in full, None for foreign backends.
        gaps: channels not recovered, and `gap` messages.
        forced: connections cut at the deadline.
        never_back: asked and not back.
        usual_departures: how many would have left in the same time at the rate before the deploy.
        refused: handshakes refused while clients moved, by label; None where nodes do not report it.
        away_s: quantiles of goodbye to return, seconds, by name (`p50`, `p99`, `max`).
    """

    at_switch: int
    asked: int
    returned: int | None
    recovered: int | None
    gaps: int | None
    forced: int
    never_back: int | None
    usual_departures: float
    refused: dict[str, int] | None
    away_s: dict[str, float]


class RateFacts(msgspec.Struct, frozen=True):
    """Reconnects beside what the new colour accepts.

    Attributes:
        peak_per_s: most connections opened on the new colour in one second while clients moved; None where its nodes do
            not report it.
        accepts_per_s: handshakes a second that it takes; the lower of measured and reported.
        accepts_from: which of the two that was.
        chosen_per_s: pace at which clients were asked.
    """

    peak_per_s: float | None
    accepts_per_s: float
    accepts_from: Literal["measured", "reported", "unknown"]
    chosen_per_s: float


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One second of the deploy.

    Attributes:
        at_s: seconds since its start.
        clients: by colour.
        opened_per_s: connections opened on the new colour.
        limit_per_s: what it accepts.
        refused_per_s: handshakes refused on both.
        witnesses: of them connected now.
        away_p99_s: of the returns so far, 0 before the first.
        lag_ms: the largest event-loop lag.
    """

    at_s: float
    state: DeployState
    clients: dict[str, int]
    opened_per_s: float
    limit_per_s: float
    refused_per_s: float
    witnesses: int
    away_p50_s: float
    away_p99_s: float
    lag_ms: float


class StateSpan(msgspec.Struct, frozen=True):
    """A state that the deploy was in: from when to when, seconds since its start, and why it was left."""

    state: DeployState
    from_s: float
    to_s: float
    why: str = ""


class DeployFacts(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        ended: the last state.
        waited_s: time of the move in which a wave waited for lag or refusals to fall.
        notes: what happened that a reader should know, in order: nodes that died, a balancer that fell silent, a
            resumed deploy.
        last_lines: what nodes of the new colour wrote last before they were removed, by name; empty when it stayed.
    """

    id: str
    from_colour: str
    to_colour: str
    version: str
    started_at: str
    lasted_s: float
    ended: DeployState
    why: str
    witnesses: WitnessFacts | None
    clients: ClientFacts
    rates: RateFacts
    spans: tuple[StateSpan, ...]
    samples: tuple[Sample, ...]
    moving_s: float = 0.0
    waited_s: float = 0.0
    notes: tuple[str, ...] = ()
    last_lines: dict[str, tuple[str, ...]] = {}


def turned_back(spans: Sequence[StateSpan]) -> StateSpan | None:
    """The state from which a deploy went back, and why; None when it did not."""
    back = ("undoing", "returning")
    for left, entered in pairwise(spans):
        if entered.state in back and left.state not in (*back, "stuck"):
            return left
    return None
