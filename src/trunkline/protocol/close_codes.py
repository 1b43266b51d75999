"""Close codes as data: number, meaning, and whether the client should reconnect. Pure.

The server closes with nothing else, and the browser client decides by the same rows. Codes below 3000 are those of
RFC 6455 section 7.4.1, 4000 and above are ours.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Reconnect = Literal["no", "yes", "after_pause", "with_backoff", "after_hint"]


class Close(NamedTuple):
    """One row: the close code, the default reason text and when the client may reconnect."""

    code: int
    reason: str
    reconnect: Reconnect

    @property
    def may_reconnect(self) -> bool:
        """Whether the client should try again at all."""
        return self.reconnect != "no"


NORMAL = Close(1000, "bye", "no")
GOING_AWAY = Close(1001, "node shutting down", "yes")
PROTOCOL_ERROR = Close(1002, "protocol error", "no")
UNSUPPORTED_DATA = Close(1003, "unsupported data", "no")
INVALID_TEXT = Close(1007, "invalid UTF-8", "no")
POLICY = Close(1008, "policy violation", "after_pause")
TOO_SLOW = Close(1008, "client too slow", "after_pause")
TOO_BIG = Close(1009, "message too big", "no")
INTERNAL = Close(1011, "internal error", "with_backoff")
DRAINING = Close(1012, "draining", "after_hint")
OVERLOADED = Close(1013, "overloaded", "after_hint")
UNAUTHORIZED = Close(4001, "unauthorized", "no")
TOKEN_EXPIRED = Close(4002, "the token has expired", "yes")
FORBIDDEN = Close(4003, "forbidden", "no")
IDLE = Close(4008, "idle too long", "yes")

ABNORMAL = 1006
"""No close frame was seen. Never sent on the wire (RFC 6455 section 7.4.1)."""

NO_STATUS = 1005
"""The peer's close frame held no code. Never sent on the wire."""

TABLE: tuple[Close, ...] = (
    NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED_DATA, INVALID_TEXT, POLICY, TOO_SLOW, TOO_BIG, INTERNAL,
    DRAINING, OVERLOADED, UNAUTHORIZED, TOKEN_EXPIRED, FORBIDDEN, IDLE,
)  # fmt: skip

_BY_CODE = {row.code: row for row in reversed(TABLE)}


def may_reconnect(code: int) -> bool:
    """Whether a client whose connection ended with `code` should reconnect; not with codes of an application."""
    row = _BY_CODE.get(code)
    return row.may_reconnect if row is not None else code == ABNORMAL


_LABELS = {
    1000: "normal", 1001: "going_away", 1002: "protocol_error", 1003: "unsupported_data", 1005: "no_status",
    1006: "abnormal", 1007: "invalid_text", 1008: "policy", 1009: "too_big", 1011: "internal", 1012: "draining",
    1013: "overloaded", 4001: "unauthorized", 4002: "token_expired", 4003: "forbidden", 4008: "idle",
}  # fmt: skip

LABELS = (*_LABELS.values(), "too_slow", "other")
"""All values of `label`."""


def label(code: int, reason: str = "") -> str:
    """The label value under which series count a close; unknown codes share one, slow clients have one."""
    if code == TOO_SLOW.code and reason == TOO_SLOW.reason:
        return "too_slow"
    return _LABELS.get(code, "other")


def is_valid_on_wire(code: int) -> bool:
    """Whether a close frame may carry `code` (RFC 6455 section 7.4.1 and 7.4.2; 1012 to 1014 by the IANA registry)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))
