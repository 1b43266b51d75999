"""What a head becomes on its way through: hop-by-hop headers, X-Forwarded-*, the operator's own headers. Pure.

Rules:

- Host stays as the client sent it. Names keep their case, and what is not named here its value and its place.
- Forwarding headers of a client count only when it is a trusted proxy; else they are taken out, also in spellings with
  underscores, which some backends take for the real ones.
- The last hop of X-Forwarded-For is the client, not the proxy before this one: a backend that trusts the balancer alone
  must not take that proxy for the client. Where the client is not known, a header of our own says so, so that no node
  takes the proxy's private address for a private client.
- Connection, and the headers that it names, end here (RFC 9110 section 7.6.1); framing is written again for each side.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from trunkline.errors import SettingsError
from trunkline.http1.heads import AnswerHead, Field, RequestHead, tokens_of
from trunkline.http1.requests import phrase
from trunkline.net.addresses import BEHIND_PROXY, FORWARDING_HEADERS, UNKNOWN, Origin, unknown_client
from trunkline.settings.balancer import BalancerSettings, HeaderEntry
from trunkline.websocket.handshake import accept_key

HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "http2-settings",
    }
)  # fmt: skip

_STAY = frozenset({"host", "content-length", "cookie", "authorization", "origin"})
"""Not even a Connection header that names them takes these out, nor what begins with Sec-: who requests what is no
matter of one hop, and a node lets in what has no Origin."""

_FORWARDING = frozenset(
    {
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-real-ip",
        "forwarded",
        BEHIND_PROXY[0].lower(),
    }
)
_CLAIMS = _FORWARDING | (FORWARDING_HEADERS - {"via", "cdn-loop"})
"""What is taken out of the request of a client that is no trusted proxy; Via and CDN-Loop end loops."""

_FRAMING = frozenset({"connection", "upgrade", "content-length", "transfer-encoding", "te", "trailer"})


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request.

    Attributes:
        peer: the other end of the TCP connection.
        address: the client; `peer` behind a proxy that is not trusted, UNKNOWN behind one that hides the client.
        trusted: one of the operator's proxies forwarded the request.
        untrusted: a proxy forwarded it, and the client is not known.
    """

    peer: str
    address: str
    trusted: bool
    secure: bool
    untrusted: bool

    @property
    def unknown_client(self) -> str:
        """What to add to a refusal by address when that is a proxy's; empty for a client's."""
        origin = Origin(self.address, self.secure, self.untrusted, self.trusted)
        return unknown_client(self.peer, origin, "balancer.trusted_proxies")


