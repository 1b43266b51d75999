"""The stores under test; NATS is a real server that is shared by a module's tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.server.bus_probe import settings
from tests.support.server.store_probe import StoreUnderTest
from trunkline.bus.open import open_store
from trunkline.bus.store.memory import MemoryStore
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.settings.sections import BusSettings


@pytest_asyncio.fixture(loop_scope="module", params=["memory", "file", "nats"])
async def under_test(
    request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path: Path
) -> AsyncIterator[StoreUnderTest]:
    prefix = f"t{secrets.token_hex(4)}"
    made = {
        "memory": MemoryStore,
        "file": lambda: open_store(BusSettings(), tmp_path / "store"),
        "nats": lambda: open_store(settings(nats_server.url, prefix), tmp_path / "unused"),
    }
    under_test = StoreUnderTest(request.param, made[request.param])
    await under_test.open()
    yield under_test
    await under_test.close()
