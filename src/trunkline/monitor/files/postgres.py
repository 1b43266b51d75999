"""Queries of postgres_exporter besides its own: `data/postgres/queries.yml`. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from trunkline.monitor.text.data_files import data_file
from trunkline.monitor.text.yaml_writer import dump


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of a query: a label, or a series named `<query>_<column>`; the description is the series' HELP."""

    usage: Literal["LABEL", "GAUGE", "COUNTER"]
    description: str


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One query, as the exporter reads it.

    Attributes:
        query: the SQL.
        master: run in one database and true for the whole server; otherwise in each that the exporter visits.
        metrics: what comes back; each of them is one column by its name.
        cache_seconds: how long an answer is good.
    """

    query: str
    master: bool
    metrics: tuple[dict[str, Column], ...]
    cache_seconds: int | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """Its columns by name."""
        return {name: column for each in self.metrics for name, column in each.items()}


def queries() -> dict[str, Query]:
    """Every query by its name, with which every series that it gives begins."""
    file = data_file("postgres/queries.yml")
    return file.decode(file.document, dict[str, Query])


def names() -> tuple[str, ...]:
    """Every series that these queries give."""
    return tuple(
        f"{name}_{column}"
        for name, query in queries().items()
        for column, found in query.columns.items()
        if found.usage != "LABEL"
    )


def queries_yaml() -> str:
    """The file for `--extend.query-path`."""
    file = data_file("postgres/queries.yml")
    return dump(file.document, *file.head)
