"""The opening handshake of RFC 6455: whether a request is valid, whether its origin may connect, the answer. Pure.

Order matters to a user who debugs a refusal: shape first (400, 426), then origin (403). Routing, capacity, identity and
the application's decision come in `server/http/admission.py`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence

from trunkline.errors import Refused
from trunkline.http1.heads import host_and_port, tokens_of
from trunkline.http1.requests import Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\,]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def key_is_valid(key: str) -> bool:
    """Whether a Sec-WebSocket-Key is 16 bytes in base64."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def check(request: Request) -> str:
    """Check the shape of an upgrade request (RFC 6455 section 4.2.1), and return its Sec-WebSocket-Key.

    Raises:
        Refused: 426 when it is no upgrade to WebSocket 13, 400 when it is a broken one.
    """
    headers = request.headers
    if not request.wants_websocket:
        raise Refused(426, "this endpoint speaks WebSocket; send an upgrade request", label="not_an_upgrade")
    connection = headers.get("connection", "")
    if connection != "Upgrade" and "upgrade" not in tokens_of(connection):
        raise Refused(400, "header Connection must contain Upgrade", label="bad_handshake")
    if request.method != "GET" or request.http_version < "1.1":
        raise Refused(400, "a WebSocket handshake is a GET over HTTP/1.1", label="bad_handshake")
    if headers.get("sec-websocket-version") != "13":
        raise Refused(426, "only WebSocket version 13 is spoken here", label="bad_version")
    if not headers.get("host"):
        raise Refused(400, "header Host is missing", label="bad_handshake")
    key = headers.get("sec-websocket-key", "")
    if not key_is_valid(key):
        raise Refused(400, "header Sec-WebSocket-Key must be 16 bytes in base64", label="bad_handshake")
    return key


def origin_allowed(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page from `origin` may connect.

    Args:
        origin: the Origin header; None from clients that are no browsers, where there is no user to protect.
        host: the Host header.
        allowed: `"*"`, or origins such as `https://app.example.org` and `https://*.example.org` (subdomains only);
            empty means that only pages from `host` itself may. `:*` stands for any port; an app's own scheme, such as
            `capacitor://localhost`, has to be named.
    """
    if origin is None or "*" in allowed:
        return True
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:
        return False
    scheme, name, port = found.groups()
    default = _DEFAULT_PORTS.get(scheme)
    port = port or default
    if not allowed:
        # Behind a proxy that ends TLS nothing but the Origin says which scheme the page has.
        own_name, own_port = host_and_port(host.lower())
        return default is not None and (name, port) == (own_name, own_port or default)
    return any(_names(pattern.lower(), scheme, name, port) for pattern in allowed)


def _names(pattern: str, scheme: str, name: str, port: str | None) -> bool:
    """Whether a pattern of the settings names an origin; `port` is the scheme's own where the origin has none."""
    its_scheme, _, authority = pattern.partition("://")
    its_name, its_port = host_and_port(authority)
    if its_scheme != scheme or (its_port != "*" and (its_port or _DEFAULT_PORTS.get(scheme)) != port):
        return False
    return its_name == name or (
        its_name.startswith("*.") and name.endswith(its_name[1:]) and len(name) >= len(its_name)
    )


def choose_subprotocol(offered: str | None, supported: Sequence[str]) -> str | None:
    """The first of the client's subprotocols that we support (RFC 6455 section 1.9), or None."""
    if not offered:
        return None
    return next((name for part in offered.split(",") if (name := part.strip()) in supported), None)


def response(
    key: str, *, subprotocol: str | None = None, extensions: str | None = None, request_id: str | None = None
) -> bytes:
    """The 101 that opens the connection."""
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n"
    )
    if subprotocol is not None:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extensions is not None:
        head += f"Sec-WebSocket-Extensions: {extensions}\r\n"
    if request_id and request_id.isprintable():
        head += f"X-Request-ID: {request_id}\r\n"
    return (head + "\r\n").encode("latin-1")
