"""Looks at the fleet for a driver and for the record, and keeps the witnesses.

Rules:

- The newest look counts; two at once are made after each other, so that a look shows what was ordered before it.
- A node that does not answer has no counts in this look; the record goes on from its last ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from trunkline.deploy.drive.recording import RECORD_KEY, Recorder
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.rules import clients
from trunkline.deploy.machine.seen import WitnessSeen
from trunkline.deploy.parts import Parts, Progress, WitnessRun
from trunkline.deploy.verdict.facts import Sample, WitnessFacts
from trunkline.deploy.world.base import FleetRefused, FleetUnreachable, FleetView, NodeView
from trunkline.errors import BusError
from trunkline.logs.logger import get_logger
from trunkline.protocol.goodbyes import MoveCounts

log = get_logger("trunkline.deploy")

EVERY_S: Final = 1.0
KEPT_EVERY_S: Final = 5.0
COUNTS_S: Final = 1.0
"""Time that a node has to send its counts: a look does not wait for one that hangs."""


class Watcher:
    """What is seen of the fleet.

    Args:
        parts: of the driver.
        recorder: takes every look.
        at: seconds since the deploy began.

    Attributes:
        deploy: as it is stored, set by the driver.
        counts: of the nodes that answered the last look, by URL.
    """

    def __init__(self, parts: Parts, recorder: Recorder, deploy: Deploy, at: Callable[[], float]) -> None:
        self._parts = parts
        self._at = at
        self._one_look = asyncio.Lock()
        self._looked_at = 0.0
        self._kept_at = 0.0
        self._fleet: FleetView | None = None
        self._sample: Sample | None = None
        self._witnesses: WitnessRun | None = None
        self._witness_facts: WitnessFacts | None = None
        self._complaints: set[str] = set()
        self.recorder = recorder
        self.deploy = deploy
        self.counts: dict[str, MoveCounts] = {}

    async def look(self) -> FleetView | None:
        """The fleet as it is after this call; None while it cannot be reached."""
        async with self._one_look:
            self._looked_at = time.monotonic()
            try:
                fleet = await self._parts.world.look()
            except (FleetUnreachable, FleetRefused) as error:
                self._complain("fleet_not_seen", error)
                return None
            self._complaints.discard("fleet_not_seen")
            plan = self.deploy.plan
            asked = [node for node in fleet.nodes if node.colour in (plan.from_colour, plan.to_colour) and node.name]
            found = await asyncio.gather(*(self._counts(node) for node in asked if node.state != "down"))
            self.counts = dict(each for each in found if each is not None)
            seen = self.witnesses_seen()
            connected = seen.connected if seen is not None else 0
            self._fleet = fleet
            sample = self.recorder.take(self._at(), self.deploy, fleet, self.counts.values(), connected)
            self._sample = sample or self._sample
            return fleet

    async def _counts(self, node: NodeView) -> tuple[str, MoveCounts] | None:
        with contextlib.suppress(FleetUnreachable, FleetRefused, TimeoutError):
            async with asyncio.timeout(COUNTS_S):
                counts = await self._parts.world.counts(node)
                return (node.url, counts) if counts is not None else None
        return None

    async def keep_looking(self) -> None:
        """Look once a second when nobody else does, and keep what was recorded."""
        while True:
            await asyncio.sleep(EVERY_S / 4)
            if time.monotonic() - self._looked_at >= EVERY_S:
                await self.look()
            if time.monotonic() - self._kept_at >= KEPT_EVERY_S:
                await self.keep()

    async def keep(self) -> None:
        """Store what was recorded, for a process that takes over."""
        self._kept_at = time.monotonic()
        try:
            await self._parts.store.put(RECORD_KEY, self.recorder.encoded(), None)
        except BusError as error:
            self._complain("record_not_kept", error)
        else:
            self._complaints.discard("record_not_kept")

    def _complain(self, event: str, error: Exception) -> None:
        """Log it once, until it is well again: it is tried every second."""
        if event not in self._complaints:
            self._complaints.add(event)
            log.warning(event, why=str(error))

    async def start_witnesses(self, count: int) -> None:
        """Have them connected; nothing when they are there, or are not wanted. Raises TrunklineError."""
        if self._witnesses is None and self._parts.witnesses is not None:
            witnesses = self._parts.witnesses(count)
            await witnesses.start()
            self._witnesses = witnesses

    def witnesses_seen(self) -> WitnessSeen | None:
        """How the witnesses are; None without any."""
        return self._witnesses.now() if self._witnesses is not None else None

    async def finish_witnesses(self, *, back_s: float | None = None) -> WitnessFacts | None:
        """End them, and say what they saw in this process; None without any.

        Those that are away have `back_s` seconds to come back, by default what the witnesses give them.
        """
        if self._witnesses is not None:
            ending, self._witnesses = self._witnesses, None
            self._witness_facts = await (ending.finish() if back_s is None else ending.finish(back_s))
        return self._witness_facts

    def progress(self) -> Progress:
        """What a view shows now."""
        deploy, at = self.deploy, self._at()
        plan = deploy.plan
        moving = deploy.to_move >= 0
        source = plan.to_colour if deploy.state == "returning" else plan.from_colour
        return Progress(
            id=plan.id,
            state=deploy.state,
            from_colour=plan.from_colour,
            to_colour=plan.to_colour,
            at_s=at,
            since_s=at - deploy.since,
            spans=deploy.spans,
            to_move=deploy.to_move if moving else None,
            left=clients(self._fleet.colour(source)) if self._fleet is not None else 0,
            rate_per_s=deploy.rate if moving else 0.0,
            why=deploy.why,
            sample=self._sample,
            witnesses=self.witnesses_seen(),
            notes=deploy.notes,
        )
