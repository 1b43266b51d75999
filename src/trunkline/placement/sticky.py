"""The value of the sticky cookie: which backend a client was on, and in which group. Pure.

`<id>` or `<id>.<group>`: the id is `backend.short_id`, so that a cookie which Traefik set for the same server is
understood; the group is percent-encoded. The value comes back from clients: what does not look like this is no cookie.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

LONGEST: Final = 256
_FORM: Final = re.compile(r"([0-9a-f]{16})(?:\.([A-Za-z0-9_.~%-]{0,200}))?")


class Sticky(NamedTuple):
    """Backend and group that a client belongs to."""

    backend: str
    group: str


def parse(value: str) -> Sticky | None:
    """What the cookie holds, None when it is none of ours."""
    found = _FORM.fullmatch(value) if len(value) <= LONGEST else None
    return None if found is None else Sticky(found[1], unquote(found[2] or "", errors="replace"))


def render(backend: str, group: str) -> str:
    """The cookie's value, with a backend's `short_id` and its group; a group too long for a cookie is left out."""
    quoted = quote(group, safe="")
    return f"{backend}.{quoted}" if group and len(quoted) <= 200 else backend
