"""What a dashboard is made of: queries, panels, rows, boards. Plain data; `drawing.py` makes JSON of it. Pure.

Rules: every panel says what it shows, in which unit, and what is good. A query names its series through `of`, so that
job and instance always narrow it; a rate is taken over `$__rate_interval`, so that it holds for any scrape interval.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trunkline.monitor.rules.load import check

Shape = Literal["lines", "stack", "stat", "gauge", "heatmap", "states"]

GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"
CAPACITY = ((None, GREEN), (80.0, YELLOW), (95.0, RED))
"""Limits of a share of capacity in percent: where one begins to look, and where it is late."""
MEMORY = ((None, GREEN), (80.0, YELLOW), (90.0, RED))
CPU = ((None, GREEN), (70.0, YELLOW), (90.0, RED))
YES_IS_GOOD = ((0.0, RED), (1.0, GREEN))
YES_IS_NEWS = ((0.0, GREEN), (1.0, YELLOW))

Limits = tuple[tuple[float | None, str], ...]
OF_THE_VARIABLES = 'job=~"$job",instance=~"$instance"'


class Query(msgspec.Struct, frozen=True):
    """One query.

    Attributes:
        expr: PromQL with Grafana's variables.
        legend: name of its lines, with `{{label}}`.
    """

    expr: str
    legend: str = ""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One panel.

    Attributes:
        title: unique within its board.
        about: what it shows and what is good; the panel's description.
        unit: Grafana's name of the unit.
        queries: at least one.
        shape: how it is drawn.
        width: of the 24 columns.
        limits: colours from a value on; drawn as lines in a time series.
        words: value, text and colour, for a value that stands for a state.
        least: where the axis begins.
        most: where it ends.
        explains: alerts that it explains, beside those that are about its series.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    shape: Shape = "lines"
    width: int = 8
    limits: Limits = ()
    words: tuple[tuple[float, str, str], ...] = ()
    least: float | None = 0.0
    most: float | None = None
    explains: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """Panels under one heading, from left to right; a line that is full goes on below.

    Attributes:
        title: the heading.
        panels: in order.
        height: of each panel, in Grafana's grid.
        folded: whether it is closed at first.
    """

    title: str
    panels: tuple[Panel, ...]
    height: int = 8
    folded: bool = False


class Board(msgspec.Struct, frozen=True):
    """One dashboard.

    Attributes:
        uid: what links name.
        title: unique among all.
        about: one sentence.
        tags: beside `trunkline`, which all have.
        root: selector of a series that each of its targets has; job and instance are read from it.
        rows: in order.
        narrowed_by: a label that narrows the instances, as (label, series that has it); None: none does.
    """

    uid: str
    title: str
    about: str
    tags: tuple[str, ...]
    root: str
    rows: tuple[Row, ...]
    narrowed_by: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        for panel in self.panels():
            for query in panel.queries:
                check(query.expr, f"panel {panel.title!r} of {self.uid}")

    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def of(series: str, *matchers: str) -> str:
    """A series, narrowed by the dashboard's job and instance and by `matchers`."""
    return f"{series}{{{','.join((OF_THE_VARIABLES, *matchers))}}}"


def rate(series: str, *matchers: str) -> str:
    """How much a counter grows per second."""
    return f"rate({of(series, *matchers)}[$__rate_interval])"


def per_minute(series: str, *by: str) -> str:
    """How much a counter grows per minute, summed over all but the labels `by`."""
    return f"60 * {total(rate(series), *by)}"


def total(expression: str, *by: str) -> str:
    """The sum over all but the labels `by`."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def happening(expression: str) -> str:
    """Only what is above 0: counters stand at 0 under every word, and a legend of thirty zeros hides the one line."""
    return f"{expression} > 0"


def quantile(share: float, histogram: str, *by: str, matchers: tuple[str, ...] = ()) -> str:
    """A quantile of a histogram, over all series that share the labels `by`."""
    return f"histogram_quantile({share}, {total(rate(f'{histogram}_bucket', *matchers), 'le', *by)})"


def quantiles(histogram: str, *matchers: str) -> tuple[Query, ...]:
    """The median, the 95th and the 99th percentile of a histogram."""
    return tuple(
        Query(quantile(share, histogram, matchers=matchers), legend)
        for share, legend in ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
    )


def buckets(histogram: str) -> tuple[Query, ...]:
    """What a heatmap draws: observations by bucket."""
    return (Query(total(f"increase({of(f'{histogram}_bucket')}[$__rate_interval])", "le"), "{{le}}"),)


def one(expression: str, legend: str = "") -> tuple[Query, ...]:
    """A panel's only query."""
    return (Query(expression, legend),)


def with_node(expression: str) -> str:
    """The series of a node, with its name and colour: target labels may lack them, `ws_build_info` has them."""
    return f"{expression} * on (instance) group_left (node, colour) {of('ws_build_info')}"
