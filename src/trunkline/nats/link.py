"""Keeps one connection to NATS for as long as its owner is open.

Rules:

- A connection counts as up only when the owner's `connect` has made it ready: streams exist, subscriptions are back.
- Between connections there is none: callers get BusUnavailable at once, and nothing is kept for later.
- Waiting between tries doubles up to two seconds and is drawn at random, so that the parts of a fleet do not return in
  step. A connection that did not hold counts as a failed try.
- `close` ends it for good, also when the cancellation of a try is lost in the client library.
- A server that is gone without closing its sockets is noticed by the client's pings, or by the owner's probe, which is
  sent every two seconds and given twice that: it may be our own loop that was late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, Protocol, TypeVar

from trunkline.errors import BusError, BusUnavailable
from trunkline.nats.address import NatsAddress
from trunkline.process.bounds import end_tasks

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

PROBE_EVERY_S: Final = 2.0
FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 2.0
CLOSING_S: Final = 5.0
"""Time that lost connections have to close when the link itself is closed; what is left ends with the process."""

HELD_S: Final = 10.0
"""A connection that was up this long starts the waiting again from the shortest."""


class Kept(Protocol):
    """What a link keeps: something with an end that can be given up."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done with the reason when the connection has ended."""

    async def close(self, reason: str) -> None:
        """Give it up; `lost` is done from now on."""


K = TypeVar("K", bound=Kept)


class Events(NamedTuple):
    """Names of the log events of a link."""

    connected: str = "nats_connected"
    unreachable: str = "nats_unreachable"
    lost: str = "nats_lost"
    failed: str = "on_state_failed"


class Link(Generic[K]):
    """A connection that is made again whenever it is lost.

    Args:
        address: where NATS is, for messages.
        connect: makes a connection ready; raises BusError when that fails.
        log: gets the link's events.
        events: their names.
        probe: proves that the server still answers; raises BusUnavailable when it does not.

    Attributes:
        since: loop time at which the connection was made.
        why: why there is none.
    """

    def __init__(
        self,
        address: NatsAddress,
        connect: Callable[[], Awaitable[K]],
        *,
        log: FilteringBoundLogger,
        events: Events = Events(),  # noqa: B008 - a constant
        probe: Callable[[K], Awaitable[None]] | None = None,
    ) -> None:
        self._address = address
        self._connect = connect
        self._log = log
        self._events = events
        self._probe = probe
        self._rng = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._tried = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._ended = False
        self._closing: set[asyncio.Future[None]] = set()
        self.connection: K | None = None
        self.since = 0.0
        self.why = "it was not started"

    def require(self) -> K:
        """The connection; raises BusUnavailable when there is none."""
        if self.connection is None:
            raise BusUnavailable(f"NATS at {self._address.shown} is not connected: {self.why}")
        return self.connection

    def start(self, on_state: Callable[[bool], None]) -> None:
        """Begin to connect; `on_state` is called with whether a connection is ready at each change but `close`."""
        self.why = "connecting"
        self._running = asyncio.create_task(self._run(on_state))

    async def first_try(self) -> None:
        """Wait until the first try is over, whatever its outcome; raises what `connect` raised that is no BusError."""
        if self._running is not None:
            tried = asyncio.create_task(self._tried.wait())
            await asyncio.wait({tried, self._running}, return_when=asyncio.FIRST_COMPLETED)
            tried.cancel()
            if self._running.done():
                self._running.result()

    async def close(self, reason: str = "the bus was closed") -> None:
        """Stop connecting, and give the connection up."""
        self.why = reason
        self._ended = True
        if self._running is not None:
            await end_tasks([self._running])
            self._running = None
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close(reason)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSING_S)

    async def _run(self, on_state: Callable[[bool], None]) -> None:
        loop = asyncio.get_running_loop()
        attempt = 0
        reported = False
        while not self._ended:
            try:
                connection = await self._connect()
            except BusError as error:
                if self._ended:
                    return
                self.why = str(error)
                # One line an outage, not one a try.
                report = self._log.debug if reported else self._log.warning
                report(self._events.unreachable, address=self._address.shown, why=self.why)
                reported = True
                self._tried.set()
            else:
                if self._ended:
                    await connection.close(self.why)
                    return
                reported = False
                self.connection, self.since = connection, loop.time()
                self._log.info(self._events.connected, address=self._address.shown)
                self._report(on_state, True)
                self._tried.set()
                self.why = await self._end_of(connection)
                self.connection = None
                self._log.warning(self._events.lost, address=self._address.shown, why=self.why)
                self._report(on_state, False)
                # In the background: a server that hangs would delay the next try.
                closing = asyncio.ensure_future(connection.close(self.why))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                attempt = 0 if loop.time() - self.since > HELD_S else attempt
            longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt, 16))
            attempt += 1
            await asyncio.sleep(self._rng.uniform(longest / 2, longest))

    async def _end_of(self, connection: K) -> str:
        """Wait until it is lost; returns why."""
        while self._probe is not None and not connection.lost.done():
            await asyncio.wait([connection.lost], timeout=PROBE_EVERY_S)
            if not connection.lost.done():
                try:
                    await self._probe(connection)
                except BusUnavailable as error:
                    return str(error)
        return await asyncio.shield(connection.lost)

    def _report(self, on_state: Callable[[bool], None], connected: bool) -> None:
        try:
            on_state(connected)
        except Exception:
            self._log.exception(self._events.failed, connected=connected)
