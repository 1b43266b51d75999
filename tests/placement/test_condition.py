"""The condition of a backend: checks, ejection, circuit breaker, and what must hold whatever happens."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.placement.condition import SHORTEST, Change, Condition
from trunkline.settings.balancer import BalancerSettings


class Backend:
    """A condition, its clock, and every change that it told of."""

    def __init__(self, seed: int = 1, **changes: Any) -> None:
        self.settings = msgspec.structs.replace(BalancerSettings(), **changes)
        self.condition = Condition(self.settings, random.Random(seed))
        self.now = 1000.0
        self.changes: list[Change] = []

    @property
    def usable(self) -> bool:
        return self.condition.usable(self.now)

    def note(self, change: Change | None) -> Change | None:
        if change is not None:
            self.changes.append(change)
        return change

    def checks(self, *results: bool) -> None:
        for ok in results:
            self.note(self.condition.checked(ok, "" if ok else "no answer", self.now))

    def fail(self, times: int = 1, why: str = "dial") -> None:
        for _ in range(times):
            self.note(self.condition.failure(why, self.now))

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.note(self.condition.success(self.now))

    def take_trial(self) -> None:
        assert self.usable
        self.note(self.condition.took_trial(self.now))

    def wait_for_back_off(self) -> None:
        self.now = max(self.now, self.condition.until)

    @property
    def path(self) -> list[str]:
        return [change.after for change in self.changes]


def test_a_new_backend_is_usable() -> None:
    """A backend of which nothing is known may be picked."""
    backend = Backend()
    assert backend.condition.state == "up"
    assert backend.usable
    assert backend.condition.why == ""
    assert not backend.condition.trial


# --- active checks ----------------------------------------------------------------------------------------------------


def test_checks_take_it_down_and_up() -> None:
    """`health_fall` bad checks in a row take it down, `health_rise` good ones bring it back."""
    backend = Backend(health_fall=3, health_rise=2)
    backend.checks(False, False, True, False, False)
    assert backend.changes == []
    backend.checks(False)
    assert backend.changes == [Change("up", "down", "3 bad checks in a row, the last one: no answer")]
    assert not backend.usable
    assert backend.condition.until == math.inf
    backend.checks(True, False, True)
    assert backend.condition.state == "down"
    backend.checks(True)
    assert backend.changes[-1] == Change("down", "up", "checks are good again")
    assert backend.usable


def test_down_stays_down_whatever_connections_say() -> None:
    """While the checks are bad nothing but checks makes it usable."""
    backend = Backend()
    backend.checks(False, False)
    backend.succeed(5)
    backend.fail(5)
    backend.now += 3600
    assert backend.condition.passed(backend.now) is None
    assert not backend.usable
    assert backend.path == ["down"]
    assert "bad checks" in backend.condition.why


def test_good_checks_cut_an_ejection_short() -> None:
    """A backend that came back by its checks is tried at once, with one connection."""
    backend = Backend(eject_ms=60_000)
    backend.fail(3)
    backend.checks(False, False, True)
    assert backend.path == ["ejected", "down", "half_open"]
    assert backend.usable
    backend.take_trial()
    assert not backend.usable
    backend.succeed()
    assert backend.condition.state == "up"


def test_flapping_checks_are_paused_longer_each_time() -> None:
    """A backend whose checks turn bad and good every few seconds gets growing pauses."""
    backend = Backend(health_fall=1, eject_ms=1000, eject_max_ms=60_000)
    pauses = []
    for _ in range(6):
        backend.now += 1
        backend.checks(False)
        backend.now += 1
        backend.checks(True)
        pauses.append(backend.condition.back_off_s)
    assert pauses == [0, 1, 2, 4, 8, 16], "the first fall alone is no flapping"
    assert backend.condition.state == "ejected"
    assert "flapping" in backend.condition.why


def test_one_restart_is_no_flapping() -> None:
    """A backend that falls again a long time after it rose is simply up afterwards."""
    backend = Backend(health_fall=1, eject_max_ms=60_000)
    for _ in range(3):
        backend.checks(False, True)
        assert backend.condition.state == "up"
        backend.now += 61


# --- ejection ---------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_eject() -> None:
    """`eject_after` failures with no success between them eject it, and the reason names the last one."""
    backend = Backend(eject_after=3)
    backend.fail(2)
    backend.succeed()
    backend.fail(2)
    assert backend.changes == []
    backend.fail(why="tls")
    assert backend.changes == [Change("up", "ejected", "3 failures in a row, the last one: tls")]
    assert not backend.usable
    backend.wait_for_back_off()
    assert backend.usable


def test_only_one_trial_at_a_time() -> None:
    """After its back-off one connection is let through; the next one only when that one is settled."""
    backend = Backend()
    backend.fail(3)
    backend.wait_for_back_off()
    assert backend.condition.trial
    backend.take_trial()
    assert backend.condition.state == "half_open"
    assert not backend.usable
    backend.succeed()
    assert backend.path == ["ejected", "half_open", "up"]
    assert backend.usable


def test_failed_trials_double_the_back_off_up_to_the_limit() -> None:
    """Each failed trial makes the pause twice as long, until the longest."""
    backend = Backend(eject_ms=1000, eject_max_ms=10_000)
    backend.fail(3)
    pauses = [backend.condition.back_off_s]
    for _ in range(5):
        backend.wait_for_back_off()
        backend.take_trial()
        backend.fail()
        assert backend.condition.state == "ejected"
        pauses.append(backend.condition.back_off_s)
        assert SHORTEST * pauses[-1] <= backend.condition.until - backend.now <= pauses[-1]
    assert pauses == [1, 2, 4, 8, 10, 10]


def test_late_outcomes_of_older_connections_change_nothing() -> None:
    """What was dialled before the ejection and fails or succeeds after it neither lengthens nor ends it."""
    backend = Backend()
    backend.fail(3)
    until = backend.condition.until
    backend.fail(20)
    backend.succeed()
    assert backend.condition.until == until
    assert backend.condition.state == "ejected"
    backend.wait_for_back_off()
    backend.note(backend.condition.passed(backend.now))
    backend.fail(20)
    assert backend.condition.state == "half_open", "no trial is out that could have failed"
    assert backend.usable


def test_a_lost_trial_ends_by_itself() -> None:
    """A trial that is never answered for makes way for the next one, when no handshake can still be under way."""
    backend = Backend(reservation_ms=1000, dial_timeout_ms=4000, handshake_timeout_ms=2000)
    backend.fail(3)
    backend.wait_for_back_off()
    backend.take_trial()
    backend.now += 5.9
    assert not backend.usable
    backend.now += 0.2
    assert backend.usable


def test_a_dropped_trial_makes_way_at_once() -> None:
    """A client that leaves in the middle of the trial does not hold the backend back."""
    backend = Backend()
    backend.fail(3)
    backend.wait_for_back_off()
    backend.take_trial()
    backend.condition.dropped_trial(backend.now)
    assert backend.usable
    assert backend.condition.state == "half_open"


def test_a_long_good_time_begins_the_back_off_anew() -> None:
    """After `eject_max_ms` of being up the next ejection is a short one again; before, it is longer than the last."""
    backend = Backend(eject_ms=1000, eject_max_ms=30_000)

    def eject_and_return() -> float:
        backend.fail(3)
        backend.wait_for_back_off()
        backend.take_trial()
        backend.succeed()
        return backend.condition.back_off_s

    assert [eject_and_return() for _ in range(3)] == [1, 2, 4]
    backend.now += 29
    assert eject_and_return() == 8
    backend.now += 31
    assert eject_and_return() == 1


def test_a_flapping_backend_is_picked_less_and_less() -> None:
    """One second up, one second down, ten connections a second: most of a minute it is left alone."""
    backend = Backend(eject_after=3)
    failed = [0, 0]
    for tick in range(1200):
        backend.now = 1000 + tick / 10
        if not backend.usable:
            continue
        backend.note(backend.condition.took_trial(backend.now))
        if int(backend.now) % 2:
            failed[tick >= 600] += 1
            backend.fail()
        else:
            backend.succeed()
    assert failed[0] <= 30, "three for each of a few growing ejections, out of 300"
    assert failed[1] <= 6, "hardly any in the second minute"


# --- circuit breaker --------------------------------------------------------------------------------------------------


def test_a_share_of_failures_opens_the_breaker() -> None:
    """Half of twenty connections failing opens the breaker, though never three in a row did."""
    backend = Backend(breaker_ratio=0.5, breaker_volume=20, breaker_window_ms=10_000)
    for _ in range(9):
        backend.succeed()
        backend.fail()
    assert backend.changes == [], "18 are too few to judge"
    backend.succeed()
    backend.fail(why="status_5xx")
    assert backend.changes == [Change("up", "open", "10 of 20 connections failed, the last one: status_5xx")]
    backend.wait_for_back_off()
    backend.take_trial()
    backend.fail()
    assert backend.path == ["open", "half_open", "open"]
    assert backend.condition.back_off_s == 2
    backend.wait_for_back_off()
    backend.take_trial()
    backend.succeed()
    assert backend.condition.state == "up"
    backend.succeed()
    backend.fail()
    assert backend.condition.state == "up", "what was counted before counts no more"


def test_failures_leave_the_window() -> None:
    """Failures that lie further apart than the window never add up."""
    backend = Backend(breaker_ratio=0.5, breaker_volume=4, breaker_window_ms=10_000, eject_after=1000)
    for _ in range(50):
        backend.now += 4
        backend.fail()
    assert backend.changes == []
    backend.fail(2)
    assert backend.condition.state == "open", "but four within ten seconds do"


@pytest.mark.parametrize("after_s", [8.9, 10.1, 500.0])
def test_the_window_slides(after_s: float) -> None:
    """An outcome counts for nine tenths of the window at least, and never longer than the window."""
    backend = Backend(breaker_ratio=0.5, breaker_volume=4, breaker_window_ms=10_000, eject_after=1000)
    backend.fail(3)
    backend.now += after_s
    backend.fail()
    assert backend.condition.state == ("open" if after_s < 9 else "up")


# --- what holds whatever happens --------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("check"), st.booleans()),
        st.tuples(st.sampled_from(("success", "failure", "pick", "drop", "passed")), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 5)),
        st.tuples(st.just("back_off"), st.none()),
    ),
    max_size=150,
)
SETTINGS = st.builds(
    BalancerSettings,
    health_fall=st.integers(1, 3),
    health_rise=st.integers(1, 3),
    eject_after=st.integers(1, 4),
    eject_ms=st.integers(1, 5000),
    eject_max_ms=st.integers(1, 20_000),
    breaker_volume=st.integers(1, 10),
    breaker_ratio=st.floats(0.01, 1),
    breaker_window_ms=st.integers(1, 20_000),
)


@given(SETTINGS, EVENTS, st.integers())
def test_what_holds_for_every_history(settings: BalancerSettings, events: list[tuple[str, Any]], seed: int) -> None:
    """One trial at a time, never a pick within a back-off, growing pauses, a way back, and each change told once."""
    condition = Condition(settings, random.Random(seed))
    now = 0.0
    trial_ends: float | None = None
    paused_until = 0.0
    state = condition.state
    pause = 0.0
    trial_s = max(settings.reservation_ms, settings.dial_timeout_ms + settings.handshake_timeout_ms) / 1000

    for event, value in events:
        before, back_off_before = condition.state, condition.back_off_s
        change: Change | None = None
        if event == "wait":
            now += value
        elif event == "back_off":
            now = max(now, min(condition.until, now + 60))
        elif event == "check":
            change = condition.checked(value, "x", now)
        elif event == "success":
            change = condition.success(now)
            trial_ends = None
        elif event == "failure":
            change = condition.failure("dial", now)
            trial_ends = None
        elif event == "drop":
            condition.dropped_trial(now)
            trial_ends = None
        elif event == "passed":
            change = condition.passed(now)
        elif condition.usable(now):
            assert condition.state != "down"
            assert now >= paused_until
            if condition.trial:
                assert trial_ends is None or now >= trial_ends, "a second trial while one is out"
                trial_ends = now + trial_s
            change = condition.took_trial(now)

        assert (change is None) == (condition.state == before)
        if change is not None:
            assert change.before == state
            assert change.after == condition.state
            assert change.why == condition.why != ""
        state = condition.state
        if condition.state in ("ejected", "open") and condition.until > now:
            paused_until = condition.until
            assert not condition.usable(now)
            assert condition.until - now <= settings.eject_max_ms / 1000 * (1 + 1e-9)
        if condition.state in ("half_open", "up") and before == "down":
            paused_until = 0.0  # checks that are good again cut a pause short
        if condition.back_off_s != back_off_before:
            pause = condition.back_off_s
            longest = settings.eject_max_ms / 1000
            first = min(settings.eject_ms / 1000, longest)
            assert pause in (min(back_off_before * 2, longest), first)
        if condition.state == "up":
            assert condition.usable(now)

    # From here on all is well.
    now += trial_s
    for _ in range(settings.health_rise):
        condition.checked(True, "", now)
    now = max(now, condition.until)
    assert now < math.inf
    assert condition.usable(now)
    condition.took_trial(now)
    condition.success(now)
    assert condition.state == "up"
    assert condition.usable(now)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=200), st.integers(1, 5000))
def test_the_breakers_count_is_bounded_by_the_windows(outcomes: list[tuple[float, bool]], window_ms: int) -> None:
    """When it opens, that many lay within the window; when nine tenths of the window held that many, it is open."""
    volume = 5
    backend = Backend(breaker_ratio=0.5, breaker_volume=volume, breaker_window_ms=window_ms, eject_after=1000)
    window_s = window_ms / 1000
    seen: list[tuple[float, bool]] = []
    for pause, ok in outcomes:
        backend.now += pause * window_s
        seen.append((backend.now, ok))
        backend.note(backend.condition.success(backend.now) if ok else backend.condition.failure("dial", backend.now))
        whole = [good for at, good in seen if at >= backend.now - window_s * 1.0001]
        if backend.changes:
            assert len(whole) >= volume
            assert whole.count(False) >= 0.5 * volume
            return
        if not ok and len(whole) >= volume and not any(whole):
            near = [good for at, good in seen if at >= backend.now - window_s * 0.8999]
            assert len(near) < volume


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silent_backend_is_down_whatever_its_checks_say() -> None:
    """It comes back with its next report; both, report and checks, must be good."""
    backend = Backend(health_fall=1)
    backend.note(backend.condition.heard(True, backend.now))
    assert backend.note(backend.condition.heard(True, backend.now)) is None
    backend.checks(True, True)
    backend.succeed()
    assert not backend.usable
    assert backend.changes == [Change("up", "down", "it no longer reports, and has not said goodbye")]
    backend.checks(False)
    backend.note(backend.condition.heard(False, backend.now))
    assert not backend.usable, "its checks are bad"
    backend.checks(True)
    assert backend.usable


def test_a_backend_that_reports_again_after_an_ejection_is_tried() -> None:
    """Something new may be running there; the back-off is cut short, as it is by checks."""
    backend = Backend()
    backend.fail(3)
    for silent in (True, False):
        backend.note(backend.condition.heard(silent, backend.now))
    assert backend.path == ["ejected", "down", "half_open"]
    assert backend.usable
