"""How fast clients are asked to move: the rate, the waves, and when a wave waits. Pure.

Rules:

- The rate is the lowest of what the caller allows, of a share of the handshakes that the receiving colour takes, and of
  what spreads the clients over the time that was asked for; never below 1 a second.
- A wave has at most `WAVE_S` of clients, so that whoever dies leaves no longer one under way.
- A wave waits while the receiving nodes lag, or have refused more handshakes than before; then it goes on. It is no
  larger than the room that they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from trunkline.deploy.world.base import NodeView
from trunkline.protocol.goodbyes import MoveCounts

WAVE_S: Final = 2.0
LEAST_PER_S: Final = 1.0
SLACK_S: Final = 0.01
"""A look that is made for the end of a wave comes this much after it, not a moment before."""

PRESSED: Final = ("address_rate", "full", "lag", "accept_rate")
"""Labels of handshakes that were refused with 429 or 503 for want of room or by a rate."""


class Pace(msgspec.Struct, frozen=True):
    """A rate, clients a second, and what it follows from: `rate`, `accepts` or `over`."""

    per_s: float
    because: str


def pace(clients: int, *, over_s: float, rate: float | None, accepts_per_s: float | None, share: float) -> Pace:
    """The rate at which `clients` are asked to move.

    Args:
        clients: to be moved.
        over_s: time to take at least, seconds.
        rate: that the caller allows, None for any.
        accepts_per_s: handshakes a second that the receivers take, None when unknown.
        share: of these that may be used.
    """
    bounds = [Pace(clients / over_s if over_s > 0 else math.inf, "over")]
    if rate is not None:
        bounds.append(Pace(rate, "rate"))
    if accepts_per_s is not None:
        bounds.append(Pace(accepts_per_s * share, "accepts"))
    lowest = min(bounds, key=lambda each: each.per_s)
    if math.isinf(lowest.per_s):
        # Nothing bounds it: one second is still no storm that nobody has asked for.
        lowest = Pace(float(clients), "over")
    return Pace(max(LEAST_PER_S, lowest.per_s), lowest.because)


class WavePart(msgspec.Struct, frozen=True):
    """Clients of one node in a wave."""

    node: NodeView
    count: int


class Wave(msgspec.Struct, frozen=True):
    """Clients to be asked now, over `over_ms`."""

    parts: tuple[WavePart, ...]
    over_ms: int

    @property
    def count(self) -> int:
        """Clients in all."""
        return sum(part.count for part in self.parts)


def next_wave(nodes: Sequence[NodeView], per_s: float, free: int | None = None) -> Wave:
    """The next wave: of each node by its share of the clients that are left, in all at most `WAVE_S` of them.

    The receivers have room for `free` more, None when that is unknown.
    """
    left = sum(node.connections for node in nodes)
    count = min(left, max(1, int(per_s * WAVE_S)), left if free is None else free)
    over_ms = min(int(WAVE_S * 1000), math.ceil(count / per_s * 1000)) if count else 0
    parts, given, seen = [], 0, 0
    for node in nodes:
        # Cumulative rounding: the parts add up to the count, and none exceeds what its node has.
        seen += node.connections
        share = count * seen // left if left else 0
        if share > given:
            parts.append(WavePart(node, share - given))
        given = max(given, share)
    return Wave(tuple(parts), over_ms)


def pause_s(tick_s: float, *, at: float, wave_ends: float) -> float:
    """How long to wait before the next look: a tick, less when a wave ends before, so that waves follow each other."""
    left_s = wave_ends - at
    return min(tick_s, left_s + SLACK_S) if left_s > 0 else tick_s


def refused(counts: Iterable[MoveCounts]) -> int:
    """Handshakes that nodes have refused for want of room or by a rate, since their start."""
    return sum(count for each in counts for label, count in each.refused.items() if label in PRESSED)


def pressed(receivers: Sequence[NodeView], *, refused: int, refused_before: int | None, lag_ms: float) -> str:
    """Why a wave waits now, empty for not at all.

    Args:
        receivers: nodes that clients move to.
        refused: handshakes that they have refused so far.
        refused_before: of these, at the last look; None when this is the first one.
        lag_ms: event-loop lag from which on a node counts as pressed.
    """
    slowest = max((node for node in receivers if node.lag_ms is not None), key=lambda n: n.lag_ms or 0, default=None)
    if slowest is not None and (slowest.lag_ms or 0) > lag_ms:
        return f"{slowest.name or slowest.url} lags by {slowest.lag_ms:.0f} ms"
    if refused_before is not None and refused > refused_before:
        return f"{refused - refused_before} handshakes were refused"
    if receivers and not any(node.usable for node in receivers):
        return "no node takes connections"
    return ""
