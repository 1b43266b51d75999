"""Which clients to ask to move after a backend has joined, recovered or grown. Pure.

Rules:

- Backends of one pool and group are balanced among themselves, by connections beside share (weight x capacity, as
  placement reckons). What drains, is not usable or takes nothing new gets no orders and counts as no room. A foreign
  backend counts as room and into the mean, but its clients stay: it takes no orders.
- Room is only where something was heard from lately and is not on trial; and what comes back again and again has none
  for longer each time (`comebacks`).
- A client is asked at most once in `rebalance_rest_ms`: orders leave those alone who connected after the first order
  within that time, for they may be the ones that it asked. What another balancer ordered is unknown, so after it led
  all orders leave those alone who connected within that time.
- An episode (see `group`) begins only after something has joined or grown: clients that left by themselves are no
  reason to disturb others. It orders little more than the surplus it began with; so a fleet whose clients come back to
  where they were is left alone after it.
- At most `rebalance_per_s` clients of the fleet are asked per second: one order follows another.
- Counts lag. A node gets no order while clients of its previous one are still on it. Clients on their way count into
  the mean and against the room. So nobody is moved from below the mean, and it does not swing.
- What affinity keeps together moves whole: first the keys that sit on a node which is not their owner, each key at most
  once in `rebalance_rest_ms`; then, in such pools, single clients that nothing keeps together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from trunkline.balancer.rebalance.comebacks import Comebacks
from trunkline.balancer.rebalance.group import Group, Order, Want, spread
from trunkline.balancer.rebalance.rows import GroupKey, Move, Row
from trunkline.settings.balancer import DEFAULT_ROUTES, BalancerSettings

SPAN_S: Final = 2.0
"""The clients of one order are asked within this time, so that the next one heeds what has changed meanwhile."""

REST_S: Final = 30.0
"""A node that could not move as many as it was asked to is left alone for so long."""

KEYS_REMEMBERED: Final = 50_000
MAX_OVER_MS: Final = 600_000

ON_THE_WAY_S: Final = 2.0
"""An order takes no longer to its node; one that comes later must not reach clients that came back meanwhile."""


class RebalanceState:
    """What rebalancing remembers from one look to the next.

    Attributes:
        resting: until when to leave a node alone, by URL.
        free_at: when the clients of all orders will have been asked.
        ordered: when orders were sent within `rebalance_rest_ms`, oldest first.
        other_led_at: when another balancer was last seen to lead.
    """

    def __init__(self) -> None:
        self.groups: dict[GroupKey, Group] = {}
        self.orders: dict[str, Order] = {}
        self.resting: dict[str, float] = {}
        self.free_at = -math.inf
        self.comebacks = Comebacks()
        self.ordered: deque[float] = deque()
        self.other_led_at = -math.inf
        self._moved_keys: dict[tuple[str, str, str], float] = {}

    def refused(self, url: str, now: float) -> None:
        """A node moved fewer than it was asked to, or did not answer: leave it alone for a while."""
        self.orders.pop(url, None)
        self.resting[url] = now + REST_S

    def observe(self, groups: Mapping[GroupKey, Sequence[Row]], now: float) -> None:
        """Compare the fleet with what is remembered, and forget what is over."""
        self.comebacks.observe((row for members in groups.values() for row in members), now)
        for key, members in groups.items():
            self.groups.setdefault(key, Group()).observe(members, now)
        for key in [key for key in self.groups if key not in groups]:
            del self.groups[key]
        counts = {row.url: row.connections for members in groups.values() for row in members}
        self.orders = {
            url: order for url, order in self.orders.items() if url in counts and not order.is_over(counts[url], now)
        }
        self.resting = {url: until for url, until in self.resting.items() if until > now}

    def sent(self, row: Row, group: Group, count: int, asked_by: float, now: float) -> None:
        """An order goes to a node, whose clients will all have been asked at `asked_by`."""
        self.orders[row.url] = Order(count, row.connections, asked_by)
        group.sent(count, asked_by)
        self.free_at = asked_by
        if not self.ordered or now > self.ordered[-1]:
            self.ordered.append(now)

    def rested_s(self, now: float, rest_s: float) -> float:
        """For how long a client must have been connected to be asked at `now`."""
        while self.ordered and now - self.ordered[0] >= rest_s:
            self.ordered.popleft()
        if now - self.other_led_at < rest_s:
            return rest_s
        return min(rest_s, now - self.ordered[0] + ON_THE_WAY_S) if self.ordered else 0.0

    def key_rests(self, key: tuple[str, str, str], now: float) -> bool:
        """Whether a key has been moved lately."""
        return now < self._moved_keys.get(key, -math.inf)

    def key_moved(self, key: tuple[str, str, str], now: float, rest_s: float) -> None:
        """A key is moved now, and rests for `rest_s`."""
        moved = self._moved_keys
        if len(moved) >= KEYS_REMEMBERED:
            self._moved_keys = moved = {known: until for known, until in moved.items() if until > now}
            while len(moved) >= KEYS_REMEMBERED:
                del moved[next(iter(moved))]
        moved[key] = now + rest_s


def plan(rows: Sequence[Row], now: float, settings: BalancerSettings, state: RebalanceState) -> list[Move]:
    """The orders that are due now; to be called every now and then, a quarter of a second or a second apart.

    `state` is changed as if the orders had been sent.
    """
    groups = _groups(rows)
    state.observe(groups, now)
    if settings.rebalance == "off":
        return []
    groups = _with_room(groups, now, settings, state)
    affinities = affinities_of(settings)
    wanted: list[Want] = []
    for key, members in groups.items():
        group = state.groups[key]
        if not (group.keys_due and affinities.get(key[0])):
            wanted += group.wants(members, state.orders, state.resting, now >= state.free_at, now, settings)
    dry_run = settings.rebalance == "dry-run"
    chosen = _chosen(wanted, settings, dry_run)
    over_s = sum(want.clients for want in chosen) / settings.rebalance_per_s
    rested_s = state.rested_s(now, settings.rebalance_rest_ms / 1000)
    moves = []
    for count, fair, row, group in chosen:
        affinity = next(iter(affinities.get(row.pool, ())), None)
        moves.append(_move(row, count, over_s, "over_full", fair, dry_run, affinity, rested_s=rested_s))
        if dry_run:
            group.end()
        else:
            state.sent(row, group, count, now + over_s, now)
    return moves


def observe(rows: Sequence[Row], now: float, state: RebalanceState, *, other_leads: bool) -> None:
    """Only look on: another balancer acts. What has joined meanwhile is known should this one have to take over."""
    state.observe(_groups(rows), now)
    if other_leads:
        state.other_led_at = now


def keys_wanted(
    rows: Sequence[Row], now: float, settings: BalancerSettings, state: RebalanceState
) -> list[tuple[GroupKey, str, list[Row]]]:
    """Groups whose keys have to be looked at now: which, what keeps clients together there, and the nodes to ask.

    It is empty while clients of an earlier order are being asked; a group waits until each of its members has room.
    """
    if settings.rebalance == "off" or now < state.free_at:
        return []
    affinities = affinities_of(settings)
    found = []
    for key, members in _with_room(_groups(rows), now, settings, state).items():
        group = state.groups.get(key)
        if not all(row.room for row in members):
            continue
        if group is None or not group.keys_due or now - group.armed_at < settings.rebalance_delay_ms / 1000:
            continue
        nodes = [row for row in members if row.node]
        found += [(key, affinity, nodes) for affinity in affinities.get(key[0], ())]
    return found


class _Misplaced(NamedTuple):
    """A key on a node that is not its owner; `split` when the owner has clients of it too."""

    split: bool
    clients: int
    url: str
    value: str
    home: str


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

    `counts` has the clients of each key by node's URL; `owner` gives the backend on which placement would put a key's
    next client. `state` is changed as if the orders had been sent.
    """
    group = state.groups.get(group_key)
    groups = _with_room(_groups(rows), now, settings, state)
    members = {row.url: row for row in groups.get(group_key, ())}
    if group is None or settings.rebalance == "off" or now < state.free_at:
        return []
    dry_run = settings.rebalance == "dry-run"
    misplaced = [
        each for each in _misplaced(members, counts, owner) if not state.key_rests((*group_key, each.value), now)
    ]
    # Split ones first, whose clients cannot meet; then the large ones.
    misplaced.sort(key=lambda each: each[:2], reverse=True)
    taken = _fitting(misplaced, members, math.inf if dry_run else _budget(settings))
    if not taken:
        return []
    for each in taken:
        state.key_moved((*group_key, each.value), now, settings.rebalance_rest_ms / 1000)
    present = sum(row.connections for row in members.values())
    fair = spread(members.values(), present)
    if not group.away:
        group.total = present
    over_s = sum(each.clients for each in taken) / settings.rebalance_per_s
    moves = []
    for url in dict.fromkeys(each.url for each in taken):
        row = members[url]
        values = [each.value for each in taken if each.url == url]
        size = sum(each.clients for each in taken if each.url == url)
        moves.append(_move(row, size, over_s, "key_elsewhere", fair[url], dry_run, affinity, *values))
        if not dry_run:
            state.sent(row, group, size, now + over_s, now)
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


