"""Chooses the bus that the settings name; a bus and its client library are loaded only when chosen."""

from __future__ import annotations

from collections.abc import Iterable

from trunkline.bus.base import Bus, Retention, RetentionOf
from trunkline.errors import SettingsError
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
