"""Series of other programs that our rules and dashboards use, each seen in a real answer or in its documents."""

from __future__ import annotations

from typing import Literal, NamedTuple

Source = Literal[
    "prometheus", "alertmanager", "node_exporter", "cadvisor", "postgres_exporter", "traefik", "nats_exporter"
]


class Foreign(NamedTuple):
    """One series of another program.

    Attributes:
        name: as scraped; a histogram without `_bucket`.
        source: whose it is.
        labels: those that our expressions use.
    """

    name: str
    source: Source
    labels: tuple[str, ...] = ()


SERIES: tuple[Foreign, ...] = (
    Foreign("up", "prometheus", ("job", "instance")),
    Foreign("ALERTS", "prometheus", ("alertname", "alertstate", "severity")),
)

BY_NAME = {series.name: series for series in SERIES}
