"""A Docker daemon of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.docker.labelled import LabelledContainers, labelled_containers


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[LabelledContainers]:
    with labelled_containers() as daemon:
        yield daemon


@pytest.fixture
async def daemon(shared_daemon: LabelledContainers) -> AsyncIterator[LabelledContainers]:
    """The daemon with no container on it."""
    yield shared_daemon
    await shared_daemon.clear()
