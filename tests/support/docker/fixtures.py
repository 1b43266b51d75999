"""Fixtures of a whole run of the tests: one daemon, and the product's image on it; and a daemon of a module's own.

A test that stops, kills or reconfigures its daemon makes one of its own with `DockerDaemon`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.image import add_image
from tests.support.docker.labelled import LabelledContainers, labelled_containers
from tests.support.docker.namespace import CannotRun
from tests.support.docker.python_base import BUILDER, PYTHON, add_bases


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerDaemon]:
    """This run's daemon. Who uses it removes the containers, networks and volumes that they made."""
    try:
        daemon = DockerDaemon("--live-restore")
        daemon.start()
    except CannotRun as why:
        pytest.skip(str(why))
    try:
        yield daemon
    finally:
        daemon.remove()


@pytest.fixture(scope="session")
def bases(docker: DockerDaemon) -> tuple[str, str]:
    """The names of the local base images on the daemon `docker`: a stock Python, and that with pip and wheels."""
    try:
        add_bases(docker)
    except CannotRun as why:
        pytest.skip(str(why))
    return PYTHON, BUILDER


@pytest.fixture(scope="session")
def image(docker: DockerDaemon) -> str:
    """The name of the product's image on the daemon `docker`."""
    try:
        return add_image(docker)
    except CannotRun as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[LabelledContainers]:
    """A daemon for labelled containers of one module; a module that needs options has a fixture of this name."""
    with labelled_containers() as daemon:
        yield daemon


@pytest.fixture
async def daemon(shared_daemon: LabelledContainers) -> AsyncIterator[LabelledContainers]:
    """The module's daemon with no container on it."""
    yield shared_daemon
    await shared_daemon.clear()
