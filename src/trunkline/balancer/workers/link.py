"""How workers share one state: a worker relays bytes, and requests every pick from the process that started it.

Rules:

- One stream socket a worker, messages in order, each behind its length. Nothing is requested twice: a link that breaks
  ends the worker, whose clients reconnect.
- A worker's messages of one turn of its loop go out in one write.
- A worker that is gone holds nothing: what it had reserved is dropped, and what it had opened is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec
import structlog

from trunkline.net.asked_sessions import AskedSessions
from trunkline.placement.placing import Ask, Pick, Placer, Refusal
from trunkline.process.framing import Framing, head
from trunkline.protocol.goodbyes import Goodbyes

log = structlog.get_logger("trunkline.balancer")

LONGEST: Final = 16 << 20
"""Bytes of one message."""

LONGEST_PAGE: Final = LONGEST - 1024
"""A page is as long as the fleet is large. One that is too long must not cost a worker its clients."""

PLAIN: Final = "text/plain; charset=utf-8"


class PlaceAsk(msgspec.Struct, tag="place"):
    """A worker wants a backend."""

    id: int
    ask: Ask


class Settled(msgspec.Struct, tag="settled"):
    """What became of a pick; `why` only of one that failed."""

    outcome: Literal["opened", "failed", "dropped", "closed"]
    url: str
    reservation: int
    why: str = ""


class Welcome(msgspec.Struct, tag="welcome"):
    """The first message to a worker: its settings, encoded by whoever made them."""

    settings: bytes


class Reloaded(msgspec.Struct, tag="reloaded"):
    """Other settings, to be made ready; answered with `Prepared`."""

    id: int
    settings: bytes


class TakeOver(msgspec.Struct, tag="take_over"):
    """Those that were made ready last count from now on."""


class Prepared(msgspec.Struct, tag="prepared"):
    """The answer to `Reloaded`: why they cannot be used, empty when they can."""

    id: int
    why: str


class Asked(msgspec.Struct, tag="asked"):
    """What a node says of sessions that move: each worker keeps a record of its own."""

    said: Goodbyes


class Counts(msgspec.Struct, tag="counts"):
    """A worker's counts since its start, each time whole."""

    data: bytes


class PageAsk(msgspec.Struct, tag="page"):
    """A worker needs a page, which only the first process can fill."""

    id: int
    query: str
    accept: str


class Placed(msgspec.Struct, tag="placed"):
    """The answer to `PlaceAsk`."""

    id: int
    answer: Pick | Refusal


class PageAnswer(msgspec.Struct, tag="page"):
    """The answer to `PageAsk`."""

    id: int
    content_type: str
    body: bytes


FromWorker = PlaceAsk | Settled | Counts | PageAsk | Prepared
ToWorker = Welcome | Reloaded | TakeOver | Asked | Placed | PageAnswer
T = TypeVar("T")


class Link(asyncio.Protocol, Generic[T]):
    """One end of the stream: whole messages in, whole messages out; `on_lost` is called once when it ends."""

    def __init__(
        self, decoder: msgspec.msgpack.Decoder[T], on_message: Callable[[T], None], on_lost: Callable[[], None]
    ) -> None:
        self._decoder = decoder
        self._on_message = on_message
        self._on_lost = on_lost
        self._encoder = msgspec.msgpack.Encoder()
        self._framing = Framing(LONGEST)
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream is there."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone."""
        self._transport = None
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Take out the whole messages."""
        for message in self._framing.feed(data):
            self._on_message(self._decoder.decode(message))
        if self._framing.too_long is not None:
            self.close()

    def send(self, message: FromWorker | ToWorker) -> None:
        """Send a message with the others of this turn of the loop."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        body = self._encoder.encode(message)
        self._out.append(head(len(body)))
        self._out.append(body)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    def close(self) -> None:
        """End the stream."""
        if self._transport is not None:
            self._transport.close()


class LinkLost(Exception):
    """The process that holds the authoritative state is gone."""


