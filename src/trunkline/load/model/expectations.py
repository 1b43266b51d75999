"""What an answer has to be: a message of a `type`, or one in which a regular expression is found. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec


class _Typed(msgspec.Struct):
    type: str | None = None


_decode: Final = msgspec.json.Decoder(_Typed).decode


def message_type(payload: bytes) -> str | None:
    """The `type` of a JSON object; None when it has none or is no JSON object."""
    try:
        return _decode(payload).type
    except msgspec.MsgspecError:
        return None


class Expectation:
    """Recognizes an answer by its `type`, or by a `/regular expression/`; raises ValueError when that is malformed."""

    __slots__ = ("_pattern", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._pattern: re.Pattern[str] | None = None
        if len(text) >= 2 and text[0] == text[-1] == "/":
            try:
                self._pattern = re.compile(text[1:-1])
            except re.error as error:
                raise ValueError(f"{text} is no regular expression: {error}") from None

    def matches(self, kind: str | None, payload: bytes) -> bool:
        """Whether this is the answer; `kind` is its `message_type`."""
        if self._pattern is None:
            return kind == self.text
        return self._pattern.search(payload.decode(errors="replace")) is not None
