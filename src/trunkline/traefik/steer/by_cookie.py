"""An answer for a Traefik whose routes are not ours: the pick as the sticky cookie of its own service. Pure.

A Traefik in Kubernetes has its routes from custom resources, and its servers from an EndpointSlice; it fetches nothing
from the balancer. A forwardAuth middleware of it asks `/place?cookie=NAME`, where NAME is the sticky cookie of the
service behind the route, and takes the header `Cookie` from the answer. Its value names a server, and Traefik obeys.

Seen with Traefik 3.7.15:

- The value of a server is `short_id` of its URL; for pods that is scheme, address and port.
- forwardAuth deletes `Cookie` from the request when the answer lacks it. So every answer has the client's own cookies.
- A valid value sets no cookie at the client, so a client keeps nothing that a later pick could contradict.

Rule: an answer names a server or refuses. Without a pick Traefik would choose among all pods of the Service, and
those of a held colour are among them.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs

PARAMETER: Final = "cookie"
"""The parameter of a question that names the cookie."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # a token of RFC 9110, as RFC 6265 wants it


def asked_cookie(query: str) -> str | None:
    """The name of the cookie that a question wants the pick in; None when it wants a header, or names no cookie."""
    if PARAMETER not in query:
        return None
    name = parse_qs(query).get(PARAMETER, [""])[-1]
    return name if _NAME.fullmatch(name) else None


def with_pick(cookies: str, name: str, server: str) -> str:
    """The header Cookie with the pick in front.

    Args:
        cookies: the client's header; one of `name` in it is dropped, for a client must not choose.
        name: the sticky cookie of Traefik's service.
        server: `short_id` of the URL that was picked.
    """
    own = (part.strip() for part in cookies.split(";"))
    kept = (part for part in own if part and part.partition("=")[0].strip() != name)
    return "; ".join((f"{name}={server}", *kept))
