"""Where a handshake carries the token (JWT, RFC 7519) of its client. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def find_token(authorization: str | None, query_token: str | None, subprotocols: Sequence[str]) -> str | None:
    """The token of a handshake, or None.

    Browsers cannot set headers on a WebSocket, so besides `Authorization: Bearer` there are the offered subprotocols
    (`bearer.<jwt>`, or `bearer` followed by the token) and, because it ends up in logs least preferred, `?token=`.
    """
    if authorization:
        scheme, _, rest = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and rest.strip():
            return rest.strip()
    for index, name in enumerate(subprotocols):
        if name.startswith("bearer.") and len(name) > len("bearer."):
            return name.removeprefix("bearer.")
        if name == "bearer" and index + 1 < len(subprotocols):
            return subprotocols[index + 1]
    return query_token or None
