"""Backends that the operator lists in [[balancer.backends]]: they change with the settings, at a start or a reload."""

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
        self._specs: Sequence[BackendSpec] = specs_of(entries)
        self._update: Update = lambda specs: None

    def reload(self, specs: Sequence[BackendSpec]) -> None:
        """Give another list."""
        self._specs = specs
        self._update(specs)

    async def run(self, update: Update) -> None:
        """Give the list, and each one that follows, until cancelled."""
        self._update = update
        update(self._specs)
        await asyncio.Event().wait()


def specs_of(entries: Sequence[BackendEntry]) -> tuple[BackendSpec, ...]:
    """The backends of a list; raises SettingsError for a URL that cannot be used."""
    specs = []
    for index, entry in enumerate(entries):
        try:
            specs.append(spec_of(entry, "list"))
        except ValueError as error:
            key = f"balancer.backends[{index}].url"
            raise SettingsError(key, value=entry.url, allowed=str(error)) from None
    return tuple(specs)
