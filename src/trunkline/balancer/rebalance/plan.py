"""Which clients to ask to move after a backend has joined, recovered or grown. Pure.

Rules:

- Backends of one pool and group are balanced among themselves, by connections beside share (weight x capacity, as
  placement reckons). What drains, is not usable or takes nothing new is neither asked nor counted as room. A foreign
  backend counts as room and into the mean, but its clients stay: nobody can ask them.
- An episode begins when a backend has joined or a share has grown, and a node of ours has since been above the mean by
  `rebalance_above` for `rebalance_delay_ms` without a break. It ends when all are within `rebalance_until`, and nothing
  begins before something joins or grows again: clients that left by themselves are no reason to disturb others.
- An episode orders at most the surplus it began with, and a little; so a fleet whose clients come back to where they
  were is left alone after it.
- At most `rebalance_per_s` clients of the fleet are asked per second: orders are told one after another.
- Counts lag. A node gets no order while clients of its previous one are still on it. Clients on their way count into
  the mean and against the room. So nobody is moved from below the mean, and it does not swing.
- What affinity keeps together moves whole: first the keys that sit on a node which is not their owner, each key at most
  once in `KEY_REST_S`; then, in such pools, single clients that nothing keeps together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from trunkline.settings.balancer import DEFAULT_ROUTES, BalancerSettings

SPAN_S: Final = 2.0
"""One order is told over so long at most: what changes meanwhile is heeded by the next one."""

LEAVE_S: Final = 5.0
"""Seconds after its last goodbye until a node's clients count as gone even if its count does not say so."""

ARRIVE_S: Final = 4.0
"""Seconds after the last goodbye within which clients are back: hint, reconnect, report."""

REST_S: Final = 30.0
"""A node that could not move as many as it was asked to is left alone for so long."""

KEY_REST_S: Final = 300.0
KEYS_REMEMBERED: Final = 50_000
SPARE_MOVES: Final = 4
GROWN: Final = 1.01
"""A share counts as grown from here on; less is a rounding."""

MAX_OVER_MS: Final = 600_000

GroupKey = tuple[str, str]
"""Pool and group."""


class Row(msgspec.Struct, frozen=True):
    """A backend as rebalancing sees it.

    Attributes:
        url: its name.
        node: the name under which a node of ours takes orders, empty for a foreign backend.
        connections: how many it is believed to have, reservations included.
        share: weight x capacity as placement reckons at the moment.
        pool: its pool.
        group: its canary group.
        weight: by which affinity gives it keys.
        capacity: connections it takes, None for no limit.
        usable: whether placement would choose it now.
        draining: whether it takes no more connections.
    """

    url: str
    node: str
    connections: float
    share: float
    pool: str = ""
    group: str = ""
    weight: float = 1.0
    capacity: int | None = None
    usable: bool = True
    draining: bool = False


class Move(msgspec.Struct, frozen=True):
    """An order for one node.

    Attributes:
        url: the backend.
        node: its name.
        pool: its pool.
        group: its group.
        count: how many clients are to be asked.
        over_ms: time to spread them over.
        reason: `over_full` or `key_elsewhere`.
        connections: what it is believed to have.
        fair: what it would have if all were even.
        dry_run: not to be sent.
        affinity: which clients: those that this keeps together (`values`), or with no values those it does not.
        values: the keys to move whole.
    """

    url: str
    node: str
    pool: str
    group: str
    count: int
    over_ms: int
    reason: str
    connections: int
    fair: int
    dry_run: bool = False
    affinity: str | None = None
    values: tuple[str, ...] = ()


class _Order(msgspec.Struct):
    """The last order of a node, until its clients are gone."""

    count: int
    before: float
    told_by: float


