"""A Docker daemon of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.docker.labelled import LabelledContainers
from tests.support.docker.namespace import CannotRun


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[LabelledContainers]:
    try:
        daemon = LabelledContainers()
        daemon.start()
    except CannotRun as why:
        pytest.skip(str(why))
    try:
        asyncio.run(daemon.prepare())
        yield daemon
    except CannotRun as why:
        pytest.skip(str(why))
    finally:
        daemon.remove()


@pytest.fixture
async def daemon(shared_daemon: LabelledContainers) -> AsyncIterator[LabelledContainers]:
    """The daemon with no container on it."""
    yield shared_daemon
    await shared_daemon.clear()
