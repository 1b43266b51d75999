"""Beats of several workers become seconds: each told once, in order, and adding up to the sum whatever comes when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.model.tally import Beat, Finding, Totals
from trunkline.load.workers.pipe import BadMessage
from trunkline.load.workers.timeline import LATE_S, Timeline


def beat(worker: int, second: int, sent: int = 1, *, open_: int = 10, cpu_s: float = 0.5, lag_us: int = 0) -> Beat:
    """A beat with some messages sent."""
    latencies = {"lag": {lag_us: 1}} if lag_us else {}
    return Beat(worker, second, Totals(sent=sent), latencies, {}, {}, open_, cpu_s)


def timeline(workers: int = 2) -> Timeline:
    """A run whose stages tell the moment they were asked for."""
    return Timeline(workers, lambda at_s: f"at {at_s:g}", lambda at_s: int(at_s * 100))


def test_second_is_told_when_all_workers_have() -> None:
    """Nothing is told before the last worker's beat is there, then it is, with levels and counts added up."""
    run = timeline()
    run.add(beat(0, 0, 3, lag_us=1000), 1.0)
    assert run.due(1.0) == []
    run.add(beat(1, 0, 4, open_=7, cpu_s=0.25, lag_us=4000), 1.1)
    (second,) = run.due(1.1)
    assert (second.at_s, second.stage, second.target) == (1.0, "at 0.5", 100)
    assert (second.totals.sent, second.open, second.lag_max, second.generator_cpu) == (7, 17, 4.0, 0.5)
    assert run.due(1.2) == []


def test_late_worker_is_not_waited_for_longer() -> None:
    """A worker that is late holds a second up for LATE_S; what it says then counts in the next one that is told."""
    run = timeline()
    run.add(beat(0, 0, 3), 1.0)
    assert run.due(1.0 + LATE_S - 0.01) == []
    (second,) = run.due(1.0 + LATE_S)
    assert second.totals.sent == 3
    run.add(beat(1, 0, 5), 3.2)
    run.add(beat(0, 1, 1), 3.2)
    run.add(beat(1, 1, 1), 3.2)
    (second,) = run.due(3.2)
    assert second.totals.sent == 7
    assert run.sum.totals.sent == 10


def test_worker_that_left_is_not_waited_for() -> None:
    """Of a worker that has ended nothing more is expected, and its connections are gone in the second after."""
    run = timeline()
    run.add(beat(0, 0), 1.0)
    run.add(beat(1, 0), 1.0)
    assert run.due(1.0)[0].open == 20
    run.left(1)
    run.add(beat(0, 1), 2.0)
    assert run.due(2.0)[0].open == 10


def test_seconds_without_beats_are_told() -> None:
    """A worker that skipped seconds (it was stalled) leaves them empty, and its CPU time is spread over them."""
    run = timeline(1)
    run.add(beat(0, 0, cpu_s=0.8), 1.0)
    run.add(beat(0, 3, cpu_s=2.4), 4.0)
    told = run.due(4.0)
    assert [second.totals.sent for second in told] == [1, 0, 0, 1]
    assert [second.open for second in told] == [10] * 4
    assert [round(second.generator_cpu, 3) for second in told] == [0.8, 0.0, 0.0, 0.8]


def test_stalled_run_goes_on_being_told() -> None:
    """When no worker says anything, seconds are told all the same."""
    run = timeline()
    assert [second.at_s for second in run.due(4.5)] == [1.0, 2.0]


def test_beat_of_the_far_future_makes_no_seconds() -> None:
    """A number beyond the clock is a fault of the worker and does not become years of empty seconds."""
    run = timeline(1)
    run.add(beat(0, 10**12), 1.0)
    assert len(run.due(1.0)) <= 3
    assert len(run.finish()) <= 3
    assert sum(second.totals.sent for second in run.seconds) == 1


beats = st.tuples(st.integers(0, 2), st.integers(-2, 12), st.integers(0, 100), st.floats(0, 14), st.booleans())


@given(st.lists(beats, max_size=40), st.sets(st.integers(0, 2)))
def test_seconds_add_up_to_the_sum(given_beats: list[tuple[int, int, int, float, bool]], leaving: set[int]) -> None:
    """Whatever comes in whatever order, each beat is in exactly one second, and the seconds have no gap."""
    run = timeline(3)
    now = 0.0
    for worker, second, sent, at, look in given_beats:
        now = max(now, at)
        run.add(beat(worker, second, sent), now)
        if look:
            run.due(now)
        if worker in leaving and look:
            run.left(worker)
    run.finish()
    assert [second.at_s for second in run.seconds] == [n + 1.0 for n in range(len(run.seconds))]
    assert sum(second.totals.sent for second in run.seconds) == run.sum.totals.sent
    assert run.sum.totals.sent == sum(each[2] for each in given_beats)
    assert run.finish() == []


def test_those_open_until_the_last_beat_were_open_in_that_second() -> None:
    """A run of less than a second closes all in its only one, and they were open in it."""
    run = timeline(1)
    run.add(beat(0, 0, open_=60), 0.5)
    run.add(beat(0, 0, open_=0), 0.6)
    run.left(0)
    assert [second.open for second in run.finish()] == [60]


@pytest.mark.parametrize(
    "odd",
    [
        beat(0, 0, cpu_s=math.nan), beat(0, 0, cpu_s=math.inf), beat(0, 0, sent=-1), beat(0, 0, sent=1 << 62),
        beat(0, 0, open_=-1), beat(0, 0, lag_us=-5), beat(0, 0, lag_us=1 << 60),
        Beat(0, 0, Totals(), {"lag": {7: -1}}, {}, {}, 0, 0.0), Beat(0, 0, Totals(), {}, {"x": -1}, {}, 0, 0.0),
        Beat(0, 0, Totals(), {}, {}, {1000: -1}, 0, 0.0),
        Beat(0, 0, Totals(), {}, {}, {}, 0, 0.0, (Finding("lost", "", 0, 0, at_s=math.nan),)),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(odd: Beat) -> None:
    """They would make a report that nobody can read, and are in none of its numbers."""
    run = timeline(1)
    with pytest.raises(BadMessage, match="cannot be"):
        run.add(odd, 1.0)
    assert run.sum.totals == Totals()
    assert run.finish() == []
