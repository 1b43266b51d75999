"""The time of a bus, which no step of a wall clock changes."""

from __future__ import annotations

from trunkline.bus.clock import LATE_MS, BusClock


def test_it_runs_by_monotonic_time() -> None:
    """From what the machine believed at the start, then from what the bus says."""
    clock = BusClock(1_000_000.0, 10.0)
    assert clock.ms(11.5) == 1_001_500
    clock.answered(5_000_000.0, 12.0)
    assert clock.ms(12.25) == 5_000_250


def test_the_newest_publication_counts() -> None:
    """A newer one moves it on; one that came late does not move it back."""
    clock = BusClock(1_000_000.0, 10.0)
    clock.delivered(1_000_800.0, 10.5)
    assert clock.ms(10.5) == 1_000_800
    clock.delivered(1_000_700.0, 11.0)
    assert clock.ms(11.0) == 1_001_300


def test_a_bus_that_was_set_back_is_followed() -> None:
    """A publication from further back than any delay means that the clock of the bus was set."""
    clock = BusClock(1_000_000.0, 10.0)
    clock.delivered(1_000_000.0 - LATE_MS, 10.0)
    assert clock.ms(10.0) == 1_000_000
    clock.delivered(1_000_000.0 - LATE_MS - 1, 10.0)
    assert clock.ms(10.0) == 1_000_000 - LATE_MS - 1
