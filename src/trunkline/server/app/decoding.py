"""From the bytes of a client's text message to a typed one, with the error a client can act on. Pure.

Order: what is not JSON, or nests too deep, is INVALID_JSON; JSON with an unknown `type` is UNKNOWN_TYPE; JSON of the
wrong shape is INVALID_MESSAGE, with the field named.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from trunkline.errors import MessageError
from trunkline.protocol import wire

MAX_DEPTH: Final = 64
"""How deep objects and arrays may nest."""

# The closing quote may be missing: a string that runs to the end must not be looked at again from each quote in it.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

MAX_TYPE_SHOWN: Final = 64
"""How much of an unknown type an error repeats."""


class _Head(msgspec.Struct):
    id: wire.MessageId = None


class _Typed(msgspec.Struct):
    type: str | None = None


_head = msgspec.json.Decoder(_Head)
_typed = msgspec.json.Decoder(_Typed)
_raw = msgspec.json.Decoder(msgspec.Raw)


def too_deep(payload: bytes) -> bool:
    """Whether the JSON text nests deeper than MAX_DEPTH; it need not be valid."""
    if payload.count(b"{") + payload.count(b"[") <= MAX_DEPTH:
        return False
    # Each round takes the innermost pairs away, which makes the nesting one less; a loop over the brackets takes many
    # times longer. Objects count as arrays: with two kinds one round could take away two levels.
    brackets = _STRING.sub(b"", payload).translate(_ONE_KIND, _NO_BRACKETS)
    for depth in range(MAX_DEPTH + 1):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            # Nothing is left, or nothing fits: then a decoder goes as deep as brackets open, and stops.
            return len(brackets) - len(brackets.lstrip(b"[")) + depth > MAX_DEPTH
        brackets = inner
    return True


def message_id(payload: bytes) -> wire.MessageId:
    """The `id` of a message that could not be decoded as a whole, if it has a usable one."""
    try:
        return _head.decode(payload).id
    except (msgspec.MsgspecError, RecursionError):
        return None


def message_type(payload: bytes) -> str | None:
    """The `type` of a message, None when it has none; raises MessageError for what is not JSON."""
    check_json(payload)
    try:
        return _typed.decode(payload).type
    except msgspec.ValidationError:
        return None


def check_json(payload: bytes) -> None:
    """Raise MessageError INVALID_JSON unless `payload` is JSON of bearable depth."""
    if too_deep(payload):
        raise MessageError(wire.INVALID_JSON, f"message nests deeper than {MAX_DEPTH}")
    try:
        _raw.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        raise MessageError(wire.INVALID_JSON, "message is not valid JSON") from None


def decode(decoder: msgspec.json.Decoder[Any], payload: bytes) -> Any:
    """Decode one message; raises MessageError: INVALID_JSON, UNKNOWN_TYPE or INVALID_MESSAGE, in this order."""
    if too_deep(payload):
        raise MessageError(wire.INVALID_JSON, f"message nests deeper than {MAX_DEPTH}")
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        # The decoder stops at the first misfit; what comes after it may not even be JSON.
        check_json(payload)
        text = str(error)
        if text.startswith("Invalid value") and text.endswith("`$.type`"):
            given = text.removeprefix("Invalid value ").removesuffix(" - at `$.type`")
            if len(given) > MAX_TYPE_SHOWN:
                given = f"{given[:MAX_TYPE_SHOWN]}…"
            raise MessageError(wire.UNKNOWN_TYPE, f"unknown message type: {given}") from None
        raise MessageError(wire.INVALID_MESSAGE, f"message has the wrong shape: {text}") from None
    except (msgspec.DecodeError, RecursionError):
        raise MessageError(wire.INVALID_JSON, "message is not valid JSON") from None
