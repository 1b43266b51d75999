"""Follows the order of versions in the store, applies it to picks, and writes what this balancer has to change of it.

Rules:

- While the store cannot be reached the last order that was seen stays in force; one that cannot be read, as a later
  release may write it, is left as it is.
- Every balancer writes, by compare and set: the first one lands, and the others find nothing left to do.
- While NATS is away nobody is missed, because it is this balancer that hears nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from trunkline.balancer.rollout.order import Watch, numbers
from trunkline.bus.base import Entry, FleetStore
from trunkline.errors import BusError, Changed
from trunkline.placement.fleet import Fleet
from trunkline.protocol.timestamps import utc
from trunkline.protocol.versions import VERSIONS_KEY, VersionOrder

log = structlog.get_logger("trunkline.balancer")

LOOK_EVERY_S: Final = 1.0


class VersionKeeper:
    """The order of versions as one balancer keeps it.

    Args:
        store: where it is; closed by whoever made it.
        hears: whether nodes that announce themselves can be heard now.
    """

    def __init__(self, store: FleetStore, fleet: Fleet, hears: Callable[[], bool]) -> None:
        self._store = store
        self._fleet = fleet
        self._hears = hears
        self._order = VersionOrder()
        self._revision = 0
        self._readable = True

    async def run(self) -> None:
        """Follow and write until cancelled."""
        async with contextlib.AsyncExitStack() as watches:
            watch = await self._store.watch(VERSIONS_KEY, self._on_entry)
            watches.push_async_callback(watch.close)
            known = False
            found = Watch(time.monotonic())
            while True:
                known = known or await self._read()
                if known and self._hears():
                    await self._look(found)
                else:
                    found = Watch(time.monotonic())
                await asyncio.sleep(LOOK_EVERY_S)

    async def _read(self) -> bool:
        # A watch says what there is, and nothing where there is nothing.
        with contextlib.suppress(BusError):
            self._on_entry(VERSIONS_KEY, await self._store.get(VERSIONS_KEY))
            return True
        return False

    async def _look(self, found: Watch) -> None:
        backends = self._fleet.backends.values()
        present = {backend.version for backend in backends if backend.version and not backend.spec.silent}
        now = time.monotonic()
        revised = found.revise(self._order, present, now, utc(time.time()))
        lost = self._order.seen and not self._revision
        if not self._readable or (revised is self._order and not lost):
            return
        try:
            revision = await self._store.put(VERSIONS_KEY, msgspec.json.encode(revised), self._revision)
        except Changed:
            await self._read()
        except BusError as error:
            log.debug("versions_not_written", why=str(error))
        else:
            if revision > self._revision:
                self._take(revised, revision)

    def _on_entry(self, key: str, entry: Entry | None) -> None:
        if key != VERSIONS_KEY:
            return
        if entry is None:
            # Not there yet, or lost: then it is written again.
            self._readable, self._revision = True, 0
            self._apply(self._order)
            return
        try:
            order = msgspec.json.decode(entry.value, type=VersionOrder)
        except msgspec.MsgspecError as error:
            if self._readable:
                log.error("versions_unreadable", why=str(error), text="the order last seen stays in force")
            self._readable, self._revision = False, entry.revision
            return
        self._readable = True
        self._take(order, entry.revision)

    def _take(self, order: VersionOrder, revision: int) -> None:
        before = numbers(self._order)
        self._order, self._revision = order, revision
        found = numbers(order)
        if before and found != before:
            newest = max(found, key=lambda version: found[version], default="")
            log.info("versions_changed", newest=newest, versions=list(found))
        self._apply(order)

    def _apply(self, order: VersionOrder) -> None:
        self._fleet.set_versions(numbers(order), time.monotonic())
