"""Log events with the names of the Elastic Common Schema (version 8), for Filebeat, Elasticsearch and Kibana. Pure.

Rules:

- An event is renamed after it was redacted, never before: nothing here sees what must not be in a log.
- A name has one type for good, or Elasticsearch refuses the line that breaks it. What the schema has no name for goes
  to `labels.*` as text, or to `trunkline.*` as a number: a key that is text here and a number there cannot collide.
- Names stay dotted (`log.level`, not an object `log`), which Filebeat expands and people can grep.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

import msgspec

VERSION: Final = "8.11.0"
"""Of the schema that the names are taken from."""

Value = str | int | float | list[str]

_CLIENTS: Final = frozenset({"trunkline.access", "trunkline.edge", "trunkline.http", "trunkline.admin"})
"""Loggers whose `address` is that of a client; elsewhere it is that of a server that we connect to."""

_NETWORK: Final = {
    "connection": ("end", "success"),
    "connection_opened": ("start", "success"),
    "connection_closed": ("end", "success"),
    "connection_refused": ("denied", "failure"),
    "connection_failed": ("end", "failure"),
    "connection_steered": ("allowed", "success"),
    "handshake_refused": ("denied", "failure"),
}
"""Events of connections: `event.type` beside "connection", and `event.outcome`."""

_NAMES: Final = {
    "path": "url.path",
    "url": "url.full",
    "method": "http.request.method",
    "user_agent": "user_agent.original",
    "why": "event.reason",
    "reason": "event.reason",
    "error": "error.message",
    "exception": "error.stack_trace",
    "stack": "error.stack_trace",
    "error_type": "error.type",
    "error_message": "error.message",
    "file": "file.path",
}
"""The schema's names of our keys of text."""

_BYTES: Final = {"bytes_in": "client.bytes", "bytes_out": "server.bytes"}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_KEY: Final = re.compile(r"[^A-Za-z0-9_]+")


class Origin(msgspec.Struct, frozen=True):
    """Where the lines of this process come from; `node` is the name of the instance."""

    service: str
    node: str
    version: str
    pid: int

    def fields(self) -> dict[str, Value]:
        """As fields of the schema."""
        return {
            "ecs.version": VERSION,
            "service.name": self.service,
            "service.version": self.version,
            "service.node.name": self.node,
            "process.pid": self.pid,
            "event.kind": "event",
            "event.module": "trunkline",
        }


def renderer(origin: Origin) -> Callable[[object, str, Mapping[str, Any]], str]:
    """A structlog processor that writes an event as one line."""
    fixed = origin.fields()

    def render(_logger: object, _method: str, event: Mapping[str, Any]) -> str:
        return _encoded(fields(event, fixed))

    return render


def _encoded(named: dict[str, Value]) -> str:
    # Lines come by the thousand when a node drains: msgspec first, as it is the fastest. What is not ASCII is escaped:
    # neither half a surrogate that a client sent nor the encoding of standard output may lose the line.
    with contextlib.suppress(UnicodeEncodeError):
        text = msgspec.json.encode(named)
        if text.isascii():
            return text.decode()
    return json.dumps(named, separators=(",", ":"))


def fields(event: Mapping[str, Any], fixed: Mapping[str, Value]) -> dict[str, Value]:
    """An event of our JSON format (`timestamp`, `level`, `event`, `logger` and more) with the schema's names.

    `fixed` is what all events share.
    """
    rest = dict(event)
    logger = str(rest.pop("logger", "") or "root")
    message = str(rest.pop("event", ""))
    action = message.replace(" ", "_") if logger.partition(".")[0] == "trunkline" else message
    named: dict[str, Value] = {
        "@timestamp": str(rest.pop("timestamp", "")),
        "log.level": str(rest.pop("level", "info")),
        "message": message,
        **fixed,
        "log.logger": logger,
        "event.dataset": logger,
    }
    if _NAME.fullmatch(action):
        named["event.action"] = action
    if action in _NETWORK and logger in _CLIENTS:
        kind, outcome = _NETWORK[action]
        named |= {"event.category": ["network"], "event.type": ["connection", kind], "event.outcome": outcome}
    if logger in _CLIENTS:
        _add_client(named, rest)
    elif isinstance(rest.get("address"), str):
        named["server.address"] = rest.pop("address")
    if _is_number(rest.get("duration_s")):
        named["event.duration"] = round(rest.pop("duration_s") * 1e9)
    if type(rest.get("status")) is int:
        status = rest.pop("status")
        # 0: the client got no answer.
        if status:
            named["http.response.status_code"] = status
    for key, value in rest.items():
        _add(named, key, value)
    return named


def _add_client(named: dict[str, Value], rest: dict[str, Any]) -> None:
    address = rest.pop("address", None)
    if isinstance(address, str) and address:
        named["client.address"] = address
        if _is_ip(address):
            named["client.ip"] = address
    if isinstance(rest.get("subject"), str):
        named["user.id"] = rest.pop("subject")
    for key, name in _BYTES.items():
        if isinstance(rest.get(key), int):
            named[name] = rest.pop(key)


def _add(named: dict[str, Value], key: str, value: Any) -> None:
    """Put what has no place of its own under the schema's name, `labels` or `trunkline`; None and "" are left out."""
    if value is None or value == "":
        return
    name = _NAMES.get(key)
    if name is not None and isinstance(value, str) and name not in named:
        named[name] = value
        return
    key = _clean(str(key))
    if _is_number(value):
        named[f"trunkline.{key}"] = value
    else:
        named[f"labels.{key}"] = value if isinstance(value, str) else json.dumps(value, default=repr, skipkeys=True)


def _is_number(value: object) -> bool:
    """Whether it is a number that JSON and Elasticsearch's doubles can hold."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


@functools.lru_cache(maxsize=1024)
def _clean(key: str) -> str:
    """A key without dots and whatever else would make it an object or break a query."""
    return _KEY.sub("_", key)


@functools.lru_cache(maxsize=4096)
def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def name_error(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Name the exception's kind and message apart from its trace (a structlog processor, before the trace is made)."""
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple) and len(error) == 3:
        error = error[1]
    if isinstance(error, BaseException):
        event["error_type"] = type(error).__qualname__
        event["error_message"] = str(error)
    return event
