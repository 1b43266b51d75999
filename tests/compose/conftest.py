"""One stack for all tests of this folder: what they start they remove."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.compose.stack import Stack
from tests.support.compose.stand_ins import add_stand_ins
from tests.support.docker.daemon import DockerDaemon
from tests.support.docker.namespace import CannotRun


@pytest.fixture(scope="session")
def made_stack(docker: DockerDaemon, image: str) -> Stack:
    """The stack with all its images, not started."""
    try:
        stack = Stack(docker, image)
        add_stand_ins(docker, image, stack.images)
    except CannotRun as why:
        pytest.skip(str(why))
    return stack


@pytest.fixture
def stack(made_stack: Stack) -> Iterator[Stack]:
    """The stack, not started; afterwards everything of it is gone."""
    yield made_stack
    made_stack.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", within_s=120)
    made_stack.restore()
