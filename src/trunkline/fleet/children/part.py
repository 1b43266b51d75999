"""One part of the fleet, a node or its edge: its process is started, watched, and started again when it ends.

Rules:

- Nothing is cancelled while a process is being made: a stop sets a flag, ends the process that runs, and the loop sees
  the flag. So no process can slip away between the two.
- A part that was never ready and reports that it cannot start is given up, and with it the fleet that starts; any
  other end is followed by a restart. One that joins a running fleet is given up after a few starts, too, and alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from trunkline.errors import StartError
from trunkline.fleet.children import probe
from trunkline.fleet.children.log import ChildLog, Quota
from trunkline.fleet.children.restarts import Backoff, gives_up
from trunkline.fleet.plan.layout import FleetPlan, part_command, part_environment
from trunkline.fleet.plan.parts import NodePlan, PartPlan
from trunkline.fleet.status import Event, PartStatus
from trunkline.process.ending import ended
from trunkline.process.lifecycle import Child
from trunkline.protocol.timestamps import utc

POLL_READY_S: Final = 0.1
AT_ONCE_S: Final = 5.0
"""A part that ended sooner than this after its start has a fault of its own, so its last lines are shown."""

OnEvent = Callable[[Event], None]


class FleetPart:
    """One part.

    Args:
        plan: of the fleet.
        part: of this part.
        environ: the environment of the fleet.
        on_event: gets what happens.
        most_starts: after so many starts without being ready it is given up, None for never.

    Attributes:
        failures: times that a process of it ended by itself.
        why: what the last of these reported.
    """

    def __init__(
        self,
        plan: FleetPlan,
        part: PartPlan,
        environ: Mapping[str, str],
        on_event: OnEvent,
        most_starts: int | None = None,
    ) -> None:
        self.part = part
        self.status = PartStatus(part.name, part.colour if isinstance(part, NodePlan) else "")
        self.failures = 0
        self.why = ""
        self.first_ready = asyncio.Event()
        self._plan = plan
        self._environ = part_environment(plan, part, environ)
        self._on_event = on_event
        self._most_starts = most_starts
        self._stopping = asyncio.Event()
        self._killing = False
        self._reload_due = False
        self._child: Child | None = None
        self._backoff = Backoff()
        self._quota = Quota()
        self.log = ChildLog(plan.log_path(part.name), plan.rotate_bytes, self._show)

    @property
    def pid(self) -> int:
        """Process id of the run under way, 0 for none."""
        return self._child.pid if self._child is not None and self._child.running else 0

    async def supervise(self, nats_url: str) -> None:
        """Keep it running until `stop`; raises StartError when it cannot start as things are."""
        command = part_command(self._plan, self.part, nats_url, sys.executable)
        self.log.open()
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                code = await self._run_once(command)
                up_s = time.monotonic() - began
                if self._stopping.is_set():
                    break
                self.failures += 1
                self.why = self.log.refusal or " / ".join(self.log.last_lines()[-2:]) or ended(code)
                if gives_up(code, self.first_ready.is_set(), self.failures, self._most_starts):
                    what = f"{self.part.name} cannot start: {self.why.rstrip('.')}"
                    raise StartError(what, f"Its log is {self.log.path}.")
                wait_s = self._backoff.ended(up_s)
                self.status.enter("down")
                self._report_end(code, up_s, wait_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._stopping.wait()
        finally:
            self.status.enter("stopped")
            self.log.close()

    def stop(self) -> None:
        """Have it drain and end; it is not started again."""
        self._stopping.set()
        if self._child is not None:
            self._child.terminate()

    def reload(self) -> None:
        """Have it read its settings again; one that is starting, once it is ready.

        A node of a release that knows no reload goes on with the settings that it has.
        """
        if self.status.state == "starting":
            self._reload_due = True
        elif self._child is not None and self._child.running and not self._child.reload():
            self._on_event(Event("note", self.part.name, "its release knows no reload; it keeps its settings"))

    def kill(self) -> None:
        """End it at once."""
        self._killing = True
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    def report_left_out(self) -> None:
        """Report how many lines were not shown, if any."""
        if count := self._quota.left_out(time.monotonic()):
            self._on_event(Event("log", self.part.name, f"{count:,} more lines like these in {self.log.path}"))

    async def _run_once(self, command: list[str]) -> int:
        self.status.enter("starting")
        self._reload_due = False
        self.log.begin(f"--- {utc(time.time())} started by trunkline up")
        child = self._child = await Child.start(command, self._environ, self.log.write)
        if self._killing:
            child.kill()
        elif self._stopping.is_set():
            child.terminate()
        until_ready = asyncio.create_task(self._until_ready(child))
        try:
            return await child.wait()
        finally:
            until_ready.cancel()

    async def _until_ready(self, child: Child) -> None:
        while child.running and not self._stopping.is_set():
            if await probe.is_ready(self.part) and child.running:
                self.status.enter("up")
                again = " again" if self.first_ready.is_set() else ""
                self.first_ready.set()
                if self._reload_due:
                    self.reload()
                self._on_event(Event("state", self.part.name, f"ready{again} at {self.part.page_url}, pid {child.pid}"))
                return
            await asyncio.sleep(POLL_READY_S)

    def _report_end(self, code: int, up_s: float, wait_s: float) -> None:
        name = self.part.name
        text = f"{ended(code)} after {up_s:.1f} s; starting it again in {wait_s:g} s"
        self._on_event(Event("ended", name, text, exit_code=code))
        if up_s < AT_ONCE_S or not self.first_ready.is_set():
            for line in self.log.last_lines():
                self._on_event(Event("log", name, line))

    def _show(self, text: str) -> None:
        if self._quota.take(time.monotonic()):
            self._on_event(Event("log", self.part.name, text))
