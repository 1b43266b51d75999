"""Latencies as they are recorded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.model.histogram import HIGHEST_US, Recorder, quantiles


@given(st.floats(-1e6, 1e7))
def test_every_latency_has_a_bucket_near_it(seconds: float) -> None:
    """One below a microsecond, or below zero by the clocks of two machines, is a microsecond; none exceeds an hour."""
    recorder = Recorder()
    recorder.record(seconds)
    (us,) = recorder.counts
    wanted = min(max(1, int(seconds * 1e6)), HIGHEST_US)
    assert 1 <= us <= wanted <= us * 1.001 + 1
    assert quantiles(recorder.counts).min > 0
