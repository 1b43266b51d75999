"""What the tests of the stores share: a watcher that can be waited for, and a store with its other openers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.server.bus_probe import PATIENCE_S
from trunkline.bus.base import Entry, FleetStore


class Seen:
    """A watcher that keeps what it is given: key and value, None for a key that is gone."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Entry | None]] = []
        self._more = asyncio.Event()

    def __call__(self, key: str, entry: Entry | None) -> None:
        self.entries.append((key, entry))
        self._more.set()

    @property
    def got(self) -> list[tuple[str, bytes | None]]:
        return [(key, entry.value if entry is not None else None) for key, entry in self.entries]

    @property
    def now(self) -> dict[str, bytes]:
        """What is there, as far as it was said."""
        last = dict(self.got)
        return {key: value for key, value in last.items() if value is not None}

    async def until(self, condition: Callable[[Seen], bool]) -> None:
        """Wait until what was given is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self):
                self._more.clear()
                await self._more.wait()


class StoreUnderTest:
    """A store: `store` as one process has it, `other()` as another one of the same fleet does."""

    def __init__(self, kind: str, make: Callable[[], FleetStore]) -> None:
        self.kind = kind
        self._make = make
        self._open: list[FleetStore] = []
        self.store: FleetStore

    async def open(self) -> None:
        self.store = await self._start()

    async def other(self) -> FleetStore:
        return self.store if self.kind == "memory" else await self._start()

    async def close(self) -> None:
        for store in self._open:
            await store.close()

    async def _start(self) -> FleetStore:
        store = self._make()
        self._open.append(store)
        await store.start()
        return store
