"""Choosing a bus by its address."""

from __future__ import annotations

import pytest

from tests.support.server.bus_probe import retention_of
from trunkline.bus import NatsSettings, open_bus
from trunkline.errors import SettingsError


@pytest.mark.parametrize(
    ("address", "name"), [("memory", "memory"), ("nats://h:1", "nats"), ("tls://u:p@h:1,h2", "nats")]
)
async def test_address_chooses_the_bus(address: str, name: str) -> None:
    """The scheme names the bus; nothing is connected before the start."""
    bus = open_bus(address, retention_of)
    assert bus.name == name
    assert not bus.connected


def test_unknown_address_is_refused() -> None:
    """An address of no bus is refused with what could be used, without repeating a password."""
    with pytest.raises(SettingsError, match="memory, nats://") as caught:
        open_bus("kafka://u:s3cret@h", retention_of)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (NatsSettings(prefix="Upper.Case"), "bus.prefix"),
        (NatsSettings(replicas=0), "bus.replicas"),
        (NatsSettings(keep_s=0.0), "bus.keep_s"),
        (NatsSettings(max_bytes=10), "bus.max_bytes"),
        (NatsSettings(tls_ca_file="/nowhere.pem"), "bus.tls_ca_file"),
    ],
)
def test_unusable_settings_are_named(settings: NatsSettings, key: str) -> None:
    """A setting that cannot work is refused by its name before anything is connected."""
    with pytest.raises(SettingsError) as caught:
        open_bus("tls://h:1", retention_of, settings)
    assert caught.value.key == key
