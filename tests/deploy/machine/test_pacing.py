"""How fast clients are asked to move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.deploy.machine.pacing import SLACK_S, WAVE_S, next_wave, pace, pause_s, pressed
from trunkline.deploy.world.base import NodeView


def node(connections: int, *, lag_ms: float = 1.0, usable: bool = True) -> NodeView:
    """A node with so many clients."""
    return NodeView("n", "http://n", "blue", "", "up", usable, connections, 1000, 100.0, lag_ms)


@pytest.mark.parametrize(
    ("clients", "over_s", "rate", "accepts", "per_s", "because"),
    [
        (600, 60.0, None, None, 10.0, "over"),
        (600, 60.0, 4.0, 1000.0, 4.0, "rate"),
        (10_000, 10.0, None, 800.0, 400.0, "accepts"),
        (3, 60.0, None, 800.0, 1.0, "over"),
        (100, 0.0, None, None, 100.0, "over"),
    ],
)
def test_the_lowest_bound_is_the_pace(
    clients: int, over_s: float, rate: float | None, accepts: float | None, per_s: float, because: str
) -> None:
    """What the caller allows, half of what is accepted, and the time to take; never below one a second."""
    found = pace(clients, over_s=over_s, rate=rate, accepts_per_s=accepts, share=0.5)
    assert (found.per_s, found.because) == (per_s, because)


def test_the_next_look_is_made_when_a_wave_ends() -> None:
    """A look that came up to a tick later would put off every wave by as much."""
    assert pause_s(0.5, at=10.0, wave_ends=12.0) == 0.5
    assert pause_s(0.5, at=11.75, wave_ends=12.0) == pytest.approx(0.25 + SLACK_S)
    assert pause_s(0.5, at=12.5, wave_ends=12.0) == 0.5


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=8), st.floats(1.0, 2_000.0))
def test_a_wave_is_short_and_asks_nobody_twice(connections: list[int], per_s: float) -> None:
    """At most two seconds of clients, no more of a node than it has, and somebody while anybody is left."""
    wave = next_wave([node(count) for count in connections], per_s)
    assert wave.over_ms <= WAVE_S * 1000
    assert wave.count == min(sum(connections), max(1, int(per_s * WAVE_S)))
    for part in wave.parts:
        assert 0 < part.count <= part.node.connections


def test_a_wave_waits_while_receivers_are_pressed() -> None:
    """For lag, for refusals that rise, and for want of anybody who takes connections."""
    well = [node(5)]
    assert pressed(well, refused=7, refused_before=7, lag_ms=100.0) == ""
    assert pressed(well, refused=7, refused_before=None, lag_ms=100.0) == ""
    assert "2 handshakes" in pressed(well, refused=9, refused_before=7, lag_ms=100.0)
    assert "lags" in pressed([node(5, lag_ms=101.0)], refused=0, refused_before=0, lag_ms=100.0)
    assert "no node" in pressed([node(5, usable=False)], refused=0, refused_before=0, lag_ms=100.0)
