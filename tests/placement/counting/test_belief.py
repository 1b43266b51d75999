"""What is believed of a backend never falls below its newest report less the known ends, whatever keys repeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.placement.counting.evidence import CLOSE_LAG_S
from trunkline.placement.counting.ledger import Ledger, Reservation
from trunkline.protocol.control import LoadReport

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ("pick_connects", "pick_connects", "pick", "retry", "retry", "expire", "remote", "remote_failed",
             "remote_closed", "leave", "report", "report", "report", "wait")
        ),
        st.sampled_from(("same", "same", "same", "other")),
        st.floats(0.0, 2.0),
    ),
    max_size=80,
)  # fmt: skip


@pytest.mark.parametrize("node", [True, False], ids=["node", "foreign"])
@given(EVENTS)
def test_steering_believes_no_less_than_was_reported(node: bool, events: list[tuple[str, str, float]]) -> None:
    """A client that uses one key for all its handshakes looks like retries; no connection has ended for that."""
    ledger = Ledger("http://a:1", False, 15.0, 75.0)
    now = 100.0
    opened: list[str] = []
    open_now = 0
    made: list[Reservation] = []
    ends: list[float] = []
    ledger.report(LoadReport(0, run="r", opened=0, keys=()) if node else LoadReport(0), now, now)
    for number, (event, key, value) in enumerate(events, 1):
        if event == "wait":
            now += value
        elif event in ("pick", "pick_connects"):
            made.append(ledger.reserve(number, key, now))
            if event == "pick_connects":
                opened.append(key)
                open_now += 1
        elif event == "leave":
            open_now = max(0, open_now - 1)
        elif event == "retry" and made:
            ledger.end(made[-1], now)
        elif event == "expire" and made:
            ledger.expire(made[0])
        elif event == "remote":
            ledger.remote_pick(number, key, now)
        elif event == "remote_failed":
            ledger.remote_failure(key, now)
        elif event == "remote_closed":
            ends.append(now)
            ledger.remote_close(key, now)
        elif event == "report":
            asked_at = now
            now += value / 10
            keys = tuple(opened[ledger.opened :])
            report = LoadReport(open_now, run="r", opened=len(opened), keys=keys) if node else LoadReport(open_now)
            ledger.report(report, asked_at, now)
        assert ledger.reported is not None
        known = sum(at >= ledger.asked_at - CLOSE_LAG_S for at in ends)
        assert ledger.estimate >= ledger.reported - known


def test_a_hundred_handshakes_with_one_key() -> None:
    """Each of them drops the one before it, which has arrived: all of them are believed to be there."""
    ledger = Ledger("http://a:1", False, 15.0, 75.0)
    ledger.report(LoadReport(0, run="r", opened=0, keys=()), 0.0, 0.0)
    before: Reservation | None = None
    for number in range(1, 101):
        now = number / 10
        if before is not None:
            ledger.end(before, now)
        before = ledger.reserve(number, "k", now)
        ledger.report(LoadReport(number, run="r", opened=number, keys=("k",)), now, now)
        assert ledger.estimate >= number
    assert ledger.estimate <= 101
