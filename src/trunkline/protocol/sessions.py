"""Sessions as clients bring them along: the query parameter `session` of a handshake. Pure."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qsl

import msgspec

SHORTEST: Final = 16
LONGEST: Final = 64

Session = Annotated[str, msgspec.Meta(min_length=SHORTEST, max_length=LONGEST)]

_LOOKED_AT: Final = 100
"""Parameters of a query that are looked at."""


def session_in(target: str) -> str | None:
    """The session in the target of a handshake, of a repeated parameter the last; None without a well-formed one."""
    if "session=" not in target:
        return None
    query = target.partition("?")[2]
    given = dict(parse_qsl("&".join(query.split("&", _LOOKED_AT)[:_LOOKED_AT]))).get("session", "")
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return given if plain and SHORTEST <= len(given) <= LONGEST else None
