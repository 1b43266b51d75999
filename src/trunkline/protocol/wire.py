"""Messages between client and server: one msgspec struct a message, `type` first; the client's stand first. Pure.

Rules: the structs are the contract, nothing is encoded by hand except `publication`, whose frame is spliced from
bytes that the bus delivered (see `server/channels/publications.py`). Unknown fields are ignored. Lengths and ranges
that belong to the shape stand here; limits that an operator sets are checked by the server.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_OFFSET = 2**53 - 1
"""Offsets stay within what a JavaScript number holds exactly."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
MessageId = str | int | None


class Position(msgspec.Struct, frozen=True):
    """Where a client stands in a channel: everything up to and including `offset` of `epoch` was seen."""

    epoch: Annotated[str, msgspec.Meta(max_length=64)]
    offset: Offset


class Subscribe(msgspec.Struct, tag="subscribe"):
    """Ask for live publications of channels, and with `recover` for what was missed since a position."""

    channels: list[str]
    id: MessageId = None
    recover: dict[str, Position] | None = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe"):
    """Stop receiving channels."""

    channels: list[str]
    id: MessageId = None


class Publish(msgspec.Struct, tag="publish"):
    """Put `data` (any JSON) into a channel."""

    channel: str
    data: msgspec.Raw
    id: MessageId = None


class Replay(msgspec.Struct, tag="replay"):
    """Ask again for publications: `from`..`to` both inclusive, or everything after `since`."""

    channel: str
    id: MessageId = None
    epoch: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    start: Offset | None = msgspec.field(name="from", default=None)
    to: Offset | None = None
    since: Offset | None = None


class Heartbeat(msgspec.Struct, tag="heartbeat"):
    """The client is still there; answered by `pong`. The server sends one too."""

    id: MessageId = None


class Refresh(msgspec.Struct, tag="refresh"):
    """A fresh token, before that of the handshake, or of the last refresh, expires."""

    token: str
    id: MessageId = None


class ChatMessage(msgspec.Struct, tag="message"):
    """A line of chat."""

    text: Annotated[str, msgspec.Meta(max_length=32_768)]
    id: MessageId = None


ChannelRequest = Subscribe | Unsubscribe | Publish | Replay


class ClientLimits(msgspec.Struct, frozen=True):
    """What the server will take from this client: message size in bytes, burst and steady rate in messages."""

    message_bytes: int
    rate_burst: float
    rate_per_s: float


class ConnectionEstablished(msgspec.Struct, tag="connection_established"):
    """The first message of a connection."""

    connection_id: str
    node: str
    session: str
    resumed: bool
    heartbeat_interval_ms: int
    limits: ClientLimits
    ts: int


class ServerHeartbeat(msgspec.Struct, tag="heartbeat"):
    """Sent every HEARTBEAT_INTERVAL."""

    ts: int


class Pong(msgspec.Struct, tag="pong", omit_defaults=True):
    """Answer to a client's heartbeat."""

    ts: int
    id: MessageId = None


class TokenExpiring(msgspec.Struct, tag="token_expiring"):
    """The client's token holds for so long; then the connection is closed with 4002."""

    expires_in_ms: int
    ts: int


class RefreshAck(msgspec.Struct, tag="refresh_ack"):
    """The fresh token is in use. `expires_at` is in ms since 1970 by the token itself, None for never."""

    id: MessageId
    expires_at: int | None
    ts: int


RecoverReason = Literal["epoch_changed", "expired", "no_history"]


class AckPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a subscription starts, and whether what was missed follows."""

    epoch: str | None
    offset: int | None
    recovered: bool
    replayed: int
    reason: RecoverReason | msgspec.UnsetType = msgspec.UNSET


class SubscriptionAck(msgspec.Struct, tag="subscription_ack"):
    """The channels now subscribed (of this request) and `count`, how many the client has in all."""

    id: MessageId
    subscribed: list[str]
    count: int
    positions: dict[str, AckPosition]
    ts: int


class UnsubscriptionAck(msgspec.Struct, tag="unsubscription_ack"):
    """The channels left, and `count`, how many the client still has."""

    id: MessageId
    unsubscribed: list[str]
    count: int
    ts: int


class Unsubscribed(msgspec.Struct, tag="unsubscribed"):
    """The server ended a subscription; `code` is one of `error` messages."""

    channel: str
    code: str
    reason: str
    ts: int


class PublishAck(msgspec.Struct, tag="publish_ack"):
    """The bus has the publication. With `prev` it stands in the channel's order in place of the publication itself."""

    id: MessageId
    channel: str
    epoch: str | None
    offset: int | None
    ts: int
    prev: int | msgspec.UnsetType | None = msgspec.UNSET


class ReplayComplete(msgspec.Struct, tag="replay_complete", rename={"start": "from"}):
    """All requested publications were sent."""

    id: MessageId
    channel: str
    epoch: str | None
    start: int
    to: int
    sent: int
    ts: int


class ReplayIncomplete(msgspec.Struct, tag="replay_incomplete"):
    """Some of the requested publications are not available: offsets `missing_from` to `missing_to`, both inclusive."""

    id: MessageId
    channel: str
    epoch: str | None
    sent: int
    missing_from: int
    missing_to: int | None
    reason: str
    ts: int
    total: int | msgspec.UnsetType = msgspec.UNSET


class Gap(msgspec.Struct, tag="gap"):
    """Publications with `after` < offset < `before` were dropped for this client; it can request them."""

    channel: str
    epoch: str | None
    after: int | None
    before: int | None
    reason: str
    ts: int


class MessageResponse(msgspec.Struct, tag="message_response"):
    """Chat: the line was accepted; `count` is how many lines this connection has sent so far."""

    id: MessageId
    count: int
    room: str
    ts: int


class PlayerJoined(msgspec.Struct, tag="player_joined"):
    """Match: `player` is here now; `players` are all that are."""

    match: str
    player: str
    players: list[str]
    ts: int


class PlayerLeft(msgspec.Struct, tag="player_left"):
    """Match: `player` is gone; `players` are those that stay."""

    match: str
    player: str
    players: list[str]
    ts: int


class ErrorMessage(msgspec.Struct, tag="error", omit_defaults=True):
    """A message was not served. The connection goes on."""

    code: str
    message: str
    temporary: bool
    ts: int
    id: MessageId = None
    retry_after_ms: int | None = None


class Goodbye(msgspec.Struct, tag="goodbye"):
    """The last message before the server closes."""

    code: int
    reason: str
    reconnect: bool
    reconnect_after_ms: int | None
    ts: int


# Error codes of `error` messages.
INVALID_JSON = "INVALID_JSON"
INVALID_MESSAGE = "INVALID_MESSAGE"
UNKNOWN_TYPE = "UNKNOWN_TYPE"
FORBIDDEN = "FORBIDDEN"
UNAUTHORIZED = "UNAUTHORIZED"
RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
CHANNEL_LIMIT = "CHANNEL_LIMIT"
NOT_SUBSCRIBED = "NOT_SUBSCRIBED"
UNAVAILABLE = "UNAVAILABLE"
TIMEOUT = "TIMEOUT"
INTERNAL = "INTERNAL"

ERROR_CODES = (
    INVALID_JSON, INVALID_MESSAGE, UNKNOWN_TYPE, FORBIDDEN, UNAUTHORIZED, RATE_LIMIT_EXCEEDED, CHANNEL_LIMIT,
    NOT_SUBSCRIBED, UNAVAILABLE, TIMEOUT, INTERNAL,
)  # fmt: skip
"""All of them; an application may send others."""
