"""Keeps one wire to NATS alive, for as long as the bus is open.

Rules:

- A wire counts as up only after `prepare` ran on it: streams exist, epochs are read, subscriptions are back.
- Between wires there is no wire: callers get BusUnavailable at once, and nothing is kept for later.
- Waiting between tries doubles up to two seconds and is drawn at random, so that the nodes of a fleet do not return in
  step. A wire that did not hold counts as a failed try.
- A server that is gone without a word is noticed by an echo every two seconds; it has to be missing twice as long, for
  it is our own loop that may have been late.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable

import structlog

from trunkline.bus.base import OnState
from trunkline.bus.nats.wire import Wire
from trunkline.errors import BusError, BusUnavailable
from trunkline.nats.address import NatsAddress

log = structlog.get_logger("trunkline.bus")

ECHO_EVERY_S = 2.0
ECHO_TIMEOUT_S = 4.0
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
HELD_S = 10.0
"""A wire that was up this long starts the waiting anew."""


def wait_before(attempt: int, rng: random.Random) -> float:
    """How long to wait before try number `attempt` (0 for the first after a loss), in seconds."""
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt, 16))
    return rng.uniform(ceiling / 2, ceiling)


class Link:
    """A wire that is made again whenever it is lost.

    Args:
        address: where NATS is.
        prefix: the first token of every subject.
        tls: how to verify the server, for a `tls://` address.
        prepare: makes a new wire ready; the wire is given up when it raises.
    """

    def __init__(
        self,
        address: NatsAddress,
        *,
        prefix: str,
        tls: ssl.SSLContext | None,
        prepare: Callable[[Wire], Awaitable[None]],
    ) -> None:
        self._address = address
        self._prefix = prefix
        self._tls = tls
        self._prepare = prepare
        self._rng = random.Random()  # noqa: S311 - spreads reconnects, guards nothing
        self._wire: Wire | None = None
        self._why = "it was not started"
        self._run_task: asyncio.Task[None] | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether there is a prepared wire that can send now."""
        return self._wire is not None and self._wire.alive

    def wire(self) -> Wire:
        """The prepared wire; raises BusUnavailable when there is none."""
        wire = self._wire
        if wire is None:
            raise BusUnavailable(f"NATS at {self._address.shown} is not connected: {self._why}")
        return wire

    async def start(self, on_state: OnState) -> None:
        """Begin to connect, and return after the first try, whatever its outcome."""
        tried = asyncio.Event()
        self._why = "connecting"
        self._run_task = asyncio.create_task(self._run(on_state, tried))
        await tried.wait()

    async def close(self) -> None:
        """Let go of the server; `on_state` is not called any more."""
        self._why = "the bus was closed"
        if self._run_task is not None:
            self._run_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._run_task
            self._run_task = None
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close(self._why)
        if self._farewells:
            await asyncio.wait(self._farewells)

    def restart(self, reason: str) -> None:
        """Give the present wire up and make a new one."""
        if self._wire is not None:
            self._wire.fail(reason)

    async def _run(self, on_state: OnState, tried: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        attempt = 0
        told = False
        while True:
            try:
                wire = await self._connect()
            except BusError as error:
                self._why = str(error)
                # One line for an outage, not one for each try.
                (log.debug if told else log.warning)("nats unreachable", address=self._address.shown, why=self._why)
                told = True
                tried.set()
                await asyncio.sleep(wait_before(attempt, self._rng))
                attempt += 1
                continue
            log.info("nats connected", address=self._address.shown)
            told = False
            since = loop.time()
            self._wire = wire
            _tell(on_state, True)
            tried.set()
            self._why = await self._watch(wire)
            self._wire = None
            log.warning("nats lost", address=self._address.shown, why=self._why)
            _tell(on_state, False)
            self._say_farewell(wire)
            attempt = 0 if loop.time() - since > HELD_S else attempt + 1
            await asyncio.sleep(wait_before(attempt, self._rng))

    async def _connect(self) -> Wire:
        wire = await Wire.connect(self._address, prefix=self._prefix, tls=self._tls)
        try:
            await self._prepare(wire)
        except BaseException:
            self._say_farewell(wire)
            raise
        return wire

    async def _watch(self, wire: Wire) -> str:
        """Return why the wire was lost, when it is."""
        while not wire.lost.done():
            await asyncio.wait([wire.lost], timeout=ECHO_EVERY_S)
            if wire.lost.done():
                break
            try:
                await wire.echo(ECHO_TIMEOUT_S)
            except BusUnavailable as error:
                wire.fail(str(error))
        return wire.lost.result()

    def _say_farewell(self, wire: Wire) -> None:
        # Aside, for a server that hangs would hold up the next try. What the wire still delivers is silenced at once.
        task = asyncio.create_task(wire.close("given up"))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


def _tell(on_state: OnState, connected: bool) -> None:
    try:
        on_state(connected)
    except Exception:
        log.exception("on_state failed", connected=connected)


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """A context that verifies the server's certificate and name, against `ca_file` or the system's authorities."""
    return ssl.create_default_context(cafile=ca_file)