class RemotePlacer:
    """The placer of a worker; `on_lost` has to end the worker when the first process is gone.

    Attributes:
        welcome: done with the worker's settings when they have come.
        reloads: what is said of other settings, in order.
        asked: sessions that nodes asked to move.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._next = 0
        self.welcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.reloads: asyncio.Queue[Reloaded | TakeOver] = asyncio.Queue()
        self.asked = AskedSessions()
        self._places: dict[int, asyncio.Future[Pick | Refusal]] = {}
        self._pages: dict[int, asyncio.Future[PageAnswer]] = {}
        self.link: Link[ToWorker] = Link(msgspec.msgpack.Decoder(ToWorker), self._heard, self._lost)

    def place(self, ask: Ask) -> Awaitable[Pick | Refusal]:
        """Request a pick; raises LinkLost when awaited after the first process is gone."""
        self._next += 1
        answer = self._places[self._next] = asyncio.get_running_loop().create_future()
        self.link.send(PlaceAsk(self._next, ask))
        return answer

    def opened(self, pick: Pick) -> None:
        """The backend has answered 101."""
        self.link.send(Settled("opened", pick.url, pick.reservation))

    def failed(self, pick: Pick, why: str) -> None:
        """No connection came of it through the backend's fault."""
        self.link.send(Settled("failed", pick.url, pick.reservation, why))

    def dropped(self, pick: Pick) -> None:
        """No connection came of it, and the backend is not to blame."""
        self.link.send(Settled("dropped", pick.url, pick.reservation))

    def closed(self, pick: Pick) -> None:
        """An opened connection has ended."""
        self.link.send(Settled("closed", pick.url, pick.reservation))

    async def page(self, query: str, accept: str) -> tuple[str, bytes]:
        """The balancer's own page, content type and body; raises LinkLost."""
        self._next += 1
        answer: asyncio.Future[PageAnswer] = asyncio.get_running_loop().create_future()
        self._pages[self._next] = answer
        self.link.send(PageAsk(self._next, query[:1000], accept[:1000]))
        page = await answer
        return page.content_type, page.body

    def count(self, data: bytes) -> None:
        """Report the counts."""
        self.link.send(Counts(data))

    def prepared(self, number: int, why: str) -> None:
        """Say that the settings of this number are ready, or why they cannot be used."""
        self.link.send(Prepared(number, why))

    def _heard(self, message: ToWorker) -> None:
        if isinstance(message, Placed):
            waiting = self._places.pop(message.id)
            if not waiting.done():
                waiting.set_result(message.answer)
            elif isinstance(message.answer, Pick):
                # The client has left meanwhile.
                self.dropped(message.answer)
        elif isinstance(message, Welcome):
            self.welcome.set_result(message.settings)
        elif isinstance(message, Asked):
            self.asked.hear(message.said, time.monotonic())
        elif isinstance(message, Reloaded | TakeOver):
            self.reloads.put_nowait(message)
        else:
            page = self._pages.pop(message.id)
            if not page.done():
                page.set_result(message)

    def _lost(self) -> None:
        lost = LinkLost("the balancer's first process is gone")
        waiting: list[asyncio.Future[Any]] = [self.welcome, *self._places.values(), *self._pages.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(lost)
                # Marks it as seen: that nothing waits for it any more is no fault to be logged.
                future.exception()
        self._places.clear()
        self._pages.clear()
        self._on_lost()


class WorkerSeat:
    """One worker, in the first process; `page` gives content type and body for a query and an Accept header."""

    def __init__(
        self, placer: Placer, page: Callable[[str, str], tuple[str, bytes]], on_counts: Callable[[Counts], None]
    ) -> None:
        self._placer = placer
        self._page = page
        self._on_counts = on_counts
        self._reserved: dict[int, Pick] = {}
        self._open: dict[int, Pick] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._preparing: asyncio.Future[str] | None = None
        self._prepares = 0
        self.lost = asyncio.Event()
        self.link: Link[FromWorker] = Link(msgspec.msgpack.Decoder(FromWorker), self._heard, self._lost)

    def _heard(self, message: FromWorker) -> None:
        if isinstance(message, PlaceAsk):
            answer = self._placer.place(message.ask)
            if isinstance(answer, Pick | Refusal):
                self._answer(message.id, answer)
            else:
                task = asyncio.ensure_future(self._answer_later(message.id, answer))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
        elif isinstance(message, Settled):
            self._settle(message)
        elif isinstance(message, Counts):
            self._on_counts(message)
        elif isinstance(message, Prepared):
            # A late answer is one about the settings of a reload that was given up.
            if message.id == self._prepares:
                self._answered(message.why)
        else:
            self.link.send(PageAnswer(message.id, *self._page_for(message)))

    def prepare(self, settings: bytes) -> asyncio.Future[str]:
        """Have the worker make other settings ready; why it cannot use them, empty when it can or has ended."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._preparing = answer
        self._prepares += 1
        self.link.send(Reloaded(self._prepares, settings))
        if self.lost.is_set():
            self._answered("")
        return answer

    def _answered(self, why: str) -> None:
        if self._preparing is not None and not self._preparing.done():
            self._preparing.set_result(why)

    def _page_for(self, message: PageAsk) -> tuple[str, bytes]:
        try:
            content_type, body = self._page(message.query, message.accept)
        except Exception:
            log.exception("page_failed")
            return PLAIN, b"the page could not be made; the balancer's log says why\n"
        if len(body) > LONGEST_PAGE:
            return PLAIN, b"the page is too long to come through a worker; ask the admin port for it\n"
        return content_type, body

    def _answer(self, number: int, answer: Pick | Refusal) -> None:
        if isinstance(answer, Pick) and answer.reservation:
            self._reserved[answer.reservation] = answer
        self.link.send(Placed(number, answer))

    async def _answer_later(self, number: int, answer: Awaitable[Pick | Refusal]) -> None:
        found = await answer
        if self.lost.is_set():
            if isinstance(found, Pick):
                self._placer.dropped(found)
            return
        self._answer(number, found)

    def _settle(self, message: Settled) -> None:
        pick = self._reserved.pop(message.reservation, None) or self._open.pop(message.reservation, None)
        if pick is None:
            pick = Pick(message.url, message.reservation, "")
        if message.outcome == "opened":
            self._open[message.reservation] = pick
            self._placer.opened(pick)
        elif message.outcome == "failed":
            self._placer.failed(pick, message.why)
        elif message.outcome == "dropped":
            self._placer.dropped(pick)
        else:
            self._placer.closed(pick)

    def _lost(self) -> None:
        self.lost.set()
        # The worker that follows it begins with the settings that count then.
        self._answered("")
        for pick in self._reserved.values():
            self._placer.dropped(pick)
        for pick in self._open.values():
            self._placer.closed(pick)
        self._reserved.clear()
        self._open.clear()

    def close(self) -> None:
        """Let the worker go."""
        with contextlib.suppress(OSError):
            self.link.close()
