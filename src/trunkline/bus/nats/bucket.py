"""The store's bucket in NATS: its names, its messages, and what can be concluded from them. Pure.

It is a key-value bucket as the tools of NATS know it (`nats kv get trunkline traffic`): a stream `KV_<bucket>` whose
subjects are `$KV.<bucket>.<key>`, that keeps one message a key. A revision is the stream's sequence. What is removed
leaves a marker, a message with the header `KV-Operation`. The stream sends on the headers of each stored message, so
that watchers hear of a change without a consumer of their own.
"""

from __future__ import annotations

from typing import Final

import msgspec

from trunkline.bus.base import Entry
from trunkline.bus.nats.jetstream import ApiError
from trunkline.settings.sections import BusSettings

STREAM_NOT_FOUND: Final = 10059
OTHER_SEQUENCE: Final = frozenset({10071, 10164})
"""JetStream's error codes for a subject whose last sequence is not the expected one."""
FULL: Final = 10077
"""JetStream's error code for a message that it could not store, as in a bucket that is full."""

BUCKET_BYTES: Final = 64 * 1024 * 1024
MARKER_S: Final = 3600
"""Time that a marker is kept; without it the key is one that never was."""

EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
OPERATION: Final = "KV-Operation"
MARKER: Final = {OPERATION: "DEL", "Nats-TTL": f"{MARKER_S}s"}


class SendOn(msgspec.Struct, frozen=True):
    """Where the headers of stored messages are sent on to."""

    src: str = ""
    dest: str = ""
    headers_only: bool = False


class BucketConfig(msgspec.Struct, frozen=True):
    """What the bucket's stream must be like, or is like, as the server says it: without what is false."""

    name: str = ""
    subjects: list[str] = []
    max_bytes: int = 0
    num_replicas: int = 0
    republish: SendOn = SendOn()
    max_msgs_per_subject: int = 0
    retention: str = ""
    discard: str = ""
    storage: str = ""
    allow_direct: bool = False
    allow_rollup_hdrs: bool = False
    allow_msg_ttl: bool = False
    deny_delete: bool = False


class BucketState(msgspec.Struct, frozen=True):
    """The newest sequence and, where they were requested, the subjects there are."""

    last_seq: int = 0
    subjects: dict[str, int] | None = None


class LastMessage(msgspec.Struct, frozen=True):
    """The last message of a subject: its payload and its headers."""

    seq: int
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def marks(self) -> bool:
        """Whether it stands for no entry: the key was removed, or the server put a copy of another message here.

        Who may read any stream can have the answer sent to this subject (`deploy/nats/nats.conf`).
        """
        return any(f"\n{name}: ".encode() in self.hdrs for name in (OPERATION, "Nats-Marker-Reason", "Nats-Stream"))


class BucketReply(msgspec.Struct, frozen=True):
    """An answer of JetStream: what it has beside an error depends on the request."""

    error: ApiError | None = None
    created: str = ""
    config: BucketConfig | None = None
    state: BucketState = BucketState()
    message: LastMessage | None = None
    seq: int = 0


class Names(msgspec.Struct, frozen=True):
    """What belongs to the bucket of one prefix."""

    prefix: str

    @property
    def stream(self) -> str:
        """The stream."""
        return f"KV_{self.prefix}"

    @property
    def subjects(self) -> str:
        """All its subjects."""
        return f"$KV.{self.prefix}.>"

    @property
    def changes(self) -> str:
        """Where changes are heard."""
        return f"{self.prefix}.store.>"

    def subject(self, key: str) -> str:
        """Where a key is."""
        return f"$KV.{self.prefix}.{key}"

    def key(self, subject: str) -> str:
        """The key of a subject, of those stored and of those heard."""
        return subject.split(".", 2)[2]


def bucket_config(settings: BusSettings) -> BucketConfig:
    """The bucket of these settings."""
    names = Names(settings.prefix)
    return BucketConfig(
        name=names.stream,
        subjects=[names.subjects],
        max_bytes=min(BUCKET_BYTES, settings.max_bytes),
        num_replicas=settings.replicas,
        republish=SendOn(names.subjects, names.changes, headers_only=True),
        max_msgs_per_subject=1,
        retention="limits",
        discard="new",
        storage="file",
        allow_direct=True,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
        deny_delete=True,
    )


def entry_of(key: str, message: LastMessage | None) -> Entry | None:
    """What a key holds, None for nothing."""
    if message is None or message.marks:
        return None
    return Entry(key, message.data, message.seq)


class Heard:
    """How far a watcher has heard the changes of a bucket, without a gap.

    Attributes:
        created: of the bucket, empty for none; another time means another bucket, whose sequences begin again.
        seq: everything up to it was heard or read.
    """

    __slots__ = ("created", "seq")

    def __init__(self) -> None:
        self.created = ""
        self.seq = 0

    def begin(self, created: str, state: BucketState) -> None:
        """Everything that is there by this state is read after it was requested."""
        self.created, self.seq = created, state.last_seq

    def same(self, created: str, state: BucketState) -> bool:
        """Whether nothing has changed unheard."""
        return (created, state.last_seq) == (self.created, self.seq)

    def change(self, seq: int) -> bool:
        """A change was heard; returns whether none before it was missed."""
        if seq == self.seq + 1:
            self.seq = seq
        return seq <= self.seq