class _Group(msgspec.Struct):
    """What is remembered of a group.

    Attributes:
        shares: of its members, as they were when the group was last armed.
        weights: of its members at the last look.
        armed: something joined or grew since the last episode.
        armed_at: when.
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


class RebalanceState:
    """What rebalancing remembers from one look to the next."""

    def __init__(self) -> None:
        self.groups: dict[GroupKey, _Group] = {}
        self.orders: dict[str, _Order] = {}
        self.resting: dict[str, float] = {}
        self.moved_keys: dict[tuple[str, str, str], float] = {}
        self.free_at = float("-inf")

    def refused(self, url: str, now: float) -> None:
        """A node moved fewer than it was asked to, or did not answer: leave it alone for a while."""
        self.orders.pop(url, None)
        self.resting[url] = now + REST_S


def plan(rows: Sequence[Row], now: float, settings: BalancerSettings, state: RebalanceState) -> list[Move]:
    """The orders that are due now; to be called every now and then, a quarter of a second or a second apart.

    Args:
        rows: all backends.
        now: seconds, monotonic.
        settings: `rebalance…` and the routes.
        state: what is remembered; it is changed, as if the orders had been sent.
    """
    groups = _groups(rows)
    _observe(groups, now, state)
    if settings.rebalance == "off":
        return []
    affinities = affinities_of(settings)
    wanted: list[tuple[int, float, Row, _Group]] = []
    for key, members in groups.items():
        group = state.groups[key]
        if group.keys_due and affinities.get(key[0]):
            continue
        wanted.extend(_surplus(group, members, now, settings, state))
    if not wanted:
        return []
    dry_run = settings.rebalance == "dry-run"
    wanted.sort(key=lambda want: want[0], reverse=True)
    budget = _budget(settings)
    chosen: list[tuple[int, float, Row, _Group]] = []
    for surplus, fair, row, group in wanted:
        count = surplus if dry_run else min(surplus, budget, group.left or 0)
        if count > 0:
            budget -= count
            chosen.append((count, fair, row, group))
            group.left = (group.left or 0) - count
    over_s = sum(count for count, *_ in chosen) / settings.rebalance_per_s
    moves = []
    for count, fair, row, group in chosen:
        affinity = next(iter(affinities.get(row.pool, ())), None)
        moves.append(_move(row, count, over_s, "over_full", fair, dry_run=dry_run, affinity=affinity))
        if dry_run:
            _end(group)
        else:
            _sent(state, row, group, count, now + over_s)
    if moves and not dry_run:
        state.free_at = now + over_s
    return moves


def observe(rows: Sequence[Row], now: float, state: RebalanceState) -> None:
    """Only look on: another balancer acts. What has joined meanwhile is known should this one have to take over."""
    _observe(_groups(rows), now, state)


def keys_wanted(
    rows: Sequence[Row], now: float, settings: BalancerSettings, state: RebalanceState
) -> list[tuple[GroupKey, str, list[Row]]]:
    """Groups whose keys have to be looked at now: which, what keeps clients together there, and the nodes to ask.

    It is empty while clients of an earlier order are being told.
    """
    if settings.rebalance == "off" or now < state.free_at:
        return []
    affinities = affinities_of(settings)
    found = []
    for key, members in _groups(rows).items():
        group = state.groups.get(key)
        if group is None or not group.keys_due or now - group.armed_at < settings.rebalance_delay_ms / 1000:
            continue
        nodes = [row for row in members if row.node]
        for affinity in affinities.get(key[0], ()):
            found.append((key, affinity, nodes))
    return found


def plan_keys(
    rows: Sequence[Row],
    counts: Mapping[str, Mapping[str, int]],
    owner: Callable[[str], str | None],
    affinity: str,
    group_key: GroupKey,
    now: float,
    settings: BalancerSettings,
    state: RebalanceState,
) -> list[Move]:
    """Orders that bring whole keys to their owners; none when all that can be moved are there.

    Args:
        rows: all backends.
        counts: clients of each key, by node's URL.
        owner: the backend on which placement would put a key's next client.
        affinity: what keeps the clients together.
        group_key: the group.
        now: seconds, monotonic.
        settings: `rebalance…`.
        state: what is remembered; it is changed, as if the orders had been sent.
    """
    group = state.groups.get(group_key)
    members = {row.url: row for row in _groups(rows).get(group_key, ())}
    if group is None or settings.rebalance == "off" or now < state.free_at:
        return []
    room = {url: math.inf if row.capacity is None else row.capacity - row.connections for url, row in members.items()}
    misplaced: list[tuple[bool, int, str, str, str]] = []
    for url, keys in counts.items():
        if url not in members or not members[url].node:
            continue
        for value, count in keys.items():
            home = owner(value)
            if home is None or home == url or home not in members or count <= 0:
                continue
            if now < state.moved_keys.get((*group_key, value), -math.inf):
                continue
            # Split ones first, whose clients cannot meet; then the large ones.
            misplaced.append((counts.get(home, {}).get(value, 0) > 0, count, url, value, home))
    misplaced.sort(key=lambda each: each[:2], reverse=True)
    budget = _budget(settings)
    dry_run = settings.rebalance == "dry-run"
    taken: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    total = 0
    for _, count, url, value, home in misplaced:
        # A key larger than the budget goes alone, and the next order waits the longer.
        if count > room[home] or (not dry_run and total and total + count > budget):
            continue
        room[home] -= count
        total += count
        taken.setdefault(url, []).append(value)
        sizes[url] = sizes.get(url, 0) + count
        _remember_key(state, (*group_key, value), now)
    over_s = total / settings.rebalance_per_s
    moves = []
    present = sum(row.connections for row in members.values())
    fair = _fair(list(members.values()), present)
    if taken and not group.away:
        group.total = present
    for url, values in taken.items():
        row = members[url]
        moves.append(
            _move(
                row, sizes[url], over_s, "key_elsewhere", fair[url], dry_run=dry_run, affinity=affinity, values=values
            )
        )
        if not dry_run:
            _sent(state, row, group, sizes[url], now + over_s)
    if moves and not dry_run:
        state.free_at = now + over_s
    return moves


def keys_done(group_key: GroupKey, state: RebalanceState) -> None:
    """All keys of a group that can be are where they belong; single clients come next."""
    group = state.groups.get(group_key)
    if group is not None:
        group.keys_due = False


def affinities_of(settings: BalancerSettings) -> dict[str, tuple[str, ...]]:
    """What keeps clients together, by pool, as far as nodes can know it (`query:`, `path:` without a rewrite)."""
    found: dict[str, dict[str, None]] = {}
    for route in (*settings.routes, *DEFAULT_ROUTES):
        affinity = route.affinity or settings.affinity
        if (route.policy or settings.policy) != "affinity":
            continue
        if affinity.startswith("query:") or (affinity.startswith("path:") and route.rewrite is None):
            found.setdefault(route.pool, {})[affinity] = None
    return {pool: tuple(affinities) for pool, affinities in found.items()}


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(rows: Sequence[Row]) -> dict[GroupKey, list[Row]]:
    found: dict[GroupKey, list[Row]] = {}
    for row in rows:
        if row.usable and not row.draining and row.share > 0:
            found.setdefault((row.pool, row.group), []).append(row)
    return found


def _observe(groups: Mapping[GroupKey, Sequence[Row]], now: float, state: RebalanceState) -> None:
    """Arm the groups in which something has joined or grown; forget what is over."""
    for key, members in groups.items():
        group = state.groups.setdefault(key, _Group())
        grown = False
        for row in members:
            known = group.shares.get(row.url)
            if known is None or row.share > known * GROWN:
                grown = True
                group.shares[row.url] = row.share
            elif row.share < known:
                group.shares[row.url] = row.share
            if group.weights.get(row.url) != row.weight:
                # Slow start changes shares, but no key's home.
                group.keys_due = True
        group.weights = {row.url: row.weight for row in members}
        present = {row.url for row in members}
        for url in [url for url in group.shares if url not in present]:
            del group.shares[url]
        if grown:
            if not group.armed and group.left is None:
                group.armed_at = now
            group.armed = True
        group.away = [(until, count) for until, count in group.away if until > now]
    for key in [key for key in state.groups if key not in groups]:
        del state.groups[key]
    counts = {row.url: row.connections for members in groups.values() for row in members}
    for url, order in list(state.orders.items()):
        if url not in counts or (
            now >= order.told_by and (counts[url] <= order.before - order.count or now >= order.told_by + LEAVE_S)
        ):
            del state.orders[url]
    state.resting = {url: until for url, until in state.resting.items() if until > now}


def _surplus(
    group: _Group, members: Sequence[Row], now: float, settings: BalancerSettings, state: RebalanceState
) -> list[tuple[int, float, Row, _Group]]:
    """What the group's nodes have too much and may give away now; empty outside of an episode."""
    present = sum(row.connections for row in members)
    away = sum(count for _, count in group.away)
    total = min(max(present, group.total), present + away)
    fair = _fair(members, total)
    ours = [row for row in members if row.node]
    if group.left is None:
        over_full = [
            row
            for row in ours
            if row.connections > settings.rebalance_above * fair[row.url]
            and math.floor(row.connections) > math.ceil(fair[row.url])
        ]
        if not group.armed or not over_full:
            group.since = None
            return []
        if group.since is None:
            group.since = now
        if now - group.since < settings.rebalance_delay_ms / 1000:
            return []
    elif group.armed:
        # Something more has joined during the episode: it may go on for that.
        group.left = None
    room = -(total - present) - sum(
        max(0.0, order.count - max(0.0, order.before - row.connections))
        for row in members
        if (order := state.orders.get(row.url)) is not None
    )
    for row in members:
        fits = math.ceil(fair[row.url]) if row.capacity is None else min(math.ceil(fair[row.url]), row.capacity)
        room += max(0.0, fits - row.connections)
    surplus = {
        row.url: math.floor(row.connections)
        - max(math.ceil(fair[row.url]), math.floor(settings.rebalance_until * fair[row.url]))
        for row in ours
        if row.url not in state.resting
    }
    wanting = [row for row in ours if surplus.get(row.url, 0) > 0]
    if group.left is None:
        group.left = sum(surplus[row.url] for row in wanting) + SPARE_MOVES
        group.armed = False
    if not wanting or group.left <= 0 or room < 1:
        if not group.away and not any(row.url in state.orders for row in members):
            _end(group)
        return []
    if now < state.free_at:
        return []
    found = []
    for row in wanting:
        if row.url in state.orders:
            continue
        count = min(surplus[row.url], math.floor(room))
        if count > 0:
            room -= count
            found.append((count, fair[row.url], row, group))
    group.total = total
    return found


