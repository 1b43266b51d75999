"""The bus contract: what carries publications between nodes, and what may be lost when. Pure.

Rules for every bus:

1. Publications of one channel are delivered in order. Each carries `offset` and `prev`, the offset before it in this
   channel, so that a missed one shows without offsets having to be dense.
2. `epoch` names one life of the history. When it changes, older offsets mean nothing any more.
3. `publish` returns only when the bus holds the publication as safely as this bus can; a caller that got an
   exception does not know whether it was stored (it may be retried, and may then stand twice).
4. `history` is honest about its beginning: everything after `floor` is in the page, before it nothing is promised.
5. A bus that lost its server reports it through `connected` and `on_state`, raises `BusUnavailable`, and comes back by
   itself with its subscriptions. After it came back a subscriber may have missed publications: it compares
   `prev` with what it saw last, and reads `history` for the rest.

What is lost when: memory: all at exit. NATS JetStream: nothing that was acknowledged, within retention; channels
without retention are fire and forget on every bus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message in a channel, as the bus delivers it; epoch, offset and prev are None without retention.

    Attributes:
        data: JSON text, exactly as it was published.
        prev: the offset before it in this channel, 0 when there is none or none is known any more.
        ts: when the bus took it, by the bus's own time, ms since 1970.
        origin: an opaque tag given by the publisher; not kept in history.
    """

    channel: str
    data: bytes
    epoch: str | None
    offset: int | None
    prev: int | None
    ts: int
    origin: str | None = None


class Published(msgspec.Struct, frozen=True):
    """Where a publication landed; both None for a channel without retention."""

    epoch: str | None
    offset: int | None


class HistoryPage(msgspec.Struct, frozen=True):
    """A piece of a channel's history, oldest first.

    Attributes:
        epoch: None for a channel without retention.
        floor: every publication with `floor` < offset <= `top` is in `publications` (as far as it is after the
            requested `after`). A client at a position below `floor` may have missed something that is gone.
        top: the newest offset in this page or, with none, an offset that the channel is known to have nothing beyond
            (at the time of the request); a subscriber that starts there has missed nothing.
        more: whether the limit cut the page and newer publications exist.
    """

    epoch: str | None
    floor: int
    top: int
    publications: list[Publication]
    more: bool = False


class Retention(msgspec.Struct, frozen=True):
    """How much of a channel is kept: at most `count` publications, none older than `age_s` seconds. `count` 0: none."""

    count: int
    age_s: float

    @property
    def kept(self) -> bool:
        """Whether anything is kept at all."""
        return self.count > 0


Deliver = Callable[[Publication], None]
RetentionOf = Callable[[str], Retention]
OnState = Callable[[bool], None]


class Subscription(Protocol):
    """A channel being delivered."""

    async def close(self) -> None:
        """End delivery; safe to call twice and while the bus is down."""


class Bus(Protocol):
    """What a node needs from a bus. `name` is the key of its check in /health."""

    name: str

    @property
    def connected(self) -> bool:
        """Whether publishing would reach the bus now."""

    def now_ms(self) -> float:
        """The bus's own time, ms since 1970, by which the age of a publication is judged; never the wall clock's."""

    @property
    def problem(self) -> str:
        """Why the bus, though connected, does not store publications; empty when it does, or is not connected."""

    @property
    def warning(self) -> str:
        """What of the settings the bus cannot do in full; empty for nothing."""

    async def start(self, on_state: OnState) -> None:
        """Connect, or begin to; `on_state(connected)` is called at each change from then on, from the loop.

        A bus whose server cannot be reached at the start keeps trying in the background and returns.
        """

    async def close(self) -> None:
        """Finish what was acknowledged and disconnect."""

    async def publish(self, channel: str, data: bytes, *, origin: str | None = None) -> Published:
        """Store and deliver one publication.

        Raises:
            BusUnavailable: the bus did not acknowledge it; BusCannotStore when it is reached and does not store.
            MessageTooLarge: the bus takes no message of this size.
        """

    async def subscribe(self, channel: str, deliver: Deliver) -> Subscription:
        """Deliver the channel's publications from now on; raises BusUnavailable."""

    async def history(self, channel: str, after: int, limit: int) -> HistoryPage:
        """Read at most `limit` publications with offset > `after`, oldest first; raises BusUnavailable."""


