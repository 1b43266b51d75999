"""Fleets under test; none leaves a process behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from tests.support.fleet_process import FleetProcess

StartFleet = Callable[..., Awaitable[FleetProcess]]


@pytest_asyncio.fixture
async def start_fleet(tmp_path: Path) -> AsyncIterator[StartFleet]:
    fleets: list[FleetProcess] = []

    async def start(*arguments: str, **environ: str) -> FleetProcess:
        fleet = await FleetProcess.start(tmp_path, *arguments, **environ)
        fleets.append(fleet)
        return fleet

    yield start
    for fleet in fleets:
        await fleet.stop()
        assert await fleet.left() == []
