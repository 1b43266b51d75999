"""Who is in a match, seen from one node: its own players, those it heard of, and those it gave up."""

from __future__ import annotations

from trunkline.server.app.roster import SILENCE_S, Change, Roster


def test_players_come_and_go() -> None:
    """A player is there between entering and leaving; leaving twice is told."""
    roster = Roster()
    assert roster.enter("ann", "x1") == "ann"
    assert roster.enter("bob", "x2") == "bob"
    assert roster.players == roster.local == ["ann", "bob"]
    assert roster.leave("ann")
    assert not roster.leave("ann")
    assert roster.players == ["bob"]


def test_names_are_never_given_twice() -> None:
    """A taken name gets the tag, and a number when that is taken too; here or on another node."""
    roster = Roster()
    roster.hear("n2", ["ann", "ann-x1"], 0.0)
    names = [roster.enter("ann", "x1") for _ in range(3)]
    assert names == ["ann-x12", "ann-x13", "ann-x14"]
    assert len(set(roster.players)) == 5


def test_leaving_players_of_other_nodes_is_not_ours() -> None:
    """A node takes away only its own players."""
    roster = Roster()
    roster.hear("n2", ["ann"], 0.0)
    assert not roster.leave("ann")
    assert roster.players == ["ann"]


def test_hearing_tells_what_changed() -> None:
    """Another node's word replaces its last one, and the difference is returned."""
    roster = Roster()
    roster.enter("zoe", "x")
    assert roster.hear("n2", ["ann", "bob"], 0.0) == Change(["ann", "bob"], [])
    assert roster.hear("n2", ["bob", "cid"], 1.0) == Change(["cid"], ["ann"])
    assert roster.hear("n2", ["bob", "cid"], 2.0) == Change([], [])
    assert roster.players == ["zoe", "bob", "cid"]
    assert roster.local == ["zoe"]
    assert roster.hear("n2", [], 3.0) == Change([], ["bob", "cid"])


def test_a_name_on_two_nodes_counts_once() -> None:
    """A name that two nodes gave at the same moment stands once, until both say it is gone."""
    roster = Roster()
    assert roster.hear("n2", ["ann"], 0.0) == Change(["ann"], [])
    assert roster.hear("n3", ["ann"], 0.0) == Change([], [])
    assert roster.players == ["ann"]
    assert roster.hear("n2", [], 1.0) == Change([], [])
    assert roster.hear("n3", [], 1.0) == Change([], ["ann"])


def test_silent_nodes_are_given_up() -> None:
    """After the silence the players of a node have left; one that speaks stays; coming back they join anew."""
    roster = Roster()
    roster.enter("zoe", "x")
    roster.hear("n2", ["ann"], 0.0)
    roster.hear("n3", ["bob"], 0.0)
    roster.hear("n3", ["bob"], 10.0)
    assert roster.expire(SILENCE_S) == Change([], [])
    assert roster.expire(SILENCE_S + 0.1) == Change([], ["ann"])
    assert roster.players == ["zoe", "bob"]
    assert roster.expire(SILENCE_S + 0.2) == Change([], [])
    assert roster.hear("n2", ["ann"], 50.0) == Change(["ann"], [])


def test_lists_handed_out_are_copies() -> None:
    """What a caller does to a list does not reach the roster, nor what it does to the list it gave."""
    roster = Roster()
    given = ["ann"]
    roster.hear("n2", given, 0.0)
    given.append("eve")
    roster.local.append("eve")
    roster.players.append("eve")
    assert roster.players == ["ann"]
