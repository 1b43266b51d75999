"""An endpoint as an application declared it: checked and compiled once, the same for every node that serves it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Union

import msgspec

from trunkline.protocol import wire
from trunkline.server.app.endpoint import Endpoint, EndpointFunction, Limits

CHANNEL_REQUESTS: Final = (wire.Subscribe, wire.Unsubscribe, wire.Publish, wire.Replay)
_CHANNEL_TAGS: Final = frozenset({"subscribe", "unsubscribe", "publish", "replay"})
_NO_PARAMS: Final[Mapping[str, str]] = {}


class Declaration:
    """One endpoint. See `App.websocket` for the arguments.

    Attributes:
        handler: an instance of an endpoint class, or a function.
        decoder: for what clients send, None where messages are not decoded.
        own_tags: with `any_json`, the `type` of messages that the server serves itself; None without.
    """

    def __init__(
        self,
        path: str,
        handler: Endpoint | EndpointFunction,
        message: object,
        channels: bool,
        envelope: bool,
        limits: Limits,
        setting: str | None,
    ) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with /")
        if channels and not envelope:
            raise ValueError(f"path {path!r}: channels need the envelope")
        self.path = path
        self.handler = handler
        self.envelope = envelope
        self.limits = limits
        self.setting = setting
        self._pattern = _compile(path)
        self.own_tags: frozenset[str] | None = None
        if message is msgspec.Raw and envelope:
            self.own_tags = frozenset({"heartbeat", "refresh"}) | (_CHANNEL_TAGS if channels else frozenset())
            message = None
        self.decoder: msgspec.json.Decoder[Any] | None = None
        if envelope:
            known = (wire.Heartbeat, wire.Refresh, *(CHANNEL_REQUESTS if channels else ()))
            self.decoder = self._decoder_of(*known, *(() if message is None else (message,)))
        elif message is not None:
            self.decoder = self._decoder_of(message)

    def _decoder_of(self, *types: object) -> msgspec.json.Decoder[Any]:
        try:
            return msgspec.json.Decoder(Union[types])  # noqa: UP007 - the members are known at run time only
        except TypeError as error:
            raise TypeError(
                f"path {self.path!r}: the message type must be a msgspec struct with a tag of its own: {error}"
            ) from None

    def matches(self, path: str) -> Mapping[str, str] | None:
        """The path's parameters, or None when it is another endpoint's."""
        match = self._pattern.fullmatch(path)
        return None if match is None else match.groupdict() or _NO_PARAMS


def _compile(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", path)
    text = "".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile(text)
