"""Why a bus that is connected does not store."""

from __future__ import annotations

from trunkline.bus.nats.troubles import FORGET_S, Troubles


def test_a_refused_stream_is_in_trouble_until_it_is_provided() -> None:
    """The reason is news once; room that is too small is a warning, until it is not."""
    troubles = Troubles()
    assert [troubles.refuse("S", "no room"), troubles.refuse("S", "no room")] == [True, False]
    assert (troubles.problem(0.0), troubles.refused) == ("no room", {"S"})
    assert troubles.provided("S", wanted=1024, got=512)
    assert not troubles.provided("S", wanted=1024, got=512)
    assert (troubles.problem(0.0), troubles.refused) == ("", set())
    assert "512 bytes, less than bus.max_bytes (1,024)" in troubles.warning
    assert not troubles.provided("S", wanted=1024, got=1024)
    assert troubles.warning == ""


def test_silence_is_trouble_from_the_third_time_on() -> None:
    """One late answer is none; an acknowledged publication ends it, and so does time."""
    troubles = Troubles()
    assert troubles.unanswered("S", 1.0) == ("", False)
    troubles.stored("S")
    assert [troubles.unanswered("S", now) for now in (2.0, 3.0)] == [("", False)] * 2
    text, new = troubles.unanswered("S", 4.0)
    assert (new, troubles.unanswered("S", 5.0)) == (True, (text, False))
    assert "does not acknowledge what stream S is given" in text
    assert troubles.problem(5.0 + FORGET_S) == text
    assert troubles.problem(5.1 + FORGET_S) == ""
    assert troubles.unanswered("S", 6.0 + FORGET_S) == ("", False)
    troubles.stored("S")
    assert troubles.problem(7.0 + FORGET_S) == ""
