"""HTTP as a node's ports speak it: requests read from bytes, answers rendered to bytes. Pure.

Rules:

- What a node needs: keep-alive, pipelining, the upgrade, and bodies where the port takes them (the data port does not).
- Head and body of a request are bounded in bytes.
- Every answer carries the security headers. No text of an exception ever reaches a client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, unquote

import msgspec

from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import ONCE, BadHead, RequestHead, check_beginning, find_end, read_request

SECURITY_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)

NOTHING_LOADED: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of everything but a page: a browser that takes it for a document loads nothing."""

_NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})
_ONCE = ONCE | {"upgrade", "x-request-id"}
_SECURITY_BYTES = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS).encode()


class Request(msgspec.Struct):
    """One request; names of `headers` in lower case, `path` decoded, `target` as sent.

    `peer` is the other end of the TCP connection, `address` the client; they differ behind a trusted proxy, which also
    reports whether the client came over TLS (`secure`). `proxied`: a trusted proxy forwarded it. `untrusted`: a proxy
    forwarded it and the client is not known: `address` is the proxy's, or `unknown` behind a trusted proxy. `params`
    are those of an endpoint's path, in its `admit`.
    """

    method: str
    target: str
    path: str
    headers: dict[str, str]
    peer: str = ""
    address: str = ""
    secure: bool = False
    proxied: bool = False
    untrusted: bool = False
    http_version: str = "1.1"
    keep_alive: bool = True
    body: bytes = b""
    params: Mapping[str, str] = _NO_PARAMS

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, of a repeated one the last; what comes behind the first 100 is not looked at."""
        _, _, query = self.target.partition("?")
        return dict(parse_qsl("&".join(query.split("&", 100)[:100]), keep_blank_values=True)) if query else {}

    @property
    def wants_websocket(self) -> bool:
        """Whether this asks for an upgrade to WebSocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


class Response(msgspec.Struct):
    """An answer. `headers` come on top of the security headers, `policy` is its Content-Security-Policy."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()
    policy: str = NOTHING_LOADED


def render(
    response: Response, *, head_only: bool = False, keep_alive: bool = True, request_id: str | None = None
) -> bytes:
    """An HTTP/1.1 answer as bytes; `head_only` leaves the body out, but announces its length, as the answer to HEAD.

    `request_id` goes out as X-Request-ID, unless it holds what would end a header.
    """
    lines = [
        f"HTTP/1.1 {response.status} {phrase(response.status)}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
        f"Content-Security-Policy: {response.policy}\r\n"
    ]
    lines.extend(f"{name}: {value}\r\n" for name, value in response.headers)
    if request_id and request_id.isprintable():
        lines.append(f"X-Request-ID: {request_id}\r\n")
    head = "".join(lines).encode("latin-1", "replace") + _SECURITY_BYTES + b"\r\n"
    return head if head_only else head + response.body


def phrase(status: int) -> str:
    """The usual text of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Status"


def json_response(value: object, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """`value` as a JSON answer that no cache keeps."""
    return Response(status, msgspec.json.encode(value), "application/json", [("Cache-Control", "no-store"), *headers])


def text_response(status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """One line of text."""
    return Response(status, (text + "\n").encode(), headers=[("Cache-Control", "no-store"), *headers])


class RequestReader:
    """Reads the requests of one connection until it is upgraded; `max_head` and `max_body` are bytes of one request.

    Bodies that `keep_body` does not want are read to their end and thrown away; None keeps all.
    """

    __slots__ = ("_blank", "_body", "_buffer", "_keep_body", "_max_body", "_max_head", "_over", "_scanned")

    def __init__(
        self, max_head: int, max_body: int = 0, keep_body: Callable[[RequestHead], bool] | None = None
    ) -> None:
        self._max_head = max_head
        self._max_body = max_body
        self._keep_body = keep_body
        self._buffer = b""
        self._scanned = 0
        self._blank = 0
        self._body: _Body | None = None
        self._over = False

    @property
    def mid_request(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._body is not None or bool(self._buffer) or self._blank > 0

    def feed(self, data: bytes) -> tuple[list[Request], bytes | None]:
        """Take one read; returns the complete requests, and what followed an upgrade request (None: there was none).

        Raises BadHead: 400 for what is no HTTP, 413 for a body that is too long, 431 for such a head, 505 for another
        version. The requests before it are lost, for an answer out of turn would be worse.
        """
        requests: list[Request] = []
        if self._over:
            return requests, None
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while data and not self._over:
            body = self._body
            if body is None:
                head, data = self._next_head(data)
                if head is None:
                    self._buffer = data
                    break
                if head.length:
                    if not self._max_body:
                        raise BadHead(413, "this port takes no request body")
                    self._body = _Body(
                        head,
                        BodyReader(head.length, self._max_body),
                        [] if self._keep_body is None or self._keep_body(head) else None,
                        head.minor == 1 and head.headers.get("expect", "").lower() == "100-continue",
                    )
                    continue
                requests.append(_request(head, b""))
                # A port that takes bodies serves nothing but HTTP, and may ignore the wish (RFC 9110 section 7.8).
                if head.upgrades and not self._max_body:
                    return requests, data
            else:
                content, data = body.reader.feed(data)
                if body.kept is not None:
                    body.kept.append(content)
                if not body.reader.done:
                    break
                head = body.head
                self._body = None
                requests.append(_request(head, b"".join(body.kept or ())))
            # What follows a request that closes the connection is not read (RFC 9112 section 9.6).
            self._over = not head.keep_alive
        return requests, None

    def awaits_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends a body; True once for each body."""
        body = self._body
        if body is None or not body.expected:
            return False
        body.expected = False
        return not body.reader.total

    def _next_head(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """The head that `data` begins with, None when it is not complete, and what follows it."""
        if data[0] == 0x0D:
            # Empty lines before a request are ignored (RFC 9112 section 2.2), and count as a part of its head.
            at = 0
            while data.startswith(b"\r\n", at):
                at += 2
            self._blank += at
            data = data[at:]
            if self._blank >= self._max_head:
                raise BadHead(431, f"the head is longer than {self._max_head} bytes")
            if not data or data == b"\r":
                return None, data
        end = find_end(data, self._max_head - self._blank, self._scanned)
        if end < 0:
            check_beginning(data, self._scanned)
            self._scanned = len(data)
            return None, data
        self._scanned = self._blank = 0
        head = read_request(data[:end], once=_ONCE, passed_on=False)
        if head.method != "GET" and head.method.islower():
            raise BadHead(400, "methods are written in capital letters")
        return head, data[end:]


class _Body(msgspec.Struct):
    """A body that is being read; `kept` is None when it is thrown away."""

    head: RequestHead
    reader: BodyReader
    kept: list[bytes] | None
    expected: bool


def _request(head: RequestHead, body: bytes) -> Request:
    target = head.target
    path = target.partition("?")[0]
    return Request(
        method=head.method,
        target=target,
        path=unquote(path) if "%" in path else path,
        headers=head.headers,
        http_version="1.1" if head.minor else "1.0",
        keep_alive=head.keep_alive,
        body=body,
    )
