"""Chooses the bus and the store that the settings name; each, with its client library, is loaded only when chosen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trunkline.bus.base import Bus, FleetStore, Retention, RetentionOf
from trunkline.errors import SettingsError
from trunkline.process.user_dirs import private_dirs
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.sections import BusSettings


def open_bus(settings: BusSettings, retention: RetentionOf, expected: Iterable[Retention] = ()) -> Bus:
    """Make the bus of the settings; nothing is connected before its `start`.

    Room for the `expected` retentions is made at the start, so that a lack of it shows then.

    Raises:
        SettingsError: no bus has such an address. The address may hold a password, so the error does not show it.
    """
    scheme = settings.url.partition("://")[0]
    if scheme == "memory":
        from trunkline.bus.memory import MemoryBus

        return MemoryBus(retention)
    if scheme in ("nats", "tls"):
        from trunkline.bus.nats.bus import NatsBus

        return NatsBus(settings, retention, expected)
    raise SettingsError("bus.url", allowed="use memory, nats://host:4222 or tls://host:4222")


def open_store(settings: BusSettings, directory: Path) -> FleetStore:
    """Make the fleet's store: in NATS where there is one, else in files for the processes of this machine.

    A node has one already, over the connection of its bus (`FleetBus.fleet_store`).

    Args:
        settings: of the bus.
        directory: where the files are, made when the first entry is written; not used with NATS.

    Raises:
        SettingsError: as `open_bus` does.
    """
    scheme = settings.url.partition("://")[0]
    if scheme == "memory":
        from trunkline.bus.store.file import FileStore

        return FileStore(directory)
    if scheme in ("nats", "tls"):
        from trunkline.bus.nats.store import LinkedNatsStore

        return LinkedNatsStore(settings)
    raise SettingsError("bus.url", allowed="use memory, nats://host:4222 or tls://host:4222")


def store_directory(balancer: BalancerSettings) -> Path | None:
    """Where the store's files are without NATS, for the balancer and for those who look for it.

    None for a balancer that takes any free port and has no directory of its own: nothing leads to it a second time.
    """
    if balancer.store_dir is not None:
        return balancer.store_dir
    return private_dirs()[0] / f"store-{balancer.port}" if balancer.port else None
