"""How a scenario is made larger, smaller, longer or shorter. Pure.

Rules:

- Connections and times scale in proportion. Not stretched is what a longer time would turn into something else: the
  sudden rise of a spike, how long a cut connection stays away.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from trunkline.errors import SettingsError
from trunkline.load.model.plan import Disturbance, Scenario

_DROP_EVERY_S = 10.0
_AWAY_S = 2.0
_MAX_DROPS = 1_000

_BOUNDS: dict[str, tuple[float, float]] = {
    "connections": (1, 10_000_000), "duration_s": (0.1, 1_000_000), "rate": (0, 10_000_000),
    "rate_each": (0, 10_000_000), "message_bytes": (40, 16 << 20), "channels": (0, 1_000_000),
}  # fmt: skip
"""Least and greatest values of a `Size`."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What a command line changes of a scenario; whatever is None stays as the scenario says."""

    # Its greatest count; the counts of all stages follow in proportion, and none becomes 0 by it.
    connections: int | None = None
    # How long it takes in all; stages and the moments of disturbances follow in proportion. How long cut connections
    # stay away, and over how long cuts are spread, becomes shorter with it but never longer.
    duration_s: float | None = None
    # Messages a second over all connections, instead of every rate the scenario has; abuse aside.
    rate: float | None = None
    rate_each: float | None = None  # messages a second of each connection
    message_bytes: int | None = None  # length of a message
    channels: int | None = None  # how many a feed uses


def scaled(scenario: Scenario, size: Size, sudden: Collection[str] = ()) -> Scenario:
    """A scenario at another size, its stages in `sudden` never longer; raises SettingsError when it is out of range."""
    for field, (least, most) in _BOUNDS.items():
        value: float | None = getattr(size, field)
        # Written so that a nan is refused, too.
        if value is not None and not least <= value <= most:
            option = f"--{field.removesuffix('_s').replace('_', '-')}"
            raise SettingsError(
                option,
                value=str(value) if isinstance(value, int) else f"{value:g}",
                allowed=f"allowed: {least:,} to {most:,}",
            )
    if (wanted := size.connections) is not None:
        peak = scenario.peak
        stages = tuple(
            replace(stage, connections=max(1, round(stage.connections * wanted / peak)) if stage.connections else 0)
            for stage in scenario.stages
        )
        scenario = replace(scenario, stages=stages)
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


def drops(duration_s: float) -> tuple[Disturbance, ...]:
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
