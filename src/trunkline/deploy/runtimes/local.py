"""The runtime of a fleet on this machine: `trunkline up` starts and stops its nodes, asked over its control socket.

They are its children and end with it, never with the command that deploys.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

from trunkline.deploy.runtimes.base import RuntimeFailed, RuntimeNode, What
from trunkline.process.control.messages import (
    ControlAnswer,
    ControlRequest,
    EnsureNodes,
    FindApp,
    Finding,
    FindPlaces,
    ListNodes,
    LogLines,
    NodeLog,
    Nodes,
    Places,
    RemoveNodes,
)
from trunkline.process.control.socket import ControlClient, ControlFailed

ANSWER_S: Final = 10.0
FIND_S: Final = 30.0
REMOVE_S: Final = 600.0
"""`up` kills what does not end in time, by its own settings; this is for one that hangs."""

Answer = TypeVar("Answer", bound=ControlAnswer)


class LocalRuntime:
    """See `base.Runtime`; `data_dir` is that of `up`."""

    name = "local"

    def __init__(self, data_dir: Path) -> None:
        self._control = ControlClient(data_dir)

    @property
    def starts(self) -> bool:
        """Yes."""
        return True

    async def places(self) -> Places:
        """Where bus, balancer and edge of the fleet are; raises RuntimeFailed."""
        return await self._ask(FindPlaces(), Places, ANSWER_S)

    async def check(self, colour: str, what: What) -> str:
        """Why `up` could not start it: no such module, no such interpreter, or no `up` at all."""
        if what.image:
            return "--image: nodes of `trunkline up` are processes; name an application with --app"
        try:
            return (await self._ask(FindApp(what.app, what.python), Finding, FIND_S)).why
        except RuntimeFailed as error:
            return str(error)

    async def list(self, colour: str) -> tuple[RuntimeNode, ...]:
        """The nodes of a colour; raises RuntimeFailed."""
        found = await self._ask(ListNodes(colour), Nodes, ANSWER_S)
        return tuple(
            RuntimeNode(
                node.name,
                node.colour,
                running=node.pid != 0,
                failures=node.failures,
                given_up=(node.why or "it has ended") if node.state == "stopped" else "",
            )
            for node in found.nodes
        )

    async def ensure(self, colour: str, count: int, what: What) -> None:
        """Have `count` nodes of the colour started; raises RuntimeFailed."""
        await self._ask(EnsureNodes(colour, count, what.app, what.python, what.version), Nodes, ANSWER_S)

    async def remove(self, colour: str) -> None:
        """Stop all nodes of the colour, and return when they are gone; raises RuntimeFailed."""
        await self._ask(RemoveNodes(colour), Nodes, REMOVE_S)

    async def logs(self, node: str, lines: int = 20) -> tuple[str, ...]:
        """The last lines that a node wrote; empty where they cannot be had."""
        try:
            return (await self._ask(NodeLog(node, lines), LogLines, ANSWER_S)).lines
        except RuntimeFailed:
            return ()

    async def close(self) -> None:
        """Nothing: each request has a connection of its own."""

    async def _ask(self, request: ControlRequest, kind: type[Answer], within_s: float) -> Answer:
        try:
            answer = await self._control.ask(request, within_s)
        except ControlFailed as error:
            raise RuntimeFailed(str(error)) from None
        if not isinstance(answer, kind):
            raise RuntimeFailed(f"`trunkline up` answered {type(answer).__name__} and is of another release")
        return answer
