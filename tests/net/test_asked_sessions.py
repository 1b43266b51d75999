"""Who was asked to move is let past the limits of its address: once, for a minute, and nobody else."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from trunkline.net.asked_sessions import TRIES, TRY_S, AskedSessions, Returned
from trunkline.protocol.goodbyes import ASKED_S, SESSIONS_AT_ONCE, Goodbyes

ONE, OTHER = "a" * 20, "b" * 20


def test_once_for_each_goodbye() -> None:
    """An invented session is not let past; an asked one is, until it is back; another goodbye lets it past again."""
    asked = AskedSessions()
    assert not asked.let(ONE, 0.0)
    asked.hear(Goodbyes("n1", "blue", (ONE,), in_ms=100), 0.0)
    assert not asked.let(OTHER, 0.2)
    assert asked.let(ONE, 0.2)
    assert asked.back(ONE, 0.5) == Returned("blue", 0.4)
    assert not asked.let(ONE, 0.6)
    assert asked.back(ONE, 0.6) is None
    asked.hear(Goodbyes("n2", "green", (ONE,)), 1.0)
    assert asked.let(ONE, 1.0)


def test_one_try_at_a_time_and_a_few_in_all() -> None:
    """A second handshake beside the first is like any other; after a refusal there is another try, but not for ever."""
    asked = AskedSessions()
    asked.hear(Goodbyes("n1", "blue", (ONE,)), 0.0)
    assert asked.let(ONE, 0.1)
    assert not asked.let(ONE, 0.1)
    # It never said how it ended.
    assert asked.let(ONE, 0.2 + TRY_S)
    for _ in range(TRIES - 2):
        asked.gave_up(ONE)
        assert asked.let(ONE, 3.0)
    asked.gave_up(ONE)
    assert not asked.let(ONE, 3.0)
    assert asked.back(ONE, 4.0) == Returned("blue", 4.0)


def test_a_minute() -> None:
    """After that its handshake is like any other; a node may count its return all the same, and not for ever."""
    edge, node = AskedSessions(), AskedSessions(300.0)
    for asked in (edge, node):
        asked.hear(Goodbyes("n1", "blue", (ONE, OTHER)), 0.0)
        assert asked.let(ONE, ASKED_S)
        asked.gave_up(ONE)
        assert not asked.let(ONE, ASKED_S + 0.1)
    assert edge.back(ONE, ASKED_S + 0.1) is None
    assert node.back(ONE, ASKED_S + 0.1) == Returned("blue", ASKED_S + 0.1)
    assert node.back(OTHER, 300.1) is None


def test_who_is_back_elsewhere_is_forgotten() -> None:
    """The node where it came back says so."""
    asked = AskedSessions()
    asked.hear(Goodbyes("n1", "blue", (ONE, OTHER)), 0.0)
    asked.hear(Goodbyes("n2", "green", back=(ONE, "c" * 20)), 0.3)
    assert not asked.let(ONE, 0.4)
    assert asked.let(OTHER, 0.4)


def test_memory_is_bounded() -> None:
    """Beyond the most the oldest go; the old ones go by themselves when others come."""
    asked = AskedSessions(most=3)
    sessions = [f"{number:020}" for number in range(5)]
    for number, session in enumerate(sessions):
        asked.hear(Goodbyes("n1", "blue", (session,)), float(number))
    assert len(asked) == 3
    assert [asked.let(session, 5.0) for session in sessions] == [False, False, True, True, True]
    asked.hear(Goodbyes("n1", "blue", (ONE,)), 5.0 + ASKED_S)
    assert len(asked) == 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2 * SESSIONS_AT_ONCE), st.sampled_from(["blue", "green"]), st.integers(-50_000, 10_000)
        ),
        max_size=5,
    )
)
def test_a_process_that_begins_learns_all(said: list[tuple[int, str, int]]) -> None:
    """It lets past whom the others do, for as long."""
    known, learned = AskedSessions(), AskedSessions()
    for count, colour, in_ms in said:
        for begin in range(0, count, SESSIONS_AT_ONCE):
            named = tuple(f"{number:020}" for number in range(begin, min(count, begin + SESSIONS_AT_ONCE)))
            known.hear(Goodbyes("n", colour, named, in_ms=in_ms), 0.0)
    known.hear(Goodbyes("n", "blue", (ONE,), in_ms=-400_000), 0.0)
    for message in known.all(10.0):
        assert len(message.asked) <= SESSIONS_AT_ONCE
        learned.hear(message, 10.0)
        assert msgspec.json.decode(msgspec.json.encode(message), type=Goodbyes) == message
    assert not learned.let(ONE, 20.0)
    for number in (0, SESSIONS_AT_ONCE - 1, SESSIONS_AT_ONCE):
        session = f"{number:020}"
        assert learned.let(session, 20.0) == known.let(session, 20.0)
