"""What the plots of the HTML report show: lines over the time of the run, and latencies over their percentiles. Pure.

Rules: all lines over time share one list of times, so that the page can point at the same moment in all of them. A
second in which nothing was measured is a hole in its line, never a zero. A long run has several seconds a point: of
latencies, errors and lag the greatest, of counts a second their mean, so that no peak of the former is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from trunkline.load.model.histogram import Quantiles, decode
from trunkline.load.model.report import Report, Second, ServerSample
from trunkline.load.model.tally import Latency
from trunkline.load.output.formatting import LATENCY_NAMES

MAX_POINTS = 1_500
"""Points of a line; a screen shows no more."""

CURVE_STEPS = 20
"""Points of a percentile curve for each further nine of the percentile."""

CURVE_NINES = 6
"""A percentile curve goes no further than 99.9999 %."""

Unit = Literal["count", "per_s", "ms", "bytes", "percent"]
Look = Literal["blue", "orange", "green", "purple", "amber", "grey"]


class Line(msgspec.Struct, frozen=True):
    """One line of a plot.

    Attributes:
        name: for the legend.
        values: one for each x; None is a hole.
        look: its colour.
        dashed: drawn with dashes, for what is wanted and not measured.
    """

    name: str
    values: list[float | None]
    look: Look
    dashed: bool = False


class Plot(msgspec.Struct, frozen=True):
    """One plot.

    Attributes:
        title: what it shows.
        unit: of its values.
        lines: at least one.
        note: a few words on how to read it.
        scale: of the values at first; the page offers the other one too unless it is None, which is linear.
    """

    title: str
    unit: Unit
    lines: list[Line]
    note: str = ""
    scale: Literal["linear", "log"] | None = None


class Mark(msgspec.Struct, frozen=True):
    """Where a stage begins, in seconds of the run."""

    at: float
    name: str


class Curve(msgspec.Struct, frozen=True):
    """Latencies over their percentiles.

    Attributes:
        nines: x of each value: -log10(1 - q) for the share q of latencies that do not exceed it, so that 90 % is at 1,
            99 % at 2, and so on (the usual percentile plot of HDR histograms).
        plot: the lines.
    """

    nines: list[float]
    plot: Plot


class Plots(msgspec.Struct, frozen=True):
    """Everything that the page draws.

    Attributes:
        times: x of each value, in seconds of the run.
        step: seconds that one point stands for, at most.
        marks: beginnings of the stages.
        over_time: plots over `times`.
        curve: None when no latency was measured.
    """

    times: list[float]
    step: int
    marks: list[Mark]
    over_time: list[Plot]
    curve: Curve | None


def plots(report: Report) -> Plots:
    """What the plots of a report show; raises ValueError when a histogram in it is none."""
    seconds = sorted(report.seconds, key=lambda second: second.at_s)
    step = max(1, math.ceil(len(seconds) / MAX_POINTS))
    bins = [seconds[first : first + step] for first in range(0, len(seconds), step)]
    return Plots(
        times=[round(each[-1].at_s, 3) for each in bins],
        step=step,
        marks=_marks(seconds),
        over_time=_over_time(bins) if bins else [],
        curve=_curve(report),
    )


def _marks(seconds: Sequence[Second]) -> list[Mark]:
    marks = [Mark(0.0, seconds[0].stage)] if seconds else []
    marks += [Mark(round(a.at_s, 3), b.stage) for a, b in pairwise(seconds) if a.stage != b.stage]
    return marks


Bins = Sequence[Sequence[Second]]
Value = Callable[[Second], float | None]


def _each(bins: Bins, value: Value, of: Callable[[list[float]], float]) -> list[float | None]:
    line: list[float | None] = []
    for each in bins:
        known = [number for second in each if (number := value(second)) is not None and math.isfinite(number)]
        line.append(round(of(known), 4) if known else None)
    return line


def _greatest(bins: Bins, value: Value) -> list[float | None]:
    return _each(bins, value, max)


def _mean(bins: Bins, value: Value) -> list[float | None]:
    return _each(bins, value, lambda known: sum(known) / len(known))


def _last(bins: Bins, value: Value) -> list[float | None]:
    return _each(bins, value, lambda known: known[-1])


def _over_time(bins: Bins) -> list[Plot]:
    served = any(second.server is not None for each in bins for second in each)

    def said(value: Callable[[ServerSample], float]) -> Value:
        return lambda second: None if second.server is None else value(second.server)

    connections = [
        Line("open", _last(bins, lambda s: s.open), "blue"),
        Line("target", _last(bins, lambda s: s.target), "amber", dashed=True),
    ]
    if served:
        connections.insert(1, Line("by the servers' count", _last(bins, said(lambda s: s.connections)), "orange"))
    found = [
        Plot("Connections", "count", connections),
        Plot(
            "Connections opened and ended",
            "per_s",
            [
                Line("opened", _mean(bins, lambda s: s.totals.opened), "blue"),
                Line("ended by the servers", _mean(bins, lambda s: s.totals.closed), "orange"),
                Line("cut by the scenario", _mean(bins, lambda s: s.totals.cut), "grey"),
            ],
        ),
        Plot(
            "Messages",
            "per_s",
            [
                Line("sent", _mean(bins, lambda s: s.totals.sent), "blue"),
                Line("received", _mean(bins, lambda s: s.totals.received), "orange"),
            ],
        ),
        *_latencies(bins),
        Plot(
            "Errors",
            "per_s",
            [
                Line("failed connects", _greatest(bins, lambda s: s.totals.failed), "blue"),
                Line("unplanned ends", _greatest(bins, lambda second: second.totals.unplanned), "orange"),
                Line("other errors", _greatest(bins, _other_errors), "purple"),
                Line("delivery faults", _greatest(bins, _out_of_order), "green"),
            ],
            "delivery faults: lost, double or out of order",
        ),
    ]
    if served:
        found += [
            Plot(
                "Server CPU",
                "percent",
                [Line("busiest server", _greatest(bins, said(lambda s: s.cpu_percent)), "blue")],
                "of what it may use",
            ),
            Plot(
                "Server memory",
                "bytes",
                [
                    Line("all servers", _greatest(bins, said(lambda s: s.memory_bytes)), "blue"),
                    Line("waiting to be sent", _greatest(bins, said(lambda s: s.outbox_bytes)), "orange"),
                ],
            ),
        ]
    lag = [Line("generator", _greatest(bins, lambda s: s.lag_max), "blue")]
    if served:
        lag.append(Line("servers' event loop", _greatest(bins, said(lambda s: s.loop_lag_s * 1000)), "orange"))
    cpu = [Line("busiest worker", _greatest(bins, lambda s: s.generator_cpu * 100), "blue")]
    return [*found, Plot("Generator CPU", "percent", cpu, "of one core"), Plot("Lag", "ms", lag, "greatest")]


def _other_errors(second: Second) -> float:
    return second.totals.refused + second.totals.unanswered + second.totals.errors


def _out_of_order(second: Second) -> float:
    return second.totals.lost + second.totals.duplicates + second.totals.reordered


def _latencies(bins: Bins) -> list[Plot]:
    def line(name: str, look: Look, of: Callable[[Second], Quantiles], value: Callable[[Quantiles], float]) -> Line:
        return Line(name, _greatest(bins, lambda s: value(of(s)) if of(s).count else None), look)

    def lines(of: Callable[[Second], Quantiles]) -> list[Line]:
        return [
            line("p50", "green", of, lambda q: q.p50),
            line("p95", "blue", of, lambda q: q.p95),
            line("p99", "orange", of, lambda q: q.p99),
            line("max", "grey", of, lambda q: q.max),
        ]

    found = []
    messages = lines(lambda s: s.message)
    if _any(messages):
        found.append(Plot("Message latency", "ms", messages, scale=_scale(messages)))
    connects = lines(lambda s: s.connect)[:3]
    if _any(connects):
        found.append(Plot("Connect latency", "ms", connects, scale=_scale(connects)))
    return found


def _any(lines: Iterable[Line]) -> bool:
    return any(value is not None for line in lines for value in line.values)


def _scale(lines: Sequence[Line]) -> Literal["linear", "log"]:
    """Logarithmic where the greatest value would press the others flat: at fifty times the middle one of the first."""
    first = sorted(value for value in lines[0].values if value is not None)
    greatest = max((value for line in lines for value in line.values if value is not None), default=0.0)
    return "log" if first and greatest > 50 * first[len(first) // 2] else "linear"


_CURVES: tuple[tuple[Latency, Look, bool], ...] = (
    ("connect", "grey", False),
    ("first_message", "purple", False),
    ("round_trip", "blue", False),
    ("delivery", "orange", False),
    ("reconnect", "green", False),
    ("lag", "amber", True),
)


def _curve(report: Report) -> Curve | None:
    curves = [(name, look, dashed) for name, look, dashed in _CURVES if _measured(report, name)]
    if not curves:
        return None
    most = max(report.latencies[name].quantiles.count for name, _, _ in curves)
    last = min(CURVE_STEPS * CURVE_NINES, math.ceil(CURVE_STEPS * math.log10(max(most, 10))))
    nines = [step / CURVE_STEPS for step in range(last + 1)]
    lines = [
        Line(LATENCY_NAMES[name], _values(report.latencies[name].hdr, nines), look, dashed)
        for name, look, dashed in curves
    ]
    note = "how long at most for that share of all"
    return Curve(nines, Plot("Latency by percentile", "ms", lines, note, _scale(lines)))


def _measured(report: Report, name: Latency) -> bool:
    measured = report.latencies.get(name)
    return measured is not None and measured.quantiles.count > 0 and bool(measured.hdr)


def _values(hdr: str, nines: Sequence[float]) -> list[float | None]:
    """Milliseconds at these percentiles; the line ends at the first that no single latency is beyond: its maximum."""
    histogram = decode(hdr)
    count: int = histogram.get_total_count()
    percents = [100 * (1 - 10**-nine) for nine in nines]
    at: dict[float, int] = histogram.get_percentile_to_value_dict(percents)
    values: list[float | None] = []
    for nine, percent in zip(nines, percents, strict=True):
        if 10**nine >= count:
            values.append(histogram.get_max_value() / 1000)
            break
        values.append(at[percent] / 1000)
    return values + [None] * (len(nines) - len(values))
