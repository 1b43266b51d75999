"""Chooses the bus that an address names; a bus and its client library are loaded only when chosen."""

from __future__ import annotations

from trunkline.bus.base import Bus, RetentionOf
from trunkline.bus.settings import NatsSettings
from trunkline.errors import SettingsError


def open_bus(address: str, retention: RetentionOf, settings: NatsSettings | None = None) -> Bus:
    """Make the bus for an address; nothing is connected before its `start`.

    Args:
        address: `memory`, or `nats://…` / `tls://…` with one or several servers.
        retention: how much of each channel is kept.
        settings: how the NATS bus behaves; other buses ignore it.

    Raises:
        SettingsError: no bus has such an address. The address may hold a password, so the error does not show it.
    """
    scheme = address.partition("://")[0]
    if scheme == "memory":
        from trunkline.bus.memory import MemoryBus

        return MemoryBus(retention)
    if scheme in ("nats", "tls"):
        from trunkline.bus.nats.bus import NatsBus

        return NatsBus(address, retention, settings)
    raise SettingsError("bus.url", allowed="use memory, nats://host:4222 or tls://host:4222")
