"""The messages of JetStream, and what can be concluded from them. Pure.

Names and numbers are those of the JetStream API of nats-server 2.11 and newer (`$JS.API.…`, direct get with `batch`).

How a stream serves as the log of many channels:

- One stream for each distinct retention; a channel is a subject below it; stored messages are republished to the live
  subjects.
- An offset is the stream's sequence, so offsets of a channel grow but are not dense.
- The stream keeps messages for longer than they are served. A channel that was quiet for a while still holds a message
  at or before a returning client's position, and that message proves that nothing after it was evicted: eviction always
  takes the oldest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from trunkline.bus.base import Retention
from trunkline.protocol.timestamps import utc
from trunkline.protocol.wire import MAX_OFFSET
from trunkline.settings.sections import BusSettings

NOT_FOUND = 404
NO_MESSAGE = 10037
"""JetStream's error code for a message that is not there."""
STREAM_EXISTS_DIFFERENTLY = 10058
"""JetStream's error code for creating a stream that exists with another configuration."""
NO_ROOM = frozenset({10002, 10005, 10023, 10028, 10047})
"""JetStream's error codes for a lack of room: of the account, of a cluster, of any resource, of memory, of the disk."""

SMALLEST_BYTES = 16 * 1024 * 1024
"""A stream that finds less room than this is not made."""


class RePublish(msgspec.Struct, frozen=True):
    """Where stored messages are sent on to."""

    src: str = ""
    dest: str = ""


class StreamConfig(msgspec.Struct, frozen=True):
    """What a stream must be like, or is like, as the server says it: without what is false; durations in ns."""

    name: str = ""
    subjects: list[str] = []
    max_msgs_per_subject: int = 0
    max_age: int = 0
    max_bytes: int = 0
    num_replicas: int = 0
    republish: RePublish = RePublish()
    duplicate_window: int = 0
    retention: str = ""
    discard: str = ""
    storage: str = ""
    allow_direct: bool = False
    deny_delete: bool = False
    deny_purge: bool = False


class StreamState(msgspec.Struct, frozen=True):
    """The stream's first and last sequence; an empty stream's first is after its last, a new one's is 0."""

    first_seq: int
    last_seq: int


class ApiError(msgspec.Struct, frozen=True):
    """Why JetStream refused."""

    code: int
    err_code: int = 0
    description: str = ""


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as the leader has it, without its payload."""

    seq: int
    time: str


class Reply(msgspec.Struct, frozen=True):
    """An answer of JetStream: what it has beside an error depends on the request."""

    error: ApiError | None = None
    created: str = ""
    ts: str = ""
    state: StreamState | None = None
    config: StreamConfig | None = None
    message: StoredMessage | None = None
    seq: int = 0


class DirectGet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request for stored messages: from a sequence or a time on, or the last one of a subject."""

    seq: int = 0
    start_time: str = ""
    next_by_subj: str = ""
    last_by_subj: str = ""
    batch: int = 0
    max_bytes: int = 0


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message as the log holds it; `ts` is when the stream took it, ms since 1970."""

    seq: int
    ts: int
    data: bytes


class Seen(msgspec.Struct, frozen=True):
    """What one reading of a channel's messages, from a position on, shows about the channel.

    Attributes:
        first: the first sequence read at or after the position, None for none.
        held: how many messages there were from the position on.
        oldest: the first sequence the stream still held for the channel **after** the messages were read; None for
            none.
    """

    first: int | None
    held: int
    oldest: int | None


def stream_config(settings: BusSettings, retention: Retention) -> StreamConfig:
    """The stream for one retention, whose count becomes the limit per channel."""
    profile = profile_of(retention)
    subject = f"{settings.prefix}.log.{profile}.>"
    return StreamConfig(
        name=f"{settings.prefix}_{profile}".upper(),
        subjects=[subject],
        max_msgs_per_subject=retention.count,
        max_age=int(max(retention.age_s, settings.keep_s) * 1e9),
        max_bytes=settings.max_bytes,
        num_replicas=settings.replicas,
        republish=RePublish(subject, f"{settings.prefix}.live.>"),
        duplicate_window=1_000_000_000,  # nothing is published with an id, so as little as is sensible
        retention="limits",
        discard="old",
        storage="file",
        allow_direct=True,
        # A message deleted from the middle would leave a hole that no reader can see.
        deny_delete=True,
        deny_purge=True,
    )


def smaller(config: StreamConfig) -> StreamConfig | None:
    """The same stream with half the room, None when that would be too little."""
    half = config.max_bytes // 2
    return msgspec.structs.replace(config, max_bytes=half) if half >= SMALLEST_BYTES else None


def profile_of(retention: Retention) -> str:
    """A token that names a retention, e.g. `1000_300s`."""
    ms = round(retention.age_s * 1000)
    return f"{retention.count}_{ms // 1000}s" if ms % 1000 == 0 else f"{retention.count}_{ms}ms"


def epoch_of(created: str) -> str:
    """A short stable name for a stream's life, from its creation time (RFC 3339, UTC, with up to ns)."""
    whole, _, fraction = created.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return f"{seconds * 10**9 + int(fraction.ljust(9, '0')[:9]):x}"


def ms_of(time: str) -> int:
    """A server's timestamp (RFC 3339, UTC) as ms since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def place_of(headers: Mapping[str, str]) -> tuple[int, int, int]:
    """Sequence, the channel's last one before it and the ms since 1970, as the server republishes a stored message.

    Raises ValueError when they are not the server's: whoever may publish on a live subject can make them up.
    """
    try:
        offset, before = int(headers["Nats-Sequence"]), int(headers["Nats-Last-Sequence"])
        stored_at = ms_of(headers["Nats-Time-Stamp"])
    except (KeyError, OverflowError) as error:
        raise ValueError(f"header {error}") from None
    if not (0 < offset <= MAX_OFFSET and 0 <= before <= MAX_OFFSET):
        raise ValueError(f"no sequence: {offset}, {before}")
    return offset, before, stored_at


def time_of(ms: int) -> str:
    """Ms since 1970 as the server reads it."""
    return utc(ms / 1000)


def needs_first_seq(seen: Seen, after: int, count: int) -> bool:
    """Whether the channel's messages alone do not show what is gone after `after`."""
    if seen.oldest is None:
        return True
    return after < seen.oldest - 1 and not _evicted_by_count(seen, count)


def floor_of(seen: Seen, *, count: int, first_seq: int | None) -> int:
    """The sequence after which everything of the channel is still there.

    Args:
        seen: what was read.
        count: the limit per channel.
        first_seq: the stream's first sequence, requested **after** the reading (earlier, what was evicted in between
            would be missing unnoticed); None when `needs_first_seq` is false.

    Why this is right: the stream evicts oldest first, by age and bytes over all channels, and by count within one.
    While `oldest` is held, everything of the channel after it is held too. Before `oldest` there can only be something
    gone if the channel was at its count, or if it lay below the stream's first sequence.
    """
    if seen.oldest is None:
        return max(0, (first_seq or 1) - 1)
    if first_seq is None or _evicted_by_count(seen, count):
        return seen.oldest - 1
    return max(0, min(seen.oldest, first_seq) - 1)


def _evicted_by_count(seen: Seen, count: int) -> bool:
    """Whether the channel may have lost messages to its count, before or while it was read."""
    if seen.first is not None and seen.oldest is not None and seen.first < seen.oldest:
        return True
    return seen.held >= count
