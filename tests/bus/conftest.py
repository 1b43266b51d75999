"""The buses under test: one in memory, one over a real nats-server that is shared by a module's tests."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.server.bus_probe import BusUnderTest, retention_of, settings
from trunkline.bus.memory import MemoryBus
from trunkline.bus.nats.bus import NatsBus
from trunkline.fleet.children.nats_server import NatsServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nats_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsServer]:
    server = await NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", params=["memory", "nats"])
async def under_test(request: pytest.FixtureRequest, nats_server: NatsServer) -> AsyncIterator[BusUnderTest]:
    if request.param == "memory":
        under_test = BusUnderTest("memory", lambda: MemoryBus(retention_of))
    else:
        prefix = f"t{secrets.token_hex(4)}"
        under_test = BusUnderTest("nats", lambda: NatsBus(settings(nats_server.url, prefix), retention_of))
    await under_test.open()
    yield under_test
    await under_test.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
