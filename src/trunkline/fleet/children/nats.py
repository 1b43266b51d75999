"""The NATS of a fleet on this machine: its log file, and its restarts on the same port with the same store."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from trunkline.errors import StartError
from trunkline.fleet.children.log import ChildLog
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.fleet.children.part import OnEvent
from trunkline.fleet.children.restarts import Backoff
from trunkline.fleet.plan.layout import FleetPlan
from trunkline.fleet.plan.parts import HOST
from trunkline.fleet.status import Event, PartStatus
from trunkline.process.ending import ended


class FleetNats:
    """The fleet's NATS: same port and same store for as long as the fleet runs."""

    def __init__(self, plan: FleetPlan, on_event: OnEvent) -> None:
        self.status = PartStatus("nats")
        self._plan = plan
        self._on_event = on_event
        self._server: NatsServer | None = None
        self._port = 0
        # Only its file: `NatsServer` picks the lines that matter.
        self._log = ChildLog(plan.log_path("nats"), plan.rotate_bytes, lambda _: None)
        self._early: list[str] | None = []

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self._port}"

    @property
    def store_dir(self) -> Path:
        """Where it keeps what it stores."""
        return self._plan.data_dir / "nats"

    @property
    def pid(self) -> int:
        """Its process id, 0 while it is down."""
        return self._server.pid if self._server is not None and self._server.running else 0

    async def start(self) -> None:
        """Start it and wait until it is ready; raises StartError."""
        self._server = await NatsServer.start(
            self.store_dir,
            host=HOST,
            port=self._port or None,
            on_line=self._write,
            on_warning=lambda text: self._on_event(Event("log", "nats", text)),
        )
        self._port = self._server.port
        if self._early is not None:
            # Not sooner: until the lock on the store is ours, the file may be that of another fleet.
            self._log.open()
            early, self._early = self._early, None
            for line in early:
                self._write(line)
        self.status.enter("up")

    async def supervise(self) -> None:
        """Start it again whenever it ends; runs until cancelled."""
        backoff = Backoff()
        began = time.monotonic()
        exit_code: int | None = None
        what = ""
        while True:
            if self._server is not None:
                code = await self._server.wait()
                # Lets go of the lock on the store.
                await self._server.stop()
                self._server = None
                self.status.enter("down")
                what, exit_code = ended(code), code
            wait_s = backoff.ended(time.monotonic() - began)
            self._on_event(Event("ended", "nats", f"{what}; starting it again in {wait_s:g} s", exit_code=exit_code))
            await asyncio.sleep(wait_s)
            began = time.monotonic()
            try:
                await self.start()
            except StartError as error:
                what, exit_code = f"did not start: {error}".rstrip("."), None
            else:
                self._on_event(Event("state", "nats", f"ready again at {self.url}"))

    async def stop(self, timeout_s: float) -> None:
        """End it."""
        if self._server is not None:
            await self._server.stop(timeout_s)
        self.status.enter("stopped")
        self._log.close()

    def _write(self, line: str) -> None:
        if self._early is not None:
            self._early.append(line)
        else:
            self._log.write(line.encode() + b"\n", False)
