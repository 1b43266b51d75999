"""Backends that come back: each time they wait longer until clients are moved to them."""

from __future__ import annotations

import math

import pytest

from trunkline.balancer.rebalance.comebacks import MOST_S, STEADY_S, Comebacks
from trunkline.balancer.rebalance.rows import Row

A, B = Row("http://a:1", "a", 0, 1.0), Row("http://b:1", "b", 0, 1.0)
DELAY_S = 5.0


def wait_of(known: Comebacks, row: Row, now: float) -> float:
    """How much longer than `DELAY_S` it waits that comes at `now`."""
    known.observe([B, row], now)
    return known.room_from(row.url, DELAY_S) - now


def test_the_wait_doubles_with_each_comeback() -> None:
    """The first coming waits the delay, which is counted elsewhere; then twice, four times, up to the most."""
    known = Comebacks()
    waits = []
    for tick in range(12):
        waits.append(wait_of(known, A, tick * 10.0))
        known.observe([B], tick * 10.0 + 5.0)
    assert waits[:5] == [0.0, 5.0, 15.0, 35.0, 75.0], "with the delay itself 5, 10, 20, 40, 80"
    assert waits[-1] == MOST_S
    assert known.room_from(B.url, DELAY_S) == 0.0, "the others wait for nothing"


def test_who_stays_begins_again() -> None:
    """After ten minutes in a row a restart is the first one; and after ten minutes away it is a stranger."""
    known = Comebacks()
    for now in (0.0, 10.0):
        known.observe([A], now)
        known.observe([], now + 5.0)
    assert wait_of(known, A, 20.0) > 0
    known.observe([B], 20.0 + STEADY_S)
    assert wait_of(known, A, 30.0 + STEADY_S) == 0.0
    known.observe([B], 31.0 + STEADY_S)
    known.observe([B], 40.0 + 2 * STEADY_S)
    assert wait_of(known, A, 41.0 + 2 * STEADY_S) == 0.0


@pytest.mark.parametrize("row", [Row("http://a:2", "a", 0, 1.0), Row("http://a:1", "", 0, 1.0)], ids=["name", "url"])
def test_a_successor_is_the_same_backend(row: Row) -> None:
    """A node that comes back at another address has its name, one that is not heard yet its URL."""
    known = Comebacks()
    known.observe([A], 0.0)
    assert wait_of(known, row, 1.0) == (5.0 if row.url != A.url else -1.0), "another address is a comeback"
    known.observe([], 2.0)
    assert wait_of(known, row, 3.0) > 0


def test_a_name_that_is_not_heard_for_a_while_is_no_comeback() -> None:
    """The backend was there all the time."""
    known = Comebacks()
    for now, row in enumerate((A, Row(A.url, "", 0, 1.0), A)):
        known.observe([row], float(now))
    assert known.room_from(A.url, DELAY_S) == 0.0


def test_one_that_was_not_looked_at_yet_is_no_room() -> None:
    """It joined while nodes counted their keys."""
    assert Comebacks().room_from(A.url, DELAY_S) == math.inf


def test_names_that_a_backend_had_are_let_go() -> None:
    """A container has another name after each restart, and its URL stays."""
    known = Comebacks()
    for now in range(3):
        known.observe([Row(A.url, f"node-{now}", 0, 1.0)], float(now))
    other = Row("http://c:1", "node-0", 0, 1.0)
    known.observe([Row(A.url, "node-2", 0, 1.0), other], 3.0)
    assert known.room_from(other.url, DELAY_S) == 3.0, "it is new"