def _end(group: _Group) -> None:
    group.left = None
    group.since = None


def _fair(members: Iterable[Row], total: float) -> dict[str, float]:
    """How many each would have if `total` were spread by share."""
    shares = {row.url: row.share for row in members}
    whole = sum(shares.values())
    return {url: total * share / whole for url, share in shares.items()}


# --- orders -----------------------------------------------------------------------------------------------------------


def _budget(settings: BalancerSettings) -> int:
    """Clients that may be asked with one breath."""
    return max(1, math.floor(settings.rebalance_per_s * SPAN_S))


def _sent(state: RebalanceState, row: Row, group: _Group, count: int, told_by: float) -> None:
    state.orders[row.url] = _Order(count, row.connections, told_by)
    group.away.append((told_by + ARRIVE_S, count))


def _remember_key(state: RebalanceState, key: tuple[str, str, str], now: float) -> None:
    if len(state.moved_keys) >= KEYS_REMEMBERED:
        state.moved_keys = {known: until for known, until in state.moved_keys.items() if until > now}
        while len(state.moved_keys) >= KEYS_REMEMBERED:
            del state.moved_keys[next(iter(state.moved_keys))]
    state.moved_keys[key] = now + KEY_REST_S


def _move(
    row: Row,
    count: int,
    over_s: float,
    reason: str,
    fair: float,
    *,
    dry_run: bool,
    affinity: str | None,
    values: Iterable[str] = (),
) -> Move:
    return Move(
        row.url,
        row.node,
        row.pool,
        row.group,
        count,
        min(math.ceil(over_s * 1000), MAX_OVER_MS),
        reason,
        round(row.connections),
        round(fair),
        dry_run,
        affinity,
        tuple(values),
    )
