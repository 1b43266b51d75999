"""How a balancer talks with nodes and with other balancers: core NATS, JSON, nothing kept.

Rules:

- One connection at a time, which `nats/link.py` keeps.
- Nothing waits for NATS: what is to be sent while it is away is dropped, since peers learn it from the nodes' reports.
- Every connection begins with a hello, so that all nodes report at once.
- Who writes to these subjects is let in by NATS, but may be of another version or broken: a message that is too long or
  does not fit is counted, ignored and named in one log line every ten seconds at most.
- Balancers hear of each other by their picks, and by a sign of life every two seconds and to each new one, which says
  what traffic table they apply. `leads` is true for one of them, so that what must be done once for the whole fleet is
  not done by each.
- A `tls://` address never talks without TLS. No secret is in a URL that the library or a log sees.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from trunkline.balancer.peers import Peer, Peers
from trunkline.errors import BusError, BusUnavailable
from trunkline.nats.address import parse_address
from trunkline.nats.link import Link
from trunkline.nats.login import CONNECT_TIMEOUT_S, Connection, log_in, request, tls_context
from trunkline.placement.backend import canonical_url
from trunkline.process.bounds import end_tasks
from trunkline.protocol.control import KeyCounts, KeysAsked, Moved, MoveOrder, NodeReport, PickNotice, PickNotices
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.protocol.subjects import (
    MAX_MESSAGE_BYTES,
    goodbyes_subject,
    hello_subject,
    inbox_prefix,
    keys_subject,
    move_subject,
    picks_subject,
    report_subject,
)
from trunkline.settings.sections import BusSettings

log = structlog.get_logger("trunkline.balancer")
T = TypeVar("T")

PING_S: Final = 2
ALIVE_S: Final = 2.0
"""Seconds between two signs of life."""

GOODBYE_S: Final = 1
"""Time that NATS gets to take the last one."""

NODE_GONE_S: Final = 10.0
NODES: Final = 10_000
ANSWER_TIMEOUT_S: Final = 5.0
NOTICES_AT_ONCE: Final = 4096
NOTICES_BYTES: Final = MAX_MESSAGE_BYTES // 2
"""A message of notices is no longer: NATS takes 1 MiB by default, and peers read no more."""

NAME_LENGTH: Final = 256
KEYS_AT_ONCE: Final = 16_384
KEY_LENGTH: Final = 64
COMPLAIN_S: Final = 10.0

# The decoder of the library calls back in a task per subscription and drops beyond these bounds; they are ample.
_PENDING_MESSAGES: Final = 65_536
_PENDING_BYTES: Final = 64 * 1024 * 1024


class FleetTalk:
    """One balancer's connection to the fleet; raises SettingsError for an address or a CA file that cannot be used.

    Args:
        bus: where NATS is; `url` must not be `memory`.
        on_report: gets each node's report, its URL in the one spelling that names a backend.
        on_notices: gets the id of another balancer and what it picked; never our own.
        on_state: gets True when NATS is connected, False when it is lost.
        on_goodbyes: gets what nodes say of sessions that move.
        forget_s: a balancer that is silent for so long is listed no more.
        traffic: the generation of the traffic table that this balancer applies.
        place: machine and port, empty when another one of this place is no successor.
    """

    def __init__(
        self,
        bus: BusSettings,
        balancer: str,
        on_report: Callable[[NodeReport], None],
        on_notices: Callable[[str, PickNotices], None],
        on_state: Callable[[bool], None],
        *,
        on_goodbyes: Callable[[Goodbyes], None] = lambda said: None,
        forget_s: float = 900.0,
        traffic: Callable[[], int] = lambda: 0,
        place: str = "",
    ) -> None:
        self._address = parse_address(bus.url)
        self._tls = tls_context(self._address, bus.tls_ca_file)
        self._link = Link(self._address, self._connect, log=log)
        self._prefix = bus.prefix
        self._id = balancer
        self._on_report = on_report
        self._on_notices = on_notices
        self._on_state = on_state
        self._on_goodbyes = on_goodbyes
        self._reports = msgspec.json.Decoder(NodeReport)
        self._picks = msgspec.json.Decoder(PickNotices)
        self._goodbyes = msgspec.json.Decoder(Goodbyes)
        self._greeting: asyncio.Task[None] | None = None
        self._traffic = traffic
        self._place = place
        self._peers = Peers(balancer, forget_s)
        self._nodes: dict[str, tuple[str, float]] = {}
        self._waiting: list[PickNotice] = []
        self._something = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._complained_at = float("-inf")
        self._silently = 0
        self.ignored = 0

    @property
    def connected(self) -> bool:
        """Whether a message would reach NATS now."""
        connection = self._link.connection
        return connection is not None and connection.alive

    @property
    def leads(self) -> bool:
        """Whether this is the balancer that acts for the whole fleet: of those alive the one with the smallest id.

        Nobody leads before it has listened long enough to know the others. Two may for a moment, when NATS is split.
        """
        now = asyncio.get_running_loop().time()
        if not self.connected or now - self._link.since < ALIVE_S * 1.5:
            return False
        return self._peers.none_before(now)

    @property
    def follows(self) -> bool:
        """Whether another balancer leads, as far as this one hears."""
        return not self._peers.none_before(asyncio.get_running_loop().time())

    def peers(self) -> dict[str, Peer]:
        """The other balancers by id, those that fell silent without a goodbye included."""
        return self._peers.listed(asyncio.get_running_loop().time())

    def silence_s(self, url: str) -> float:
        """Seconds since the node that listens at `url` reported; infinity when none there was heard."""
        found = self._nodes.get(url)
        return float("inf") if found is None else asyncio.get_running_loop().time() - found[1]

    def node_at(self, url: str) -> str | None:
        """Name of the node of ours that listens at `url`, None when none there was heard lately."""
        name, heard = self._nodes.get(url, ("", 0.0))
        return name if name and asyncio.get_running_loop().time() - heard < NODE_GONE_S else None

    async def start(self) -> None:
        """Begin to connect; returns at once, `on_state` says when it has worked."""
        self._sending = asyncio.create_task(self._send())
        self._link.start(self._linked)

    async def close(self) -> None:
        """Say goodbye to the other balancers and let go of NATS; `on_state` is not called for it."""
        await end_tasks([task for task in (self._sending, self._greeting) if task is not None])
        if self.connected:
            last = self._notices(self._waiting[:NOTICES_AT_ONCE], leaving=True)
            with contextlib.suppress(BusError, nats_errors.Error, OSError, TimeoutError):
                await self._publish(picks_subject(self._prefix), msgspec.json.encode(last))
                await self._connected().flush(GOODBYE_S)
        await self._link.close()

    async def hello(self) -> None:
        """Ask all nodes to report now; nothing happens while NATS is away."""
        with contextlib.suppress(BusError):
            await self._publish(hello_subject(self._prefix), b"")

    def note(self, notice: PickNotice) -> None:
        """Tell the other balancers; what is noted in one round of the loop goes out as one message."""
        if self.connected:
            if not (notice.key.isascii() and notice.affinity.isascii() and len(notice.key) <= NAME_LENGTH):
                # Clients choose both. What is no text (a server's parser hands such bytes on) cannot be sent as JSON.
                notice = msgspec.structs.replace(
                    notice, key=_text(notice.key[:NAME_LENGTH]), affinity=_text(notice.affinity)
                )
            self._waiting.append(notice)
            self._something.set()

    def tell(self) -> None:
        """Send a sign of life now."""
        self._something.set()

    async def move(self, node: str, order: MoveOrder) -> Moved:
        """Have a node ask clients to reconnect.

        Raises:
            BusUnavailable: NATS is away, or no such node listens, or it did not answer in time.
            BusError: the node refused the order.
        """
        return await self._ask(move_subject(self._prefix, node), order, Moved)

    async def keys(self, node: str, by: str) -> KeyCounts:
        """How many clients a node has of each value of `by`; raises as `move` does."""
        return await self._ask(keys_subject(self._prefix, node), KeysAsked(by), KeyCounts)

    async def _send(self) -> None:
        """Send what was noted, and a sign of life when there was nothing for a while."""
        subject = picks_subject(self._prefix)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_S):
                    await self._something.wait()
            self._something.clear()
            notices, self._waiting = self._waiting, []
            for begin in range(0, max(len(notices), 1), NOTICES_AT_ONCE):
                try:
                    for message in self._messages(notices[begin : begin + NOTICES_AT_ONCE]):
                        await self._publish(subject, message)
                except BusError as error:
                    log.debug("notices_not_sent", why=str(error))
                except Exception:
                    # Without signs of life two balancers would act for the fleet.
                    log.exception("notices_failed")

    def _messages(self, notices: list[PickNotice]) -> list[bytes]:
        data = msgspec.json.encode(self._notices(notices))
        if len(data) <= NOTICES_BYTES or len(notices) < 2:
            return [data]
        middle = len(notices) // 2
        return [*self._messages(notices[:middle]), *self._messages(notices[middle:])]

    def _notices(self, notices: list[PickNotice], leaving: bool = False) -> PickNotices:
        return PickNotices(self._id, tuple(notices), self._traffic(), self._place, leaving)

    def _connected(self) -> Client:
        connection = self._link.connection
        if connection is None or not connection.alive:
            raise BusUnavailable(f"NATS at {self._address.shown} is not connected")
        return connection.client

    async def _publish(self, subject: str, data: bytes) -> None:
        client = self._connected()
        try:
            await client.publish(subject, data)
        except nats_errors.MaxPayloadError:
            raise BusError(f"a message of {len(data)} bytes is larger than NATS takes; raise its max_payload") from None
        except (nats_errors.Error, OSError) as error:
            raise BusUnavailable(f"NATS did not take a message: {error}") from error

    async def _ask(self, subject: str, question: msgspec.Struct, kind: type[T]) -> T:
        client = self._connected()
        try:
            answer = await request(client, subject, msgspec.json.encode(question), ANSWER_TIMEOUT_S)
        except nats_errors.NoRespondersError:
            raise BusUnavailable(f"nobody listens on {subject}: the node is gone, or of an older version") from None
        if len(answer.data) > MAX_MESSAGE_BYTES:
            raise BusError(f"the answer on {subject} is longer than {MAX_MESSAGE_BYTES} bytes")
        try:
            return msgspec.json.decode(answer.data, type=kind)
        except msgspec.MsgspecError:
            raise BusError(f"the node refused on {subject}: {answer.data[:300].decode('utf-8', 'replace')}") from None

    async def _on_report_message(self, msg: Msg) -> None:
        self._hear(msg, self._heard_report)

    async def _on_picks_message(self, msg: Msg) -> None:
        self._hear(msg, self._heard_picks)

    async def _on_goodbyes_message(self, msg: Msg) -> None:
        self._hear(msg, lambda data: self._on_goodbyes(self._goodbyes.decode(data)))

    def _hear(self, msg: Msg, heard: Callable[[bytes], None]) -> None:
        try:
            if len(msg.data) > MAX_MESSAGE_BYTES:
                raise ValueError(f"it has {len(msg.data)} bytes, more than {MAX_MESSAGE_BYTES}")
            heard(msg.data)
        except ValueError as error:  # msgspec's errors are ValueErrors too
            self._ignore(msg.subject, str(error))
        except Exception:
            # A listener's fault must not end the subscription.
            log.exception("message_failed", subject=msg.subject)

    def _heard_report(self, data: bytes) -> None:
        said = self._reports.decode(data)
        if not 0 < len(said.node) <= NAME_LENGTH or len(said.url) > NAME_LENGTH:
            raise ValueError(f"names and URLs have 1 to {NAME_LENGTH} characters")
        keys = said.report.keys
        if keys and (len(keys) > KEYS_AT_ONCE or any(len(key) > KEY_LENGTH for key in keys)):
            raise ValueError(f"at most {KEYS_AT_ONCE} keys of at most {KEY_LENGTH} characters are taken at once")
        url = canonical_url(said.url)
        if said.leaving:
            self._nodes.pop(url, None)
        else:
            if len(self._nodes) >= NODES and url not in self._nodes:
                del self._nodes[next(iter(self._nodes))]
            self._nodes[url] = (said.node, asyncio.get_running_loop().time())
        self._on_report(said if url == said.url else msgspec.structs.replace(said, url=url))

    def _heard_picks(self, data: bytes) -> None:
        said = self._picks.decode(data)
        if not 0 < len(said.balancer) <= NAME_LENGTH:
            raise ValueError(f"the id of a balancer has 1 to {NAME_LENGTH} characters")
        if len(said.notices) > NOTICES_AT_ONCE:
            raise ValueError(f"at most {NOTICES_AT_ONCE} notices are taken at once")
        if said.balancer == self._id:
            return
        if len(said.place) > NAME_LENGTH:
            raise ValueError(f"the place of a balancer has at most {NAME_LENGTH} characters")
        if said.leaving:
            self._peers.left(said.balancer)
            log.info("balancer_left", balancer=said.balancer)
        elif self._peers.heard(said.balancer, said.traffic, asyncio.get_running_loop().time(), said.place):
            log.info("balancer_heard", balancer=said.balancer)
            self.tell()
        if said.notices:
            self._on_notices(said.balancer, said)

    def _ignore(self, subject: str, why: str) -> None:
        self.ignored += 1
        now = asyncio.get_running_loop().time()
        if now - self._complained_at < COMPLAIN_S:
            self._silently += 1
            return
        log.warning("message_ignored", subject=subject, why=why[:300], ignored_before_in_silence=self._silently)
        self._complained_at = now
        self._silently = 0

    def _linked(self, connected: bool) -> None:
        if connected:
            self._on_state(True)
            self.tell()
            self._greeting = asyncio.create_task(self.hello())
        else:
            self._waiting.clear()
            self._on_state(False)

    async def _connect(self) -> Connection:
        """Log in and subscribe; raises BusUnavailable."""
        connection = await log_in(
            self._address, name=f"trunkline balancer {self._id}", tls=self._tls, ping_interval=PING_S,
            max_outstanding_pings=2, no_echo=True, inbox_prefix=inbox_prefix(self._prefix, self._address.user),
        )  # fmt: skip
        try:
            for subject, heard in (
                (report_subject(self._prefix), self._on_report_message),
                (picks_subject(self._prefix), self._on_picks_message),
                (goodbyes_subject(self._prefix), self._on_goodbyes_message),
            ):
                await connection.client.subscribe(
                    subject, cb=heard, pending_msgs_limit=_PENDING_MESSAGES, pending_bytes_limit=_PENDING_BYTES
                )
            # Nodes answer the hello that comes next: the server must have the subscriptions before it.
            await connection.client.flush(CONNECT_TIMEOUT_S)
        except BaseException as error:
            await connection.close()
            if isinstance(error, (nats_errors.Error, OSError, TimeoutError)):
                why = str(error) or type(error).__name__
                raise BusUnavailable(f"NATS at {self._address.shown} took no subscription: {why}") from error
            raise
        return connection


def _text(given: str) -> str:
    return given.encode("utf-8", "replace").decode()
