"""One watcher of a store, until it closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

from trunkline.bus.base import Entry, OnEntry
from trunkline.bus.store.watched import Watched
from trunkline.logs.logger import get_logger

log = get_logger("trunkline.bus")


class Watch:
    """A `base.Subscription`; `forget` takes it off its store's list. `begun` is set once it was given what is there."""

    def __init__(self, prefix: str, on_entry: OnEntry, forget: Callable[[Watch], None]) -> None:
        self._watched = Watched(prefix)
        self._on_entry = on_entry
        self._forget = forget
        self._closed = False
        self.begun = asyncio.Event()

    def means(self, key: str) -> bool:
        """Whether it is given this key."""
        return self._watched.means(key)

    def give(self, found: Iterable[Entry], read: Collection[str] | None = None) -> None:
        """Give what is new in what was read; see `Watched.news`."""
        for key, entry in self._watched.news(found, read):
            if self._closed:
                return
            try:
                self._on_entry(key, entry)
            except Exception:
                # A faulty watcher must neither fail the writer nor starve the watchers after it.
                log.exception("store watcher failed", key=key)
        self.begun.set()

    async def close(self) -> None:
        """End it; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._forget(self)
