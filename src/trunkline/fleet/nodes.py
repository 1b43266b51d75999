"""The nodes of a fleet on this machine, of one colour or several: they join, leave, and are kept running meanwhile.

Rules:

- A node that the fleet starts with and that cannot start ends the fleet. One that joins later does not: it is given up
  and stays in the list until its colour is removed.
- Joining and leaving are one at a time. `stop` does not wait for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.children import probe
from trunkline.fleet.children.part import FleetPart, OnEvent
from trunkline.fleet.children.restarts import MOST_STARTS
from trunkline.fleet.plan.colours import joining, refuses
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.fleet.plan.parts import NodePlan
from trunkline.fleet.status import Event, PartStatus, clients, draining_text
from trunkline.process.control.messages import EnsureNodes
from trunkline.process.sockets.ports import why_unusable

DRAIN_NOTE_S: Final = 5.0


class FleetNode(FleetPart):
    """A part that is a node."""

    def __init__(
        self,
        plan: FleetPlan,
        node: NodePlan,
        environ: Mapping[str, str],
        on_event: OnEvent,
        most_starts: int | None = None,
    ) -> None:
        super().__init__(plan, node, environ, on_event, most_starts)
        self.node = node
        self.supervisor: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it is kept running, or has not ended yet."""
        return self.supervisor is not None and not self.supervisor.done()

    async def sample(self) -> tuple[str, ...]:
        """Ask it how it is; returns what has changed, in words."""
        self.report_left_out()
        status, pid = self.status, self.pid
        if status.state in ("starting", "down", "stopped"):
            return ()
        sample = await probe.sample(self.node)
        if self.pid != pid or not pid:
            return ()  # it ended meanwhile
        problem = status.problem
        changed = status.observe(sample, time.monotonic())
        news = []
        if status.problem != problem:
            news.append(
                f"does not store publications: {status.problem}" if status.problem else "stores publications again"
            )
        if changed is not None:
            news.append("does not answer" if changed == "silent" else f"is {changed}")
        return tuple(news)


class FleetNodes:
    """All nodes of a fleet, which inherit `environ`.

    Attributes:
        all: as they are now, in the order in which they came.
        names: of these, and of those that have left.
        broken: fails when one that the fleet starts with cannot start, or by a bug.
        stopping: whether `stop` was called.
    """

    def __init__(self, plan: FleetPlan, environ: Mapping[str, str], on_event: OnEvent) -> None:
        self.all = [FleetNode(plan, node, environ, on_event) for node in plan.nodes]
        self.names = {node.node.name for node in self.all}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stopping = False
        self._plan = plan
        self._environ = environ
        self._on_event = on_event
        self._nats_url = ""
        self._one_change = asyncio.Lock()

    @property
    def statuses(self) -> list[PartStatus]:
        """How they are now."""
        return [node.status for node in self.all]

    @property
    def running(self) -> bool:
        """Whether any has not ended."""
        return any(node.running for node in self.all)

    def of(self, colour: str) -> list[FleetNode]:
        """Those of one colour, of all for an empty one."""
        return [node for node in self.all if not colour or node.node.colour == colour]

    def start(self, nats_url: str) -> None:
        """Start those of the plan, and keep them running."""
        self._nats_url = nats_url
        for node in self.all:
            self._keep(node, joined=False)

    async def ensure(self, order: EnsureNodes) -> None:
        """Have the nodes of the order started; raises StartError when they may not join."""
        async with self._one_change:
            if self.stopping:
                raise StartError("the fleet is being stopped", "Start it again.")
            there = [node.node for node in self.all]
            if why := refuses(there, order, self._plan.app):
                raise StartError(why, "Remove the colour first, or choose another.")
            missing = order.count - len(self.of(order.colour))
            plans = joining(self._plan, there, order, lambda host, port: why_unusable(host, port) is None)
            if len(plans) < missing:
                raise StartError(f"there are no ports for {missing} more nodes", "Stop what uses them.")
            for plan in plans:
                node = FleetNode(self._plan, plan, self._environ, self._on_event, MOST_STARTS)
                self.all.append(node)
                self.names.add(plan.name)
                self._keep(node, joined=True)
            if plans:
                names = ", ".join(plan.name for plan in plans)
                self._on_event(Event("note", "", f"{order.colour}: starting {names}"))

    async def remove(self, colour: str) -> None:
        """Stop all nodes of a colour, each in order, and return when they are gone."""
        async with self._one_change:
            leaving = self.of(colour)
            if leaving:
                self._on_event(Event("note", "", f"{colour}: stopping {', '.join(node.node.name for node in leaving)}"))
            for node in leaving:
                node.stop()
            await self.ended(leaving, lambda _: None)
            self.all = [node for node in self.all if node not in leaving]

    async def sample(self) -> None:
        """Ask all of them how they are, and report what has changed."""

        async def one(node: FleetNode) -> None:
            for text in await node.sample():
                # That all nodes drain is one event of the fleet.
                if not self.stopping:
                    self._on_event(Event("state", node.node.name, text))

        await asyncio.gather(*(one(node) for node in self.all))

    async def stop(self) -> None:
        """Let every node drain and end. `kill` hurries it."""
        self.stopping = True
        for node in self.all:
            node.stop()
        await self.ended(self.all, lambda left: self._on_event(Event("draining", "", draining_text(left))))

    def kill(self) -> None:
        """End every node at once."""
        self.stopping = True
        for node in self.all:
            node.kill()

    async def ended(self, nodes: Sequence[FleetNode], on_left: Callable[[int], None]) -> None:
        """Wait until these have ended; what is late is killed. `on_left` gets the clients left when they are fewer."""
        deadline = time.monotonic() + self._plan.stop_timeout_s
        noted = clients([node.status for node in nodes])
        while running := [node.supervisor for node in nodes if node.supervisor is not None and node.running]:
            await asyncio.wait(running, timeout=min(DRAIN_NOTE_S, max(deadline - time.monotonic(), 0.0)))
            left = clients([node.status for node in nodes])
            if left != noted and any(node.running for node in nodes):
                noted = left
                on_left(left)
            if time.monotonic() >= deadline:
                for node in nodes:
                    if node.pid:
                        self._on_event(Event("note", node.node.name, "did not end in time and is killed"))
                        node.kill()
                deadline = time.monotonic() + DRAIN_NOTE_S

    def _keep(self, node: FleetNode, *, joined: bool) -> None:
        async def supervise() -> None:
            try:
                await node.supervise(self._nats_url)
            except StartError as error:
                if not joined:
                    raise
                self._on_event(Event("ended", node.node.name, f"given up: {error}"))

        def on_done(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not self.stopping and not self.broken.done():
                self.broken.set_exception(error)

        node.supervisor = asyncio.create_task(supervise())
        node.supervisor.add_done_callback(on_done)
