"""What connections, channels and endpoints need of each other, so that none of them knows the others' classes.

- A connection reports to its `Owner`, which knows all connections of the node.
- A connection hands what its client sends to its `Handler`, which serves the endpoint.
- A channel writes to each `Subscriber`, which is a connection.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from trunkline.server.connections.identity import ClientIdentity

C = TypeVar("C", contravariant=True)


class Owner(Protocol[C]):
    """What a connection reports to."""

    def fell_behind(self, connection: C) -> None:
        """The kernel does not take the client's bytes any more."""

    def caught_up(self, connection: C) -> None:
        """Everything written has left, or will never leave."""

    def closing(self, connection: C) -> None:
        """Our close frame was sent: nothing that is published from here on is for this client."""

    def lost(self, connection: C) -> None:
        """The TCP connection has ended."""


class Handler(Protocol):
    """What serves the client of a connection."""

    @property
    def held_back(self) -> bool:
        """Whether the client is not read from because its messages wait."""

    @property
    def names_session(self) -> bool:
        """Whether the client is told its session."""

    def begin(self) -> None:
        """The handshake is being answered: greet the client, begin the endpoint's work."""

    def receive(self, opcode: int, payload: bytes) -> None:
        """A whole text or binary message has come."""

    def beat(self) -> None:
        """A heartbeat is due."""

    def expiring(self, left_ms: int) -> None:
        """The client's token expires in so many milliseconds."""

    def farewell(self, code: int, reason: str, reconnect_after_ms: int | None) -> bytes:
        """The frames that go before our close frame."""

    def ended(self) -> None:
        """The connection has ended."""


class Followed(Protocol):
    """What a subscriber knows of a channel."""

    @property
    def name(self) -> str:
        """The channel's name."""

    @property
    def epoch(self) -> str | None:
        """The epoch of its offsets, None without history."""

    def leave(self, subscriber: Subscriber, now: float) -> None:
        """End a subscription; `now` in seconds of the node's clock."""


class Subscriber(Protocol):
    """What a channel, and the requests about channels, need of a connection.

    Attributes:
        state: OPEN, CLOSING or CLOSED.
        fd: what plain bytes may be written to, -1 when nothing may.
        blocked: whether the kernel does not take this client's bytes.
        corked: answers that leave when the read is handled, None outside of one.
        deflate_bits: window for compressed messages, 0 without compression.
    """

    state: int
    fd: int
    blocked: bool
    corked: list[bytes] | None
    deflate_bits: int
    bytes_out: int
    channels: tuple[Followed, ...]
    identity: ClientIdentity

    def hand_over(self, rest: bytes) -> None:
        """Take what the kernel did not take of a write to `fd`."""

    def push(self, data: bytes, channel: Followed, prev: int | None, last: int | None) -> bool:
        """Write publications; False when they were dropped because the client is slow."""

    def send_message(self, message: msgspec.Struct) -> None:
        """Send a message of the protocol; it is never dropped."""

    def send_bytes(self, data: bytes) -> None:
        """Send whole frames; they are never dropped."""

    def widen_gap(self, channel: str, epoch: str | None, last: int | None) -> bool:
        """Let a gap that waits to be announced reach over offset `last`; False when none waits."""

    def announce_gap(self, channel: str) -> None:
        """Send a gap that waits in `channel` now."""

    def forget(self, channel: str) -> None:
        """The client left `channel`: no gap of it need be announced."""

    def end(self, code: int, reason: str, reconnect_after_ms: int | None = None) -> None:
        """Begin the closing handshake."""
