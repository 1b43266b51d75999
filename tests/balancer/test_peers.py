"""Who of several balancers leads, and which are listed."""

from __future__ import annotations

import pytest

from trunkline.balancer.peers import GONE_S, MOST, Peers


def test_the_first_by_id_leads_while_it_is_heard() -> None:
    """One that is silent leads no more, one that left neither."""
    peers = Peers("m", 900.0)
    assert peers.none_before(0.0)
    peers.heard("z", 0, 0.0)
    assert peers.none_before(0.0)
    peers.heard("a", 0, 0.0)
    assert not peers.none_before(GONE_S)
    assert peers.none_before(GONE_S + 0.1)
    peers.heard("a", 0, 10.0)
    assert not peers.none_before(10.0)
    peers.left("a")
    assert peers.none_before(10.0)


def test_a_silent_one_stays_listed_until_it_leaves_or_for_long() -> None:
    """It may be cut off and place by an old table; who said goodbye does not."""
    peers = Peers("m", 900.0)
    assert peers.heard("a", 4, 0.0)
    assert not peers.heard("a", 5, 2.0)
    assert peers.listed(900.0)["a"][:2] == (2.0, 5)
    peers.heard("b", 1, 900.0)
    peers.left("b")
    peers.left("unknown")
    assert list(peers.listed(902.0)) == ["a"]
    assert not peers.listed(902.1)


def test_silent_ones_make_way_for_new_ones() -> None:
    """A fleet whose balancers restart all the time is not locked out by those of before."""
    peers = Peers("m", 900.0)
    for number in range(MOST):
        peers.heard(f"b{number}", 0, 0.0)
    with pytest.raises(ValueError, match="more than"):
        peers.heard("one more", 0, 1.0)
    peers.heard("b7", 0, 10.0)
    peers.heard("one more", 0, 10.0)
    assert len(peers.listed(10.0)) == MOST
    assert "b7" in peers.listed(10.0)


def test_who_was_killed_and_started_again_is_not_missed() -> None:
    """Its successor has its place; before that, and without one, the silent one is named."""
    peers = Peers("m", 900.0)
    peers.heard("killed", 1, 0.0, "host-a:8080")
    peers.heard("cut off", 1, 0.0, "host-b:8080")
    peers.heard("nowhere", 1, 0.0)
    assert peers.heard("successor", 2, 3.0, "host-a:8080")
    peers.heard("another", 2, 3.0)
    assert len(peers.listed(6.0)) == 5
    peers.heard("successor", 2, 7.0, "host-a:8080")
    assert set(peers.listed(7.0)) == {"cut off", "nowhere", "successor", "another"}


def test_both_ends_of_a_take_over_are_listed_while_they_are_heard() -> None:
    """The first one goes on with its clients: it neither vanishes nor takes the place back."""
    peers = Peers("m", 900.0)
    peers.heard("first", 1, 0.0, "host-a:8080")
    peers.heard("second", 1, 1.0, "host-a:8080")
    for now in (2.0, 4.0, 6.0, 8.0):
        for name in ("first", "second"):
            assert not peers.heard(name, 1, now, "host-a:8080")
        assert set(peers.listed(now)) == {"first", "second"}
    peers.heard("second", 1, 14.0, "host-a:8080")
    assert set(peers.listed(14.5)) == {"second"}
