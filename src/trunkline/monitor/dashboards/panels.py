"""What a dashboard is made of: queries, panels, rows, boards, as the files in `data/dashboards/` have them. Pure.

Rules: every panel says what it shows, in which unit, and what is good. Job and instance, `${chosen}`, narrow every
query of a target's series; a rate is taken over `$__rate_interval`, so that it holds for any scrape interval.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Shape = Literal["lines", "stack", "stat", "gauge", "heatmap", "states"]

Colour = Literal["green", "yellow", "red", "blue"]
Number = int | float
Limits = tuple[tuple[Number | None, Colour], ...]


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One query.

    Attributes:
        expr: PromQL with Grafana's variables.
        legend: name of its lines, with `{{label}}`.
    """

    expr: str
    legend: str = ""


class Panel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One panel.

    Attributes:
        title: unique within its board.
        about: what it shows and what is good; the panel's description.
        unit: Grafana's name of the unit.
        queries: at least one.
        shape: how it is drawn.
        width: of the 24 columns.
        limits: colours from a value on, the first from anywhere; drawn as lines in a time series.
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
    words: tuple[tuple[Number, str, Colour], ...] = ()
    least: Number | None = 0.0
    most: Number | None = None
    explains: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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


class Board(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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

    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
