"""Scenes for tests: a NATS and nodes that really talk, on uvloop as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from tests.support.balancer.talking import Scene, open_scene


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Nodes and relays run on uvloop, in tests as in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A NATS of the test's own; all that the scene started is stopped after the test."""
    scene = await open_scene(tmp_path)
    yield scene
    await scene.close()
