"""Workers on other machines, as the coordinator sees them: finding agents, comparing clocks, hiring workers.

Rules:

- An agent that does not answer within `MEET_S` is not there, and the error shows how to start one.
- Clocks: each agent is asked for its monotonic clock `CLOCK_ASKS` times. Of the answer with the shortest round trip,
  half of that trip is the greatest error of the difference (Cristian's algorithm).
- While the run goes on each agent gets `Alive` every `ALIVE_S` seconds; silence of the agent for `GONE_S` seconds, or
  no subscriber to its subject, means that it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client

from trunkline.errors import BusUnavailable, SettingsError, StartError
from trunkline.load.model.messages import FromWorker
from trunkline.load.workers import hiring
from trunkline.load.workers.hiring import Subjects
from trunkline.load.workers.parcels import Incoming, Outgoing, connect, listen
from trunkline.load.workers.pipe import FROM_WORKER, BadMessage, ChannelClosed, pack, unpack
from trunkline.nats.address import NatsAddress, parse_address
from trunkline.nats.login import Connection, request
from trunkline.process.bounds import end_tasks
from trunkline.version import __version__

MEET_S: Final = 3.0
HIRE_S: Final = 20.0
CLOCK_ASKS: Final = 10
ALIVE_S: Final = 2.0
GONE_S: Final = 10.0


def clock_offset(asked: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """How far this clock is ahead of another, and the greatest error of that, in seconds.

    `asked` has for each request when it was sent and answered by this clock, and the other's time in the answer.
    """
    begun, answered, theirs = min(asked, key=lambda each: each[1] - each[0])
    half = (answered - begun) / 2
    return begun + half - theirs, half


class RemoteWorker:
    """A worker that an agent runs; its messages travel over NATS."""

    def __init__(self, number: int, agent: str, clock_offset_s: float, outgoing: Outgoing) -> None:
        self.number = number
        self.name = f"worker {number} on {agent}"
        self.clock_offset_s = clock_offset_s
        self.incoming = Incoming()
        self._outgoing = outgoing
        self._end = "ended"
        self._killing: asyncio.Task[None] | None = None

    async def send(self, message: msgspec.Struct) -> None:
        """Send it a message; raises BadMessage, and ChannelClosed when NATS is gone."""
        await self._outgoing.send(pack(message))

    async def receive(self) -> FromWorker | None:
        """Its next message, None at the end; raises BadMessage, and ChannelClosed when messages were lost."""
        parcel = await self.incoming.next()
        if parcel.end is not None:
            self._end = parcel.end
            return None
        return unpack(parcel.data, FROM_WORKER)

    async def fate(self) -> str:
        """How it ended, as the agent reports it."""
        return self._end

    def kill(self) -> None:
        """Have the agent end it; nothing more is taken from it."""
        self.incoming.fail(ChannelClosed("it was ended"))
        if self._killing is None:
            self._killing = asyncio.create_task(self._request_end())

    async def _request_end(self) -> None:
        with contextlib.suppress(BadMessage, ChannelClosed):
            await self._outgoing.send(b"", "the coordinator ended it")

    async def close(self) -> None:
        """Let go of it; the agent ends it, if it has not ended, when the run is over."""
        if self._killing is not None:
            await self._killing


class Agents:
    """The agents of a run; made by `Agents.connect`. `clock_error_s` is the greatest error of a clock difference."""

    def __init__(self, address: NatsAddress, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._connection: Connection | None = None
        self._offsets: dict[str, float] = {}
        self._workers: dict[str, list[RemoteWorker]] = {}
        self._run = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self.clock_error_s = 0.0

    @classmethod
    async def connect(cls, bus_url: str, prefix: str) -> Agents:
        """Connect to NATS; raises StartError, or SettingsError when the address is none."""
        if not bus_url or bus_url == "memory":
            raise SettingsError("--agents", allowed="agents are reached over NATS: name it with --bus nats://host:4222")
        address = parse_address(bus_url)
        agents = cls(address, prefix)
        try:
            agents._connection = await connect(address, "trunkline load", prefix)
        except BusUnavailable as error:
            raise StartError(str(error), "Is it running, and may this machine reach it?") from None
        agents._connection.lost.add_done_callback(lambda lost: agents._on_lost(lost.result()))
        return agents

    async def meet(self, names: Sequence[str]) -> None:
        """Ask all agents whether they are there, and for their clocks; raises StartError naming those that are not."""
        if len(set(names)) < len(names):
            raise SettingsError("--agents", value=",".join(names), allowed="each agent can be named once")
        answers = await asyncio.gather(*(self._greet(name) for name in names))
        missing = [name for name, answered in zip(names, answers, strict=True) if not answered]
        if missing:
            raise StartError(
                f"no answer within {MEET_S:g} s from {'agent' if len(missing) == 1 else 'agents'} {', '.join(missing)}",
                f"Start it there: trunkline load agent --bus {self._address.shown} --name {missing[0]} "
                "--allow HOST-TO-LOAD",
            )

    async def _greet(self, name: str) -> bool:
        """Learn an agent's clock; whether it answered at all."""
        asked: list[tuple[float, float, float]] = []
        with contextlib.suppress(TimeoutError, BusUnavailable):
            async with asyncio.timeout(MEET_S):
                while len(asked) < CLOCK_ASKS:
                    begun = time.monotonic()
                    try:
                        here = await self._ask(name, hiring.Hail(), MEET_S)
                    except nats_errors.NoRespondersError:
                        # It may be connecting at this moment.
                        await asyncio.sleep(0.1)
                        continue
                    if isinstance(here, hiring.Here):
                        asked.append((begun, time.monotonic(), here.clock))
        if not asked:
            return False
        self._offsets[name], error_s = clock_offset(asked)
        self.clock_error_s = max(self.clock_error_s, error_s)
        return True

    async def hire(self, name: str, run: str, numbers: Iterable[int]) -> list[RemoteWorker]:
        """Have an agent that was met start workers of these numbers; raises StartError when it declines."""
        self._run = run
        workers: list[RemoteWorker] = []
        # From here on it may have started some: `close` dismisses it whatever comes.
        self._workers[name] = workers
        try:
            client, subjects = self._connected(), Subjects(self._prefix, name)
            for number in numbers:
                outgoing = Outgoing(client, subjects.to(run, number))
                worker = RemoteWorker(number, name, self._offsets[name], outgoing)
                workers.append(worker)
                await listen(client, subjects.of(run, number), worker.incoming)
            wanted = hiring.Hire(run, tuple(worker.number for worker in workers), __version__)
            answer = await self._ask(name, wanted, HIRE_S)
        except (BusUnavailable, nats_errors.Error, OSError) as error:
            why = "it is gone" if isinstance(error, nats_errors.NoRespondersError) else str(error)
            raise StartError(f"agent {name} did not start workers: {why}", "See what it says on its machine.") from None
        if isinstance(answer, hiring.Declined):
            raise StartError(f"agent {name} declined: {answer.what}", answer.next_step)
        self._tasks.append(asyncio.create_task(self._keep_alive(name)))
        return workers

    async def close(self) -> None:
        """Dismiss all agents and let go of NATS."""
        self._closing = True
        await end_tasks(self._tasks)

        async def dismiss(name: str) -> None:
            with contextlib.suppress(BusUnavailable, nats_errors.NoRespondersError):
                await self._ask(name, hiring.Dismiss(self._run), MEET_S)

        if self._connection is not None:
            if self._connection.alive:
                await asyncio.gather(*(dismiss(name) for name in self._workers))
            await self._connection.close()

    async def _keep_alive(self, name: str) -> None:
        """Report to an agent that the coordinator is here, and notice when the agent is not."""
        answered = time.monotonic()
        while True:
            why = ""
            try:
                answer = await self._ask(name, hiring.Alive(self._run), ALIVE_S)
                answered = time.monotonic()
                if isinstance(answer, hiring.Declined) or answer.run != self._run:
                    why = f"agent {name} gave the run up, or was restarted"
            except nats_errors.NoRespondersError:
                why = f"agent {name} is gone"
            except BusUnavailable:
                if time.monotonic() - answered > GONE_S:
                    why = f"agent {name} has not answered for {GONE_S:g} s"
            if why:
                self._fail(self._workers[name], why)
                return
            await asyncio.sleep(ALIVE_S)

    async def _ask(self, name: str, wanted: hiring.Ask, timeout_s: float) -> hiring.Answer:
        """Raises BusUnavailable, and NoRespondersError when nothing subscribes to the agent's subject."""
        subject, packed = Subjects(self._prefix, name).ask, msgspec.msgpack.encode(wanted)
        message = await request(self._connected(), subject, packed, timeout_s)
        if len(message.data) > hiring.MAX_ANSWER:
            raise BusUnavailable(f"the answer has {len(message.data)} bytes, more than {hiring.MAX_ANSWER}")
        try:
            return hiring.ANSWER.decode(message.data)
        except msgspec.MsgspecError as error:
            raise BusUnavailable(f"the answer cannot be read: {error}") from None

    def _connected(self) -> Client:
        if self._connection is None or not self._connection.alive:
            raise BusUnavailable(f"NATS at {self._address.shown} is not connected")
        return self._connection.client

    def _on_lost(self, why: str) -> None:
        if not self._closing:
            workers = [worker for of_agent in self._workers.values() for worker in of_agent]
            self._fail(workers, f"the connection to NATS at {self._address.shown} ended ({why})")

    def _fail(self, workers: Iterable[RemoteWorker], why: str) -> None:
        for worker in workers:
            worker.incoming.fail(ChannelClosed(why))
