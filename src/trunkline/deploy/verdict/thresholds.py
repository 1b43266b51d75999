"""What must hold for a deploy to pass, as `away_p99<=10s`; written and judged as thresholds of a load run are. Pure.

    witnesses   lost duplicated reordered witness_gaps absent witness_refused unanswered (counts),
                witness_away_p50, _p99, _max (us, ms or s)
    clients     gaps forced refused (counts), never_back (% of those asked, above the usual rate of departures),
                away_p50, _p99, _max (us, ms or s)
    rate        peak (% of what the new colour accepts)
    time        moving, waited and lasted (s)

Rules: an own threshold replaces the default of the same metric that points the same way. Where nothing was measured, a
default one passes, for a foreign backend counts nothing; an own one fails, for it proved nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from trunkline.deploy.verdict.facts import ClientFacts, DeployFacts
from trunkline.load.model.report import Judged
from trunkline.load.output.formatting import count
from trunkline.load.scenario.comparison import (
    NOTHING,
    PER_MS,
    Threshold,
    Unit,
    holds,
    over_defaults,
    refusal,
    shown,
    written,
)

Measure = Callable[[DeployFacts], float | None]


def never_back_percent(clients: ClientFacts) -> float | None:
    """Of the clients that were asked to move, the share that is gone beyond those that would have left anyway, in %."""
    if clients.never_back is None or not clients.asked:
        return None
    return round(100 * max(0.0, clients.never_back - clients.usual_departures) / clients.asked, 9)


def peak_percent(facts: DeployFacts) -> float | None:
    """The most reconnects in a second, in % of what the new colour accepts; None when that is not known."""
    rates = facts.rates
    if rates.peak_per_s is None or rates.accepts_from == "unknown" or rates.accepts_per_s <= 0:
        return None
    return round(100 * rates.peak_per_s / rates.accepts_per_s, 9)


def _witnessed(name: str) -> Measure:
    return lambda facts: None if facts.witnesses is None else getattr(facts.witnesses, name)


def _witness_away(quantile: str) -> Measure:
    return lambda facts: None if facts.witnesses is None else facts.witnesses.away_ms.get(quantile)


def _away(quantile: str) -> Measure:
    def measure(facts: DeployFacts) -> float | None:
        seconds = facts.clients.away_s.get(quantile)
        return None if seconds is None else 1000 * seconds

    return measure


_COUNTS: Final[dict[str, Measure]] = {
    "lost": _witnessed("lost"),
    "duplicated": _witnessed("duplicated"),
    "reordered": _witnessed("reordered"),
    "witness_gaps": _witnessed("gaps"),
    "absent": _witnessed("absent"),
    "witness_refused": _witnessed("refused"),
    "unanswered": _witnessed("unanswered"),
    "gaps": lambda facts: facts.clients.gaps,
    "forced": lambda facts: facts.clients.forced,
    "refused": lambda facts: None if facts.clients.refused is None else sum(facts.clients.refused.values()),
}
_SHARES: Final[dict[str, Measure]] = {
    "never_back": lambda facts: never_back_percent(facts.clients),
    "peak": peak_percent,
}
_TIMES_MS: Final[dict[str, Measure]] = {
    **{f"witness_away_{quantile}": _witness_away(quantile) for quantile in ("p50", "p99", "max")},
    **{f"away_{quantile}": _away(quantile) for quantile in ("p50", "p99", "max")},
    "moving": lambda facts: 1000 * facts.moving_s,
    "waited": lambda facts: 1000 * facts.waited_s,
    "lasted": lambda facts: 1000 * facts.lasted_s,
}
METRICS: Final[dict[str, Measure]] = {**_COUNTS, **_SHARES, **_TIMES_MS}


def parse(text: str) -> Threshold:
    """Parse a threshold; raises SettingsError when it is malformed, or names nothing that is measured."""
    given = written(text, "away_p99<=10s or lost==0")
    metric = given.metric.lower()
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        raise refusal(
            given.text, f"a deploy measures {', '.join(METRICS)}", nearest=near[0] if near else None
        )  # fmt: skip
    comparison = given.comparison()
    number, named = given.number(_example(metric))
    unit = next((each for each in _units(metric) if each == named.lower()), None)
    if unit is None:
        raise refusal(given.text, f"{metric} is written as {_example(metric)}")
    return Threshold(given.text, metric, comparison, number, unit)


def judge(facts: DeployFacts, own: Iterable[Threshold] = ()) -> tuple[Judged, ...]:
    """Judge a deploy by the default thresholds and the user's own; one result for each, default ones first."""
    return tuple(_judged(threshold, facts) for threshold in over_defaults(own, DEFAULTS))


def _judged(threshold: Threshold, facts: DeployFacts) -> Judged:
    value = METRICS[threshold.metric](facts)
    if value is None:
        return Judged(threshold.text, None, NOTHING, threshold.default, threshold.default)
    if threshold.metric in _TIMES_MS:
        value = round(value * PER_MS[threshold.unit], 9)
    text = count(round(value)) if threshold.metric in _COUNTS else shown(threshold, float(value))
    return Judged(threshold.text, float(value), text, holds(threshold, value), threshold.default)


def _units(metric: str) -> tuple[Unit, ...]:
    if metric in _TIMES_MS:
        return ("us", "ms", "s")
    return ("%",) if metric in _SHARES else ("",)


def _example(metric: str) -> str:
    if metric in _TIMES_MS:
        return f"{metric}<=10s"
    return f"{metric}<=1%" if metric in _SHARES else f"{metric}==0"


_DEFAULTS: Final = (
    "lost==0 duplicated==0 reordered==0 witness_gaps==0 absent==0 gaps==0 forced==0 never_back<=1% away_p99<=10s "
    "peak<=80%"
)
DEFAULTS: Final = tuple(replace(parse(text), default=True) for text in _DEFAULTS.split())
