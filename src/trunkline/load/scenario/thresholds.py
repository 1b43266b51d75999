"""Thresholds: what must hold for a run to pass, as `delivery_p99<50ms`. Pure.

    <metric> <comparison> <number> <unit>        spaces do not matter; comparisons are < <= > >= ==

    latencies   dial handshake connect first_message round_trip delivery reconnect lag, and message, which is round
                trips and deliveries together; with _p50 _p95 _p99 _p999 (99.9 %) and so on, _min _mean _max;
                the unit is us, ms or s
    shares      success (connections that opened, of those tried), errors (of everything done); the unit is %
    rates       sent_rate, received_rate: messages a second over the whole run; no unit
    counts      connections (the most open at once) and the counts of `tally.Totals`, such as lost, closed, failed,
                unanswered; no unit

Rules: the default thresholds are judged beside the user's own; an own one replaces the default of the same metric that
points the same way (`connect_p95<5s` replaces `connect_p95<2s`, `connect_p95>1ms` does not). Where nothing was
measured, a default one passes, for a run need not send messages; an own one fails, for it proved nothing.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from trunkline.load.model.histogram import Counts, quantile, quantiles
from trunkline.load.model.report import Judged
from trunkline.load.model.tally import LATENCIES, Totals
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

_LATENCIES: Final = (*LATENCIES, "message")
_SHARES: Final = ("success", "errors")
_RATES: Final = {"sent_rate": "sent", "received_rate": "received"}
# `errors` is the share; the count of the same name is part of it.
_COUNTS: Final = ("connections", *(name for name in Totals.__struct_fields__ if name not in _SHARES))
_NO_LATENCIES: Final = (*_SHARES, *_RATES, *_COUNTS)
_STATISTICS: Final = ("min", "mean", "max")

_PERCENTILE: Final = re.compile(r"p(\d{1,8}(?:\.\d{1,6})?)", re.ASCII)


class Facts(msgspec.Struct, frozen=True):
    """What a run measured; latencies, `message` among them, are sparse counts of microseconds by name."""

    totals: Totals
    latencies: Mapping[str, Counts]
    peak_open: int = 0
    lasted_s: float = 0.0


def parse(text: str) -> Threshold:
    """Parse a threshold; raises SettingsError when it is malformed, or names nothing that is measured."""
    given = written(text, "delivery_p99<50ms or lost==0")
    metric = _metric(given.text, given.metric)
    comparison = given.comparison()
    number, named = given.number(_example(metric))
    unit = _unit(given.text, metric, named)
    if unit == "%" and number > 100:
        raise refusal(given.text, f"{metric} is a share of 0 to 100 %")
    return Threshold(given.text, metric, comparison, number, unit)


def with_defaults(own: Iterable[Threshold]) -> list[Threshold]:
    """The default thresholds that no own one replaces, and the own ones."""
    return over_defaults(own, DEFAULTS)


def judge(own: Iterable[Threshold], facts: Facts) -> list[Judged]:
    """Judge a run by the default thresholds and the user's own; one result for each, default ones first."""
    return [_judged(threshold, facts) for threshold in with_defaults(own)]


def _judged(threshold: Threshold, facts: Facts) -> Judged:
    value = _value(threshold, facts)
    if value is None:
        return Judged(threshold.text, None, NOTHING, threshold.default, threshold.default)
    text = count(round(value)) if threshold.metric in _COUNTS else shown(threshold, value)
    return Judged(threshold.text, value, text, holds(threshold, value), threshold.default)


