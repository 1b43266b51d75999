"""The moments of connects, messages and cuts."""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.load.model.plan import Disturbance, Stage, Traffic
from trunkline.load.scenario.shapes import MAX_DUE, Beats, Change, ConnectionPlan, Cuts, MessagePlan, spread

STAGES = st.lists(
    st.builds(Stage, st.sampled_from([0.0, 0.5, 1.0, 7.3, 60.0]), st.integers(0, 60)), min_size=1, max_size=8
)
WORKERS = st.integers(1, 5)
TICKS = st.lists(st.floats(0.001, 3), min_size=1, max_size=30)


def length(stages: list[Stage]) -> float:
    return sum(stage.duration_s for stage in stages)


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_ramp_opens_at_even_distances_in_the_middle_of_each_step():
    """Four connections within four seconds open half a second into each of them."""
    plan = ConnectionPlan((Stage(4, 4), Stage(2, 2)))
    assert plan.due(4) == [Change(k + 0.5, k, True) for k in range(4)]
    assert plan.due(6) == [Change(4.5, 3, False), Change(5.5, 2, False)]
    assert plan.next() is None


def test_no_time_means_all_at_once():
    """A stage of zero seconds opens or closes all of its sessions in one moment, the highest number first."""
    plan = ConnectionPlan((Stage(0, 3), Stage(5, 3), Stage(0, 1)))
    assert plan.due(0) == [Change(0, 0, True), Change(0, 1, True), Change(0, 2, True)]
    assert plan.next() == 5
    assert plan.due(5) == [Change(5, 2, False), Change(5, 1, False)]


def test_a_number_that_closed_opens_again():
    """A later rise opens the numbers that an earlier fall closed."""
    plan = ConnectionPlan((Stage(1, 3), Stage(1, 1), Stage(1, 3)))
    ups = [change.number for change in plan.due(3) if change.up]
    assert ups == [0, 1, 2, 1, 2]


def test_stage_names():
    """A stage without a name is called by its number; of stages that begin together the last counts."""
    plan = ConnectionPlan((Stage(2, 5, "rise"), Stage(3, 5), Stage(0, 9, "jump"), Stage(1, 9, "end")))
    shown = [plan.stage(at) for at in (-1, 0, 1.9, 2, 4.9, 5, 99)]
    assert shown == ["rise", "rise", "rise", "stage 2", "stage 2", "end", "end"]
    assert ConnectionPlan((Stage(1, 1), Stage(0, 9, "jump"))).stage(1) == "jump"


def test_target_outside_of_the_run():
    """Nothing is wanted before the run, and the last count stays after it."""
    plan = ConnectionPlan((Stage(2, 10), Stage(2, 4)))
    assert [plan.target(at) for at in (-1, 0, 1, 2, 3, 4, 50)] == [0, 0, 5, 10, 7, 4, 4]


@given(STAGES, WORKERS)
def test_the_workers_together_are_the_whole_plan(stages: list[Stage], workers: int):
    """Each change belongs to exactly one worker, by its number, and to each in order."""
    end = length(stages) + 1
    whole = ConnectionPlan(stages).due(end)
    shares = [ConnectionPlan(stages, worker, workers).due(end) for worker in range(workers)]
    assert sorted(change for share in shares for change in share) == sorted(whole)
    for worker, share in enumerate(shares):
        assert all(change.number % workers == worker for change in share)
        assert all(before.at_s <= after.at_s for before, after in pairwise(share))


