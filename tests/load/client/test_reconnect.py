"""When a client comes back, and when it does not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.client.reconnect import seconds_away
from trunkline.protocol import close_codes, wire


def goodbye(code: int = 1012, *, reconnect: bool = True, after_ms: int | None = None) -> wire.Goodbye:
    return wire.Goodbye(code, "because", reconnect, after_ms, 0)


@pytest.mark.parametrize("row", close_codes.TABLE, ids=lambda row: f"{row.code} {row.reason}")
def test_the_table_of_close_codes_is_obeyed(row: close_codes.Close) -> None:
    """A code that says no is final, and any other lets the client come back."""
    away = seconds_away(row.code, None, 0, random.Random(1))
    assert (away is not None) == row.may_reconnect


@pytest.mark.parametrize(("code", "back"), [(1006, True), (1005, True), (1014, True), (3000, False), (4999, False)])
def test_codes_of_no_row(code: int, back: bool) -> None:
    """A broken connection comes back; a code of an application is final."""
    assert (seconds_away(code, None, 0, random.Random(1)) is not None) == back


def test_a_goodbye_goes_before_the_back_off() -> None:
    """Its hint is taken as it is; its no is final; an application's code may come back when it says so."""
    rng = random.Random(1)
    assert seconds_away(1012, goodbye(after_ms=250), 0, rng) == 0.25
    assert seconds_away(1012, goodbye(reconnect=False, after_ms=250), 0, rng) is None
    assert seconds_away(4321, goodbye(after_ms=50), 0, rng) == 0.05
    assert seconds_away(1012, goodbye(after_ms=-5), 0, rng) == 0
    assert seconds_away(1000, goodbye(after_ms=50), 0, rng) is None
    away = seconds_away(1012, goodbye(), 0, rng)
    assert away is not None
    assert 0.5 <= away <= 1.0


@given(attempt=st.integers(1, 100_000), after_ms=st.integers(-(2**63), 2**64), seed=st.integers())
def test_a_hint_after_a_connection_that_did_not_stay_is_the_least(attempt: int, after_ms: int, seed: int) -> None:
    """The larger of hint and back-off counts, so that no hint, however short, is a storm, and none is for ever."""
    away = seconds_away(1012, goodbye(after_ms=after_ms), attempt, random.Random(seed))
    back_off = seconds_away(1012, None, attempt, random.Random(seed))
    assert away is not None
    assert back_off is not None
    assert away == max(back_off, min(after_ms / 1000, 3600.0))
    alone = seconds_away(1012, goodbye(after_ms=after_ms), 0, random.Random(seed))
    assert alone == min(max(0.0, after_ms / 1000), 3600.0)


@given(attempt=st.integers(0, 100_000), seed=st.integers())
def test_the_back_off_doubles_up_to_ten_seconds(attempt: int, seed: int) -> None:
    """It lies between half and the whole of 1, 2, 4, 8, 10, 10 … s; codes that ask for a pause begin at 4 s."""
    longest = [1.0, 2.0, 4.0, 8.0][attempt] if attempt < 4 else 10.0
    away = seconds_away(1006, None, attempt, random.Random(seed))
    assert away is not None
    assert longest / 2 <= away <= longest
    for code in (1008, 1013):
        away = seconds_away(code, None, attempt, random.Random(seed))
        assert away is not None
        assert min(10.0, 4 * longest) / 2 <= away <= 10.0
