"""A store in a directory of this machine, for a fleet with a single balancer and no NATS.

Rules:

- What is in the directory, and how it is written, is the part of `directory.py`.
- The disk is waited for in threads. A call that is cancelled may have been carried out.
- Watchers of this process hear of its own writes at once, of other processes' writes by a look every `LOOK_S`.
- Looks follow each other, so that no watcher is given an older state after a newer one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from trunkline.bus.base import Entry, OnEntry, Subscription
from trunkline.bus.store.directory import Directory
from trunkline.bus.store.keys import check_key, check_prefix, check_value
from trunkline.bus.store.watch import Watch
from trunkline.errors import BusUnavailable
from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks

log = get_logger("trunkline.bus")

LOOK_S: Final = 0.25


class FileStore:
    """See `base.FleetStore`; `directory` is made by the first write."""

    name = "file"

    def __init__(self, directory: Path) -> None:
        self._directory = Directory(directory)
        self._watches: list[Watch] = []
        self._looking: asyncio.Task[None] | None = None
        self._one_look = asyncio.Lock()
        self._mark: tuple[int, int] | None = None
        self._complained = False

    async def start(self) -> None:
        """Nothing is to be done before the first call."""

    async def close(self) -> None:
        """End the watches."""
        for watch in list(self._watches):
            await watch.close()
        if self._looking is not None:
            await end_tasks([self._looking])
            self._looking = None

    async def get(self, key: str) -> Entry | None:
        """What is there now; raises BusUnavailable."""
        check_key(key)
        return await asyncio.to_thread(self._directory.read, key)

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        """The keys there are; raises BusUnavailable."""
        check_prefix(prefix)
        return tuple(key for key in await asyncio.to_thread(self._directory.keys) if key.startswith(prefix))

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        """Write, and return the new revision once it is on the disk; raises Changed and BusUnavailable."""
        check_key(key)
        check_value(key, value)
        revision = await asyncio.to_thread(self._directory.change, key, value, expect)
        await self._look_if_watched()
        return revision

    async def delete(self, key: str, expect: int | None) -> None:
        """Remove a key; raises Changed and BusUnavailable."""
        check_key(key)
        await asyncio.to_thread(self._directory.change, key, None, expect)
        await self._look_if_watched()

    async def watch(self, prefix: str, on_entry: OnEntry) -> Subscription:
        """Give what is there, and each later change."""
        check_prefix(prefix)
        watch = Watch(prefix, on_entry, self._watches.remove)
        self._watches.append(watch)
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())
        self._mark = None  # the new one has seen nothing
        await self._look_if_watched()
        return watch

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look_if_watched()

    async def _look_if_watched(self) -> None:
        """Give to watchers what has changed; what cannot be read now is given by a later look."""
        if not self._watches:
            return
        try:
            async with self._one_look:
                await self._look()
            self._complained = False
        except BusUnavailable as error:
            if not self._complained:
                log.warning("store cannot be watched", why=str(error))
            self._complained = True

    async def _look(self) -> None:
        if self._mark is not None and await asyncio.to_thread(self._directory.mark) == self._mark:
            return
        watches = list(self._watches)
        self._mark, found = await asyncio.to_thread(
            self._directory.snapshot, lambda key: any(watch.means(key) for watch in watches)
        )
        if any(watch not in watches for watch in self._watches):
            self._mark = None  # one came meanwhile
        for watch in watches:
            watch.give(found)