def _groups(rows: Sequence[Row]) -> dict[GroupKey, list[Row]]:
    found: dict[GroupKey, list[Row]] = {}
    for row in rows:
        if row.usable and not row.draining and row.share > 0:
            found.setdefault((row.pool, row.group), []).append(row)
    return found


def _with_room(
    groups: Mapping[GroupKey, Sequence[Row]], now: float, settings: BalancerSettings, state: RebalanceState
) -> dict[GroupKey, list[Row]]:
    """The groups, with no room where a backend has come back too often lately."""
    delay_s = settings.rebalance_delay_ms / 1000

    def judged(row: Row) -> Row:
        waits = row.room and now < state.comebacks.room_from(row.url, delay_s)
        return msgspec.structs.replace(row, room=False) if waits else row

    return {key: [judged(row) for row in members] for key, members in groups.items()}


def _budget(settings: BalancerSettings) -> int:
    """Clients that may be asked at once."""
    return max(1, math.floor(settings.rebalance_per_s * SPAN_S))


def _chosen(wanted: Iterable[Want], settings: BalancerSettings, dry_run: bool) -> list[Want]:
    """The largest surpluses first, within the budget and what each episode has left; a dry run shows them all."""
    budget = _budget(settings)
    chosen = []
    for want in sorted(wanted, key=lambda want: want.clients, reverse=True):
        left = want.group.left or 0
        count = want.clients if dry_run else min(want.clients, budget, left)
        if count > 0:
            budget -= count
            want.group.left = left - count
            chosen.append(want._replace(clients=count))
    return chosen