def _value(threshold: Threshold, facts: Facts) -> float | None:
    """What was measured, in the threshold's unit; None: nothing."""
    metric, totals = threshold.metric, facts.totals
    if metric == "success":
        # Rounded, as are the others: 29 of 100 must be 29 % and no less.
        return round(100 * totals.success, 9) if totals.attempts else None
    if metric == "errors":
        return round(100 * totals.error_rate, 9) if totals.attempts + totals.sent else None
    if metric in _RATES:
        sent: int = getattr(totals, _RATES[metric])
        return round(sent / facts.lasted_s, 9) if facts.lasted_s > 0 else None
    if metric == "connections":
        return float(facts.peak_open)
    if metric in _COUNTS:
        return float(getattr(totals, metric))
    latency, _, statistic = metric.rpartition("_")
    counts = facts.latencies.get(latency)
    if not counts:
        return None
    percent = _percent(statistic)
    ms: float = getattr(quantiles(counts), statistic) if math.isnan(percent) else quantile(counts, percent)
    return round(ms * PER_MS[threshold.unit], 9)


def _metric(text: str, written: str) -> str:
    """The metric in the one way it is spelt."""
    name = written.lower()
    if name in _NO_LATENCIES:
        return name
    latency, _, statistic = name.rpartition("_")
    if latency in _LATENCIES:
        if statistic in _STATISTICS:
            return name
        percent = _percent(statistic)
        if percent == 100:
            return f"{latency}_max"
        if 0 < percent < 100:
            digits = f"{percent:.9f}".rstrip("0").rstrip(".")
            return f"{latency}_p{digits.replace('.', '') if percent > 99 else digits}"
    if name in _LATENCIES or latency in _LATENCIES:
        whose = name if name in _LATENCIES else latency
        raise refusal(
            text, f"{whose} is a latency: add _p50, _p95, _p99, _p999, _min, _mean or _max", nearest=f"{whose}_p95"
        )
    known = f"known are {', '.join(_SHARES)}, {', '.join(_RATES)}, {', '.join(_COUNTS)}"
    raise refusal(
        text,
        f"it names nothing that is measured; {known}, and latencies such as delivery_p99 ({', '.join(_LATENCIES)})",
        nearest=_nearest(name, latency, statistic),
    )


def _nearest(name: str, latency: str, statistic: str) -> str | None:
    if statistic in _STATISTICS or _percent(statistic) > 0:
        # Only the first part is compared: what follows it would make any two latencies look alike.
        near = difflib.get_close_matches(latency, _LATENCIES, n=1)
        return f"{near[0]}_{statistic}" if near else None
    return next(iter(difflib.get_close_matches(name, (*_NO_LATENCIES, *_LATENCIES), n=1)), None)


def _percent(statistic: str) -> float:
    """95 of `p95`, 99.9 of `p999` and of `p99.9`; nan when it is no percentile."""
    form = _PERCENTILE.fullmatch(statistic)
    if form is None:
        return math.nan
    digits = form[1]
    if "." not in digits and len(digits) > 2 and digits != "100":
        # p995 is 99.5, as everybody reads it; p123 is nothing.
        return float(f"99.{digits[2:]}") if digits.startswith("99") else math.nan
    return float(digits)


def _unit(text: str, metric: str, written: str) -> Unit:
    allowed: tuple[Unit, ...] = ("us", "ms", "s")
    if metric in _SHARES:
        allowed = ("%",)
    elif metric in _NO_LATENCIES:
        allowed = ("",)
    unit = next((each for each in allowed if each == written.lower()), None)
    if unit is not None:
        return unit
    needs = {"%": "is a share and needs the unit %", "": "is a plain number without a unit"}
    raise refusal(
        text, f"{metric} {needs.get(allowed[0], 'is a latency and needs a unit: us, ms or s')}, as {_example(metric)}"
    )


def _example(metric: str) -> str:
    if metric in _SHARES:
        return "success>95%" if metric == "success" else "errors<1%"
    if metric in _NO_LATENCIES:
        return f"{metric}>=100" if metric in _RATES or metric == "connections" else f"{metric}==0"
    return f"{metric}<50ms"


_DEFAULTS: Final = (
    "connect_p95<2s message_p95<1s success>95% errors<1% lost==0 duplicates==0 reordered==0 corrupt==0 crossed==0"
)
DEFAULTS: Final = tuple(msgspec.structs.replace(parse(text), default=True) for text in _DEFAULTS.split())
