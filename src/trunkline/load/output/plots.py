"""What the plots of the HTML report show: lines over the time of the run, and latencies over their percentiles. Pure.

Rules: all lines over time share one list of times, so that the page can point at the same moment in all of them. A
second in which nothing was measured is a hole in its line, never a zero. In a long run a point stands for several
seconds: of latencies, errors and lag it is the greatest, so that no peak is lost, of counts a second their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from statistics import fmean
from typing import Literal

import msgspec

from trunkline.load.model.histogram import Quantiles, decode
from trunkline.load.model.report import Report, Second, ServerSample
from trunkline.load.model.tally import Latency
from trunkline.load.output.formatting import LATENCY_NAMES

MAX_POINTS = 1_500  # points of a line; a screen shows no more
CURVE_STEPS = 20  # points of a percentile curve for each further nine of the percentile
CURVE_NINES = 6  # a percentile curve goes no further than 99.9999 %
Unit = Literal["count", "per_s", "ms", "bytes", "percent"]
Look = Literal["blue", "orange", "green", "purple", "amber", "grey"]


class Line(msgspec.Struct, frozen=True):
    """One line of a plot: a value for each x, None being a hole; dashed where it is wanted and not measured."""

    name: str
    values: list[float | None]
    look: Look
    dashed: bool = False


class Plot(msgspec.Struct, frozen=True):
    """One plot; the page offers to switch its scale unless that is None, which is linear."""

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
    """Latencies over their percentiles."""

    # X of each value: -log10(1 - q) for the share q of latencies that do not exceed it, so that 90 % is at 1, 99 % at
    # 2, and so on (the usual percentile plot of HDR histograms).
    nines: list[float]
    plot: Plot


class Plots(msgspec.Struct, frozen=True):
    """Everything that the page draws."""

    times: list[float]  # x of each value, in seconds of the run
    step: int  # seconds that one point stands for, at most
    marks: list[Mark]
    over_time: list[Plot]
    curve: Curve | None  # None when no latency was measured
    binned: str = "the greatest latency, load, lag and errors of them, the mean of opened, ended, sent and received"


def plots(report: Report) -> Plots:
    """What the plots of a report show; raises ValueError when a histogram in it is none."""
    seconds = sorted(report.seconds, key=lambda second: second.at_s)
    step = max(1, math.ceil(len(seconds) / MAX_POINTS))
    bins = [seconds[first : first + step] for first in range(0, len(seconds), step)]
    marks = [Mark(0.0, seconds[0].stage)] if seconds else []
    marks += [Mark(round(a.at_s, 3), b.stage) for a, b in pairwise(seconds) if a.stage != b.stage]
    times = [round(each[-1].at_s, 3) for each in bins]
    return Plots(times, step, marks, over_time=_over_time(bins) if bins else [], curve=_curve(report))


Bins = Sequence[Sequence[Second]]
Value = Callable[[Second], float | None]


def _line(name: str, look: Look, bins: Bins, value: Value, of: Callable[[list[float]], float] = max) -> Line:
    """A line over time; `of` makes one value of those of a bin."""
    values: list[float | None] = []
    for each in bins:
        known = [number for second in each if (number := value(second)) is not None and math.isfinite(number)]
        values.append(round(of(known), 4) if known else None)
    return Line(name, values, look)


_last = itemgetter(-1)


def _server(value: Callable[[ServerSample], float]) -> Value:
    return lambda second: None if second.server is None else value(second.server)


def _over_time(bins: Bins) -> list[Plot]:
    connections = [
        _line("open", "blue", bins, lambda s: s.open, _last),
        msgspec.structs.replace(_line("target", "amber", bins, lambda s: s.target, _last), dashed=True),
    ]
    ends = [
        _line("opened", "blue", bins, lambda s: s.totals.opened, fmean),
        _line("ended by the servers", "orange", bins, lambda s: s.totals.closed, fmean),
        _line("cut by the scenario", "grey", bins, lambda s: s.totals.cut, fmean),
    ]
    messages = [
        _line("sent", "blue", bins, lambda s: s.totals.sent, fmean),
        _line("received", "orange", bins, lambda s: s.totals.received, fmean),
    ]
    errors = [
        _line("failed connects", "blue", bins, lambda s: s.totals.failed),
        _line("unplanned ends", "orange", bins, lambda s: s.totals.unplanned),
        _line("other errors", "purple", bins, lambda s: s.totals.refused + s.totals.unanswered + s.totals.errors),
        _line("delivery faults", "green", bins, lambda s: s.totals.misdelivered),
    ]
    cpu = [_line("busiest worker", "blue", bins, lambda s: s.generator_cpu * 100)]
    lag = [_line("generator", "blue", bins, lambda s: s.lag_max)]
    servers = []
    if any(second.server is not None for each in bins for second in each):
        connections.insert(1, _line("by the servers' count", "orange", bins, _server(lambda s: s.connections), _last))
        lag.append(_line("servers' event loop", "orange", bins, _server(lambda s: s.loop_lag_s * 1000)))
        server_cpu = [_line("busiest server", "blue", bins, _server(lambda s: s.cpu_percent))]
        memory = [
            _line("all servers", "blue", bins, _server(lambda s: s.memory_bytes)),
            _line("waiting to be sent", "orange", bins, _server(lambda s: s.outbox_bytes)),
        ]
        servers = [
            Plot("Server CPU", "percent", server_cpu, "of what it may use"),
            Plot("Server memory", "bytes", memory),
        ]
    return [
        Plot("Connections", "count", connections),
        Plot("Connections opened and ended", "per_s", ends),
        Plot("Messages", "per_s", messages),
        *_latency_plot("Message latency", bins, lambda second: second.message, with_max=True),
        *_latency_plot("Connect latency", bins, lambda second: second.connect, with_max=False),
        Plot("Errors", "per_s", errors, "delivery faults: lost, double or out of order"),
        *servers,
        Plot("Generator CPU", "percent", cpu, "of one core"),
        Plot("Lag", "ms", lag, "greatest"),
    ]


def _latency_plot(title: str, bins: Bins, of: Callable[[Second], Quantiles], *, with_max: bool) -> list[Plot]:
    """A plot of quantiles; none when nothing was measured."""

    def line(name: str, look: Look, value: Callable[[Quantiles], float]) -> Line:
        return _line(name, look, bins, lambda second: value(of(second)) if of(second).count else None)

    lines = [
        line("p50", "green", lambda q: q.p50), line("p95", "blue", lambda q: q.p95),
        line("p99", "orange", lambda q: q.p99),
    ]  # fmt: skip
    if with_max:
        lines.append(line("max", "grey", lambda q: q.max))
    measured = any(value is not None for line in lines for value in line.values)
    return [Plot(title, "ms", lines, scale=_scale(lines))] if measured else []


def _scale(lines: Sequence[Line]) -> Literal["linear", "log"]:
    """Logarithmic where the greatest value would press the others flat: at fifty times the middle one of the first."""
    first = sorted(value for value in lines[0].values if value is not None)
    greatest = max((value for line in lines for value in line.values if value is not None), default=0.0)
    return "log" if first and greatest > 50 * first[len(first) // 2] else "linear"


_CURVES: tuple[tuple[Latency, Look, bool], ...] = (
    ("connect", "grey", False), ("first_message", "purple", False), ("round_trip", "blue", False),
    ("delivery", "orange", False), ("reconnect", "green", False), ("lag", "amber", True),
)  # fmt: skip


def _curve(report: Report) -> Curve | None:
    measured = {name for name, each in report.latencies.items() if each.quantiles.count and each.hdr}
    curves = [(name, look, dashed) for name, look, dashed in _CURVES if name in measured]
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
