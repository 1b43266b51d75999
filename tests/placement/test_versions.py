"""New connections go to the newest release that can take them, within what else placement has to keep."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.placement.test_pick import Placing
from trunkline.placement.backend import BackendSpec, short_id
from trunkline.placement.shares import Shares

OLD = tuple(f"http://10.0.0.{i}:3001" for i in (1, 2, 3))
NEW = tuple(f"http://10.0.1.{i}:3001" for i in (1, 2, 3))


def update(old: int = 3, new: int = 3, **settings: object) -> Placing:
    """A fleet in the middle of a rolling update from version 1 to 2."""
    placing = Placing(*OLD[:old], *NEW[:new], **settings)
    for url in OLD[:old]:
        placing.report(url, 10, capacity=100, colour="blue", version="1")
    for url in NEW[:new]:
        placing.report(url, 0, capacity=100, colour="blue", version="2")
    placing.fleet.set_versions({"1": 1, "2": 2}, 0.0)
    return placing


@pytest.mark.parametrize("policy", ["least_connections", "affinity", "p2c", "round_robin", "random"])
def test_new_connections_go_to_the_newest_version(policy: str) -> None:
    """By every policy, with a key and without, spread over its nodes."""
    placing = update()
    counts: Counter[str] = Counter()
    for number in range(120):
        counts[placing.place(policy=policy, affinity=f"match-{number}" if number % 2 else None).url] += 1
    assert set(counts) == set(NEW)


def test_the_next_version_takes_what_the_newest_cannot() -> None:
    """Full, out, draining or tried: then the version before it, and of three the second."""
    placing = update(old=2, new=1)
    assert set(placing.burst(100)) == {NEW[0]}
    assert set(placing.burst(10)) <= set(OLD)
    placing = update(old=2, new=1)
    assert placing.place(tried=(NEW[0],)).url in OLD
    placing.report(NEW[0], 0, state="draining", version="2")
    assert placing.place().url in OLD
    placing = update(old=2, new=1)
    placing.report(OLD[1], 10, capacity=100, version="1.5")
    placing.fleet.set_versions({"1": 1, "1.5": 2, "2": 3}, 0.0)
    assert placing.place(tried=(NEW[0],)).url == OLD[1]


def test_nodes_that_work_come_before_the_newest_version() -> None:
    """A new release whose checks fail gets nobody, also when all of it fails."""
    placing = update(new=1)
    for _ in range(3):
        placing.fleet.checked(NEW[0], ok=False, why="status 503", now=1.0)
    assert set(placing.burst(30, now=1.0)) <= set(OLD)


def test_backends_without_a_version_are_equal_to_the_newest() -> None:
    """A foreign backend names none, and is not passed over."""
    placing = update(old=3, new=2)
    foreign = "http://10.0.2.1:80"
    placing.set(*OLD, *NEW[:2], foreign)
    placing.report(foreign, 0, capacity=100)
    assert set(placing.burst(60)) == {*NEW[:2], foreign}


def test_an_order_that_is_not_known_prefers_nobody() -> None:
    """Before the store has answered all are equal; a version that the order lacks is the newest."""
    placing = Placing(OLD[0], NEW[0])
    placing.report(OLD[0], 0, capacity=100, version="1")
    placing.report(NEW[0], 0, capacity=100, version="2")
    assert set(placing.burst(10)) == {OLD[0], NEW[0]}
    placing.fleet.set_versions({"1": 1}, 0.0)
    assert set(placing.burst(10)) == {NEW[0]}
    placing.fleet.set_versions({"1": 3, "2": 2}, 0.0)
    assert set(placing.burst(10)) == {OLD[0]}


def test_a_node_that_restarts_with_another_version_is_known_by_that() -> None:
    """The same URL, as under systemd: its next report counts."""
    placing = update(old=2, new=0)
    assert set(placing.burst(20)) == set(OLD[:2])
    placing.report(OLD[0], 0, capacity=100, version="2")
    assert set(placing.burst(20)) == {OLD[0]}


def test_keys_and_sticky_clients_stay_where_they_are() -> None:
    """While their node takes connections; when it drains they go to the new version, and stay together there."""
    placing = Placing(*OLD, sticky_cookie="node")
    for url in OLD:
        placing.report(url, 10, capacity=100, version="1")
    home = placing.place(policy="affinity", affinity="match").url
    placing.set(*OLD, *NEW)
    for url in NEW:
        placing.report(url, 0, capacity=100, version="2")
    placing.fleet.set_versions({"1": 1, "2": 2}, 0.0)
    assert set(placing.burst(4, policy="affinity", affinity="match")) == {home}
    assert placing.place(sticky=short_id(OLD[1])).url == OLD[1]
    placing.report(home, 20, state="draining", version="1")
    moved = placing.burst(8, policy="affinity", affinity="match")
    assert len(moved) == 1
    assert set(moved) <= set(NEW)


def test_shares_come_before_versions() -> None:
    """A canary of a tenth stays a tenth, and a held colour gets nothing however new it is."""
    placing = Placing(*OLD[:2], *NEW[:2])
    for url, colour, version in zip((*OLD, *NEW), ("blue", "blue", "", "green", "green"), "12 34", strict=False):
        if colour:
            placing.report(url, 0, capacity=1000, colour=colour, version=version)
    green = {NEW[0]: ("green", "2"), NEW[1]: ("green", "3")}
    for url, (colour, version) in green.items():
        placing.report(url, 0, capacity=1000, colour=colour, version=version)
    placing.fleet.set_versions({"1": 1, "2": 2, "3": 3}, 0.0)
    placing.fleet.set_shares(Shares({"blue": 90, "green": 10}, closed=True), 0.0)
    assert placing.burst(100) == {OLD[1]: 90, NEW[1]: 10}
    placing.fleet.set_shares(Shares({"blue": 100}, closed=True), 0.0)
    assert placing.burst(50) == {OLD[1]: 50}


def test_pools_and_tiers_have_versions_of_their_own() -> None:
    """An update of one application does not draw connections away from another; a backup stays one, however new."""
    placing = Placing(*OLD[:2], BackendSpec(NEW[0], pool="other"), BackendSpec(NEW[1], tier=1))
    for url in (*OLD[:2], *NEW[:2]):
        placing.report(url, 0, capacity=100, version="2" if url in NEW else "1")
    placing.fleet.set_versions({"1": 1, "2": 2}, 0.0)
    assert set(placing.burst(20)) == set(OLD[:2])
    assert placing.place(pool="other").url == NEW[0]


def test_a_version_that_runs_empty_counts_as_no_imbalance() -> None:
    """In an update the old nodes have the clients on purpose."""
    placing = update()
    assert placing.fleet.imbalance() == {("", "blue"): 1.0}
    placing.report(NEW[0], 30, capacity=100, colour="blue", version="2")
    assert placing.fleet.imbalance() == {("", "blue"): pytest.approx(3.0)}
