"""Which targets an agent lets a run have: the hosts that its operator named. Pure.

Rules: a name counts as it is written, without looking it up; a host without a port allows all of its ports. A URL that
two programs could read in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from trunkline.errors import SettingsError

_NETLOC: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>\d{1,5}))?")
_PORTS: Final = {"ws": 80, "wss": 443}

Place = tuple[str, int | None]


def parse_allowed(texts: Sequence[str]) -> tuple[Place, ...]:
    """Read `host` or `host:port`, IPv6 addresses in brackets; raises SettingsError."""
    return tuple(_place(text) for text in texts)


def _place(text: str) -> Place:
    match = _NETLOC.fullmatch(text)
    if match is None:
        raise SettingsError("--allow", value=text, allowed="it must be a host or host:port, such as test.example:8080")
    return match["host"].lower(), int(match["port"]) if match["port"] else None


def is_allowed(url: str, allowed: Sequence[Place]) -> bool:
    """Whether a run may go to this URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    match = _NETLOC.fullmatch(parts.netloc)
    if parts.scheme not in _PORTS or match is None or not url.isascii() or not url.isprintable() or "\\" in url:
        return False
    host = match["host"].lower()
    port = int(match["port"]) if match["port"] else _PORTS[parts.scheme]
    return (host, None) in allowed or (host, port) in allowed
