"""A copy of the fleet's traffic table on this machine, for a balancer that starts while NATS is away.

Rules:

- It is of one fleet: the bus' address and prefix are in its name, for the next fleet on this port has its own colours.
- Nothing depends on it: one that cannot be written is named in the log, and one that cannot be read is none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import structlog

from trunkline.bus.base import FleetStore
from trunkline.bus.open import store_directory
from trunkline.bus.store.file import FileStore
from trunkline.errors import BusError
from trunkline.nats.address import parse_address
from trunkline.protocol.traffic import TRAFFIC_KEY, TrafficTable
from trunkline.settings.sections import Settings

log = structlog.get_logger("trunkline.balancer")

NAME_CHARS: Final = 16


class TableCopy:
    """The copy that a store of this machine holds under a key."""

    def __init__(self, store: FleetStore, key: str) -> None:
        self._store = store
        self._key = key

    async def read(self) -> TrafficTable | None:
        """The table that was kept, None for none."""
        try:
            entry = await self._store.get(self._key)
            return None if entry is None else msgspec.json.decode(entry.value, type=TrafficTable)
        except (BusError, msgspec.MsgspecError) as error:
            log.info("traffic_copy_unreadable", why=str(error))
            return None

    async def keep(self, table: TrafficTable | None) -> None:
        """Write a table, or forget the one that is there."""
        try:
            if table is None:
                await self._store.delete(self._key, None)
            else:
                await self._store.put(self._key, msgspec.json.encode(table), None)
        except BusError as error:
            log.info("traffic_copy_not_kept", why=str(error))


def copy_for(settings: Settings) -> TableCopy | None:
    """Where a balancer keeps its copy; None without a directory, and where the store has it."""
    directory: Path | None = store_directory(settings.balancer)
    if settings.bus.url == "memory" or directory is None:
        return None
    fleet = f"{parse_address(settings.bus.url).shown} {settings.bus.prefix}"
    name = hashlib.sha256(fleet.encode()).hexdigest()[:NAME_CHARS]
    return TableCopy(FileStore(directory), f"{TRAFFIC_KEY}-copy.{name}")
