"""Flows in Python: the user's `async def flow(session)` runs on each connection, again and again.

Rules:

- The file is compiled and executed in the worker alone, as its user's own code.
- An exception of a flow is counted with its type and line and ends the round, never the worker. The first trace of a
  run is logged, without the exception's text, which may hold what was received.
- `FlowEnded` is raised in a flow whose connection is gone. It is no `Exception`, so that a flow which counts its errors
  does not count the loss of a connection too, or spin on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final

import structlog

from trunkline.errors import StartError
from trunkline.load.client.alarm import Callback, Moments
from trunkline.load.client.protocols.dialogue import Dialogue
from trunkline.load.client.session import Shared
from trunkline.load.model.expectations import Expectation, message_type
from trunkline.load.model.messages import Hole, Position

MAX_WAITING: Final = 1000  # messages in an inbox; more push the oldest out
AFTER_ERROR_S: Final = 1.0  # how long a flow rests after a round that failed
SHORTEST_ROUND_S: Final = 0.001
"""The least duration of a round: one that waits for nothing must not starve the others."""

TIMER_S: Final = 0.002
"""Added to timers of the loop, which may be a little early and would then be set again and again."""

MAX_REASON: Final = 100

log = structlog.get_logger("trunkline.load")

_expectation = lru_cache(maxsize=1000)(Expectation)


class FlowEnded(BaseException):
    """The connection of this flow is gone, or the run is over; the flow starts again when it is connected again."""


class NoAnswer(Exception):
    """What a flow waited for did not come in time; the text names it."""


class FlowClient:
    """What a flow gets: one connection of one client."""

    def __init__(self, session: FlowSession) -> None:
        self.number = session.number  # the client's number in the whole run
        self.round = 0  # how often the flow was run before by this client, over all its connections
        self.run = session.shared.job.run  # the run's name
        self._session = session
        self._inbox: deque[str | bytes] = deque()
        self._overflowed = False
        self._wake: asyncio.Future[None] | None = None
        self._moment = session.shared.now()
        self._timing = 0
        self._receiving = 0
        self._over = False
        self._gone = False

    async def send(self, message: str | bytes) -> None:
        """Send one message: `str` as text, `bytes` as a binary one."""
        if self._over:
            await self._leave()
        binary = isinstance(message, bytes)
        self._session.send(message if isinstance(message, bytes) else message.encode(), binary=binary)

    async def receive(self, timeout: float = 5.0) -> str | bytes:  # noqa: ASYNC109  # one number reads best in a flow
        """The next message in order of arrival; one that came before the call counts.

        Raises NoAnswer when none comes within `timeout` seconds, FlowEnded when the connection is gone.
        """
        return await self._take(timeout, None)

    async def expect(self, what: str, timeout: float = 5.0) -> str | bytes:  # noqa: ASYNC109  # as above
        """The next message of a type, or in which `/a regular expression/` is found; others before it are discarded.

        Raises as `receive` does, and ValueError when the expression is malformed.
        """
        return await self._take(timeout, _expectation(what))

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time that the block takes as one round trip, unless it ends with an exception."""
        began = self._session.shared.now()
        self._timing += 1
        try:
            yield
            self._session.shared.tally.round_trip.record(self._session.shared.now() - began)
        finally:
            self._timing -= 1

    async def pause(self, seconds: float) -> None:
        """Rest until `seconds` after the intended end of the last pause, so that late answers are caught up."""
        if self._over:
            await self._leave()
        self._moment += seconds
        now = self._session.shared.now
        if self._moment > now():
            wake = self._new_wake()
            self._session.call_at(self._moment, lambda _: _set(wake))
            await self._woken(wake)
            self._session.shared.tally.behind(now() - self._moment)
        else:
            await asyncio.sleep(0)

    def error(self, reason: str) -> None:
        """Count an error that the flow itself has found."""
        self._session.shared.tally.error(f"flow: {reason[:MAX_REASON]}")

    @property
    def awaits_answer(self) -> bool:
        """Whether it waits for a message, or measures something."""
        return bool(self._timing or self._receiving)

    def put(self, message: str | bytes) -> None:
        """A message has come."""
        if len(self._inbox) >= MAX_WAITING:
            self._inbox.popleft()
            if not self._overflowed:
                self._overflowed = True
                self.error(f"more than {MAX_WAITING} messages wait to be received; the oldest are dropped")
        self._inbox.append(message)
        if self._receiving:
            self._awake(None)

    def end(self) -> bool:
        """Let every call raise `FlowEnded` from now on; False: the flow is not waiting in one of these methods."""
        self._over = self._gone = True
        return self._awake(FlowEnded())

    def finish_soon(self) -> None:
        """Let the flow receive the answer that it waits for, and nothing more."""
        self._over = True

    def _awake(self, error: BaseException | None) -> bool:
        wake = self._wake
        if wake is None or wake.done():
            return False
        if error is None:
            wake.set_result(None)
        else:
            wake.set_exception(error)
        return True

    async def _leave(self) -> None:
        # A flow that catches even this would never give the loop back.
        await asyncio.sleep(0)
        raise FlowEnded

    def _new_wake(self) -> asyncio.Future[None]:
        if self._wake is not None:
            raise RuntimeError("a flow waits for one thing at a time")
        self._wake = asyncio.get_running_loop().create_future()
        return self._wake

    async def _woken(self, wake: asyncio.Future[None]) -> None:
        try:
            await wake
        finally:
            self._wake = None

    async def _take(self, timeout_s: float, expectation: Expectation | None) -> str | bytes:
        now = self._session.shared.now
        until = now() + timeout_s
        self._receiving += 1
        try:
            while True:
                while self._inbox:
                    message = self._inbox.popleft()
                    if expectation is None or _matches(expectation, message):
                        return message
                if self._gone:
                    await self._leave()
                wait = until - now()
                if wait <= 0:
                    what = f"{expectation.text} " if expectation is not None else ""
                    raise NoAnswer(f"no answer: {what}within {timeout_s:g} s")
                wake = self._new_wake()
                timer = asyncio.get_running_loop().call_later(wait + TIMER_S, self._awake, None)
                try:
                    await self._woken(wake)
                finally:
                    timer.cancel()
        finally:
            self._receiving -= 1


