"""A fleet on this machine: one NATS, its nodes and their edge as child processes, kept running until it is stopped.

Start order: ports are checked, NATS, all other parts at the same time, then addresses are shown. Stop order: all nodes,
each of which drains, then the edge, which carries the goodbyes to their clients (Traefik before the balancer that it
asks), and NATS last, because a draining node still publishes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.children import probe
from trunkline.fleet.children.log import delete_old
from trunkline.fleet.children.nats import FleetNats
from trunkline.fleet.children.nats_server import find_binary
from trunkline.fleet.children.part import FleetPart, OnEvent
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.fleet.plan.parts import NodePlan
from trunkline.fleet.plan.ports import check_ports
from trunkline.fleet.status import Addresses, EdgeAddresses, Event, NodeAddresses, PartStatus, clients, draining_text
from trunkline.process.bounds import end_tasks
from trunkline.process.looks import started

READY_S: Final = 30.0
SAMPLE_S: Final = 1.0
NATS_STOP_S: Final = 5.0
NATS_KILL_S: Final = 1.0
DRAIN_NOTE_S: Final = 5.0
EDGE_STOP_S: Final = 5.0
"""Time of each part of the edge to end: the nodes are gone by then, so it has no clients left."""


class Fleet:
    """The whole fleet, whose nodes inherit `environ`.

    `on_event` gets what happens, `on_ready` the addresses once every node is ready. `on_sample` is called once a second
    when the nodes were sampled.
    """

    def __init__(
        self,
        plan: FleetPlan,
        environ: Mapping[str, str],
        on_event: OnEvent,
        on_ready: Callable[[Addresses], None],
        on_sample: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.nats = FleetNats(plan, on_event)
        parts = [FleetPart(plan, part, environ, on_event) for part in plan.parts]
        self.nodes = [part for part in parts if isinstance(part.part, NodePlan)]
        self.edge = [part for part in parts if not isinstance(part.part, NodePlan)]
        self.draining = False
        self.killed = False
        self._on_event = on_event
        self._on_ready = on_ready
        self._on_sample = on_sample
        self._supervisors: list[asyncio.Task[None]] = []
        self._edge_supervisors: list[asyncio.Task[None]] = []
        self._background: list[asyncio.Task[None]] = []

    @property
    def statuses(self) -> list[PartStatus]:
        """The nodes as they are now."""
        return [node.status for node in self.nodes]

    async def run(self) -> None:
        """Start everything and keep it running; returns only by an exception or when cancelled, before `stop`.

        Raises:
            StartError: something is missing or taken, or a node did not get ready.
        """
        find_binary()
        check_ports(self.plan)
        await self.nats.start()
        # Not sooner: until the lock on the store is ours, they may be those of another fleet.
        delete_old(self.plan.logs_dir, self.plan.keep_days, time.time())
        if self.plan.traefik is not None:
            from trunkline.traefik.process import write_private

            for path, text in self.plan.traefik.files:
                write_private(path, text)
        self._supervisors = [asyncio.create_task(node.supervise(self.nats.url)) for node in self.nodes]
        self._edge_supervisors = [asyncio.create_task(part.supervise(self.nats.url)) for part in self.edge]
        self._background = [asyncio.create_task(self.nats.supervise()), asyncio.create_task(self._sample())]
        ready = asyncio.create_task(self._all_ready())
        try:
            await self._watch(ready)
        finally:
            ready.cancel()
        self._on_ready(self._addresses())
        await self._watch(None)

    async def stop(self) -> None:
        """Let every node drain and end, then the edge, then NATS. `kill` hurries it."""
        self.draining = True
        if not self.killed and any(not task.done() for task in self._supervisors):
            self._on_event(Event("draining", "", draining_text(clients(self.statuses))))
            self._on_sample()
        for node in self.nodes:
            node.stop()
        await self._nodes_ended()
        for part, supervisor in zip(self.edge, self._edge_supervisors, strict=False):
            part.stop()
            _, late = await asyncio.wait({supervisor}, timeout=EDGE_STOP_S)
            if late:
                part.kill()
                await asyncio.wait(late)
        await end_tasks(self._background)
        await self.nats.stop(NATS_KILL_S if self.killed else NATS_STOP_S)

    def kill(self) -> None:
        """End every part at once, without a drain."""
        self.killed = True
        for part in (*self.nodes, *self.edge):
            part.kill()

    async def _nodes_ended(self) -> None:
        deadline = time.monotonic() + self.plan.stop_timeout_s
        noted = clients(self.statuses)
        while True:
            running = [task for task in self._supervisors if not task.done()]
            if not running:
                return
            await asyncio.wait(running, timeout=min(DRAIN_NOTE_S, max(deadline - time.monotonic(), 0.0)))
            left = clients(self.statuses)
            if left != noted and any(not task.done() for task in running):
                noted = left
                self._on_event(Event("draining", "", draining_text(left)))
            if time.monotonic() >= deadline and not self.killed:
                for node in self.nodes:
                    if node.pid:
                        self._on_event(Event("note", node.part.name, "did not end in time and is killed"))
                        node.kill()
                deadline = time.monotonic() + DRAIN_NOTE_S

    async def _watch(self, goal: asyncio.Task[None] | None) -> None:
        """Wait for `goal`, or for ever; the end of any task that should never end is raised."""
        tasks = {*self._supervisors, *self._edge_supervisors, *self._background}
        done, _ = await asyncio.wait(tasks | ({goal} if goal else set()), return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=lambda task: task is not goal):
            task.result()

    async def _all_ready(self) -> None:
        parts = (*self.nodes, *self.edge)

        def late() -> list[FleetPart]:
            return [part for part in parts if not part.first_ready.is_set()]

        async def all_ready() -> None:
            for part in parts:
                await part.first_ready.wait()

        try:
            await started(
                all_ready(),
                lambda: [part.pid for part in late()],
                lambda: sum(part.log.taken_bytes for part in parts),
                READY_S,
            )
        except TimeoutError:
            part = late()[0]
            raise StartError(
                f"{part.part.name} was not ready within {READY_S:g} s", f"Its log is {part.log.path}."
            ) from None

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await asyncio.gather(*(self._sample_node(node) for node in self.nodes))
            for part in self.edge:
                part.report_left_out()
            self._on_sample()
            due = max(due + SAMPLE_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _sample_node(self, node: FleetPart) -> None:
        node.report_left_out()
        status, pid = node.status, node.pid
        if not isinstance(node.part, NodePlan) or status.state in ("starting", "down", "stopped"):
            return
        sample = await probe.sample(node.part)
        if node.pid != pid or not pid:
            return  # it ended meanwhile
        problem = status.problem
        changed = status.observe(sample, time.monotonic())
        if status.problem != problem:
            text = f"does not store publications: {status.problem}" if status.problem else "stores publications again"
            self._on_event(Event("state", node.part.name, text))
        # That all nodes drain is one event of the fleet.
        if changed is not None and not self.draining:
            text = "does not answer" if changed == "silent" else f"is {changed}"
            self._on_event(Event("state", node.part.name, text))

    def _addresses(self) -> Addresses:
        edge, balancer = self.plan.edge, self.plan.balancer
        return Addresses(
            edge=EdgeAddresses(
                kind="relay" if self.plan.traefik is None else "traefik",
                page=edge.page_url,
                websocket=edge.websocket_url,
                balancer=f"{balancer.admin_url}/balancer-metrics",
                log=str(self.edge[0].log.path),
                pids={part.part.name: part.pid for part in self.edge},
            ),
            nodes=[
                NodeAddresses(
                    name=plan.name,
                    page=plan.page_url,
                    websocket=plan.websocket_url,
                    admin=plan.admin_url,
                    log=str(node.log.path),
                    pid=node.pid,
                )
                for plan, node in zip(self.plan.nodes, self.nodes, strict=True)
            ],
            nats=self.nats.url,
            nats_pid=self.nats.pid,
            logs=str(self.plan.logs_dir),
            prometheus=self.plan.monitor.page_url if self.plan.monitor is not None else "",
        )