class Forwarding:
    """Rewrites heads by the settings; raises SettingsError for a header of the operator that frames messages."""

    __slots__ = ("_cookie", "_requests", "_responses", "port")

    def __init__(self, settings: BalancerSettings) -> None:
        self._requests = _Edits("balancer.request_headers", settings.request_headers)
        self._responses = _Edits("balancer.response_headers", settings.response_headers)
        self.port = settings.port
        same_site = settings.sticky_same_site.capitalize()
        secure = "; Secure" if settings.sticky_secure else ""
        self._cookie = (f"{settings.sticky_cookie}=", f"; Path=/; HttpOnly{secure}; SameSite={same_site}")

    def request_fields(self, head: RequestHead, caller: Caller) -> list[Field]:
        """The headers of a request to a backend, without those that frame it."""
        headers = head.headers
        named = _named(headers.get("connection"))
        dropped = _FORWARDING if caller.trusted else _CLAIMS
        fields = [
            field
            for field in head.fields
            if field[1] not in HOP_BY_HOP and field[1] not in named and _dashed(field[1]) not in dropped
        ]
        kept = headers if caller.trusted else {}
        client = caller.address
        chain, elements = kept.get("x-forwarded-for"), kept.get("forwarded")
        host = headers.get("host", "")
        for name, value in (
            ("X-Forwarded-For", f"{chain}, {client}" if chain else client),
            ("Forwarded", f'{elements}, for="{f"[{client}]" if ":" in client else client}"' if elements else ""),
            ("X-Forwarded-Proto", kept.get("x-forwarded-proto") or ("https" if caller.secure else "http")),
            ("X-Forwarded-Host", kept.get("x-forwarded-host") or host),
            ("X-Forwarded-Port", kept.get("x-forwarded-port") or str(self.port)),
            ("X-Real-IP", client if client != UNKNOWN else ""),
            (BEHIND_PROXY[0], BEHIND_PROXY[1] if caller.untrusted else ""),
        ):
            if value:
                fields.append((name, name.lower(), value))
        return self._requests.applied(fields)

    def upgrade_request(self, head: RequestHead, target: str, caller: Caller) -> bytes:
        """The handshake as a backend gets it."""
        fields = self.request_fields(head, caller)
        fields.append(("Connection", "connection", "Upgrade"))
        fields.append(("Upgrade", "upgrade", "websocket"))
        return head_bytes(f"{head.method} {target} HTTP/1.1", fields)

    def answer_fields(self, answer: AnswerHead, cookie: str | None) -> list[Field]:
        """The headers of a backend's answer, and the sticky cookie, for the client, without those that frame it."""
        named = _named(answer.headers.get("connection"))
        fields = [field for field in answer.fields if field[1] not in HOP_BY_HOP and field[1] not in named]
        if cookie is not None:
            name, attributes = self._cookie
            fields.append(("Set-Cookie", "set-cookie", name + cookie + attributes))
        return self._responses.applied(fields)

    def upgrade_answer(self, answer: AnswerHead, cookie: str | None) -> bytes:
        """The 101 for the client."""
        fields = self.answer_fields(answer, cookie)
        fields.append(("Connection", "connection", "Upgrade"))
        fields.append(("Upgrade", "upgrade", "websocket"))
        return head_bytes(f"HTTP/1.1 101 {answer.phrase or 'Switching Protocols'}", fields)

    def whole_answer(self, answer: AnswerHead, body: bytes, cookie: str | None) -> bytes:
        """A backend's answer other than 101 to a handshake; the connection closes after it."""
        fields = [field for field in self.answer_fields(answer, cookie) if field[1] != "content-length"]
        if answer.status not in (204, 304):
            fields.append(("Content-Length", "content-length", str(len(body))))
        fields.append(("Connection", "connection", "close"))
        return head_bytes(f"HTTP/1.1 {answer.status} {answer.phrase}", fields) + body

    def own_answer(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "text/plain; charset=utf-8",
        headers: Iterable[tuple[str, str]] = (),
        keep_alive: bool = False,
        head_only: bool = False,
    ) -> bytes:
        """An answer of the balancer itself; `head_only` answers HEAD: the length is given and the body left out."""
        fields: list[Field] = [("Content-Type", "content-type", content_type)]
        fields.extend((name, name.lower(), value) for name, value in headers)
        fields = self._responses.applied(fields)
        fields.append(("Content-Length", "content-length", str(len(body))))
        fields.append(("Connection", "connection", "keep-alive" if keep_alive else "close"))
        return head_bytes(f"HTTP/1.1 {status} {phrase(status)}", fields) + (b"" if head_only else body)


class _Edits:
    """Headers to set or to remove."""

    __slots__ = ("_names", "_set")

    def __init__(self, key: str, entries: Sequence[HeaderEntry]) -> None:
        for entry in entries:
            if entry.name.lower() in _FRAMING or entry.name.lower().startswith("sec-websocket-"):
                raise SettingsError(
                    key, value=entry.name, allowed="a header that does not frame messages or open a WebSocket"
                )
        self._names = frozenset(entry.name.lower() for entry in entries)
        self._set: list[Field] = [(entry.name, entry.name.lower(), entry.value) for entry in entries if entry.value]

    def applied(self, fields: list[Field]) -> list[Field]:
        if not self._names:
            return fields
        return [field for field in fields if field[1] not in self._names] + self._set


def text_answer(
    forwarding: Forwarding,
    status: int,
    text: str,
    *,
    retry_after_s: float | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """One line of text after which the connection closes; Retry-After is in seconds, rounded up."""
    given = [("Cache-Control", "no-store"), *headers]
    if retry_after_s is not None:
        given.append(("Retry-After", str(max(1, math.ceil(retry_after_s)))))
    return forwarding.own_answer(status, (text + "\n").encode(), headers=given)


def accepts(answer: AnswerHead, key: str) -> bool:
    """Whether a 101 opens the WebSocket that was requested with `key` (RFC 6455 section 4.1)."""
    headers = answer.headers
    return (
        headers.get("upgrade", "").lower() == "websocket"
        and "upgrade" in tokens_of(headers.get("connection", ""))
        and headers.get("sec-websocket-accept") == accept_key(key)
    )


def _named(connection: str | None) -> frozenset[str]:
    if connection is None:
        return frozenset()
    return frozenset(token for token in tokens_of(connection) if token not in _STAY and not token.startswith("sec-"))


@functools.lru_cache(maxsize=512)
def _dashed(name: str) -> str:
    return name.replace("_", "-")


def head_bytes(first: str, fields: Iterable[Field]) -> bytes:
    """A head: its first line, its headers, the empty line."""
    lines = "".join([f"{name}: {value}\r\n" for name, _, value in fields])
    return f"{first}\r\n{lines}\r\n".encode("latin-1", "replace")
