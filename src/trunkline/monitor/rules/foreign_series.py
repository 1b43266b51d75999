"""Series of other programs that our rules and dashboards use: `data/foreign_series.yml`. Pure."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from trunkline.monitor.text.data_files import data_file

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


def _declared() -> tuple[Foreign, ...]:
    file = data_file("foreign_series.yml")
    by_source = file.decode(file.document, dict[Source, dict[str, tuple[str, ...]]])
    return tuple(Foreign(name, source, labels) for source, found in by_source.items() for name, labels in found.items())


SERIES: Final = _declared()
BY_NAME: Final = {series.name: series for series in SERIES}