@given(STAGES, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_opens_minus_closes_is_the_target(stages: list[Stage], places: list[float]):
    """At any moment as many are open as the line wants, at most one off where it just crosses; each opens only once."""
    end = length(stages)
    whole = ConnectionPlan(stages).due(end + 1)
    live: set[int] = set()
    for change in whole:
        assert (change.number in live) is not change.up
        (live.add if change.up else live.remove)(change.number)
    assert live == set(range(stages[-1].connections))
    plan = ConnectionPlan(stages)
    for at in (place * end for place in places):
        count = sum(1 if change.up else -1 for change in whole if change.at_s <= at)
        assert abs(count - plan.target(at)) <= 1


@given(STAGES, WORKERS, TICKS)
def test_a_late_caller_gets_every_change(stages: list[Stage], workers: int, ticks: list[float]):
    """However rarely it asks, a caller gets the same changes with the same intended moments, none early."""
    plan, got, now = ConnectionPlan(stages, 0, workers), [], 0.0
    for tick in ticks:
        now += tick
        soonest = plan.next()
        found = plan.due(now)
        assert bool(found) is (soonest is not None and soonest <= now)
        assert all(change.at_s <= now for change in found)
        got += found
    got += plan.due(length(stages) + now)
    assert got == ConnectionPlan(stages, 0, workers).due(length(stages))


def test_fifty_thousand_connections_cost_no_memory_before_they_are_due():
    """The plan is made as it is asked for."""
    tracemalloc.start()
    try:
        plan = ConnectionPlan((Stage(600, 50_000), Stage(600, 50_000)))
        count = len(plan.due(6))
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert count == 500
    assert used < 100_000


# --- messages ---------------------------------------------------------------------------------------------------------


def messages(plan: MessagePlan, now: float, open_count: int = 0) -> list[float]:
    """All that is due, over as many calls as it takes."""
    found: list[float] = []
    while more := plan.due(now, open_count):
        found += more
    return found


@given(st.floats(0.1, 500), WORKERS, st.floats(0.1, 20))
def test_a_total_rate_is_kept_by_all_workers_together(rate: float, workers: int, end: float):
    """Even messages of all workers interleave at even distances, and their number is rate times time within one."""
    traffic = Traffic(rate=rate)
    moments = sorted(
        moment
        for worker in range(workers)
        for moment in messages(MessagePlan(traffic, worker, workers, random.Random(1)), end)
    )
    assert abs(len(moments) - rate * end) <= 1
    assert moments == pytest.approx([(place + 0.5) / rate for place in range(len(moments))])


COUNTS = st.lists(st.tuples(st.floats(0.001, 3), st.integers(0, 40)), min_size=1, max_size=30)


@given(COUNTS, st.floats(0, 20), st.floats(0, 20))
def test_changing_counts_neither_skip_nor_double(steps: list[tuple[float, int]], rate: float, each: float):
    """The number of messages is the integral of the rate within one, however the number of connections changes."""
    plan = MessagePlan(Traffic(rate=rate, rate_each=each), 0, 1, random.Random(1))
    now, count, wanted, got = 0.0, 0, 0.0, []
    for wait, count_after in steps:
        wanted += wait * (rate + each * count)
        now += wait
        got += plan.due(now, count_after)
        count = count_after
        assert abs(len(got) - wanted) <= 0.5 + 1e-6
    assert got == sorted(got)


@given(COUNTS, st.booleans(), st.integers(0, 2**32))
def test_how_often_it_is_asked_moves_nothing(steps: list[tuple[float, int]], poisson: bool, seed: int):
    """A caller that asks at each predicted moment and one that only tells changes get the same moments."""
    traffic = Traffic(rate=2, rate_each=1.5, arrivals="poisson" if poisson else "even")
    eager, lazy = (MessagePlan(traffic, 0, 1, random.Random(seed)) for _ in range(2))
    now, count, first, second = 0.0, 0, [], []
    for wait, count_after in steps:
        now += wait
        while (moment := eager.next(first[-1] if first else 0.0, count)) is not None and moment < now:
            found = eager.due(moment, count)
            assert found[0] == moment
            first += found
        first += eager.due(now, count_after)
        second += lazy.due(now, count_after)
        count = count_after
    assert first == pytest.approx(second)


def test_a_stall_brings_all_moments_at_once():
    """A caller that slept for a second gets each message with the time at which it was meant."""
    plan = MessagePlan(Traffic(rate=1000), 0, 1, random.Random(1))
    plan.due(1, 5)
    late = plan.due(2, 5)
    assert len(late) == 1000
    assert late[0] == pytest.approx(1.0005)
    assert late[-1] == pytest.approx(1.9995)


def test_a_call_hands_out_so_many_and_the_next_one_goes_on():
    """The cap of one call skips nothing, not even over a change of the rate."""
    plan = MessagePlan(Traffic(rate_each=100_000), 0, 1, random.Random(1))
    plan.due(0, 1)
    first = plan.due(0.5, 2)
    assert len(first) == MAX_DUE
    assert plan.next(0.5, 2) == pytest.approx(0.2, abs=1e-4)
    rest = messages(plan, 1.0, 2)
    assert len(first) + len(rest) == 150_000
    assert first + rest == sorted(first + rest)
    assert rest[-1] <= 1.0


def test_connections_that_open_later_owe_nothing():
    """A count holds from when it is told: nothing is due for the time before."""
    plan = MessagePlan(Traffic(rate_each=10), 0, 1, random.Random(1))
    assert plan.next(0, 0) is None
    assert plan.due(100, 0) == []
    assert plan.due(200, 4) == []
    assert plan.next(200, 4) == pytest.approx(200.0125)
    assert len(plan.due(201, 0)) == 40
    assert plan.next(201, 0) is None


def test_predicting_alone_keeps_what_is_due():
    """Asking for the next moment with ever new counts takes nothing away."""
    plan = MessagePlan(Traffic(rate_each=10), 0, 1, random.Random(1))
    plan.next(0, 1)
    assert plan.next(1, 3) == pytest.approx(0.05)
    assert plan.next(2, 0) == pytest.approx(0.05)
    assert len(plan.due(3, 0)) == 40


def test_poisson_gaps_are_random_with_the_right_mean_and_spread():
    """Gaps have the mean of the rate, and their standard deviation is their mean, as for exponential ones."""
    traffic = Traffic(rate=1000, arrivals="poisson")
    moments = messages(MessagePlan(traffic, 0, 1, random.Random(7)), 30)
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.001, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.03)
    assert moments == messages(MessagePlan(traffic, 0, 1, random.Random(7)), 30)
    assert moments != messages(MessagePlan(traffic, 0, 1, random.Random(8)), 30)


