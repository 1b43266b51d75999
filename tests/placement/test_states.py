"""The table of a backend's states, driven through `Condition`: every pair of state and event."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import get_args

import msgspec
import pytest

from trunkline.placement.condition import Condition
from trunkline.placement.states import AS_BEFORE, CONNECTIONS, OUT, SHOWN, Connections, Event, Shown, State
from trunkline.settings.balancer import BalancerSettings

SETTINGS = msgspec.structs.replace(
    BalancerSettings(), eject_after=3, breaker_volume=4, breaker_ratio=0.5, health_fall=1, health_rise=1
)


class Driven:
    """A condition that is led into a state, and its clock."""

    def __init__(self, state: Connections) -> None:
        self.condition = Condition(SETTINGS, random.Random(1))
        self.now = 1000.0
        if state == "ejected":
            self.fail(3)
        elif state != "up":
            self.fail_often()
            if state == "half_open":
                self.rest()
                self.condition.passed(self.now)
        assert self.condition.state == state

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.condition.failure("dial", self.now)

    def fail_often(self) -> None:
        """Failures of which no three stand in a row."""
        for _ in range(2):
            self.condition.success(self.now)
            self.fail(1)

    def rest(self) -> None:
        self.now = max(self.now, self.condition.until)

    def check(self, *results: bool) -> None:
        for ok in results:
            self.condition.checked(ok, "", self.now)

    def flap(self) -> None:
        """Bad and good again twice: the second time soon after the first."""
        self.check(False, True)
        self.check(False, True)

    def take_trial(self) -> None:
        self.rest()
        self.condition.took_trial(self.now)

    def end_trial(self, end: Callable[[], object]) -> None:
        if self.condition.state == "half_open":
            self.take_trial()
        end()


EVENTS: dict[Event, Callable[[Driven], object]] = {
    "failed_in_a_row": lambda driven: driven.fail(3),
    "failed_often": lambda driven: driven.fail_often() if driven.condition.state == "up" else driven.fail(4),
    "flapped": lambda driven: driven.flap(),
    "recovered": lambda driven: driven.check(False, True),
    "rested": lambda driven: (driven.rest(), driven.condition.passed(driven.now)),
    "trial": lambda driven: driven.take_trial(),
    "trial_opened": lambda driven: driven.condition.success(driven.now),
    "trial_failed": lambda driven: driven.end_trial(lambda: driven.fail(1)),
    "trial_dropped": lambda driven: driven.end_trial(lambda: driven.condition.dropped_trial(driven.now)),
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(get_args(Connections), get_args(Event))))
def test_each_event_leads_where_the_table_says(state: Connections, event: Event) -> None:
    """A pair that the table does not have changes nothing."""
    driven = Driven(state)
    EVENTS[event](driven)
    after = CONNECTIONS[state].get(event, state)
    assert driven.condition.state == ("open" if after == AS_BEFORE else after)


def test_every_state_has_a_row_and_a_place() -> None:
    """No state is forgotten in the tables."""
    assert set(CONNECTIONS) == set(get_args(Connections))
    assert sorted(SHOWN) == sorted(get_args(Shown))
    assert set(get_args(State)) - set(OUT) == {"up", "half_open"}
