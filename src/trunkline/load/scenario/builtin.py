"""The built-in scenarios, and how a scenario is made larger, smaller, longer or shorter. Pure.

Rules:

- Connections and times scale in proportion. Not stretched is what a longer time would turn into something else: the
  sudden rise of a spike, how long a cut connection stays away.
- None ends in a ramp down: the generator closes what is open, once everything that is still to come has come.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

import msgspec
from msgspec.structs import replace

from trunkline.errors import SettingsError
from trunkline.load.model.plan import Disturbance, Scenario, Stage, Traffic
from trunkline.settings.spelling import nearest

DEFAULT = "hold"
"""The scenario of a run that does not name one."""

_RATE_EACH = 0.1
_DROP_EVERY_S = 10.0
_AWAY_S = 2.0
_MAX_DROPS = 1_000

_SUDDEN = frozenset({"spike", "fall"})
"""Names of stages that a longer run does not stretch."""

_MODEST = Traffic(rate_each=_RATE_EACH)

_BUILT_IN: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "hold", (Stage(2, 100, "open"), Stage(28, 100, "hold")), traffic=_MODEST,
            description="opens its connections within two seconds and holds them: the first look at a server",
        ),
        Scenario(
            "ramp", (Stage(120, 1000, "ramp"), Stage(60, 1000, "hold")), traffic=_MODEST,
            description="goes up evenly to its full count: where does it begin to hurt?",
        ),
        Scenario(
            "stress", (Stage(60, 2000, "ramp"), Stage(600, 2000, "hold")), traffic=_MODEST,
            description="holds a high count for ten minutes: does it stay well under lasting load?",
        ),
        Scenario(
            "spike",
            (
                Stage(10, 500, "open"), Stage(20, 500, "base"), Stage(5, 5000, "spike"), Stage(30, 5000, "peak"),
                Stage(5, 500, "fall"), Stage(50, 500, "recovery"),
            ),
            traffic=_MODEST,
            description="ten times the connections within five seconds, and back: does it take the rush and recover?",
        ),
        Scenario(
            "soak", (Stage(60, 500, "ramp"), Stage(3540, 500, "hold")), traffic=_MODEST,
            description="an hour of ordinary load: does anything leak?",
        ),
        Scenario(
            "storm", (Stage(20, 1000, "open"), Stage(100, 1000, "hold")), traffic=_MODEST,
            disturbances=(Disturbance(40), Disturbance(80)),
            description="all connections break and come back at once, twice: does it survive its own clients?",
        ),
        Scenario(
            "slow", (Stage(5, 100, "open"), Stage(115, 100, "hold")),
            # The kernels take some 5 MB for a slow reader before its server has to: of a feed, in half a minute.
            traffic=Traffic(rate_each=5, message_bytes=4096, slow_share=0.1),
            description="one in ten reads far more slowly than it is sent to: do the others notice, does memory grow?",
        ),
        Scenario(
            "abuse", (Stage(5, 100, "open"), Stage(55, 100, "hold")),
            traffic=Traffic(rate_each=_RATE_EACH, abuse_share=0.2, abuse_rate_each=100),
            expected_errors=("RATE_LIMIT_EXCEEDED",),
            description="one in five sends far over the rate limit: is it refused, and do the others not suffer?",
        ),
        Scenario(
            "replay", (Stage(5, 500, "open"), Stage(85, 500, "hold")), protocol="feed",
            traffic=Traffic(rate_each=0.2),
            description="three in ten lose their connection every few seconds and recover what they missed: all of it?",
        ),
    )
}  # fmt: skip

_BOUNDS: dict[str, tuple[float, float]] = {
    "connections": (1, 10_000_000), "duration_s": (0.1, 1_000_000), "rate": (0, 10_000_000),
    "rate_each": (0, 10_000_000), "message_bytes": (40, 16 << 20), "channels": (0, 1_000_000),
}  # fmt: skip
"""Least and greatest values of a `Size`."""

NAMES: tuple[str, ...] = tuple(_BUILT_IN)
"""The built-in scenarios."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What a command line changes of a scenario; whatever is None stays as the scenario says.

    Attributes:
        connections: its greatest count; the counts of all stages follow in proportion, and none becomes 0 by it.
        duration_s: how long it takes in all; stages and the moments of disturbances follow in proportion. How long cut
            connections stay away, and over how long cuts are spread, becomes shorter with it but never longer.
        rate: messages a second over all connections, instead of every rate the scenario has; abuse aside.
        rate_each: messages a second of each connection.
        message_bytes: length of a message.
        channels: how many a feed uses.
    """

    connections: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    rate_each: float | None = None
    message_bytes: int | None = None
    channels: int | None = None


AS_IT_IS: Final = Size()


def builtin(name: str, size: Size = AS_IT_IS) -> Scenario:
    """A built-in scenario at the wanted size; raises SettingsError for an unknown name or a bad size."""
    scenario = _BUILT_IN.get(name)
    if scenario is None:
        allowed, near = f"one of {', '.join(NAMES)}", nearest(name.lower(), NAMES)
        raise SettingsError("--scenario", value=name[:200], allowed=allowed, nearest=near)
    scenario = scaled(scenario, size, _SUDDEN)
    return replace(scenario, disturbances=_drops(scenario.duration_s)) if name == "replay" else scenario


def describe() -> list[tuple[str, str]]:
    """Each built-in scenario's name and what it is for, in one sentence."""
    return [(name, scenario.description) for name, scenario in _BUILT_IN.items()]


