"""What a dashboard is made of: queries, panels, rows, boards, as the files in `data/dashboards/` have them. Pure.

Rules: every panel describes what it shows and what is good, and has a unit. Job and instance, `${chosen}`, narrow every
query of a target's series; a rate is taken over `$__rate_interval`, so that it holds for any scrape interval.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Shape = Literal["lines", "stack", "stat", "gauge", "heatmap", "states"]

Colour = Literal["green", "yellow", "red", "blue"]
COLOURS: Final[dict[Colour, str]] = {"green": "green", "yellow": "#EAB839", "red": "red", "blue": "blue"}
"""As Grafana draws them; its plain yellow is hard to read."""

Number = int | float
Thresholds = tuple[tuple[Number | None, Colour], ...]


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
        description: what it shows and what is good.
        unit: Grafana's name of the unit.
        queries: at least one.
        shape: how it is drawn.
        width: of the 24 columns.
        thresholds: colours from a value on, the first from anywhere; drawn as lines in a time series.
        mappings: value, text and colour, for a value that stands for a state.
        min: where the axis begins.
        max: where it ends.
        explains: alerts that it explains, beside those that are about its series.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    shape: Shape = "lines"
    width: int = 8
    thresholds: Thresholds = ()
    mappings: tuple[tuple[Number, str, Colour], ...] = ()
    min: Number | None = 0.0
    max: Number | None = None
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
        description: one sentence.
        tags: beside `trunkline`, which all have.
        root: selector of a series that each of its targets has; job and instance are read from it.
        rows: in order.
        narrowed_by: a label that narrows the instances, as (label, series that has it); None: none does.
    """

    uid: str
    title: str
    description: str
    tags: tuple[str, ...]
    root: str
    rows: tuple[Row, ...]
    narrowed_by: tuple[str, str] | None = None

    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
