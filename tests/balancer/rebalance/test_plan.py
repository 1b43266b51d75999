"""Rebalancing on a model fleet whose counts lag: it evens out, stops, keeps its rate and disturbs nobody in vain."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.rebalance.driver import FRESH_S
from trunkline.balancer.rebalance.group import SPARE_MOVES
from trunkline.balancer.rebalance.plan import (
    SPAN_S,
    RebalanceState,
    affinities_of,
    keys_done,
    keys_wanted,
    observe,
    plan,
    plan_keys,
)
from trunkline.balancer.rebalance.rows import Move, Row
from trunkline.settings.balancer import BalancerSettings, RouteEntry

SETTINGS = BalancerSettings()
STEP_S = 0.25
POOL = "plain"
"""A pool of which no route keeps clients together."""


class Node:
    """A node of the model."""

    def __init__(self, url: str, count: int, share: float, *, ours: bool = True) -> None:
        self.url, self.count, self.share, self.ours = url, count, share, ours
        self.reported = count
        self.told: list[float] = []


class Model:
    """A fleet whose clients leave when they are told, come back later, and are believed to be there later still."""

    def __init__(self, nodes: list[Node], settings: BalancerSettings, rng: random.Random, lag_s: float) -> None:
        self.nodes = nodes
        self.settings = settings
        self.rng = rng
        self.lag_s = lag_s
        self.now = 100.0
        self.state = RebalanceState()
        self.orders: list[tuple[float, Move]] = []
        self.coming: list[float] = []
        self.counts: list[tuple[float, dict[str, int]]] = []

    def rows(self) -> list[Row]:
        """What a balancer believes: counts as they were `lag_s` ago, and its own picks since."""
        return [Row(each.url, each.url if each.ours else "", each.reported, each.share, POOL) for each in self.nodes]

    def step(self) -> list[Move]:
        """A quarter of a second passes."""
        self.now += STEP_S
        for node in self.nodes:
            leaving = [at for at in node.told if at <= self.now]
            node.told = [at for at in node.told if at > self.now]
            node.count -= len(leaving)
            self.coming += [self.now + self.rng.uniform(0.1, 1.5) for _ in leaving]
        arrived = [at for at in self.coming if at <= self.now]
        self.coming = [at for at in self.coming if at > self.now]
        for _ in arrived:
            best = min(self.nodes, key=lambda each: (each.reported + 1) / each.share)
            best.count += 1
            best.reported += 1  # the reservation
        self.counts.append((self.now, {each.url: each.count for each in self.nodes}))
        past = [counts for at, counts in self.counts if at <= self.now - self.lag_s]
        for node in self.nodes:
            # Picks are known at once, departures late.
            node.reported = max(node.count, past[-1].get(node.url, 0) if past else node.reported)
        moves = plan(self.rows(), self.now, self.settings, self.state)
        for move in moves:
            self.orders.append((self.now, move))
            node = next(each for each in self.nodes if each.url == move.url)
            node.told += [self.now + self.rng.uniform(0, move.over_ms / 1000) for _ in range(move.count)]
        return moves

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.step()

    @property
    def moved(self) -> int:
        return sum(move.count for _, move in self.orders)

    def fair(self, node: Node) -> float:
        return sum(each.count for each in self.nodes) * node.share / sum(each.share for each in self.nodes)


@st.composite
def fleets(draw: st.DrawFn) -> Model:
    size = draw(st.integers(2, 6))
    nodes = [
        Node(f"http://n{index}:1", draw(st.integers(0, 400)), draw(st.sampled_from([1.0, 1.0, 2.0, 0.5])))
        for index in range(size)
    ]
    settings = msgspec.structs.replace(
        SETTINGS,
        rebalance_per_s=draw(st.sampled_from([5.0, 50.0, 200.0])),
        rebalance_delay_ms=draw(st.sampled_from([0, 1000, 5000])),
    )
    return Model(nodes, settings, random.Random(draw(st.integers(0, 1000))), draw(st.sampled_from([0.0, 0.5, 2.0])))


@given(fleets())
def test_evens_out_and_stops(model: Model) -> None:
    """Every node ends within the bounds, no more clients move than were too many, none leaves a node below the mean."""
    surplus = sum(max(0, math.ceil(each.count - model.fair(each))) for each in model.nodes)
    least = {each.url: min(each.count, math.floor(model.fair(each))) for each in model.nodes}
    patience = model.settings.rebalance_delay_ms / 1000 + 3 * surplus / model.settings.rebalance_per_s + 60
    for _ in range(int(patience / STEP_S)):
        model.step()
        for node in model.nodes:
            assert node.count >= least[node.url], "a node was emptied below the mean"
    assert model.moved <= surplus + SPARE_MOVES
    for node in model.nodes:
        fair = model.fair(node)
        assert node.count <= max(model.settings.rebalance_above * fair, math.ceil(fair) + 1)
    before = model.moved
    model.run(30)
    assert model.moved == before, "it goes on for ever"


@given(fleets())
def test_keeps_its_rate(model: Model) -> None:
    """No more clients are asked than the rate allows, from whatever moment one counts."""
    model.run(40)
    for start, (begin, _) in enumerate(model.orders):
        asked = 0
        for at, move in model.orders[start:]:
            asked += move.count
            allowed = model.settings.rebalance_per_s * (at - begin + SPAN_S + STEP_S) + 1
            assert asked <= allowed
    for at in {at for at, _ in model.orders}:
        together = [move for when, move in model.orders if when == at]
        over_s = max(move.over_ms for move in together) / 1000
        assert sum(move.count for move in together) <= model.settings.rebalance_per_s * over_s + 1


def test_takes_no_longer_than_the_rate_asks_for() -> None:
    """After a scale-out from 2 to 4 nodes, 4,000 clients are even in about the time that the rate allows."""
    nodes = [Node("http://a:1", 2000, 1.0), Node("http://b:1", 2000, 1.0)]
    model = Model(nodes, msgspec.structs.replace(SETTINGS, rebalance_per_s=100.0), random.Random(1), 0.25)
    model.run(30)
    assert not model.orders
    nodes += [Node("http://c:1", 0, 1.0), Node("http://d:1", 0, 1.0)]
    began = model.now
    while max(each.count for each in nodes) > 1.05 * 1000 and model.now < began + 100:
        model.step()
    assert model.now - began <= 5 + 1900 / 100 * 1.1 + 3


def test_slow_start() -> None:
    """A node whose share grows little by little is filled as it grows, and its keys are looked at once."""
    nodes = [Node("http://a:1", 300, 1.0), Node("http://b:1", 300, 1.0)]
    model = Model(nodes, SETTINGS, random.Random(4), 0.25)
    model.run(10)
    keys_done((POOL, ""), model.state)
    nodes.append(Node("http://c:1", 0, 0.1))
    model.step()
    assert model.state.groups[POOL, ""].keys_due
    keys_done((POOL, ""), model.state)
    for tick in range(40):
        nodes[2].share = 0.1 + 0.9 * (tick + 1) / 40
        model.step()
        assert max(each.count for each in nodes[:2]) >= model.fair(nodes[0]) - 1
    assert not model.state.groups[POOL, ""].keys_due
    model.run(30)
    assert max(each.count for each in nodes) <= SETTINGS.rebalance_until * 200
    assert model.moved <= 200 + SPARE_MOVES


def test_waits_for_the_clients_of_the_last_order() -> None:
    """A node whose count has not fallen yet gets no second order, however long its clients take to leave."""
    rows = [Row("http://a:1", "a", 100, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    state = RebalanceState()
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=10.0)
    [first] = plan(rows, 10.0, settings, state)
    assert (first.count, first.over_ms, first.node) == (20, 2000, "a")
    assert not plan(rows, 12.1, settings, state)
    assert not plan(rows, 14.0, settings, state)
    rows = [msgspec.structs.replace(rows[0], connections=80), msgspec.structs.replace(rows[1], connections=20)]
    [second] = plan(rows, 14.25, settings, state)
    assert second.count == 20


def test_an_imbalance_must_last() -> None:
    """What is over within `rebalance_delay_ms` moves nobody, and the time begins again."""
    state = RebalanceState()
    uneven = [Row("http://a:1", "a", 100, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    even = [msgspec.structs.replace(row, connections=50) for row in uneven]
    assert not plan(uneven, 10.0, SETTINGS, state)
    assert not plan(uneven, 14.9, SETTINGS, state)
    assert not plan(even, 14.95, SETTINGS, state)
    assert not plan(uneven, 15.0, SETTINGS, state)
    assert not plan(uneven, 19.9, SETTINGS, state)
    assert plan(uneven, 20.0, SETTINGS, state)


def test_only_a_join_begins() -> None:
    """After an episode, clients that leave by themselves move nobody; a backend that recovers does."""
    nodes = [Node("http://a:1", 100, 1.0), Node("http://b:1", 0, 1.0)]
    model = Model(nodes, SETTINGS, random.Random(3), 0.0)
    model.run(30)
    moved = model.moved
    assert moved
    nodes[0].count = 5
    model.run(30)
    assert model.moved == moved
    rows = model.rows()
    away = [rows[0], msgspec.structs.replace(rows[1], usable=False)]
    plan(away, model.now + 1, SETTINGS, model.state)
    assert not plan(rows, model.now + 2, SETTINGS, model.state)
    assert plan(rows, model.now + 8, SETTINGS, model.state)


def test_clients_that_come_back_are_left_alone() -> None:
    """When the moved ones return to the node they came from, it ends after as many as were too many."""
    state = RebalanceState()
    rows = [Row("http://a:1", "a", 90, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    asked = 0
    for tick in range(2000):
        asked += sum(move.count for move in plan(rows, 10 + tick * STEP_S, SETTINGS, state))
    assert 0 < asked <= 45 + SPARE_MOVES


def test_who_is_neither_asked_nor_counted() -> None:
    """Draining and unusable nodes do not count at all; foreign ones count, but their clients stay."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0)
    full = Row("http://a:1", "a", 90, 1.0, POOL)
    empty = Row("http://b:1", "b", 0, 1.0, POOL)
    for out in (
        msgspec.structs.replace(empty, draining=True),
        msgspec.structs.replace(empty, usable=False),
        msgspec.structs.replace(empty, share=0.0),
    ):
        assert not plan([full, out], 10.0, settings, RebalanceState())
    assert not plan([msgspec.structs.replace(full, node=""), empty], 10.0, settings, RebalanceState())
    [move] = plan([full, msgspec.structs.replace(empty, node="")], 10.0, settings, RebalanceState())
    assert (move.url, move.count) == ("http://a:1", 45)


