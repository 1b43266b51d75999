"""The stream that logs the channels of one retention: made, checked, and read.

Rules:

- Reading is one request with many replies (direct get with `batch`), then one to the leader for the oldest
  message **now**. Whatever was evicted in between cannot be missed unseen: everything after a message that is still
  held is held too.
- The stream's first sequence is requested only when the channel's messages do not prove enough, and after they were
  read.
- A replica may answer a direct get before it has what the leader has. With more than one, an answer that ends before
  what was already delivered here is requested again.
- What follows from the answers stands in `reading.py` and `jetstream.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import structlog

from trunkline.bus.base import HistoryPage, Retention
from trunkline.bus.clock import BusClock
from trunkline.bus.nats.jetstream import (
    NO_MESSAGE,
    NO_ROOM,
    NOT_FOUND,
    SMALLEST_BYTES,
    STREAM_EXISTS_DIFFERENTLY,
    DirectGet,
    Reply,
    Stored,
    StreamState,
    epoch_of,
    floor_of,
    ms_of,
    needs_first_seq,
    profile_of,
    smaller,
    stream_config,
    time_of,
)
from trunkline.bus.nats.reading import Reading, Wanted, publications
from trunkline.bus.nats.wire import Wire
from trunkline.errors import BusCannotStore, BusForbids, BusUnavailable
from trunkline.settings.sections import BusSettings

log = structlog.get_logger("trunkline.bus")

BATCH_BYTES = 4 * 1024 * 1024
"""What one request may bring; a page larger than that takes several."""
TRIES = 30
TRIES_AT_ONCE = 5
TRY_WAIT_S = 0.05
"""A reading that was overtaken is made again: at once, then with a pause for a replica to catch up."""


class _Overtaken(Exception):
    """Answers of one try do not fit together: something was published or evicted between them."""


class StreamLog:
    """One stream and what is known of it.

    Attributes:
        epoch: the life of the stream as last reported; None before the first time.
        stale: whether it has to be checked before the next use.
        remade: whether it changed since the owner took note.
        newest: the highest sequence delivered over the present wire.
        max_bytes: the room that the stream got, 0 before it was made.
        lock: held while the stream is made and while a publication is handed over.
    """

    def __init__(self, settings: BusSettings, retention: Retention, clock: BusClock) -> None:
        self._config = stream_config(settings, retention)
        self._retention = retention
        self._clock = clock
        self._subjects = f"{settings.prefix}.log.{profile_of(retention)}."
        self._timeout_s = settings.publish_timeout_s
        self.name = self._config.name
        self.epoch: str | None = None
        self.stale = True
        self.remade = False
        self.newest = 0
        self.max_bytes = 0
        self.lock = asyncio.Lock()

    @property
    def wanted_bytes(self) -> int:
        """The room that the stream should have."""
        return self._config.max_bytes

    def subject(self, channel: str) -> str:
        """Where a channel's publications are stored."""
        return self._subjects + channel

    async def ensure(self, wire: Wire) -> None:
        """Make the stream if it does not exist, and read its epoch.

        Where NATS has too little room it gets less, by halves: history then reaches less far back, and says so.

        Raises:
            BusCannotStore: NATS has no room for it, or no JetStream.
            BusUnavailable: NATS did not answer, or refused for another reason.
        """
        # Who may not make streams can use one that is there.
        found = await self._api(wire, "INFO", b"")
        reply = found if found.config == self._config else await self._made(wire, found)
        if reply.error is not None:
            why = f"NATS does not provide stream {self.name}: {reply.error.description}"
            if reply.error.err_code in NO_ROOM:
                least = min(self.wanted_bytes, SMALLEST_BYTES)
                advice = f"free disk space where NATS stores, or lower bus.max_bytes ({self.wanted_bytes:,})"
                raise BusCannotStore(f"{why}, not even for {least:,} bytes; {advice}")
            raise BusUnavailable(f"{why} (replicas {self._config.num_replicas})")
        self._note(reply)

    async def _made(self, wire: Wire, found: Reply) -> Reply:
        """The stream, made or changed; as it was `found` where this user of NATS may do neither."""
        try:
            reply = await self._api(wire, "CREATE", msgspec.json.encode(self._config))
            if reply.error is not None and reply.error.err_code in (*NO_ROOM, STREAM_EXISTS_DIFFERENTLY):
                reply = await self._as_far_as_possible(wire, reply)
        except BusForbids as error:
            if found.error is not None:
                advice = "run `trunkline bus prepare` as a user of NATS that may"
                raise BusCannotStore(f"there is no stream {self.name}, and {error}; {advice}") from None
            log.warning("stream keeps its old limits", stream=self.name, why=str(error))
            return found
        return reply

    async def _as_far_as_possible(self, wire: Wire, refused: Reply) -> Reply:
        """The stream as it is, after an attempt to change it; a new one has as much room as NATS gives."""
        found = await self._api(wire, "INFO", b"")
        fitting = smaller(self._config)
        while found.error is not None and refused.error is not None and fitting is not None:
            refused = await self._api(wire, "CREATE", msgspec.json.encode(fitting))
            # Another node may have been faster, with another size.
            found = refused if refused.error is None else await self._api(wire, "INFO", b"")
            fitting = smaller(fitting)
        if found.error is not None or refused.error is None:
            return refused
        changed = await self._api(wire, "UPDATE", msgspec.json.encode(self._config))
        if changed.error is None:
            return changed
        if changed.error.err_code not in NO_ROOM:
            log.warning("stream keeps its old limits", stream=self.name, why=changed.error.description)
        return found

    async def check(self, wire: Wire) -> None:
        """Read the epoch, and make the stream only if there is none; raises BusUnavailable."""
        reply = await self._api(wire, "INFO", b"")
        if reply.error is not None:
            await self.ensure(wire)
        else:
            self._note(reply)

    def _note(self, reply: Reply) -> None:
        if reply.ts:
            self._clock.answered(ms_of(reply.ts), time.monotonic())
        epoch = epoch_of(reply.created)
        if epoch != self.epoch:
            self.remade = self.epoch is not None
            self.newest = 0
        self.epoch = epoch
        self.stale = False
        if reply.config is not None:
            self.max_bytes = reply.config.max_bytes

    async def page(self, wire: Wire, channel: str, after: int, limit: int, *, now: int, delivered: int) -> HistoryPage:
        """Read at most `limit` publications of a channel with offset > `after`, over a prepared wire.

        The retention's age counts back from `now`, ms since 1970; `delivered` is the newest offset known to exist.

        Raises:
            BusUnavailable: NATS did not answer, or only with less than is known to exist.
        """
        oldest_ts = now - round(self._retention.age_s * 1000)
        wanted = Wanted(channel, after, max(0, limit), oldest_ts, delivered)
        for attempt in range(TRIES):
            with contextlib.suppress(_Overtaken):
                return await self._page(wire, wanted)
            if attempt >= TRIES_AT_ONCE:
                await asyncio.sleep(TRY_WAIT_S)
        raise BusUnavailable(f"the history of channel {channel} changes faster than NATS answers, or a replica lags")

    async def _page(self, wire: Wire, wanted: Wanted) -> HistoryPage:
        """One try; raises _Overtaken when the answers do not fit together."""
        epoch = self.epoch
        reading = await self._reading(wire, wanted)
        oldest = await self._one(wire, DirectGet(seq=1, next_by_subj=self.subject(wanted.channel)))
        if oldest is not None and reading.first is None and oldest.seq > wanted.after:
            raise _Overtaken  # published between the two readings
        seen = reading.seen(oldest)
        state = None
        if needs_first_seq(seen, wanted.after, self._retention.count):
            state = await self._state(wire, wanted.channel, epoch)
        first_seq = state.first_seq if state is not None else None
        floor = max(floor_of(seen, count=self._retention.count, first_seq=first_seq), reading.too_old)
        served, more = reading.served(wanted, floor)
        top = await self._top(wire, wanted, reading, served, last_seq=state.last_seq if state is not None else 0)
        if not more and top < wanted.delivered:
            if self._config.num_replicas > 1 and oldest is not None:
                raise _Overtaken  # the replica that answered lags
            top = top if served else wanted.delivered
        before = reading.before(served, oldest, wanted.after, floor)
        return HistoryPage(epoch, floor, top, publications(wanted.channel, epoch, before, served), more)

    async def _reading(self, wire: Wire, wanted: Wanted) -> Reading:
        """Read the messages from the position on; a second time when the first was cut before what is served."""
        subject = self.subject(wanted.channel)
        # From the position itself on: that message, if it is still there, links the page to it.
        start = DirectGet(seq=max(wanted.after, 1), next_by_subj=subject)
        reading = Reading.of(*await self._read(wire, start, wanted.limit + 1), wanted.oldest_ts)
        if not reading.cut_before_served:
            return reading
        start = DirectGet(start_time=time_of(wanted.oldest_ts), next_by_subj=subject)
        stored, pending = await self._read(wire, start, wanted.limit + 1)
        if stored:
            return reading.again(stored, pending)
        last = await self._one(wire, DirectGet(last_by_subj=subject))
        if last is not None and last.ts >= wanted.oldest_ts:
            raise _Overtaken  # published between the two readings
        return reading.nothing_served(last)

    async def _state(self, wire: Wire, channel: str, epoch: str | None) -> StreamState:
        """The stream's first and last sequence; raises BusUnavailable when it is another one by now."""
        reply = await self._api(wire, "INFO", b"")
        if reply.error is not None or epoch_of(reply.created) != epoch:
            self.stale = True
            raise BusUnavailable(f"stream {self.name} was made again while channel {channel} was read")
        return reply.state or StreamState(0, 0)

    async def _top(self, wire: Wire, wanted: Wanted, reading: Reading, served: list[Stored], *, last_seq: int) -> int:
        """The offset up to which the page is complete, as far as it was read."""
        if served:
            return served[-1].seq
        if reading.newest is not None:
            return reading.newest
        if reading.stored and wanted.limit:
            raise _Overtaken  # all that was read has been pushed out meanwhile
        last = await self._one(wire, DirectGet(last_by_subj=self.subject(wanted.channel)))
        if last is None:
            # A channel that holds nothing stands where the whole stream stood a moment ago: a client that starts from
            # there can learn later that it missed nothing, when a lower offset would have fallen below the stream's
            # first one.
            return last_seq
        if not reading.stored and last.seq > wanted.after:
            raise _Overtaken  # published after the reading: it must not be passed over
        return last.seq

    async def _read(self, wire: Wire, start: DirectGet, wanted: int) -> tuple[list[Stored], int]:
        """Read up to `wanted` messages from `start` on; returns them and how many more there are."""
        stored: list[Stored] = []
        request = start
        while True:
            request = msgspec.structs.replace(request, batch=wanted - len(stored), max_bytes=BATCH_BYTES)
            batch, pending = await self._batch(wire, request)
            stored += batch
            if not batch or not pending or len(stored) >= wanted:
                return stored, pending
            request = DirectGet(seq=stored[-1].seq + 1, next_by_subj=start.next_by_subj)

    async def _batch(self, wire: Wire, request: DirectGet) -> tuple[list[Stored], int]:
        call = await wire.call(
            f"$JS.API.DIRECT.GET.{self.name}", msgspec.json.encode(request), timeout_s=self._timeout_s, many=True
        )
        stored: list[Stored] = []
        pending = 0
        for msg in await call:
            headers = msg.headers or {}
            if "Status" in headers:
                self._check_status(headers)
                continue
            stored.append(Stored(int(headers["Nats-Sequence"]), ms_of(headers["Nats-Time-Stamp"]), msg.data))
            pending = int(headers.get("Nats-Num-Pending", "0"))
        return stored, pending

    async def _one(self, wire: Wire, request: DirectGet) -> Stored | None:
        """One message as the leader has it, which is never behind the replica that was read; None for none."""
        msg = await wire.request(
            f"$JS.API.STREAM.MSG.GET.{self.name}", msgspec.json.encode(request), timeout_s=self._timeout_s
        )
        if msg.headers is not None and "Status" in msg.headers:
            self._check_status(msg.headers)
        reply = msgspec.json.decode(msg.data, type=Reply)
        if reply.message is not None:
            return Stored(reply.message.seq, ms_of(reply.message.time), b"")
        if reply.error is None or reply.error.err_code != NO_MESSAGE:
            self.stale = True  # the stream may be gone
            why = reply.error.description if reply.error is not None else "an empty answer"
            raise BusUnavailable(f"stream {self.name} cannot be read: {why}")
        return None

    def _check_status(self, headers: dict[str, str]) -> None:
        """Let the end of a batch and "there is none" pass; anything else means that the stream does not answer."""
        status = int(headers["Status"])
        if status not in (204, NOT_FOUND):
            self.stale = True  # the stream may be gone
            raise BusUnavailable(f"stream {self.name} cannot be read: status {status}")

    async def _api(self, wire: Wire, verb: str, request: bytes) -> Reply:
        msg = await wire.request(f"$JS.API.STREAM.{verb}.{self.name}", request, timeout_s=self._timeout_s)
        if msg.headers is not None and "Status" in msg.headers:
            # Where the stream was there before, it is being started again.
            kind = BusCannotStore if self.epoch is None else BusUnavailable
            raise kind("NATS runs without JetStream, or it is not ready; channels with history need it")
        return msgspec.json.decode(msg.data, type=Reply)
