"""`trunkline load agent`: runs workers on this machine for coordinators on others, which are reached over NATS.

Rules:

- Any client that may publish on the NATS subjects can have this machine generate load, so only against the targets that
  its operator allowed, with at most `MAX_WORKERS` processes, for one run at a time, and never with code from the job.
- A job is checked here, before a worker sees it; a worker takes one job only.
- When the coordinator has been silent for `GONE_S` seconds, or NATS or messages are lost, the workers end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from trunkline.errors import BusUnavailable, SettingsError, StartError
from trunkline.load.model.messages import Failed, Job
from trunkline.load.workers import hiring, local
from trunkline.load.workers.allowed_targets import Place, is_allowed, parse_allowed
from trunkline.load.workers.hiring import Subjects
from trunkline.load.workers.local import LocalWorker
from trunkline.load.workers.parcels import Incoming, Outgoing, connect, listen
from trunkline.load.workers.pipe import TO_WORKER, BadMessage, ChannelClosed, pack, unpack
from trunkline.nats.address import parse_address
from trunkline.nats.link import Link
from trunkline.nats.login import Connection, is_own_cancellation, request
from trunkline.process.bounds import end_tasks
from trunkline.process.lifecycle import Signals
from trunkline.version import __version__

log = structlog.get_logger("trunkline.load")

GONE_S: Final = 10.0
MAX_WORKERS: Final = max(4, os.cpu_count() or 1)  # worker processes at once
_CHECK_S: Final = 0.25
_SAME_NAME_S: Final = 0.5


def refusal(job: Job, number: int, allowed: Sequence[Place]) -> Failed | None:
    """Why a job that came over NATS for the worker of this number is refused; None when it is not."""
    if job.scenario.protocol == "python" or job.flow_source:
        return Failed(
            number,
            "an agent runs no flow written in Python: it would be code from the network",
            "Write the flow as steps, or run it without agents.",
        )
    if not is_allowed(job.target.url, allowed):
        shown = ", ".join(host if port is None else f"{host}:{port}" for host, port in allowed) or "none"
        return Failed(
            number,
            f"the target is not one that this agent may load (allowed: {shown})",
            "Start the agent with --allow and the target's host, if that is right.",
        )
    return None


class _Assignment:
    """The workers of one run; relays messages between each one's pipe and NATS."""

    def __init__(self, client: Client, subjects: Subjects, run: str, allowed: Sequence[Place]) -> None:
        self.run = run
        self.heard_at = time.monotonic()
        self._client = client
        self._subjects = subjects
        self._allowed = allowed
        self._workers: list[tuple[LocalWorker, Outgoing]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def hire(self, number: int, command: Sequence[str]) -> None:
        """Start a worker and take messages for it; raises StartError."""
        worker = await LocalWorker.start(number, command)
        incoming, outgoing = Incoming(), Outgoing(self._client, self._subjects.of(self.run, number))
        self._workers.append((worker, outgoing))
        await listen(self._client, self._subjects.to(self.run, number), incoming)
        self._tasks.append(asyncio.create_task(self._to_worker(worker, incoming, outgoing)))
        self._tasks.append(asyncio.create_task(self._from_worker(worker, outgoing)))

    async def _to_worker(self, worker: LocalWorker, incoming: Incoming, outgoing: Outgoing) -> None:
        try:
            first = await incoming.next()
            job = unpack(first.data, TO_WORKER)
            if not isinstance(job, Job):
                raise BadMessage(f"a message {type(job).__name__} came where Job was due")
            refused = refusal(job, worker.number, self._allowed)
            if refused is not None:
                log.warning("job_refused", run=self.run, worker=worker.number, why=refused.what)
                await outgoing.send(pack(refused))
                worker.kill()
                return
            # The decoded job that was checked, not the bytes that came.
            await worker.send(job)
            while (parcel := await incoming.next()).end is None:
                await worker.pipe.send_packed(parcel.data)
            log.warning("worker_ended", run=self.run, worker=worker.number, why=parcel.end)
            worker.kill()
        except (BadMessage, ChannelClosed) as error:
            log.warning("worker_ended", run=self.run, worker=worker.number, why=str(error))
            with contextlib.suppress(BadMessage, ChannelClosed):
                await outgoing.send(pack(Failed(worker.number, str(error), "Start the run again.")))
            worker.kill()

    async def _from_worker(self, worker: LocalWorker, outgoing: Outgoing) -> None:
        with contextlib.suppress(ChannelClosed):
            try:
                while (data := await worker.pipe.receive_packed()) is not None:
                    await outgoing.send(data)
                end = await worker.fate()
            except BadMessage as error:
                worker.kill()
                end = str(error)
            await outgoing.send(b"", end)

    async def close(self, why: str = "") -> None:
        """End all workers; `why` is sent to the coordinator, unless empty."""
        await end_tasks(self._tasks)
        if why:
            for _, outgoing in self._workers:
                with contextlib.suppress(BadMessage, ChannelClosed):
                    await outgoing.send(b"", why)
        await asyncio.gather(*(worker.close() for worker, _ in self._workers))
        for worker, _ in self._workers:
            if worker.printed:
                log.info("worker_said", run=self.run, worker=worker.number, lines=worker.printed)


class Agent:
    """Answers coordinators over one connection to NATS; one that is silent for `gone_s` seconds counts as gone."""

    def __init__(
        self, client: Client, subjects: Subjects, allowed: Sequence[Place], *,
        command: Sequence[str] = local.COMMAND, max_workers: int = MAX_WORKERS, gone_s: float = GONE_S,
    ) -> None:  # fmt: skip
        self._client = client
        self._subjects = subjects
        self._allowed = allowed
        self._command = command
        self._max_workers = max_workers
        self._gone_s = gone_s
        self._assignment: _Assignment | None = None
        self._watch: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()

    async def start(self) -> None:
        """Answer from now on; raises StartError when another agent has this name."""
        subject, name = self._subjects.ask, self._subjects.agent
        try:
            # A connection that has ended fails at the next step as well.
            with contextlib.suppress(BusUnavailable, nats_errors.NoRespondersError):
                await request(self._client, subject, msgspec.msgpack.encode(hiring.Hail()), _SAME_NAME_S)
                raise StartError(f"an agent named {name} is there already", "Give this one another name with --name.")
            await self._client.subscribe(subject, cb=self._asked)
            await self._client.flush()
        except (nats_errors.Error, OSError, asyncio.CancelledError) as error:
            if is_own_cancellation(error):
                raise
            raise BusUnavailable(f"NATS was lost: {error}") from None
        self._watch = asyncio.create_task(self._watch_coordinator())

    async def close(self, why: str = "") -> None:
        """End the workers, if there are any."""
        if self._watch is not None:
            await end_tasks([self._watch])
        async with self._busy:
            await self._end_run(why)

    async def _end_run(self, why: str = "") -> None:
        assignment, self._assignment = self._assignment, None
        if assignment is not None:
            await assignment.close(why)
            log.info("run_ended", run=assignment.run)

    async def _watch_coordinator(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            assignment = self._assignment
            if assignment is not None and time.monotonic() - assignment.heard_at > self._gone_s:
                async with self._busy:
                    log.warning("coordinator_gone", run=assignment.run, silent_s=self._gone_s)
                    await self._end_run()

    async def _asked(self, message: Msg) -> None:
        # The clock first: time spent here counts as the way back.
        clock = time.monotonic()
        try:
            if not message.reply:  # JetStream's answers, which others can have sent to any subject, have none
                raise ValueError("it has no address for the answer")
            if len(message.data) > hiring.MAX_ANSWER:
                raise ValueError(f"it has {len(message.data)} bytes, more than {hiring.MAX_ANSWER}")
            wanted = hiring.ASK.decode(message.data)
        except ValueError as error:  # msgspec's errors are ValueErrors too
            log.warning("message_ignored", subject=message.subject, why=str(error)[:300])
            return
        declined: hiring.Declined | None = None
        match wanted:
            case hiring.Alive(run=run):
                if self._assignment is not None and self._assignment.run == run:
                    self._assignment.heard_at = clock
            case hiring.Hire():
                async with self._busy:
                    declined = await self._hire(wanted)
                clock = time.monotonic()
            case hiring.Dismiss(run=run):
                async with self._busy:
                    if self._assignment is not None and self._assignment.run == run:
                        await self._end_run()
        run = self._assignment.run if self._assignment is not None else ""
        answer = declined or hiring.Here(clock, __version__, run)
        with contextlib.suppress(nats_errors.Error, OSError):
            await message.respond(msgspec.msgpack.encode(answer))

    async def _hire(self, wanted: hiring.Hire) -> hiring.Declined | None:
        if wanted.version != __version__:
            what = f"it has version {__version__} and the coordinator {wanted.version}"
            return hiring.Declined(what, "Install the same version on both.")
        if self._assignment is not None:
            next_step = "Wait for its end (one that was killed ends within 10 s)."
            return hiring.Declined("it is busy with another run", next_step)
        if len(wanted.workers) > self._max_workers:
            what = f"{len(wanted.workers)} workers are asked for, and it starts {self._max_workers} at most"
            return hiring.Declined(what, "Ask for fewer, or use more agents.")
        assignment = _Assignment(self._client, self._subjects, wanted.run, self._allowed)
        try:
            for number in wanted.workers:
                await assignment.hire(number, self._command)
        except (StartError, nats_errors.Error, OSError) as error:
            await assignment.close()
            return hiring.Declined(str(error), "See what the agent says on its machine.")
        self._assignment = assignment
        assignment.heard_at = time.monotonic()
        log.info("run_taken", run=wanted.run, workers=len(wanted.workers))
        return None


async def run_agent(
    bus_url: str, prefix: str, name: str, allow: Sequence[str], *,
    command: Sequence[str] = local.COMMAND, gone_s: float = GONE_S,
) -> int:  # fmt: skip
    """Run an agent until SIGTERM or Ctrl-C; returns the exit code.

    `allow` has targets as `host` or `host:port`, at least one; a coordinator that is silent for `gone_s` seconds counts
    as gone. Raises SettingsError for an argument that cannot be used, StartError when NATS cannot be reached at the
    start or another agent has the name.
    """
    allowed = parse_allowed(allow)
    if not allowed:
        raise SettingsError("--allow", allowed="name at least one host that may be loaded from this machine")
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise SettingsError("--name", value=name[:120], allowed="1 to 100 printable characters")
    if not bus_url or bus_url == "memory":
        raise SettingsError("--bus", allowed="it must look like nats://host:4222")
    address = parse_address(bus_url)
    signals = Signals()
    present: _Presence | None = None

    async def connect_again() -> _Presence:
        nonlocal present
        if present is not None:
            # Its workers are gone before others can be hired.
            await present.gone.wait()
        connection = await connect(address, f"trunkline load agent {name}", prefix)
        agent = Agent(connection.client, Subjects(prefix, name), allowed, command=command, gone_s=gone_s)
        try:
            await agent.start()
        except BaseException as error:
            await agent.close()
            await connection.close()
            if present is not None and isinstance(error, StartError):
                # The agent of this name that is still there may be what NATS remembers of this one.
                raise BusUnavailable(str(error)) from None
            raise
        present = _Presence(connection, agent)
        log.info("agent_ready", name=name, address=address.shown, allowed=len(allowed), max_workers=MAX_WORKERS)
        return present

    link = Link(address, connect_again, log=log)
    link.start(lambda _: None)
    try:
        await link.first_try()
        if link.connection is None:
            raise StartError(link.why, "Is it running, and may this machine reach it?")
        await signals.first
    finally:
        # A second signal ends it without the orderly part.
        closing = asyncio.ensure_future(link.close("ended: its agent was told to stop"))
        await asyncio.wait([closing, signals.second], return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
    return 0


class _Presence:
    """An agent on one connection; `gone` is set when both are closed."""

    def __init__(self, connection: Connection, agent: Agent) -> None:
        self._connection = connection
        self._agent = agent
        self.lost = connection.lost
        self.gone = asyncio.Event()

    async def close(self, reason: str) -> None:
        """End the agent's workers, then the connection."""
        try:
            await self._agent.close(reason)
        finally:
            await self._connection.close(reason)
            self.gone.set()