def test_abusers_have_a_rate_of_their_own():
    """Their messages follow the number of abusive connections, and no other rate is in them."""
    traffic = Traffic(rate=1000, rate_each=50, abuse_rate_each=100)
    plan = MessagePlan.of_abusers(traffic, 0, 1, random.Random(1))
    plan.due(0, 3)
    assert len(plan.due(1, 3)) == 300


def test_a_beat_after_days_is_still_in_its_place():
    """Rounding does not add up: the ten-millionth beat is where it belongs."""
    beats = Beats(0.5)
    beats.pace(0, 0.3)
    total, now = 0, 0.0
    while total < 1_000_000:
        now += 60_000
        found = beats.due(now)
        total += len(found)
    assert found[-1] == pytest.approx((total - 0.5) / 0.3, abs=1e-6)


# --- cuts -------------------------------------------------------------------------------------------------------------


def test_cuts_come_in_order_whatever_the_order_written():
    """Disturbances are handed out by time, each once, however late."""
    early, late = Disturbance(5), Disturbance(9, action="close")
    cuts = Cuts((late, early))
    assert cuts.next() == 5
    assert cuts.due(4.9) == []
    assert cuts.due(20) == [early, late]
    assert cuts.next() is None
    assert cuts.due(30) == []


@given(
    st.floats(0, 1), st.floats(0, 10), st.lists(st.integers(0, 10_000), unique=True, max_size=80), st.integers(0, 99)
)
def test_a_cut_takes_its_share_once_each_within_its_time(share: float, over: float, numbers: list[int], seed: int):
    """The share within one session, no session twice, in order of time, all within the spread."""
    found = spread(Disturbance(3, share=share, spread_s=over), numbers, random.Random(seed))
    cut = [number for _, number in found]
    moments = [at for at, _ in found]
    assert len(set(cut)) == len(cut)
    assert set(cut) <= set(numbers)
    assert abs(len(cut) - share * len(numbers)) < 1
    assert moments == sorted(moments)
    assert all(3 <= at <= 3 + over + 1e-9 for at in moments)


def test_the_share_is_right_over_many_small_workers():
    """Three of ten sessions of each of 1,000 workers with one session are about 300, not none."""
    rng = random.Random(3)
    cut = sum(len(spread(Disturbance(0, share=0.3), [worker], rng)) for worker in range(1000))
    assert 250 < cut < 350


def test_a_whole_share_cuts_everybody_and_none_cuts_nobody():
    """No random rounding at the ends."""
    numbers = list(range(37))
    for seed in range(50):
        assert sorted(number for _, number in spread(Disturbance(1), numbers, random.Random(seed))) == numbers
        assert spread(Disturbance(1, share=0), numbers, random.Random(seed)) == []
