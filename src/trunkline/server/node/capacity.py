"""How many connections a node takes, and when it turns a handshake away. Pure.

A handshake is shed before anything is spent on it: a node that is behind gets further behind by accepting, and each
client it then fails comes back at once. Retry-After is drawn from a range, so that those turned away together do not
return together.
"""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

from trunkline.net.limits import Bucket

MIN_CONNECTIONS = 100
MAX_CONNECTIONS = 50_000
WITHOUT_LIMIT = 10_000
"""Connections of a node without a memory limit."""

NOMINAL_ACCEPT_PER_S = 1000.0
"""Handshakes per second that a node without lag reports it can take, unless the settings fix a rate."""

ShedReason = Literal["starting", "draining", "full", "lag", "accept_rate"]


class _Answer(NamedTuple):
    text: str
    retry_after_s: tuple[float, float]


_ANSWERS: dict[ShedReason, _Answer] = {
    # Another node can take the client at once, it only must not ask the same one again.
    "starting": _Answer("this node is not up yet", (1.0, 4.0)),
    "draining": _Answer("this node is draining", (1.0, 4.0)),
    # Room comes from clients leaving, which takes longest.
    "full": _Answer("this node is full", (5.0, 20.0)),
    "lag": _Answer("this node is overloaded", (2.0, 8.0)),
    "accept_rate": _Answer("this node takes no more handshakes at the moment", (1.0, 5.0)),
}


def max_connections(memory_limit_bytes: int | None, base_bytes: int, per_connection_bytes: int) -> int:
    """How many connections fit into the memory of a node; `base_bytes` are set aside for the process itself."""
    if memory_limit_bytes is None:
        return WITHOUT_LIMIT
    fitting = (memory_limit_bytes - base_bytes) // per_connection_bytes
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, fitting))


class Shed(NamedTuple):
    """A handshake is turned away with 503; `reason` is the label it is counted under, `text` is for the client."""

    reason: ShedReason
    text: str
    retry_after_s: float


class Shedder:
    """Decides for each handshake whether the node can afford it.

    Without a fixed `accept_per_s` the event-loop lag is the brake: above `lag_shed_s` seconds handshakes are refused.
    """

    __slots__ = ("_accept_per_s", "_bucket", "_lag_shed_s", "_rng")

    def __init__(self, accept_per_s: float | None, lag_shed_s: float, rng: random.Random) -> None:
        self._accept_per_s = NOMINAL_ACCEPT_PER_S if accept_per_s is None else accept_per_s
        self._lag_shed_s = lag_shed_s
        self._rng = rng
        # Half a second's worth at once: enough for clients that come together, too little to stall the loop.
        self._bucket = None if accept_per_s is None else Bucket(max(1.0, accept_per_s / 2), accept_per_s, float("-inf"))

    def decide(self, now: float, *, connections: int, capacity: int, state: str, loop_lag_s: float) -> Shed | None:
        """None lets the handshake in; it then counts against the rate. Times in seconds, `now` of a steady clock."""
        if state != "up":
            return self._shed("starting" if state == "starting" else "draining", 0.0)
        if connections >= capacity:
            return self._shed("full", 0.0)
        if loop_lag_s > self._lag_shed_s:
            return self._shed("lag", 0.0)
        wait_s = self._bucket.take(now) if self._bucket is not None else 0.0
        return self._shed("accept_rate", wait_s) if wait_s > 0 else None

    def headroom(self, loop_lag_s: float) -> float:
        """Handshakes per second that the node can take: its rate, less the share of the lag that would shed."""
        punctual = min(1.0, max(0.0, 1.0 - loop_lag_s / self._lag_shed_s))
        return round(self._accept_per_s * punctual, 1)

    def _shed(self, reason: ShedReason, wait_s: float) -> Shed:
        answer = _ANSWERS[reason]
        return Shed(reason, answer.text, wait_s + self._rng.uniform(*answer.retry_after_s))
