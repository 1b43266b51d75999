"""The fleet's store over NATS: one key-value bucket (see `bucket.py`), made by the first write.

Rules:

- Reads are answered by the leader of the bucket, so that they show every write that returned.
- A watcher hears **that** a key has changed, and the entry is read then; so what it is given is never older than what
  it had. A gap in what it hears, and every new connection, has it read all its keys; and every `CHECK_S` it compares
  the bucket's last sequence with what it heard, since plain messages can be lost on their way through a cluster.
- A write without an answer may have been stored: its caller reads, and decides again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg

from trunkline.bus.base import Entry, OnEntry, Subscription
from trunkline.bus.nats.bucket import (
    EXPECT,
    FULL,
    MARKER,
    OTHER_SEQUENCE,
    STREAM_NOT_FOUND,
    BucketReply,
    Heard,
    LastMessage,
    Names,
    bucket_config,
    entry_of,
)
from trunkline.bus.nats.jetstream import (
    NO_MESSAGE,
    NO_ROOM,
    SMALLEST_BYTES,
    STREAM_EXISTS_DIFFERENTLY,
    DirectGet,
)
from trunkline.bus.nats.wire import LastingSubscription, Wire
from trunkline.bus.store.keys import check_key, check_prefix, check_value
from trunkline.bus.store.watch import Watch
from trunkline.errors import BusCannotStore, BusForbids, BusUnavailable, Changed
from trunkline.nats.address import parse_address
from trunkline.nats.link import Events, Link
from trunkline.nats.login import tls_context
from trunkline.process.bounds import end_tasks
from trunkline.settings.sections import BusSettings

log = structlog.get_logger("trunkline.bus")

CHECK_S: Final = 5.0
ECHO_S: Final = 4.0
PAUSE_S: Final = 0.5
"""Time between two tries to read what watchers have to be given."""

TRIES: Final = 5
"""Of a write that has to know the marker of its key, which others may change meanwhile."""

AT_ONCE: Final = 16

_EVENTS: Final = Events("store connected", "store unreachable", "store lost", "store state failed")


class NatsStore:
    """See `base.FleetStore`. It works over the wire that it was attached to last."""

    name = "nats"

    def __init__(self, settings: BusSettings) -> None:
        self._config = bucket_config(settings)
        self._names = Names(settings.prefix)
        self._timeout_s = settings.publish_timeout_s
        self._wire: Wire | None = None
        self._made = False
        self._making = asyncio.Lock()
        self._watches: list[Watch] = []
        self._changes = LastingSubscription(self._names.changes, self._on_change, lambda _: None)
        self._following: asyncio.Task[None] | None = None
        self._heard = Heard()
        self._changed: set[str] = set()
        self._read_all = False
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Nothing is to be done: the bus that it belongs to attaches it."""

    async def close(self) -> None:
        """End the watches."""
        for watch in list(self._watches):
            await watch.close()
        if self._following is not None:
            await end_tasks([self._following])
            self._following = None
        await self._changes.close()

    async def attach(self, wire: Wire) -> None:
        """Go on over a new wire; raises BusUnavailable when that is lost already."""
        self._wire = wire
        self._made = False
        if self._watches:
            if self._following is None:
                self._following = asyncio.create_task(self._follow())
            await self._changes.attach(wire)
            self._read_all = True
            self._wake.set()

    async def get(self, key: str) -> Entry | None:
        """What is there now; raises BusUnavailable."""
        check_key(key)
        return entry_of(key, await self._last(await self._connected(), key))

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        """The keys there are; raises BusUnavailable."""
        check_prefix(prefix)
        wire = await self._connected()
        names = [key for key in self._keys_of(await self._info(wire, subjects=True)) if key.startswith(prefix)]
        # Whether a message is a marker shows when it is read.
        return tuple(sorted(entry.key for entry in await self._entries(wire, names)))

    async def put(self, key: str, value: bytes, expect: int | None) -> int:
        """Write, and return the new revision; raises Changed and BusUnavailable, BusCannotStore for a lack of room."""
        check_key(key)
        check_value(key, value)
        wire = await self._connected()
        seen = expect
        for _ in range(TRIES):
            reply = await self._write(wire, key, value, {} if seen is None else {EXPECT: str(seen)})
            if reply is not None:
                return reply.seq
            last = await self._last(wire, key)
            entry = entry_of(key, last)
            if expect or entry is not None:
                raise Changed(key, expect or 0, entry.revision if entry is not None else 0)
            # Not there: it never was, or there is the marker of what was removed.
            seen = last.seq if last is not None else 0
        raise BusUnavailable(f"{key} changes faster than NATS answers")

    async def delete(self, key: str, expect: int | None) -> None:
        """Remove a key; raises Changed and BusUnavailable."""
        check_key(key)
        wire = await self._connected()
        for _ in range(TRIES):
            entry = entry_of(key, await self._last(wire, key))
            found = entry.revision if entry is not None else 0
            if expect is not None and expect != found:
                raise Changed(key, expect, found)
            if entry is None or await self._write(wire, key, b"", {EXPECT: str(found), **MARKER}) is not None:
                return
        raise BusUnavailable(f"{key} changes faster than NATS answers")

    async def watch(self, prefix: str, on_entry: OnEntry) -> Subscription:
        """Give what is there before it returns, or, when NATS cannot be reached now, once it can."""
        check_prefix(prefix)
        watch = Watch(prefix, on_entry, self._watches.remove)
        self._watches.append(watch)
        self._read_all = True  # at once, so that no reading under way gives it a part of what is there
        # Without a server, or with one that is lost this very moment, all of it happens on the next wire.
        with contextlib.suppress(BusUnavailable, TimeoutError):
            wire = await self._connected()
            if self._following is None:
                self._following = asyncio.create_task(self._follow())
                await self._changes.attach(wire)
            self._wake.set()
            async with asyncio.timeout(self._timeout_s):
                await watch.begun.wait()
        return watch

    async def _connected(self) -> Wire:
        """The wire; raises BusUnavailable."""
        return self._alive()

    def _alive(self) -> Wire:
        if self._wire is None or not self._wire.alive:
            raise BusUnavailable("NATS is not connected, so the fleet's store cannot be reached")
        return self._wire

    def _on_change(self, msg: Msg) -> None:
        try:
            seq = int((msg.headers or {})["Nats-Sequence"])
        except (KeyError, ValueError):
            return  # not the server's
        self._changed.add(self._names.key(msg.subject))
        if not self._heard.change(seq):
            self._read_all = True
        self._wake.set()

    async def _follow(self) -> None:
        """Give to watchers what has changed, for as long as the store is open."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._catch_up()
            except BusUnavailable as error:
                log.debug("store cannot be watched", why=str(error))
                self._read_all = True
                if self._wire is not None and self._wire.alive:
                    await asyncio.sleep(PAUSE_S)
                    self._wake.set()

    async def _catch_up(self) -> None:
        """Read and give what has changed to those that watch now; who comes meanwhile has everything read again."""
        wire, watches = self._alive(), list(self._watches)
        changed, self._changed = self._changed, set()
        if not changed and not self._read_all:
            info = await self._info(wire)
            if not self._heard.same(info.created, info.state):
                self._read_all = True
                self._wake.set()
            return
        if self._read_all:
            self._read_all = False
            info = await self._info(wire, subjects=True)
            self._heard.begin(info.created, info.state)
            found, read = await self._entries(wire, _meant(watches, self._keys_of(info))), None
        else:
            found, read = await self._entries(wire, _meant(watches, changed)), changed
        for watch in watches:
            watch.give(found, read)

    def _keys_of(self, info: BucketReply) -> list[str]:
        return [self._names.key(subject) for subject in info.state.subjects or ()]

    async def _entries(self, wire: Wire, keys: Collection[str]) -> list[Entry]:
        """What these keys hold, some of them at a time; raises BusUnavailable."""
        waiting, entries = list(keys), []
        while waiting:
            now, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            messages = await asyncio.gather(*(self._last(wire, key) for key in now))
            entries += [entry_of(key, message) for key, message in zip(now, messages, strict=True)]
        return [entry for entry in entries if entry is not None]

    async def _last(self, wire: Wire, key: str) -> LastMessage | None:
        """The last message of a key, as the leader has it; None for none."""
        question = DirectGet(last_by_subj=self._names.subject(key))
        reply = await self._ask(wire, "MSG.GET", question)
        if reply.error is None:
            return reply.message
        if reply.error.err_code not in (NO_MESSAGE, STREAM_NOT_FOUND):
            raise BusUnavailable(f"{key} cannot be read from the fleet's store: {reply.error.description}")
        return None

    async def _info(self, wire: Wire, *, subjects: bool = False) -> BucketReply:
        """When the bucket was made, and its state; of none, an empty one."""
        reply = await self._ask(wire, "INFO", {"subjects_filter": self._names.subjects} if subjects else {})
        if reply.error is not None and reply.error.err_code != STREAM_NOT_FOUND:
            raise BusUnavailable(f"bucket {self._names.prefix} cannot be read: {reply.error.description}")
        return reply

    async def _write(self, wire: Wire, key: str, value: bytes, headers: dict[str, str]) -> BucketReply | None:
        """Store a message; None when another one came before it."""
        for _ in range(2):
            if not self._made:
                await self._make(wire)
            call = await wire.call(self._names.subject(key), value, timeout_s=self._timeout_s, headers=headers)
            try:
                msg = (await call)[0]
            except BusForbids as error:
                raise BusForbids(f"the fleet's store did not take {key}: {error}") from None
            if not (msg.headers and "Status" in msg.headers):
                break
            self._made = False  # nobody serves the subject: the bucket is gone
        else:
            raise BusUnavailable(f"no bucket of NATS took {key}")
        reply = _read(msg)
        if reply.error is None:
            return reply
        if reply.error.err_code in OTHER_SEQUENCE:
            return None
        kind = BusCannotStore if reply.error.err_code in (*NO_ROOM, FULL) else BusUnavailable
        raise kind(f"the fleet's store did not take {key}: {reply.error.description}")

    async def prepare(self) -> None:
        """Make the bucket if it is not there; raises BusUnavailable, BusCannotStore for a lack of room."""
        await self._make(await self._connected())

    async def _make(self, wire: Wire) -> None:
        """Have the bucket, as the settings want it; raises BusUnavailable, BusCannotStore for a lack of room."""
        async with self._making:
            if self._made:
                return
            config = self._config
            # Who may not make buckets can use one that is there.
            found = await self._info(wire)
            if found.config == config:
                self._made = True
                return
            try:
                reply = await self._ask(wire, "CREATE", config)
            except BusForbids as error:
                if found.config is None:
                    advice = "run `trunkline bus prepare` as a user of NATS that may"
                    raise BusCannotStore(f"there is no bucket {self._names.prefix}, and {error}; {advice}") from None
                log.warning("store keeps its old limits", bucket=config.name, why=str(error))
                self._made = True
                return
            while reply.error is not None and reply.error.err_code in NO_ROOM and config.max_bytes > SMALLEST_BYTES:
                config = msgspec.structs.replace(config, max_bytes=config.max_bytes // 2)
                reply = await self._ask(wire, "CREATE", config)
            if reply.error is not None and reply.error.err_code == STREAM_EXISTS_DIFFERENTLY:
                changed = await self._ask(wire, "UPDATE", self._config)
                if changed.error is not None:
                    log.warning("store keeps its old limits", bucket=config.name, why=changed.error.description)
            elif reply.error is not None:
                kind = BusCannotStore if reply.error.err_code in NO_ROOM else BusUnavailable
                why = f"NATS does not provide bucket {self._names.prefix}: {reply.error.description}"
                raise kind(f"{why} ({config.max_bytes:,} bytes, replicas {config.num_replicas})")
            self._made = True

    async def _ask(self, wire: Wire, verb: str, question: object) -> BucketReply:
        subject = f"$JS.API.STREAM.{verb}.{self._config.name}"
        msg = await wire.request(subject, msgspec.json.encode(question), timeout_s=self._timeout_s)
        if msg.headers is not None and "Status" in msg.headers:
            raise BusUnavailable("NATS runs without JetStream, or it is not ready; the fleet's store needs it")
        return _read(msg)


def _meant(watches: Iterable[Watch], keys: Iterable[str]) -> list[str]:
    return [key for key in keys if any(watch.means(key) for watch in watches)]


def _read(msg: Msg) -> BucketReply:
    try:
        return msgspec.json.decode(msg.data, type=BucketReply)
    except msgspec.MsgspecError as error:
        # Whoever may publish on the subject of a reply can make one up; a watch must not end by it.
        raise BusUnavailable(f"an answer of JetStream cannot be read: {error}") from None


class LinkedNatsStore(NatsStore):
    """A store with a connection of its own, for a process without a bus.

    Raises:
        SettingsError: the address or the file of the authority cannot be used.
    """

    def __init__(self, settings: BusSettings) -> None:
        super().__init__(settings)
        self._address = parse_address(settings.url)
        self._tls = tls_context(self._address, settings.tls_ca_file)
        self._prefix = settings.prefix
        self._link = Link(self._address, self._connect, log=log, events=_EVENTS, probe=lambda wire: wire.echo(ECHO_S))

    async def start(self) -> None:
        """Begin to connect; returns at once. A call that comes before the first try is over waits for it."""
        self._link.start(lambda _: None)

    async def close(self) -> None:
        """End the watches, and disconnect."""
        await super().close()
        await self._link.close("the store was closed")

    async def _connected(self) -> Wire:
        await self._link.first_try()
        return self._link.require()

    async def _connect(self) -> Wire:
        wire = await Wire.connect(self._address, prefix=self._prefix, tls=self._tls)
        try:
            await self.attach(wire)
            await wire.echo()
        except BaseException as error:
            await wire.close(f"given up: {error}")
            raise
        return wire
