"""The store of a balancer: the fleet's in NATS, else a directory of its own."""

from __future__ import annotations

from pathlib import Path

from trunkline.bus.base import FleetStore
from trunkline.bus.open import open_store, store_directory
from trunkline.bus.store.memory import MemoryStore
from trunkline.settings.sections import Settings


def open_for(settings: Settings) -> FleetStore:
    """The store that the settings name; raises SettingsError.

    A balancer without NATS that takes any free port has nothing to find its table by again: it keeps it in memory.
    """
    directory = store_directory(settings.balancer)
    if settings.bus.url == "memory" and directory is None:
        return MemoryStore()
    return open_store(settings.bus, directory or Path())
