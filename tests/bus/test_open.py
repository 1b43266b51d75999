"""Choosing a bus by its address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server.bus_probe import retention_of
from trunkline.bus.open import open_bus, open_store
from trunkline.errors import SettingsError
from trunkline.settings.sections import BusSettings


@pytest.mark.parametrize(
    ("address", "name"), [("memory", "memory"), ("nats://h:1", "nats"), ("tls://u:p@h:1,h2", "nats")]
)
async def test_address_chooses_the_bus(address: str, name: str) -> None:
    """The scheme names the bus; nothing is connected before the start."""
    bus = open_bus(BusSettings(url=address), retention_of)
    assert bus.name == name
    assert not bus.connected


def test_unknown_address_is_refused() -> None:
    """An address of no bus is refused with what could be used, without repeating a password."""
    with pytest.raises(SettingsError, match="memory, nats://") as caught:
        open_bus(BusSettings(url="kafka://u:s3cret@h"), retention_of)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError, match="memory, nats://"):
        open_store(BusSettings(url="kafka://h"), Path("unused"))


@pytest.mark.parametrize(
    ("address", "name"), [("memory", "file"), ("nats://h:1", "nats"), ("tls://u:p@h:1,h2", "nats")]
)
def test_address_chooses_the_store(address: str, name: str, tmp_path: Path) -> None:
    """The store is in NATS where the bus is, else in files; nothing is made before the first write."""
    assert open_store(BusSettings(url=address), tmp_path / "store").name == name
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_authority_is_named() -> None:
    """A file of the authority that cannot be read is refused by the setting's name before anything is connected."""
    with pytest.raises(SettingsError) as caught:
        open_bus(BusSettings(url="tls://h:1", tls_ca_file=Path("/nowhere.pem")), retention_of)
    assert caught.value.key == "bus.tls_ca_file"