def _misplaced(
    members: Mapping[str, Row], counts: Mapping[str, Mapping[str, int]], owner: Callable[[str], str | None]
) -> list[_Misplaced]:
    """The keys that sit on a node of ours which is not their owner."""
    found = []
    for url, keys in counts.items():
        if url not in members or not members[url].node:
            continue
        for value, count in keys.items():
            home = owner(value)
            if home is not None and home != url and home in members and count > 0:
                found.append(_Misplaced(counts.get(home, {}).get(value, 0) > 0, count, url, value, home))
    return found


def _fitting(misplaced: Iterable[_Misplaced], members: Mapping[str, Row], budget: float) -> list[_Misplaced]:
    """Those for which their owners and the budget have room; a key larger than the budget goes alone."""
    room = {url: _places(row) for url, row in members.items()}
    total = 0
    taken = []
    for each in misplaced:
        if each.clients <= room[each.home] and (not total or total + each.clients <= budget):
            room[each.home] -= each.clients
            total += each.clients
            taken.append(each)
    return taken


def _places(row: Row) -> float:
    """How many more it can take, whether that is even or not."""
    if not row.room:
        return 0
    return math.inf if row.capacity is None else row.capacity - row.connections


def _move(
    row: Row,
    count: int,
    over_s: float,
    reason: str,
    fair: float,
    dry_run: bool,
    affinity: str | None,
    *values: str,
    rested_s: float = 0.0,
) -> Move:
    over_ms = min(math.ceil(over_s * 1000), MAX_OVER_MS)
    return Move(
        row.url, row.node, row.pool, row.group, count, over_ms, reason, round(row.connections), round(fair), dry_run,
        affinity, values, math.ceil(rested_s * 1000),
    )  # fmt: skip
