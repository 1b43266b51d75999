"""A fleet on this machine: one NATS, its nodes and their edge as child processes, kept running until it is stopped.

Start order: ports are checked, NATS, the traffic table, all other parts at the same time, then addresses are shown.
From NATS on the control socket is there, over which nodes of other colours come and go. Stop order: all nodes, each of
which drains, then the edge, which carries the goodbyes to their clients (Traefik before the balancer that it asks), and
NATS last, because a draining node still publishes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.children.log import delete_old
from trunkline.fleet.children.nats import FleetNats
from trunkline.fleet.children.nats_server import find_binary
from trunkline.fleet.children.part import FleetPart, OnEvent
from trunkline.fleet.control import control_socket
from trunkline.fleet.nodes import FleetNodes
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.fleet.plan.parts import BalancerPlan, NodePlan
from trunkline.fleet.plan.ports import check_ports
from trunkline.fleet.status import Addresses, EdgeAddresses, Event, NodeAddresses, PartStatus, clients, draining_text
from trunkline.process.bounds import end_tasks
from trunkline.process.looks import started

READY_S: Final = 30.0
SAMPLE_S: Final = 1.0
NATS_STOP_S: Final = 5.0
NATS_KILL_S: Final = 1.0
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
        self.nodes = FleetNodes(plan, environ, on_event)
        self.edge = [FleetPart(plan, part, environ, on_event) for part in plan.parts if not isinstance(part, NodePlan)]
        self.draining = False
        self.killed = False
        self._on_event = on_event
        self._on_ready = on_ready
        self._on_sample = on_sample
        self._shown: list[str] = []
        self._control = control_socket(plan, self.nodes, self.nats, environ)
        self._edge_supervisors: list[asyncio.Task[None]] = []
        self._background: list[asyncio.Task[None]] = []

    @property
    def statuses(self) -> list[PartStatus]:
        """The nodes as they are now."""
        return self.nodes.statuses

    async def run(self) -> None:
        """Start everything and keep it running; returns only by an exception or when cancelled, before `stop`.

        Raises:
            StartError: something is missing or taken, or a node did not get ready.
        """
        find_binary()
        check_ports(self.plan)
        again = self.nats.store_dir.is_dir()
        await self.nats.start()
        # Not sooner: until the lock on the store is ours, the socket and the logs may be those of another fleet.
        try:
            self._control.start()
        except OSError as error:
            text = f"no control socket in {self.plan.data_dir}: {error.strerror or error}"
            self._on_event(Event("note", "", text))
        delete_old(self.plan.logs_dir, self.plan.keep_days, time.time())
        if self.plan.traefik is not None:
            from trunkline.traefik.process import write_private

            for path, text in self.plan.traefik.files:
                write_private(path, text)
        if again:
            # Before a balancer can follow the table.
            await self._open()
        self.nodes.start(self.nats.url)
        self._edge_supervisors = [asyncio.create_task(part.supervise(self.nats.url)) for part in self.edge]
        self._background = [asyncio.create_task(self.nats.supervise()), asyncio.create_task(self._sample())]
        ready = asyncio.create_task(self._all_ready())
        try:
            await self._watch(ready)
        finally:
            ready.cancel()
        self._show_addresses()
        await self._watch(None)

    async def stop(self) -> None:
        """Let every node drain and end, then the edge, then NATS. `kill` hurries it."""
        self.draining = True
        await self._control.close()
        if not self.killed and self.nodes.running:
            self._on_event(Event("draining", "", draining_text(clients(self.statuses))))
            self._on_sample()
        await self.nodes.stop()
        for part, supervisor in zip(self.edge, self._edge_supervisors, strict=False):
            part.stop()
            _, late = await asyncio.wait({supervisor}, timeout=EDGE_STOP_S)
            if late:
                part.kill()
                await asyncio.wait(late)
        await end_tasks(self._background)
        await self.nats.stop(NATS_KILL_S if self.killed else NATS_STOP_S)

    def reload(self) -> None:
        """Have nodes and balancer read their settings again; NATS, Traefik and the monitoring go on as they are."""
        parts: list[FleetPart] = [*self.nodes.all, *self.edge]
        asked = [part for part in parts if isinstance(part.part, NodePlan | BalancerPlan)]
        self._on_event(Event("note", "", f"settings are read again by {', '.join(part.part.name for part in asked)}"))
        for part in asked:
            part.reload()

    def kill(self) -> None:
        """End every part at once, without a drain."""
        self.killed = True
        self.nodes.kill()
        for part in self.edge:
            part.kill()

    async def _open(self) -> None:
        """Give new connections to the nodes that start, whatever was written for those of an earlier run."""
        colour = self.plan.nodes[0].colour
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline.fleet.opening", colour, self.nats.url, self.plan.bus_prefix,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said, _ = await process.communicate()
        except BaseException:
            process.kill()
            raise
        if said:
            self._on_event(Event("note", "", said.decode()))

    async def _watch(self, goal: asyncio.Task[None] | None) -> None:
        """Wait for `goal`, or for ever; the end of any task that should never end is raised."""
        tasks = {self.nodes.broken, *self._edge_supervisors, *self._background}
        done, _ = await asyncio.wait(tasks | ({goal} if goal else set()), return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=lambda task: task is not goal):
            task.result()

    async def _all_ready(self) -> None:
        parts = (*self.nodes.all, *self.edge)

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
            await self.nodes.sample()
            for part in self.edge:
                part.report_left_out()
            if self._shown and not any(node.status.state == "starting" for node in self.nodes.all):
                self._show_addresses()
            self._on_sample()
            due = max(due + SAMPLE_S, loop.time())
            await asyncio.sleep(due - loop.time())

    def _show_addresses(self) -> None:
        """Tell where everything is, unless the nodes are still those that were shown."""
        names = [node.node.name for node in self.nodes.all if node.first_ready.is_set()]
        if names != self._shown:
            self._shown = names
            self._on_ready(self._addresses())

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
                    name=node.node.name,
                    page=node.node.page_url,
                    websocket=node.node.websocket_url,
                    admin=node.node.admin_url,
                    log=str(node.log.path),
                    pid=node.pid,
                    colour=node.node.colour,
                )
                for node in self.nodes.all
            ],
            nats=self.nats.url,
            nats_pid=self.nats.pid,
            logs=str(self.plan.logs_dir),
            prometheus=self.plan.monitor.page_url if self.plan.monitor is not None else "",
        )
