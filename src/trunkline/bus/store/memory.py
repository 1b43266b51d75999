"""A store in memory, for tests: it ends with the process."""

from __future__ import annotations

from trunkline.bus.base import Entry, OnEntry, Subscription
from trunkline.bus.store.keys import check_key, check_prefix, check_value
from trunkline.bus.store.watch import Watch
from trunkline.errors import BusUnavailable, Changed


class MemoryStore:
    """See `base.FleetStore`. Whoever shares it has the same object; an outage is made by setting `reachable`."""

    name = "memory"

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._watches: list[Watch] = []
        self._reachable = True

    @property
    def reachable(self) -> bool:
        """Whether it answers; while it does not, every call raises BusUnavailable, and watchers hear nothing."""
        return self._reachable

    @reachable.setter
    def reachable(self, reachable: bool) -> None:
        self._reachable = reachable
        if reachable:
            for watch in list(self._watches):
                watch.give(self._entries.values())

    async def start(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """End the watches; entries stay."""
        for watch in list(self._watches):
            await watch.close()

    async def get(self, key: str) -> Entry | None:
        """What is there now; raises BusUnavailable."""
        check_key(key)
        self._require_reachable()
        return self._entries.get(key)

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        """The keys there are; raises BusUnavailable."""
        check_prefix(prefix)
        self._require_reachable()
        return tuple(sorted(key for key in self._entries if key.startswith(prefix)))

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        """Write; raises Changed and BusUnavailable."""
        check_key(key)
        check_value(key, value)
        self._begin(key, expect)
        self._entries[key] = entry = Entry(key, value, self._revision)
        self._give([entry], key)
        return entry.revision

    async def delete(self, key: str, expect: int | None) -> None:
        """Remove a key; raises Changed and BusUnavailable."""
        check_key(key)
        self._begin(key, expect)
        self._entries.pop(key, None)
        self._give([], key)

    async def watch(self, prefix: str, on_entry: OnEntry) -> Subscription:
        """Give what is there and each later change, before the call that made it returns."""
        check_prefix(prefix)
        watch = Watch(prefix, on_entry, self._watches.remove)
        self._watches.append(watch)
        if self._reachable:
            watch.give(self._entries.values())
        return watch

    def _begin(self, key: str, expect: int | None) -> None:
        self._require_reachable()
        entry = self._entries.get(key)
        revision = entry.revision if entry is not None else 0
        if expect is not None and expect != revision:
            raise Changed(key, expect, revision)
        self._revision += 1

    def _give(self, found: list[Entry], key: str) -> None:
        for watch in list(self._watches):
            watch.give(found, (key,))

    def _require_reachable(self) -> None:
        if not self._reachable:
            raise BusUnavailable("the store in memory was made unreachable")
