"""Backends that the operator lists in [[balancer.backends]]: they change with the settings, so they are given once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from trunkline.balancer.sources.base import Update
from trunkline.errors import SettingsError
from trunkline.placement.backend import BackendSpec, canonical_url
from trunkline.settings.balancer import BackendEntry


def spec_of(entry: BackendEntry, source: str) -> BackendSpec:
    """The backend that an entry of a list or a file describes; raises ValueError for a URL that cannot be used."""
    return BackendSpec(
        url=canonical_url(entry.url),
        weight=entry.weight,
        group=entry.group,
        pool=entry.pool,
        capacity=entry.capacity,
        health_path=entry.health_path,
        source=source,
    )


class ListSource:
    """The backends of the settings; raises SettingsError for a URL that cannot be used."""

    def __init__(self, entries: Sequence[BackendEntry]) -> None:
        specs = []
        for index, entry in enumerate(entries):
            try:
                specs.append(spec_of(entry, "list"))
            except ValueError as error:
                key = f"balancer.backends[{index}].url"
                raise SettingsError(key, value=entry.url, allowed=str(error)) from None
        self._specs = tuple(specs)

    async def run(self, update: Update) -> None:
        """Give the list and wait to be cancelled."""
        update(self._specs)
        await asyncio.Event().wait()
