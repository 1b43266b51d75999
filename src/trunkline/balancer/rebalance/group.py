"""One pool's group of backends in rebalancing: what is remembered of it, and its episode. Pure.

state      event                                                   then
---------  ------------------------------------------------------  ---------------------------------------------
quiet      a backend joined, or a share grew                       armed
armed      a node is above `rebalance_above` x the mean,           armed, since then
           and another has room
armed      no node is, or there is no room                         armed, the time begins again
armed      a node has been for `rebalance_delay_ms`                an episode, of the surplus and `SPARE_MOVES`
episode    nothing is left to move, and no client is on its way    quiet
episode    a backend joined, or a share grew                       the episode begins again with the new surplus
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from trunkline.balancer.rebalance.rows import Row
from trunkline.settings.balancer import BalancerSettings

ARRIVE_S: Final = 4.0
"""Seconds after the last client was asked to leave within which all are back: hint, reconnect, report."""

LEAVE_S: Final = 5.0
"""Seconds after the last client was asked until a node's clients count as gone even if its count does not say so."""

SPARE_MOVES: Final = 4
GROWN: Final = 1.01
"""A share counts as grown from here on; less is a rounding."""


class Order(msgspec.Struct):
    """The last order of a node, until its clients are gone.

    Attributes:
        before: connections of the node when it was sent.
        asked_by: when the last client will have been asked.
    """

    count: int
    before: float
    asked_by: float

    def is_over(self, connections: float, now: float) -> bool:
        """Whether its clients have left a node that has `connections`."""
        return now >= self.asked_by and (connections <= self.before - self.count or now >= self.asked_by + LEAVE_S)

    def still_there(self, connections: float) -> float:
        """How many of its clients are still on the node."""
        return max(0.0, self.count - max(0.0, self.before - connections))


class Want(NamedTuple):
    """Clients that a node has too many; `fair` is what it would have if all were even."""

    clients: int
    fair: float
    row: Row
    group: Group


class Group(msgspec.Struct, eq=False):
    """What is remembered of a group.

    Attributes:
        shares: of its members, as they were when the group was last armed.
        since: how long a node has been over-full, None when none is.
        left: clients that this episode may still ask; None outside of one.
        total: connections of the group when clients were last sent away.
        away: orders whose clients may be on their way: until when, and how many.
        keys_due: whole keys have to be looked at first.
    """

    shares: dict[str, float] = {}
    weights: dict[str, float] = {}
    armed: bool = False
    armed_at: float = 0.0
    since: float | None = None
    left: int | None = None
    total: float = 0.0
    away: list[tuple[float, int]] = []
    keys_due: bool = False

    def observe(self, members: Sequence[Row], now: float) -> None:
        """Arm the group if something has joined or grown; forget what is over."""
        grown = False
        for row in members:
            known = self.shares.get(row.url)
            grows = known is None or row.share > known * GROWN
            if grows or row.share < (known or 0.0):
                self.shares[row.url] = row.share
            grown |= grows
            if self.weights.get(row.url) != row.weight:
                # Slow start changes shares, but no key's home.
                self.keys_due = True
        self.weights = {row.url: row.weight for row in members}
        self.shares = {url: share for url, share in self.shares.items() if url in self.weights}
        if grown:
            if not self.armed and self.left is None:
                self.armed_at = now
            self.armed = True
        self.away = [(until, count) for until, count in self.away if until > now]

    def wants(
        self,
        members: Sequence[Row],
        orders: Mapping[str, Order],
        resting: Collection[str],
        free: bool,
        now: float,
        settings: BalancerSettings,
    ) -> list[Want]:
        """What the group's nodes have too many and may give away now; empty outside of an episode.

        `resting` has the URLs of nodes to leave alone; `free` says that the clients of earlier orders have been asked.
        """
        present = sum(row.connections for row in members)
        # Clients on their way count into the mean.
        total = min(max(present, self.total), present + sum(count for _, count in self.away))
        fair = spread(members, total)
        ours = [row for row in members if row.node]
        room = _room(members, fair, orders) - (total - present)
        if not self._is_due(ours, fair, room, now, settings):
            return []
        surplus = {row.url: _surplus(row, fair[row.url], settings) for row in ours if row.url not in resting}
        wanting = [row for row in ours if surplus.get(row.url, 0) > 0]
        if self.left is None:
            self.left = sum(surplus[row.url] for row in wanting) + SPARE_MOVES
            self.armed = False
        if not wanting or self.left <= 0 or room < 1:
            if not self.away and not any(row.url in orders for row in members):
                self.end()
            return []
        if not free:
            return []
        self.total = total
        found = []
        for row in wanting:
            count = min(surplus[row.url], math.floor(room))
            if row.url not in orders and count > 0:
                room -= count
                found.append(Want(count, fair[row.url], row, self))
        return found

    def _is_due(
        self, ours: Iterable[Row], fair: Mapping[str, float], room: float, now: float, settings: BalancerSettings
    ) -> bool:
        """Whether an episode is on, or begins now."""
        if self.left is not None:
            if self.armed:
                # Something more has joined during the episode: it may go on for that.
                self.left = None
            return True
        if not self.armed or room < 1 or not any(_over_full(row, fair[row.url], settings) for row in ours):
            self.since = None
            return False
        if self.since is None:
            self.since = now
        return now - self.since >= settings.rebalance_delay_ms / 1000

    def sent(self, count: int, asked_by: float) -> None:
        """Clients are asked to leave until `asked_by`, and may be on their way for a while after it."""
        self.away.append((asked_by + ARRIVE_S, count))

    def end(self) -> None:
        """End the episode."""
        self.left = None
        self.since = None


def spread(members: Iterable[Row], total: float) -> dict[str, float]:
    """How many each would have if `total` were spread by share."""
    shares = {row.url: row.share for row in members}
    whole = sum(shares.values())
    return {url: total * share / whole for url, share in shares.items()}


def _over_full(row: Row, fair: float, settings: BalancerSettings) -> bool:
    return row.connections > settings.rebalance_above * fair and math.floor(row.connections) > math.ceil(fair)


def _surplus(row: Row, fair: float, settings: BalancerSettings) -> int:
    return math.floor(row.connections) - max(math.ceil(fair), math.floor(settings.rebalance_until * fair))


def _room(members: Iterable[Row], fair: Mapping[str, float], orders: Mapping[str, Order]) -> float:
    """How many more the members with room take until all are even, less the clients that are still to leave."""
    room = 0.0
    for row in members:
        fits = math.ceil(fair[row.url])
        if row.capacity is not None:
            fits = min(fits, row.capacity)
        room += max(0.0, fits - row.connections) if row.room else 0.0
        order = orders.get(row.url)
        if order is not None:
            room -= order.still_there(row.connections)
    return room
