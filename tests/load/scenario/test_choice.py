"""The built-in scenarios and their sizes."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import SettingsError
from trunkline.load.model.plan import Disturbance, Scenario, Stage
from trunkline.load.scenario.choice import builtin, choose, describe
from trunkline.load.scenario.file import DEFAULT, NAMES
from trunkline.load.scenario.scaling import Size, scaled


def test_the_names_of_the_commands():
    """All that are documented exist, and each says what it is for."""
    assert NAMES == ("hold", "ramp", "stress", "spike", "soak", "storm", "slow", "abuse", "replay")
    assert DEFAULT in NAMES
    assert [name for name, text in describe() if text] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "peak", "lasts_s"),
    [
        ("hold", 100, 30), ("ramp", 1000, 180), ("stress", 2000, 660), ("spike", 5000, 120), ("soak", 500, 3600),
        ("storm", 1000, 120), ("slow", 100, 120), ("abuse", 100, 60), ("replay", 500, 90),
    ],
)  # fmt: skip
def test_default_sizes(name: str, peak: int, lasts_s: float):
    """Peak and length of each when nothing is asked for."""
    scenario = builtin(name, Size())
    assert (scenario.peak, scenario.duration_s) == (peak, pytest.approx(lasts_s))
    assert scenario.stages[-1].connections > 0


@given(st.sampled_from(NAMES), st.integers(1, 1_000_000), st.floats(0.1, 1_000_000))
def test_any_size_is_met_and_valid(name: str, connections: int, duration_s: float):
    """Peak and length are as asked for, disturbances stay within, and the plan passes its own limits."""
    scenario = builtin(name, Size(connections=connections, duration_s=duration_s))
    assert scenario.peak == connections
    assert scenario.duration_s == pytest.approx(duration_s)
    assert all(stage.connections >= 1 for stage in scenario.stages)
    assert all(0 <= each.at_s + each.spread_s + each.away_s < duration_s for each in scenario.disturbances)
    assert msgspec.convert(msgspec.to_builtins(scenario), Scenario) == scenario
    assert len(msgspec.msgpack.encode(scenario)) < 200_000


@pytest.mark.parametrize("duration_s", [12, 120, 3600])
def test_a_spike_is_sudden_however_long_the_run(duration_s: float):
    """The rise takes five seconds at most, a tenth of the connections is there before and after it."""
    scenario = builtin("spike", Size(duration_s=duration_s))
    rise = next(stage for stage in scenario.stages if stage.name == "spike")
    assert rise.duration_s == pytest.approx(min(5, 5 * duration_s / 120))
    assert [stage.connections for stage in scenario.stages] == [500, 500, 5000, 5000, 500, 500]
    assert scenario.stages[-1].duration_s > duration_s / 4


def test_a_storm_takes_everybody_twice():
    """All connections break at the same moment and come back at once, at a third and at two thirds."""
    assert builtin("storm", Size(duration_s=30)).disturbances == (Disturbance(10), Disturbance(20))


@pytest.mark.parametrize("duration_s", [9, 30, 90, 3600])
def test_replay_drops_every_few_seconds(duration_s: float):
    """Drops do not become rarer in a longer run, and each connection is back long before the next one."""
    scenario = builtin("replay", Size(duration_s=duration_s))
    moments = [each.at_s for each in scenario.disturbances]
    gaps = [after - before for before, after in pairwise(moments)]
    assert len(moments) >= 6
    assert all(gap == pytest.approx(min(10, duration_s / 9)) for gap in gaps)
    assert all(
        each.share == 0.3 and each.away_s == pytest.approx(min(2, gaps[0] / 2)) for each in scenario.disturbances
    )
    assert scenario.protocol == "feed"


def test_slow_readers_get_more_than_they_read():
    """Even in an echo a slow reader is sent more each second than it reads."""
    traffic = builtin("slow", Size()).traffic
    assert traffic.slow_share == 0.1
    assert traffic.rate_each * traffic.message_bytes > 2 * traffic.slow_bytes_per_s


def test_abusers_send_far_over_the_limit_and_the_others_do_not():
    """Ten messages a second are allowed by default: the others stay far below, abusers are far above."""
    scenario = builtin("abuse", Size())
    assert scenario.traffic.abuse_share == 0.2
    assert scenario.traffic.abuse_rate_each >= 50
    assert scenario.traffic.rate_each <= 1
    assert scenario.expected_errors == ("RATE_LIMIT_EXCEEDED",)


def test_rates():
    """A rate over all replaces the one of each; both can be given."""
    default, total, each, both = (
        builtin("ramp", Size(**asked)).traffic
        for asked in ({}, {"rate": 500.0}, {"rate_each": 2.0}, {"rate": 500.0, "rate_each": 2.0})
    )
    assert (default.rate, default.rate_each) == (0, 0.1)
    assert (total.rate, total.rate_each) == (500, 0)
    assert (each.rate, each.rate_each) == (0, 2)
    assert (both.rate, both.rate_each) == (500, 2)
    assert builtin("abuse", Size(rate=5)).traffic.abuse_rate_each == builtin("abuse", Size()).traffic.abuse_rate_each


def test_own_scenarios_scale_too():
    """All stages and moments of a scenario from a file follow; a stage with no connections keeps none."""
    scenario = Scenario(
        "own", (Stage(10, 50), Stage(10, 0), Stage(20, 100)), disturbances=(Disturbance(30, away_s=2, spread_s=1),)
    )
    grown = scaled(scenario, Size(connections=1000, duration_s=80))
    assert grown.stages == (Stage(20, 500), Stage(20, 0), Stage(40, 1000))
    assert grown.disturbances == (Disturbance(60, away_s=2, spread_s=1),)
    shrunk = scaled(scenario, Size(connections=1, duration_s=4))
    assert shrunk.stages == (Stage(1, 1), Stage(1, 0), Stage(2, 1))
    assert shrunk.disturbances == (Disturbance(3, away_s=0.2, spread_s=0.1),)
    assert scaled(scenario, Size()) == scenario


def test_a_wrong_name_is_told_the_nearest():
    """A slip names what there is and what was most likely meant."""
    with pytest.raises(SettingsError, match="did you mean ramp") as caught:
        choose("rmap", Size())
    assert "hold, ramp, stress" in caught.value.allowed
    assert caught.value.value == "rmap"


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"connections": 0}, "--connections"), ({"connections": 10_000_001}, "--connections"),
        ({"duration_s": 0}, "--duration"), ({"duration_s": -5}, "--duration"),
        ({"duration_s": math.nan}, "--duration"), ({"duration_s": math.inf}, "--duration"),
        ({"rate": -1}, "--rate"), ({"rate_each": math.nan}, "--rate-each"),
    ],
)  # fmt: skip
def test_sizes_out_of_range(asked: dict[str, float], key: str):
    """A size that cannot be is refused by name, with what can be."""
    with pytest.raises(SettingsError, match="allowed: ") as caught:
        builtin("hold", Size(**asked))
    assert caught.value.key == key


def test_counts_out_of_range_are_quoted_as_written():
    """Counts keep their digits in an error: 1.67772e+07 would seem to be within the bound."""
    for size, written in (
        (Size(message_bytes=16_777_217), "16777217"), (Size(connections=10_000_001), "10000001"),
        (Size(rate=2e7), "2e+07"),
    ):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            builtin("hold", size)
        assert caught.value.value == written
