"""Leads the workers of a run through it, on this machine and on others, and puts their counts together.

Rules:

- Before `Begin` every worker must be ready; a fault until then is a `StartError`. Afterwards the run goes on with the
  workers that are left, and each fault is in the outcome, which then has not passed.
- Everything awaited has a time-out (`Patience`); a worker that exceeds one is ended and counts as missing.
- The first Ctrl-C (`stop`) ends the stages and everything else happens as planned; the second (`kill`) ends all now.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Final

import msgspec

from trunkline.errors import SettingsError, StartError
from trunkline.load.model import messages
from trunkline.load.model.positions import Holes, in_pieces, merge_ends
from trunkline.load.model.report import Second
from trunkline.load.model.run_plan import Outcome, RunPlan
from trunkline.load.model.tally import Beat, Sum
from trunkline.load.scenario.shapes import ConnectionPlan
from trunkline.load.workers import local
from trunkline.load.workers.local import LocalWorker
from trunkline.load.workers.member import Member, Worker
from trunkline.load.workers.pipe import BadMessage, ChannelClosed
from trunkline.load.workers.remote import Agents
from trunkline.load.workers.timeline import Timeline
from trunkline.process.bounds import end_tasks

BEGINS_IN_S: Final = 0.3
_TICK_S: Final = 0.2
_SEND_S: Final = 10.0

SHOWN_AFTER_S: Final = 1.0
"""A last wait is announced once it has lasted so long: most runs are settled before."""

Listener = Callable[[Second, Sum], None]
"""Gets a second when it is complete, and the run so far, which goes on growing."""

OnPhase = Callable[[str], None]
"""Gets what the run does now, beside its stages."""


class _Killed(Exception):
    """`kill` was called, or `stop` before the run had begun."""


class Coordinator:
    """One run; use it once.

    `worker_command` starts a worker process on this machine; `began_at` is when the stages begin, in seconds of
    `time.monotonic()`, None before that is known.
    """

    def __init__(
        self,
        plan: RunPlan,
        listener: Listener,
        on_phase: OnPhase = lambda _: None,
        *,
        worker_command: Sequence[str] = local.COMMAND,
    ) -> None:
        self.began_at: float | None = None
        self._plan = plan
        self._listener = listener
        self._on_phase = on_phase
        self._command = worker_command
        shape = ConnectionPlan(plan.scenario.stages)
        self._timeline = Timeline(plan.workers_in_all, shape.stage, shape.target)
        self._members: list[Member] = []
        self._agents: Agents | None = None
        self._changed = asyncio.Event()
        self._stop_asked_at: float | None = None
        self._stop_sent = False
        self._kill_asked = False
        self._given_up = asyncio.Event()
        self._stages_ended_at: float | None = None
        self._failures: list[str] = []
        self._holes = Holes()

    def stop(self) -> None:
        """End the stages now; `run` then goes on to its end in order. Before the stages began, it ends at once."""
        if self._stop_asked_at is None:
            self._stop_asked_at = time.monotonic()
        if self.began_at is None:
            self._given_up.set()
        self._changed.set()

    def kill(self) -> None:
        """End all workers now; `run` returns what was counted until then."""
        self._kill_asked = True
        for member in self._members:
            member.worker.kill()
        self._given_up.set()
        self._changed.set()

    async def run(self) -> Outcome:
        """Do the run; raises StartError when a worker or agent is not there, SettingsError for an impossible plan."""
        plan = self._plan
        if plan.workers_in_all < 1:
            raise SettingsError("workers", value="0", allowed="a run needs at least one worker or agent")
        if plan.agents.names and (plan.scenario.protocol == "python" or plan.flow_source):
            raise SettingsError(
                "--agents", value=",".join(plan.agents.names),
                allowed="a flow in Python runs on this machine alone; write it as steps, or leave the agents out",
            )  # fmt: skip
        try:
            await self._unless_given_up(self._start_workers())
            await self._stages()
            await self._settle()
            await self._ask_offsets()
        except _Killed:
            pass
        finally:
            await self._close()
        return self._outcome()

    async def _start_workers(self) -> None:
        """Start all, give each its job, wait until all are ready; raises StartError."""
        plan = self._plan
        for number in range(plan.workers):
            self._join(await LocalWorker.start(number, self._command))
        if plan.agents.names:
            self._agents = await Agents.connect(plan.agents.bus_url, plan.agents.prefix)
            await self._agents.meet(plan.agents.names)
            for place, agent in enumerate(plan.agents.names):
                first = plan.workers + place * plan.workers_each
                for worker in await self._agents.hire(agent, plan.run, range(first, first + plan.workers_each)):
                    self._join(worker)
        for member in self._members:
            job = messages.Job(
                run=plan.run, target=plan.target, scenario=plan.scenario, worker=member.worker.number,
                workers=plan.workers_in_all, seed=plan.seed, clock_offset_s=member.worker.clock_offset_s,
                settle_s=plan.settle_s, flow_source=plan.flow_source,
            )  # fmt: skip
            try:
                await self._send(member, job)
            except BadMessage as error:
                raise StartError(f"the scenario is too long for a worker: {error}", "Make it shorter.") from None
        deadline = time.monotonic() + plan.patience.ready_s
        await self._until(lambda member: member.ready, lambda: deadline, "was not ready in time")

    async def _stages(self) -> None:
        """From Begin until every worker has answered Sent."""
        plan, patience = self._plan, self._plan.patience
        self._give_up_if_asked()
        self.began_at = began_at = time.monotonic() + BEGINS_IN_S
        await self._send_all([messages.Begin(began_at)])
        planned_end = began_at + plan.scenario.duration_s

        def deadline() -> float:
            asked = self._stop_asked_at
            return (planned_end if asked is None else min(planned_end, asked)) + patience.sent_s

        await self._until(lambda member: member.sent, deadline, "did not come to the end of its stages")
        if self._stages_ended_at is None:
            self._stages_ended_at = time.monotonic()

    async def _settle(self) -> None:
        """From Settle until every worker has answered Done."""
        plan, patience = self._plan, self._plan.patience
        ends = merge_ends(member.ends for member in self._members)
        await self._send_all([messages.Settle(piece, more) for piece, more in in_pieces(ends)])
        longest_s = messages.LONGEST_SETTLE * plan.settle_s
        text = (
            f"waiting for what has not come yet: until nothing comes for {plan.settle_s:g} s, {longest_s:g} s at most"
        )
        announcing = asyncio.get_running_loop().call_later(SHOWN_AFTER_S, self._on_phase, text)
        deadline = time.monotonic() + longest_s + patience.done_s
        try:
            await self._until(lambda member: member.done is not None, lambda: deadline, "did not settle in time")
        finally:
            announcing.cancel()

    async def _ask_offsets(self) -> None:
        """Request the offsets of the channels that have holes, if there are any; then the workers end."""
        requests = self._holes.requests()
        if requests:
            await self._send_all(requests)
            deadline = time.monotonic() + self._plan.patience.offsets_s
            await self._until(lambda member: member.sent_offsets, lambda: deadline, "did not send what it published")
        for member in self._members:
            member.may_end = True
        if not requests:
            await self._send_all([messages.SendOffsets(())])

    async def _close(self) -> None:
        readers = [member.reader for member in self._members if member.reader is not None]
        await end_tasks(readers)
        await asyncio.gather(*(member.worker.close() for member in self._members), return_exceptions=True)
        if self._agents is not None:
            await self._agents.close()
        self._show(self._timeline.finish())

    def _outcome(self) -> Outcome:
        # By the last that came to their end: the wait for one that hangs is not in the rates of the others.
        ended_at, began_at = self._stages_ended_at or time.monotonic(), self.began_at
        workers = [member.worker for member in self._members]
        return Outcome(
            sum=self._timeline.sum, seconds=self._timeline.seconds, holes=self._holes.holes,
            more_holes=self._holes.more, offsets=self._holes.published(), failures=self._failures,
            missing_workers=tuple(
                member.worker.number for member in self._members if began_at is not None and member.done is None
            ),
            interrupted=self._kill_asked or self._stop_asked_at is not None,
            printed=[
                f"{each.name}: {line}" for each in workers if isinstance(each, LocalWorker) for line in each.printed
            ],
            lasted_s=max(0.0, ended_at - began_at) if began_at is not None else 0.0,
            clock_error_s=self._agents.clock_error_s if self._agents is not None else 0.0,
        )  # fmt: skip

    def _join(self, worker: Worker) -> None:
        member = Member(worker, time.monotonic())
        member.reader = asyncio.create_task(self._read(member))
        self._members.append(member)

    async def _send_all(self, parts: Sequence[msgspec.Struct]) -> None:
        async def send(member: Member) -> None:
            for message in parts:
                await self._send(member, message)

        await asyncio.gather(*(send(member) for member in self._members if not member.lost))

    async def _send(self, member: Member, message: msgspec.Struct) -> None:
        # The reader of a worker that is gone notices that, with the reason.
        with contextlib.suppress(ChannelClosed):
            try:
                async with asyncio.timeout(_SEND_S):
                    await member.worker.send(message)
            except TimeoutError:
                self._lose(member, f"has taken no message for {_SEND_S:g} s")

    async def _read(self, member: Member) -> None:
        try:
            while (message := await member.worker.receive()) is not None:
                self._take(member, message)
            why = await member.worker.fate()
        except (BadMessage, ChannelClosed) as error:
            why = f"was lost: {error}"
        if not member.may_end:
            self._lose(member, why)
        self._changed.set()

    def _take(self, member: Member, message: messages.FromWorker) -> None:
        member.heard_at = now = time.monotonic()
        match message:
            case Beat():
                if self.began_at is not None:
                    message.worker = member.worker.number
                    self._timeline.add(message, now - self.began_at)
                return
            case messages.Ready():
                member.ready = True
            case messages.Sent():
                member.ends.update(message.ends)
                member.sent = not message.more
                if member.sent:
                    self._stages_ended_at = now
            case messages.Done():
                if member.done is None:
                    member.done = message
                    self._holes.add(message)
                    self._timeline.left(member.worker.number)
            case messages.Offsets():
                self._holes.answered(message)
                if message.last:
                    member.sent_offsets = member.may_end = True
            case messages.Failed():
                member.next_step = message.next_step
                self._lose(member, f"failed: {message.what}")
        self._changed.set()

    def _lose(self, member: Member, why: str) -> None:
        if member.lost:
            return
        member.lost = True
        member.worker.kill()
        self._timeline.left(member.worker.number)
        if not self._kill_asked:
            self._failures.append(f"{member.worker.name} {why}")
        self._changed.set()

    async def _until(self, reached: Callable[[Member], bool], deadline: Callable[[], float], otherwise: str) -> None:
        """Wait until all workers that are left have reached a point; the run is kept going meanwhile."""
        running = self.began_at is not None
        for member in self._members:
            member.heard_at = time.monotonic()
        while True:
            self._changed.clear()
            self._give_up_if_asked()
            if not running and (lost := [member for member in self._members if member.lost]):
                next_step = lost[0].next_step or "See what the worker printed, and start the run again."
                raise StartError("; ".join(self._failures), next_step)
            waiting = [member for member in self._members if not member.lost and not reached(member)]
            if not waiting:
                return
            now = time.monotonic()
            if self.began_at is not None:
                if self._stop_asked_at is not None and not self._stop_sent:
                    self._stop_sent = True
                    await self._send_all([messages.Stop()])
                token = self._plan.token_file.renewed(now) if self._plan.token_file is not None else None
                if token is not None:
                    await self._send_all([messages.NewToken(token)])
                self._show(self._timeline.due(now - self.began_at))
            for member in waiting:
                if now > deadline():
                    self._lose(member, otherwise)
                elif running and now - member.heard_at > self._plan.patience.silent_s:
                    self._lose(member, f"has sent nothing for {self._plan.patience.silent_s:g} s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._changed.wait()

    async def _unless_given_up(self, start: Coroutine[None, None, None]) -> None:
        """Start, unless `stop` or `kill` is called meanwhile."""
        doing, given_up = asyncio.create_task(start), asyncio.create_task(self._given_up.wait())
        try:
            await asyncio.wait([doing, given_up], return_when=asyncio.FIRST_COMPLETED)
            self._give_up_if_asked()
            await doing
        finally:
            for task in (doing, given_up):
                task.cancel()
            await asyncio.gather(doing, given_up, return_exceptions=True)

    def _give_up_if_asked(self) -> None:
        if self._given_up.is_set():
            raise _Killed

    def _show(self, seconds: Iterable[Second]) -> None:
        for second in seconds:
            self._listener(second, self._timeline.sum)
