"""A node announces itself to all balancers, over the NATS that is its bus.

Rules:

- A report goes out at the start, at once when the state changes, soon after connections were opened or closed, when a
  balancer sends a hello, and every two seconds.
- A burst of connections is one message: it waits a moment for what else is coming, and leaves at least 100 ms after the
  message before it.
- Each report carries the keys opened since the last one that was sent. After a loss of NATS, and after a hello, it
  carries all that are kept, because what the listeners have missed is unknown.
- Nothing is queued while NATS is away: the state at its return is reported then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import psutil  # type: ignore[import-untyped]

from trunkline.errors import BusError, BusUnavailable
from trunkline.logs.logger import get_logger
from trunkline.net.addresses import networks, within
from trunkline.process.bounds import end_tasks
from trunkline.protocol.control import NodeReport
from trunkline.protocol.subjects import hello_subject, report_subject
from trunkline.server.node.reports import NodeReports
from trunkline.server.node.state import NodeState
from trunkline.settings.sections import ServerSettings

if TYPE_CHECKING:
    from trunkline.bus.base import FleetLink, Subscription

log = get_logger("trunkline.node")

EVERY_S = 2.0
BURST_S = 0.1
GATHER_S = 0.02
LEAVE_TIMEOUT_S = 1.0
ANY_HOST = ("", "0.0.0.0", "::", "*")


class Announcer:
    """Announces one node."""

    def __init__(self, settings: ServerSettings, state: NodeState, reports: NodeReports, link: FleetLink) -> None:
        self._settings = settings
        self._state = state
        self._reports = reports
        self._link = link
        self._url: str | None = None
        self._reported = 0
        self._all = True
        self._sent_at = float("-inf")
        self._due = 0.0
        self._pending = False
        self._complained = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._hello: Subscription | None = None

    async def start(self) -> None:
        """Report, and go on reporting; the node listens by now."""
        self._hello = await self._link.listen(hello_subject(self._link.prefix), self._on_hello)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def connections_changed(self) -> None:
        """A connection was opened or has ended. Called for each, so it does next to nothing."""
        if not self._pending:
            self._pending = True
            now = asyncio.get_running_loop().time()
            self._report_at(max(now + GATHER_S, self._sent_at + BURST_S))

    def state_changed(self) -> None:
        """The node drains, or does so no more: report at once."""
        self._report_at(0.0)

    def bus_state(self, connected: bool) -> None:
        """NATS has come back, or is gone."""
        if connected:
            # Another server may be reached from another address.
            self._url = None
            self._all = True
            self._report_at(0.0)

    async def leave(self) -> None:
        """Report for the last time, as far as NATS can be reached."""
        task, self._task = self._task, None
        if task is None:
            return
        await end_tasks([task])
        with contextlib.suppress(BusError, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._report(leaving=True)
                await self._link.flush(LEAVE_TIMEOUT_S)
        if self._hello is not None:
            await self._hello.close()

    def _on_hello(self, data: bytes, reply: str) -> None:
        self._all = True
        self._report_at(self._sent_at + BURST_S)

    def _report_at(self, when: float) -> None:
        if when < self._due:
            self._due = when
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wait_s = self._due - loop.time()
            if wait_s > 0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                continue
            self._pending = False
            # Before the message: what happens while it is being made is due again.
            self._due = loop.time() + EVERY_S
            self._sent_at = loop.time()
            try:
                await self._report()
            except BusUnavailable:
                self._all = True
            except BusError as error:
                log.warning("report_not_sent", node=self._state.name, why=str(error))
            except Exception:
                # A node that is not announced gets no connections: the next report has to be tried all the same.
                log.exception("report_failed", node=self._state.name)

    async def _report(self, *, leaving: bool = False) -> None:
        if self._url is None:
            self._url = await self._find_url()
            if self._url is None:
                return
        opened = self._state.arrivals.opened
        everything, self._all = self._all, False
        report = self._reports.load_after(-1 if everything else self._reported)
        message = NodeReport(self._state.name, self._url, report, leaving)
        subject = report_subject(self._link.prefix)
        try:
            await self._link.send(subject, msgspec.json.encode(message))
        except BusUnavailable:
            raise
        except BusError:
            # Larger than NATS takes: the count is enough, and balancers fetch the keys from /metric.
            bare = msgspec.structs.replace(report, keys=msgspec.UNSET)
            await self._link.send(subject, msgspec.json.encode(msgspec.structs.replace(message, report=bare)))
        self._reported = opened

    async def _find_url(self) -> str | None:
        server = self._settings
        if server.advertise is not None:
            return server.advertise
        host = server.pod_ip or (server.host if server.host not in ANY_HOST else None)
        if host is None and server.advertise_network is not None:
            host = _address_in(server.advertise_network)
        elif host is None:
            host = await _address_facing(self._link)
        if host is None:
            self._complain()
            return None
        return f"http://{f'[{host}]' if ':' in host else host}:{self._state.port}"

    def _complain(self) -> None:
        """Warn once that nobody can know this node; while NATS is away that is no fault of the settings."""
        network = self._settings.advertise_network
        if self._complained or (network is None and self._link.server is None):
            return
        self._complained = True
        why = f"it has no address in server.advertise_network ({network})" if network else "its address is unknown"
        log.warning(
            "address_unknown",
            node=self._state.name,
            text=f"this node is not announced to balancers: {why}; set server.advertise to the URL that reaches it",
        )


def _address_in(network: str) -> str | None:
    """The first address of this machine in a network."""
    wanted = networks((network,))
    found = (address.address for each in psutil.net_if_addrs().values() for address in each)
    return next((address for address in found if within(address, wanted)), None)


async def _address_facing(link: FleetLink) -> str | None:
    """The address of this machine from which the NATS server is reached; nothing is sent to find it."""
    server = link.server
    if server is None:
        return None
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=server
            )
    except (OSError, TimeoutError):
        return None
    try:
        return str(transport.get_extra_info("sockname")[0])
    finally:
        transport.close()
