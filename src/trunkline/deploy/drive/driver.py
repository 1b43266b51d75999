"""Drives a deploy: observes, asks the machine, stores what it says, and then carries it out.

Rules:

- What a step makes of the deploy is stored before its actions are carried out, and orders are given only while the
  lease is certain. Whoever takes over finds the intent, looks at the fleet, and goes on.
- An action that fails does not end the deploy: the machine is told, and decides.
- A look at the fleet is made after the actions it has to show, and once a second beside long ones, for the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from trunkline.deploy.drive.recording import Kept, Recorder
from trunkline.deploy.drive.watching import Watcher
from trunkline.deploy.lease.lease import Lease
from trunkline.deploy.machine.pacing import pause_s
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.machine.preflight import refusals
from trunkline.deploy.machine.seen import (
    Action,
    AskReady,
    Drain,
    Ensure,
    Move,
    PersonsOrder,
    Preflight,
    PutTraffic,
    Remove,
    Seen,
    Smoke,
    StartWitnesses,
    Undrain,
)
from trunkline.deploy.machine.step import step
from trunkline.deploy.parts import Outcome, Parts
from trunkline.deploy.runtimes.base import Runtime, RuntimeNode
from trunkline.deploy.verdict.facts import MOST_LINES, DeployFacts
from trunkline.deploy.verdict.kept import keep
from trunkline.deploy.verdict.verdict import DeployVerdict, make_verdict
from trunkline.deploy.world.base import FleetUnreachable, NodeView
from trunkline.errors import BusUnavailable, TrunklineError
from trunkline.logs.logger import get_logger
from trunkline.process.bounds import end_tasks
from trunkline.protocol.deploys import OVER

log = get_logger("trunkline.deploy")

AWAY_S: Final = 1.0
"""A store that takes so long was away."""

LINES_S: Final = 5.0
"""Time in which the runtime has to show what nodes wrote last: their removal does not wait for more."""

LINES_OF: Final = 3
"""Nodes whose last lines are kept, those that ended by themselves first."""

LINE_CHARS: Final = 500


class Driver:
    """One process that drives a deploy.

    Args:
        lease: that this process holds.
        deploy: as it was stored.
        kept: what was recorded so far.
        runtime: that starts and stops nodes.
        taken_over: another process began it.
    """

    def __init__(
        self, parts: Parts, lease: Lease, deploy: Deploy, kept: Kept, runtime: Runtime, *, taken_over: bool
    ) -> None:
        self._parts = parts
        self._lease = lease
        if taken_over and deploy.switched and deploy.plan.witnesses and kept.witnesses is None:
            # Only a process that stops in order says what its witnesses saw.
            deploy = deploy.noted("what the witnesses had seen ended with the process that ran them")
        self._deploy = deploy
        self._runtime = runtime
        self._entered = taken_over
        self._order: PersonsOrder = ""
        self._order_number = ""
        self._unstored_s = 0.0
        self._progress_at = -math.inf
        started = datetime.fromisoformat(lease.status.started_at).timestamp()
        # The clock of the deploy goes on where it was, whatever the wall clock does meanwhile.
        self._begun = time.monotonic() - max(0.0, time.time() - started, deploy.since)
        self._watcher = Watcher(parts, Recorder(kept), deploy, self.at)

    def at(self) -> float:
        """Seconds since the deploy began."""
        return time.monotonic() - self._begun

    def order(self, order: PersonsOrder, number: str = "") -> None:
        """A person wants it rolled back, or ended; heard at the next step. `number` tells orders from each other."""
        self._order, self._order_number = order, number

    async def drive(self) -> Outcome:
        """Until it is over or stuck, or `Parts.stop` is set; raises LeaseLost."""
        beside = asyncio.create_task(self._watcher.keep_looking())
        try:
            seen = await self._observe(Seen(self.at()))
            while True:
                before = self._deploy.state
                self._deploy, actions = step(self._deploy, seen)
                if self._deploy.state in OVER:
                    return await self._end()
                await self._store()
                self._show(changed=self._deploy.state != before)
                if self._deploy.state == "stuck" and before == "stuck":
                    return await self._end()
                if self._parts.stop.is_set():
                    return await self._stop()
                found = await self._carry_out(actions)
                if self._deploy.state == before:
                    await self._pause()
                seen = await self._observe(found)
        finally:
            await end_tasks([beside])
            await self._watcher.finish_witnesses(back_s=0.0)

    async def _observe(self, found: Seen) -> Seen:
        """What there is to see, beside what actions have found."""
        fleet = await self._watcher.look()
        processes, why = await self._processes()
        entered, self._entered = self._entered, False
        order, self._order = self._order, ""
        unstored_s, self._unstored_s = self._unstored_s, 0.0
        return msgspec.structs.replace(
            found,
            at=self.at(),
            # A runtime that does not answer hides whether nodes are gone: nothing is decided without it.
            fleet=fleet if not why else None,
            processes=processes,
            counts=self._watcher.counts,
            failed=found.failed or why,
            witnesses=self._watcher.witnesses_seen(),
            away=self._watcher.recorder.away(),
            unstored_s=unstored_s,
            order=order,
            order_number=self._order_number,
            entered=entered,
        )

    async def _processes(self) -> tuple[tuple[RuntimeNode, ...] | None, str]:
        if not self._runtime.starts:
            return None, ""
        if self._deploy.state not in ("starting", "undoing", "returning", "retiring"):
            return (), ""
        plan = self._deploy.plan
        colour = plan.from_colour if self._deploy.state == "retiring" else plan.to_colour
        try:
            return await self._runtime.list(colour), ""
        except TrunklineError as error:
            return (), str(error)

    async def _store(self) -> None:
        deploy, status = self._deploy, self._lease.status
        record = msgspec.Raw(msgspec.json.encode(deploy))
        if status.state == deploy.state and status.record == record:
            return
        if status.state != deploy.state:
            log.info("deploy", id=deploy.plan.id, state=deploy.state, colour=deploy.plan.to_colour, why=deploy.why)
        began = time.monotonic()
        await self._lease.write(state=deploy.state, record=record)
        took_s = time.monotonic() - began
        self._unstored_s = took_s if took_s >= AWAY_S else 0.0
        self._watcher.deploy = deploy
        if status.state != deploy.state:
            await self._watcher.keep()

    async def _carry_out(self, actions: Sequence[Action]) -> Seen:
        """Give the orders, and return what came back."""
        found, asked = Seen(self.at()), 0
        for action in actions:
            if not self._lease.sure:
                return found
            try:
                match action:
                    case Preflight():
                        found = msgspec.structs.replace(found, refusals=await self._preflight())
                    case PutTraffic(expect, weights, force):
                        await self._parts.world.put_traffic(expect, weights, force=force)
                    case Ensure(colour, count):
                        if self._runtime.starts:
                            await self._runtime.ensure(colour, count, self._deploy.plan.what)
                    case AskReady(nodes):
                        answers = await asyncio.gather(*(self._unready(node) for node in nodes))
                        found = msgspec.structs.replace(found, unready="; ".join(filter(None, answers)))
                    case Smoke():
                        found = msgspec.structs.replace(found, smoked=await self._parts.smoke(action))
                    case StartWitnesses(count):
                        await self._watcher.start_witnesses(count)
                    case Move(node, count, over_ms):
                        moving = await self._parts.world.move(node, count, over_ms)
                        self._watcher.recorder.ordered(node, moving)
                        asked += moving
                        found = msgspec.structs.replace(found, asked=asked)
                    case Drain(node, over_ms):
                        await self._parts.world.drain(node, over_ms)
                    case Undrain(node):
                        await self._parts.world.undrain(node)
                    case Remove(colour):
                        if colour == self._deploy.plan.to_colour:
                            await self._keep_last_lines(colour)
                        await self._runtime.remove(colour)
            except TrunklineError as error:
                log.warning("action_failed", id=self._deploy.plan.id, action=type(action).__name__, why=str(error))
                # A table that could not be written now is written by a later step, which does not see it yet.
                if not (isinstance(action, PutTraffic) and isinstance(error, FleetUnreachable)):
                    found = msgspec.structs.replace(found, failed=str(error))
        return found

    async def _keep_last_lines(self, colour: str) -> None:
        """Record what nodes that are removed for a fault wrote last."""
        recorder = self._watcher.recorder
        if recorder.kept.last_lines:
            return
        lines: dict[str, tuple[str, ...]] = {}
        with contextlib.suppress(TrunklineError, TimeoutError):
            async with asyncio.timeout(LINES_S):
                nodes = await self._runtime.list(colour)
                for node in sorted(nodes, key=lambda node: -node.failures)[:LINES_OF]:
                    if last := await self._runtime.logs(node.name, MOST_LINES):
                        lines[node.name] = tuple(line[:LINE_CHARS] for line in last)
        recorder.kept = msgspec.structs.replace(recorder.kept, last_lines=lines)

    async def _unready(self, node: NodeView) -> str:
        why = await self._parts.world.ready(node)
        return f"{node.name or node.url}: {why}" if why else ""

    async def _preflight(self) -> tuple[str, ...] | None:
        plan = self._deploy.plan
        fleet = await self._watcher.look()
        if fleet is None:
            return None
        why = await self._check()
        if why is None:
            return None
        others = (why, await self._parts.preflight(plan.witnesses))
        return refusals(plan, fleet, starts=self._runtime.starts, others=others)

    async def _check(self) -> str | None:
        """What the runtime has against it; None when `Parts.stop` was set before that was known.

        It may pull an image, which takes minutes, and nothing is begun yet.
        """
        plan = self._deploy.plan
        checking = asyncio.create_task(self._runtime.check(plan.to_colour, plan.what))
        stopping = asyncio.create_task(self._parts.stop.wait())
        try:
            await asyncio.wait({checking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return checking.result() if checking.done() else None
        finally:
            await end_tasks([checking, stopping])

    async def _pause(self) -> None:
        wait_s = pause_s(self._parts.tick_s, at=self.at(), wave_ends=self._deploy.wave_ends)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._parts.stop.wait()

    def _show(self, *, changed: bool) -> None:
        now = self.at()
        if not changed and now - self._progress_at < 1.0:
            return
        self._progress_at = now
        self._parts.on_progress(self._watcher.progress())

    async def _end(self) -> Outcome:
        """Judge it, and only then store that it is over: who dies before leaves the verdict to the next one."""
        verdict = make_verdict(await self._facts(), self._parts.thresholds)
        await self._keep(verdict)
        await self._store()
        self._show(changed=True)
        await self._lease.give_up()
        return Outcome(verdict.facts.id, self._deploy.state, verdict.facts.why, verdict)

    async def _keep(self, verdict: DeployVerdict) -> None:
        while True:
            try:
                return await keep(self._parts.store, verdict)
            except BusUnavailable as error:
                # The state is stored by the same store: there is nothing to do before it is back.
                log.warning("verdict_not_kept", id=verdict.facts.id, why=str(error))
                await asyncio.sleep(self._parts.tick_s)

    async def _stop(self) -> Outcome:
        """Leave it as it is, for whoever resumes it."""
        facts = await self._facts()
        recorder = self._watcher.recorder
        recorder.kept = msgspec.structs.replace(recorder.kept, witnesses=facts.witnesses)
        await self._watcher.keep()
        await self._lease.give_up()
        verdict = make_verdict(facts, self._parts.thresholds)
        return Outcome(facts.id, self._deploy.state, self._deploy.why, verdict, interrupted=True)

    async def _facts(self) -> DeployFacts:
        witnesses = await self._watcher.finish_witnesses()
        await self._watcher.look()
        return self._watcher.recorder.facts(self._deploy, self.at(), self._lease.status.started_at, witnesses)