def test_groups_and_pools_apart() -> None:
    """A group's nodes are balanced among themselves: another group's empty node is no room for it."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0)
    rows = [
        Row("http://a:1", "a", 90, 1.0, POOL, "blue"), Row("http://b:1", "b", 0, 1.0, POOL, "green"),
        Row("http://c:1", "c", 0, 1.0, "other", "blue"),
    ]  # fmt: skip
    assert not plan(rows, 10.0, settings, RebalanceState())


def test_room_is_bounded_by_capacity() -> None:
    """No more are moved than the others can take."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0)
    rows = [Row("http://a:1", "a", 90, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL, capacity=7)]
    assert [move.count for move in plan(rows, 10.0, settings, RebalanceState())] == [7]


def test_clients_on_their_way_need_room() -> None:
    """Those who have left and are not back yet keep their places: a second order fills only what is left."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=10.0)
    state = RebalanceState()
    rows = [Row("http://a:1", "a", 200, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL, capacity=30)]
    assert [move.count for move in plan(rows, 10.0, settings, state)] == [20]
    rows[0] = msgspec.structs.replace(rows[0], connections=180)
    assert [move.count for move in plan(rows, 12.0, settings, state)] == [10]


def test_dry_run_says_it_once() -> None:
    """A dry run names the whole surplus once, marked, and orders nothing after it."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance="dry-run", rebalance_per_s=1.0)
    rows = [Row("http://a:1", "a", 90, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    state = RebalanceState()
    [move] = plan(rows, 10.0, settings, state)
    assert (move.dry_run, move.count) == (True, 45)
    assert not any(plan(rows, 10 + tick, settings, state) for tick in range(1, 100))


def test_off() -> None:
    """Switched off, nothing is planned."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance="off")
    rows = [Row("http://a:1", "a", 90, 1.0), Row("http://b:1", "b", 0, 1.0)]
    state = RebalanceState()
    assert not plan(rows, 10.0, settings, state)
    assert not keys_wanted(rows, 10.0, settings, state)


def test_a_node_that_refuses_rests() -> None:
    """A node that cannot move its clients is not asked again at once."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=1.0)
    rows = [Row("http://a:1", "a", 90, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    state = RebalanceState()
    assert plan(rows, 10.0, settings, state)
    state.refused("http://a:1", 10.1)
    assert not any(plan(rows, 11 + tick, settings, state) for tick in range(28))


# --- backends that are not what they seem -----------------------------------------------------------------------------


def test_no_room_where_nothing_was_heard() -> None:
    """A backend that fell silent, or is on trial, gets nobody; the time begins when it has room."""
    state = RebalanceState()
    full, empty = Row("http://a:1", "a", 100, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)
    silent = msgspec.structs.replace(empty, room=False)
    assert not plan([full, empty], 10.0, SETTINGS, state)
    assert not plan([full, silent], 15.0, SETTINGS, state)
    assert not plan([full, silent], 60.0, SETTINGS, state)
    assert not plan([full, empty], 61.0, SETTINGS, state)
    assert plan([full, empty], 66.0, SETTINGS, state)


def test_no_key_goes_where_nothing_was_heard() -> None:
    """Whole keys wait too, and are looked at when their owner is heard again."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0)
    rows = [Row("http://a:1", "a", 5, 1.0), Row("http://b:1", "b", 0, 1.0, room=False)]
    state = RebalanceState()
    plan(rows, 10.0, settings, state)
    assert not keys_wanted(rows, 10.0, settings, state)
    counts = {"http://a:1": {"k": 5}}
    found = plan_keys(rows, counts, lambda _: "http://b:1", "query:matchId", ("", ""), 10.0, settings, state)
    assert not found
    rows[1] = msgspec.structs.replace(rows[1], room=True)
    assert keys_wanted(rows, 11.0, settings, state)


def test_who_may_have_been_asked_is_left_alone() -> None:
    """Orders that follow the first one within the time leave alone who connected since; and all, after another led."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=10.0)
    rows = [Row("http://a:1", "a", 100, 1.0, POOL), Row("http://b:1", "b", 0, 1.0, POOL)]
    state = RebalanceState()
    [first] = plan(rows, 10.0, settings, state)
    assert first.rested_ms == 0
    rows = [msgspec.structs.replace(rows[0], connections=80), msgspec.structs.replace(rows[1], connections=20)]
    [second] = plan(rows, 15.0, settings, state)
    assert 5000 < second.rested_ms <= 5000 + 2000
    assert state.rested_s(15.0 + 299, 300.0) == 300.0, "the second order is younger, the first one is old"
    assert state.rested_s(15.0 + 301, 300.0) == 0.0
    observe(rows, 1000.0, state, other_leads=False)
    assert state.rested_s(1000.0, 300.0) == 0.0
    observe(rows, 1000.0, state, other_leads=True)
    assert state.rested_s(1001.0, 300.0) == 300.0


class Client:
    """A client with a memory: on which node it is, since when, and when it was asked to leave."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.since = 0.0
        self.asked: list[float] = []


@pytest.mark.parametrize(("lives_s", "pause_s"), [(1.0, 10.0), (12.0, 10.0), (40.0, 10.0)])
def test_a_crash_loop_disturbs_nobody_twice(lives_s: float, pause_s: float) -> None:
    """A third node that is there for a while and dies, for twenty minutes: a client is asked once in five minutes.

    What a balancer knows is late: reports come every two seconds, and a death is noticed after seven.
    """
    clients = [Client(number % 2) for number in range(100)]
    state = RebalanceState()
    rng = random.Random(7)
    now = began = 100.0
    while now < began + 1200:
        now += STEP_S
        at = (now - began) % (lives_s + pause_s)
        alive = at < lives_s
        heard = at - at % 2 if alive else lives_s - lives_s % 2
        for client in clients:
            if client.node == 2 and not alive:
                client.node, client.since = rng.randrange(2), now
        counts = [sum(client.node == node for client in clients) for node in range(3)]
        rows = [Row(f"http://{node}:1", f"n{node}", counts[node], 1.0, POOL) for node in range(2)]
        if at - heard < 7.0:
            rows.append(Row("http://2:1", "n2", counts[2], 1.0, POOL, room=at - heard <= FRESH_S))
        for move in plan(rows, now, SETTINGS, state):
            node = int(move.node[1:])
            free = [each for each in clients if each.node == node and each.since <= now - move.rested_ms / 1000]
            for client in free[: move.count]:
                assert all(now - before >= 300 for before in client.asked), "asked twice within five minutes"
                client.asked.append(now)
                client.node, client.since = (2 if alive else rng.randrange(2)), now
    asked = sum(len(client.asked) for client in clients)
    assert asked == 0 if lives_s < 5 else asked <= 100, asked


# --- whole keys -------------------------------------------------------------------------------------------------------


def test_keys_come_first_and_move_whole() -> None:
    """In a pool with affinity, keys go to their owners whole and within the rate, split ones first; then the others."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=10.0)
    rows = [Row("http://a:1", "a", 90, 1.0), Row("http://b:1", "b", 2, 1.0)]
    state = RebalanceState()
    assert not plan(rows, 10.0, settings, state), "keys first"
    [(group, affinity, nodes)] = keys_wanted(rows, 10.0, settings, state)
    assert (group, affinity, [row.node for row in nodes]) == (("", ""), "query:matchId", ["a", "b"])
    counts = {"http://a:1": {"stays": 50, "big": 15, "split": 4, "small": 3}, "http://b:1": {"split": 2}}

    def owner(key: str) -> str:
        return "http://a:1" if key == "stays" else "http://b:1"

    [move] = plan_keys(rows, counts, owner, affinity, group, 10.0, settings, state)
    assert (move.url, move.values, move.count, move.over_ms) == ("http://a:1", ("split", "big"), 19, 1900)
    assert (move.reason, move.affinity) == ("key_elsewhere", "query:matchId")
    assert not keys_wanted(rows, 11.0, settings, state), "they are being told"
    assert keys_wanted(rows, 12.0, settings, state)
    [move] = plan_keys(rows, counts, owner, affinity, group, 12.0, settings, state)
    assert move.values == ("small",), "no key is moved twice in a short time"
    assert not plan_keys(rows, counts, owner, affinity, group, 13.0, settings, state)
    keys_done(group, state)
    rows = [msgspec.structs.replace(rows[0], connections=68), msgspec.structs.replace(rows[1], connections=24)]
    [move] = plan(rows, 20.0, settings, state)
    assert (move.affinity, move.values, move.count) == ("query:matchId", (), 20), "who is kept together stays"


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 30), max_size=30),
    st.integers(0, 100),
    st.sampled_from([1.0, 20.0, 1000.0]),
)
def test_keys_settle(keys: dict[str, int], seed: int, per_s: float) -> None:
    """Every misplaced key reaches its owner, each by one order, and then there is nothing left to do."""
    rng = random.Random(seed)
    urls = [f"http://n{index}:1" for index in range(4)]
    homes = {key: rng.choice(urls) for key in keys}
    counts: dict[str, dict[str, int]] = {url: {} for url in urls}
    for key, count in keys.items():
        counts[rng.choice(urls)][key] = count
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0, rebalance_per_s=per_s)
    state = RebalanceState()
    now = 10.0
    seen: list[str] = []
    while now < 10 + SETTINGS.rebalance_rest_ms / 100:
        rows = [Row(url, url, sum(counts[url].values()), 1.0) for url in urls]
        plan(rows, now, settings, state)
        if now < state.free_at:
            now = state.free_at
            continue
        moves = plan_keys(rows, counts, homes.__getitem__, "query:matchId", ("", ""), now, settings, state)
        if not moves:
            break
        for move in moves:
            assert move.count == sum(counts[move.url][key] for key in move.values)
            seen += move.values
            for key in move.values:
                counts[homes[key]][key] = counts[move.url].pop(key)
        now += 0.25
    assert all(key in counts[homes[key]] for key in keys)
    assert len(seen) == len(set(seen))


def test_owner_without_room() -> None:
    """A key stays when its owner has no room, is not there, or is the node itself."""
    settings = msgspec.structs.replace(SETTINGS, rebalance_delay_ms=0)
    rows = [Row("http://a:1", "a", 90, 1.0), Row("http://b:1", "b", 0, 1.0, capacity=5)]
    state = RebalanceState()
    plan(rows, 10.0, settings, state)
    for home in ("http://a:1", "http://b:1", "http://gone:1", None):
        counts = {"http://a:1": {"k": 6}}
        assert not plan_keys(rows, counts, lambda _, h=home: h, "query:matchId", ("", ""), 10.0, settings, state)


def test_affinities_that_nodes_know() -> None:
    """Headers and cookies are not kept on nodes, and a rewritten path has other parts there."""
    settings = BalancerSettings(
        routes=(
            RouteEntry("/x", pool="p", policy="affinity", affinity="header:X-Room"),
            RouteEntry("/y", pool="q", policy="affinity", affinity="path:2"),
            RouteEntry("/z", pool="r", policy="affinity", affinity="path:2", rewrite="/"),
        )
    )
    assert affinities_of(settings) == {"": ("query:matchId",), "q": ("path:2",)}