def scaled(scenario: Scenario, size: Size, sudden: Collection[str] = ()) -> Scenario:
    """A scenario at another size; raises SettingsError when that is out of range.

    Stages whose names are in `sudden` become shorter with the whole but never longer.
    """
    for field, (least, most) in _BOUNDS.items():
        value: float | None = getattr(size, field)
        # Written so that a nan is refused, too.
        if value is not None and not least <= value <= most:
            option = f"--{field.removesuffix('_s').replace('_', '-')}"
            raise SettingsError(option, value=f"{value:g}", allowed=f"allowed: {least:,} to {most:,}")
    if size.connections is not None:
        scenario = replace(scenario, stages=_widened(scenario, size.connections))
    if size.duration_s is not None:
        scenario = _stretched(scenario, size.duration_s, sudden)
    traffic = scenario.traffic
    if size.rate is not None:
        traffic = replace(traffic, rate=float(size.rate), rate_each=0.0)
    if size.rate_each is not None:
        traffic = replace(traffic, rate_each=float(size.rate_each))
    if size.message_bytes is not None:
        traffic = replace(traffic, message_bytes=size.message_bytes)
    if size.channels is not None:
        traffic = replace(traffic, channels=size.channels)
    return replace(scenario, traffic=traffic)


def _widened(scenario: Scenario, connections: int) -> tuple[Stage, ...]:
    peak = scenario.peak
    return tuple(
        replace(stage, connections=max(1, round(stage.connections * connections / peak)) if stage.connections else 0)
        for stage in scenario.stages
    )


def _stretched(scenario: Scenario, duration_s: float, sudden: Collection[str]) -> Scenario:
    factor = duration_s / scenario.duration_s
    shrink = min(1.0, factor)
    kept_s = sum(stage.duration_s for stage in scenario.stages if stage.name in sudden)
    others = (duration_s - kept_s * shrink) / (scenario.duration_s - kept_s)
    stages = tuple(
        replace(stage, duration_s=stage.duration_s * (shrink if stage.name in sudden else others))
        for stage in scenario.stages
    )
    disturbances = tuple(
        replace(each, at_s=each.at_s * factor, away_s=each.away_s * shrink, spread_s=each.spread_s * shrink)
        for each in scenario.disturbances
    )
    return replace(scenario, stages=stages, disturbances=disturbances)


def _drops(duration_s: float) -> tuple[Disturbance, ...]:
    """The drops of `replay`: every ten seconds however long it takes, closer together only in a run of few seconds.

    The first and the last have time before and after them. In very long runs they are rarer: the plan stays short.
    """
    every_s = max(_DROP_EVERY_S * min(1.0, duration_s / 90), duration_s / _MAX_DROPS)
    count = max(1, math.floor((duration_s - 2.5 * every_s) / every_s))
    away_s = min(_AWAY_S, every_s / 2)
    spread_s = min(1.0, every_s / 10)
    return tuple(
        Disturbance((place + 1.5) * every_s, share=0.3, away_s=away_s, spread_s=spread_s) for place in range(count)
    )
