"""What a runtime is: whoever can start and stop the nodes of a colour. Pure.

Rules of every runtime:

- `ensure` and `remove` are absolute: asked twice they do nothing more.
- A runtime starts and stops processes. Whether nodes are announced, ready and right is for the gates to find out.
- What it cannot do is a `RuntimeFailed` whose text names the cause; a node that ends by itself is not one.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from trunkline.errors import TrunklineError


class What(msgspec.Struct, frozen=True):
    """What the nodes of the new colour run; each runtime uses the fields that mean something to it.

    Attributes:
        app: application as module:attribute.
        image: container image.
        python: interpreter of the release to run, for nodes on this machine.
        version: reported as `server.version`.
        project: of Compose that the containers are in; empty where there is only one.
    """

    app: str = ""
    image: str = ""
    python: str = ""
    version: str = ""
    project: str = ""


class RuntimeNode(msgspec.Struct, frozen=True):
    """A node as its runtime knows it.

    Attributes:
        running: whether it has a process now.
        failures: times that its process has ended by itself.
        given_up: why it is not started again, empty while it is.
        waits: what it waits for before it can start, empty for nothing.
    """

    name: str
    colour: str
    running: bool
    failures: int = 0
    given_up: str = ""
    waits: str = ""


class RuntimeFailed(TrunklineError):
    """The runtime cannot do what it was asked to."""


class Runtime(Protocol):
    """Starts and stops the nodes of a colour."""

    name: str

    @property
    def starts(self) -> bool:
        """Whether it starts and stops nodes at all; with `none` somebody else does."""

    async def check(self, colour: str, what: What) -> str:
        """Why `what` cannot run as `colour`, found without starting anything; empty when nothing speaks against it."""

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        """The nodes of a colour that it knows; raises RuntimeFailed."""

    async def ensure(self, colour: str, count: int, what: What) -> None:
        """Have `count` nodes of the colour started; raises RuntimeFailed."""

    async def remove(self, colour: str) -> None:
        """Stop all nodes of the colour, and return when they are gone; raises RuntimeFailed."""

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines that a node wrote; empty where they cannot be had."""

    async def close(self) -> None:
        """Let go of what it holds; nodes stay."""