OnNote = Callable[[bytes, str], None]
"""Takes a plain message: its bytes, and the subject to answer on, empty when no answer is wanted."""


class FleetLink(Protocol):
    """Plain messages between nodes and balancers over the bus' own connection, beside the channels.

    They arrive at most once and are never kept: what is sent while there is no server is lost without
    notice. A subscription comes back with the server by itself.
    """

    @property
    def prefix(self) -> str:
        """The first token of every subject."""

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that is connected, None without one."""

    async def send(self, subject: str, data: bytes) -> None:
        """Send one message without waiting for the network.

        Raises:
            BusUnavailable: there is no server now.
            BusError: the message is larger than the server takes.
        """

    async def listen(self, subject: str, on_note: OnNote) -> Subscription:
        """Deliver a subject's messages from now on, or from when there is a server."""

    async def ask(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send one message and return the first answer.

        Raises:
            BusUnavailable: there is no server, or no answer came in time; NobodyListens when nobody listens there.
            BusError: the message is larger than the server takes.
        """

    async def flush(self, timeout_s: float) -> None:
        """Return when the server has everything that was sent; raises BusUnavailable."""


class Entry(msgspec.Struct, frozen=True):
    """What the fleet's store holds under a key; `revision` grows with every write to the store."""

    key: str
    value: bytes
    revision: int


OnEntry = Callable[[str, Entry | None], None]
"""Takes a key and what it holds now, None when it was deleted."""


class FleetStore(Protocol):
    """A few small values that outlive every process of the fleet: traffic, deploys, versions.

    Rules of every store:

    1. Keys are names of letters, digits, `-` and `_`, joined by `.`, at most 200 characters; values at most 512 KiB.
    2. A write is made by compare and set: it lands only over the revision that its writer has seen.
    3. What `put` returned for is as safe as the store can keep it, and is seen by every reader that begins after it.
    4. `watch` gives what is there first, then each later change in order, as far as changes that follow each other
       closely may be given as the last of them; after an outage it gives what has changed meanwhile. A prefix that is
       empty or ends with `.` means all keys below; any other one means that key, of which is also said that it is not
       there. It returns when what is there was given, or when the store cannot be reached now.
    """

    name: str

    async def start(self) -> None:
        """Begin to connect; returns at once."""

    async def close(self) -> None:
        """Let go of it; watches end."""

    async def get(self, key: str) -> Entry | None:
        """What is there now, None for nothing; raises BusUnavailable."""

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        """The keys there are that begin so, sorted; raises BusUnavailable."""

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        """Write, and return the new revision.

        `expect` is the revision that the key has now, 0 for a key that is not there, None for whatever is there.

        Raises:
            Changed: the key has another revision; nothing was written.
            BusUnavailable: it is not known whether it was written.
        """

    async def delete(self, key: str, expect: int | None) -> None:
        """Remove a key that may not be there; raises as `put` does."""

    async def watch(self, prefix: str, on_entry: OnEntry) -> Subscription:
        """Call `on_entry` with everything below a prefix, or of the one key that it is, and with each later change.

        It is called from the loop, until the subscription or the store is closed.
        """


@runtime_checkable
class FleetBus(Protocol):
    """A bus that also carries plain messages of the fleet and has its store; a bus of one process has no need of it."""

    @property
    def fleet_link(self) -> FleetLink:
        """The link."""

    @property
    def fleet_store(self) -> FleetStore:
        """The store, over the connection of the bus: it begins and ends with it."""