def _matches(expectation: Expectation, message: str | bytes) -> bool:
    if isinstance(message, bytes):
        return expectation.matches(None, message)
    payload = message.encode()
    return expectation.matches(message_type(payload), payload)


def _set(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)


def _line(trace: TracebackType | None, file: str) -> int:
    return next((line for frame, line in reversed([*traceback.walk_tb(trace)]) if frame.f_code.co_filename == file), 0)


FlowFunction = Callable[[FlowClient], Awaitable[None]]


@dataclass
class Flow:
    """The user's function, its file as named in the scenario, and whether a trace of it was logged."""

    run: FlowFunction
    file: str
    traced: bool = False


@lru_cache(maxsize=4)
def load_flow(source: str, file: str) -> Flow:
    """Compile and execute a flow's text; raises StartError when that fails or it has no `async def flow(session)`."""
    names: dict[str, object] = {"__name__": "flow", "__file__": file}
    try:
        exec(compile(source, file, "exec"), names)  # noqa: S102  # the user's own file, run on the user's machine
    except SyntaxError as error:
        raise StartError(f"{file}, line {error.lineno}: {error.msg}", "Correct the file.") from None
    except (Exception, SystemExit) as error:
        line = _line(error.__traceback__, file)
        raise StartError(f"{file}, line {line}: {type(error).__name__}: {error}", "Correct the file.") from None
    function = names.get("flow")
    if not asyncio.iscoroutinefunction(function):
        raise StartError(
            f"{file} has no `async def flow(session)`", "Define one; docs/load-scenarios.md has an example."
        )
    return Flow(function, file)


class FlowSession(Dialogue):
    """Runs the flow while connected."""

    __slots__ = ("_client", "_flow", "_over", "_round", "_task")

    def __init__(self, number: int, shared: Shared, moments: Moments) -> None:
        super().__init__(number, shared, moments)
        self._flow = load_flow(shared.job.flow_source, shared.scenario.flow)
        self._client: FlowClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._round = 0
        self._over = False

    def opened(self) -> None:
        """Start the flow."""
        super().opened()
        if not self._over:
            self._client = FlowClient(self)
            self._task = asyncio.get_running_loop().create_task(self._run(self._client))

    def message(self, payload: bytes, binary: bool) -> None:
        """Put it into the flow's inbox."""
        self.hear(payload, binary)
        if self._client is not None:
            self._client.put(payload if binary else payload.decode(errors="replace"))

    def ended(self, code: int, reason: str) -> None:
        """End the flow until the next connection."""
        super().ended(code, reason)
        self.shared.tally.totals.abandoned += self._end_flow()

    def settled(self, ends: dict[str, Position]) -> bool:
        """From the first call on, the flow ends as soon as it does anything but wait for an answer."""
        self._over = True
        client, task = self._client, self._task
        if client is not None and task is not None and not task.done():
            client.finish_soon()
            if client.awaits_answer:
                return False
            self._end_flow()
        return self.link is None or self.channels_reached(ends)

    def call_at(self, moment: float, callback: Callback) -> None:
        """Call back at a moment."""
        self._moments.call_at(moment, callback)

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """Count the answer that is missing, and return the holes that are left."""
        self._over = True
        self.never_answered(self._end_flow())
        return super().finish(ends)

    def _end_flow(self) -> int:
        """End the flow; returns how many answers it waited for."""
        client, task = self._client, self._task
        self._client = None
        if client is None or task is None or task.done():
            return 0
        awaited = int(client.awaits_answer)
        if not client.end():
            task.cancel()
        return awaited

    async def _run(self, client: FlowClient) -> None:
        tally, now = self.shared.tally, self.shared.now
        while self._client is client and not self._over:
            client.round, self._round = self._round, self._round + 1
            began = now()
            rest = 0.0
            try:
                await self._flow.run(client)
            except FlowEnded:
                return
            except NoAnswer as error:
                tally.error(str(error)[:MAX_REASON])
                rest = AFTER_ERROR_S
            except (Exception, SystemExit) as error:
                self._report(error)
                rest = AFTER_ERROR_S
            rest = max(rest, SHORTEST_ROUND_S - (now() - began))
            if rest > 0:
                await asyncio.sleep(rest)

    def _report(self, error: BaseException) -> None:
        flow = self._flow
        line = _line(error.__traceback__, flow.file)
        self.shared.tally.error(f"flow: {type(error).__name__} in line {line}"[:MAX_REASON])
        if not flow.traced:
            flow.traced = True
            frames = traceback.extract_tb(error.__traceback__)
            log.warning(
                "a flow went wrong; further traces are not logged",
                error=type(error).__name__,
                trace=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
            )
