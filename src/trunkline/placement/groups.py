"""Shares of canary groups: smooth weighted round robin over the groups that can take a connection. Pure.

Rules:

- Of any `sum of weights` choices in a row each group gets exactly its weight (whole weights, all groups able).
- The share of a group that cannot take a connection goes to the others in proportion; it does not catch up later.
- A group that is held has no lane. Others without a weight come last: when none with a weight can.
"""

from __future__ import annotations

from collections.abc import Sequence

from trunkline.placement.pool import Lane, Pool


class GroupTurns:
    """Whose turn it is in one pool."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[str, float] = {}

    def next(self, pool: Pool, now: float, tried: Sequence[str]) -> Lane | None:
        """The lane of the group whose turn it is, None when no group can take a connection outside of `tried`."""
        turns = self._turns
        chosen: str | None = None
        total = 0.0
        weights = pool.shares.weights
        for name, weight in weights.items():
            lane = pool.lanes.get(name)
            if lane is None or not lane.has_ready(now, tried):
                continue
            total += weight
            turns[name] = turns.get(name, 0.0) + weight
            if chosen is None or turns[name] > turns[chosen]:
                chosen = name
        if chosen is not None:
            turns[chosen] -= total
            return pool.lanes[chosen]
        for name, lane in pool.lanes.items():
            if name not in weights and lane.has_ready(now, tried):
                return lane
        return None
