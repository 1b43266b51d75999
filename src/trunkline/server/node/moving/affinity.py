"""What keeps clients together, read from the request that a node has kept of each. Pure.

A node keeps the path and the query of a handshake, no header and no cookie; so only `query:NAME` and `path:N` have
values here. The path is the one that the node received: an edge that rewrites paths counts parts of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote, unquote_plus

ReadValue = Callable[[str], str | None]
LOOKED_AT = 100
"""Query parameters that are looked at, as everywhere on a node."""

LONGEST = 256
"""Longer values keep no clients together, here as in the balancer."""


def reader_of(affinity: str) -> ReadValue | None:
    """What reads the value of an affinity (as `balancer.affinity` spells it) out of a request target.

    The value may be None; there is no reader when a node cannot know such values. Raises ValueError for no affinity.
    """
    kind, _, name = affinity.partition(":")
    if kind == "query" and name:
        return lambda target: _query_value(target, name)
    if kind == "path" and name.isdecimal() and 1 <= int(name) <= 99:
        return lambda target: _path_part(target, int(name))
    if kind in ("header", "cookie") and name:
        return None
    raise ValueError(f'{affinity[:100]!r} is no affinity; use "query:NAME" or "path:N" with N from 1 to 99')


def _query_value(target: str, name: str) -> str | None:
    query = target.partition("?")[2]
    if not query:
        return None
    found = None
    for field in query.split("&", LOOKED_AT)[:LOOKED_AT]:
        given, _, value = field.partition("=")
        if given == name or (("%" in given or "+" in given) and unquote_plus(given) == name):
            found = value
    if not found:
        return None
    return _counts(unquote_plus(found) if "%" in found or "+" in found else found)


def _path_part(target: str, number: int) -> str | None:
    parts = target.partition("?")[0].split("/", number + 1)
    return _counts(unquote(parts[number])) if number < len(parts) else None


def _counts(value: str) -> str | None:
    return value if 0 < len(value) <= LONGEST else None
