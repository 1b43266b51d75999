"""The product's image on a real daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.docker.daemon import DockerDaemon
from trunkline.version import __version__


@pytest.fixture(autouse=True)
def _no_container_is_left(docker: DockerDaemon) -> Iterator[None]:
    yield
    for container in docker.docker("ps", "--all", "--quiet").split():
        docker.docker("rm", "--force", "--volumes", container)


@pytest.mark.timeout(300)
def test_it_runs_read_only_and_without_any_right(docker: DockerDaemon, image: str) -> None:
    """One image, every command; here the version, with nothing writable and no capability."""
    shut = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
    assert docker.docker("run", "--rm", *shut, image, "--version").strip() == __version__
