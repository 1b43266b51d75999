"""Who may drive a deploy, decided over what was observed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.deploy.lease.rules import HOLDS_S, Answer, Held, LeaseTimes, Observed, Take, may_take
from trunkline.protocol.deploys import EXPIRED_S, OVER, DeployState, DeployStatus

MOVING = DeployStatus("d1", "moving", "blue", "green", "ann@host", "h1", 3, "2026-01-01T00:00:00Z", "…")
GIVEN_UP = msgspec.structs.replace(MOVING, holder="")


@pytest.mark.parametrize("state", sorted(OVER))
def test_what_is_over_makes_way(state: DeployState) -> None:
    """A deploy that is over lets another one begin, whatever its lease, and cannot be resumed."""
    for status in (MOVING, GIVEN_UP):
        over = msgspec.structs.replace(status, state=state)
        assert may_take("begin", over, changed=True, age_s=0, expired_s=15) == "take"
        assert may_take("resume", over, changed=False, age_s=99, expired_s=15) == "over"


@pytest.mark.parametrize(
    ("take", "status", "changed", "age_s", "answer"),
    [
        ("begin", None, False, 0, "take"),
        ("resume", None, False, 99, "none"),
        ("begin", MOVING, False, 0, "another"),
        ("begin", MOVING, False, 99, "another"),
        ("begin", GIVEN_UP, False, 99, "another"),
        ("begin", msgspec.structs.replace(MOVING, state="stuck"), False, 99, "another"),
        ("resume", GIVEN_UP, False, 0, "take"),
        ("resume", GIVEN_UP, True, 0, "take"),
        ("resume", MOVING, False, 0, "wait"),
        ("resume", MOVING, False, 14.9, "wait"),
        ("resume", MOVING, False, 15, "take"),
        ("resume", MOVING, True, 0, "held"),
        ("resume", MOVING, True, 99, "held"),
    ],
)
def test_the_table(take: Take, status: DeployStatus | None, changed: bool, age_s: float, answer: Answer) -> None:
    """Each cell of the table in `may_take`."""
    assert may_take(take, status, changed=changed, age_s=age_s, expired_s=15) == answer


def test_an_observer_counts_from_what_it_saw() -> None:
    """The age begins again with each other revision, also a lower one, and not with the same one."""
    observed = Observed()
    assert observed.saw(7, 100.0)
    assert not observed.saw(7, 110.0)
    assert observed.age_s(114.0) == 14.0
    assert observed.saw(8, 114.0)
    assert observed.age_s(115.0) == 1.0
    assert observed.saw(2, 120.0)
    assert observed.age_s(120.0) == 0.0


def test_a_holder_is_sure_until_it_could_not_renew() -> None:
    """It counts from before it sent; a renewal that comes late does not make an earlier one look newer."""
    held = Held(1, 100.0, 12.5)
    assert held.sure(112.4)
    assert not held.sure(112.5)
    held.renewed(2, 120.0)
    held.renewed(3, 119.0)
    assert held.revision == 3
    assert held.sure(132.4)


@given(
    sent=st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 20)), min_size=1, max_size=12),
    skew=st.floats(-1e6, 1e6),
    looks=st.floats(0.01, 5),
)
def test_no_observer_takes_what_a_holder_is_sure_of(sent: list[tuple[float, float]], skew: float, looks: float) -> None:
    """Whenever an observer finds the lease expired, its holder has not been sure of it for a while.

    The holder sends at moments some time apart; each write lands some time later, in order. The observer looks now and
    then, by a clock of its own.
    """
    times = LeaseTimes()
    held, at, landed = Held(0, 0.0, times.holds_s), 0.0, 0.0
    writes: list[tuple[float, float, int]] = []
    for number, (pause, under_way) in enumerate(sent, 1):
        at = max(at + pause, landed)
        landed = max(landed, at + under_way)
        writes.append((at, landed, number))
    observed, now = Observed(), 0.0
    while now < landed + 2 * EXPIRED_S:
        revision = max((number for _, landed_at, number in writes if landed_at <= now), default=0) + 1
        observed.saw(revision, now + skew)
        for sent_at, landed_at, number in writes:
            if landed_at <= now:
                held.renewed(number, sent_at)
        if observed.age_s(now + skew) >= EXPIRED_S:
            assert not held.sure(now)
            assert not held.sure(now - (EXPIRED_S - HOLDS_S) + 0.001)
        now += looks
