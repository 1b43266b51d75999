"""When a client is warned of its token's end, and when that is; no real time passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.server.connections.token_life import SHORTEST_S, WARN_S, TokenLife


@pytest.mark.parametrize(
    ("lasts_s", "warned_after_s"),
    [(3600.0, 3570.0), (60.0, 30.0), (40.0, 20.0), (2.0, 1.0), (SHORTEST_S, SHORTEST_S / 2), (0.9, 0.9), (0.0, 0.0)],
)
def test_warned_half_a_minute_before_the_end_or_at_half_the_life(lasts_s: float, warned_after_s: float) -> None:
    """A token that is about to expire is not asked for again and again: below a second there is no warning."""
    life = TokenLife(100.0, lasts_s)
    assert life.due == pytest.approx(100.0 + warned_after_s)
    assert life.ends_at == pytest.approx(100.0 + lasts_s)


@given(st.floats(0, 1e9), st.floats(0, 1e12), st.floats(0, 1))
def test_one_warning_and_one_end(now: float, lasts_s: float, late: float) -> None:
    """The warning names what is left, at most half a minute, and the next thing that is due is the end."""
    life = TokenLife(now, lasts_s)
    assert now <= life.due <= life.ends_at
    if life.due < life.ends_at:
        at = life.due + late * (life.ends_at - life.due)
        left_ms = life.warned(at)
        assert 0 <= left_ms <= WARN_S * 1000 + 1
        assert life.due == life.ends_at
