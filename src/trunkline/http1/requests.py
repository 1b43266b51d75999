"""HTTP as the data port speaks it: requests read from bytes, answers rendered to bytes. Pure.

Rules:

- Only what a WebSocket node needs: GET and HEAD without a body, keep-alive, pipelining, and the upgrade.
- The head of a request is bounded in bytes before it is parsed; two of a header that must stand once is a 400.
- Every answer carries the security headers. No text of an exception ever reaches a client.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import httptools
import msgspec

SECURITY_HEADERS: Final[tuple[tuple[str, str], ...]] = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)

_ONCE = frozenset(
    {
        "host", "origin", "authorization", "content-length", "sec-websocket-key", "sec-websocket-version",
        "upgrade", "x-request-id",
    }
)  # fmt: skip

_SECURITY_BYTES = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS).encode()


class Request(msgspec.Struct):
    """One request on the data port.

    Attributes:
        method: as sent, upper case.
        target: path and query as sent.
        path: decoded path.
        headers: names in lower case; repeated list headers are joined by ", ".
        peer: address of the other end of the TCP connection.
        address: address of the client; differs from `peer` when a trusted proxy forwarded the request.
        secure: whether the client came over TLS, as far as a trusted proxy says so.
        http_version: "1.1" or "1.0".
        keep_alive: whether the connection may serve another request.
    """

    method: str
    target: str
    path: str
    headers: dict[str, str]
    peer: str = ""
    address: str = ""
    secure: bool = False
    http_version: str = "1.1"
    keep_alive: bool = True

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
    """An answer. `headers` come on top of the security headers."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()


def render(
    response: Response, *, head_only: bool = False, keep_alive: bool = True, request_id: str | None = None
) -> bytes:
    """An HTTP/1.1 answer as bytes.

    Args:
        response: what to say.
        head_only: leave the body out, as HEAD wants it; its length is told all the same.
        keep_alive: whether the connection stays open.
        request_id: goes out as X-Request-ID, unless it holds what would end a header.
    """
    lines = [
        f"HTTP/1.1 {response.status} {_phrase(response.status)}\r\nContent-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
    ]
    lines.extend(f"{name}: {value}\r\n" for name, value in response.headers)
    if request_id and request_id.isprintable():
        lines.append(f"X-Request-ID: {request_id}\r\n")
    head = "".join(lines).encode("latin-1", "replace") + _SECURITY_BYTES + b"\r\n"
    return head if head_only else head + response.body


def _phrase(status: int) -> str:
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


class BadRequest(Exception):
    """What came cannot be answered as HTTP any further; the connection ends after `status`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class RequestReader:
    """Reads the requests of one connection until it is upgraded.

    Args:
        max_head: most bytes of one request's head.
    """

    def __init__(self, max_head: int) -> None:
        self._max_head = max_head
        self._pending = 0
        self._begun = False
        self._requests: list[Request] = []
        self._begin()
        self._parser: Any = httptools.HttpRequestParser(self)

    @property
    def mid_request(self) -> bool:
        """Whether a request has begun and not ended."""
        return self._begun or self._pending > 0

    def feed(self, data: bytes) -> tuple[list[Request], bytes | None]:
        """Take what one read returned.

        Returns:
            The complete requests, and what followed an upgrade request (None: there was none).

        Raises:
            BadRequest: 400 for what is no HTTP, 413 for a body, 431 when the head is too long, 505 for another
            version. The
                requests before it are lost, for an answer out of turn would be worse.
        """
        done = len(self._requests)
        tail: bytes | None = None
        self._pending += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            tail = data[upgrade.args[0] :]
        except BadRequest:
            raise
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, BadRequest):
                raise cause from None
            raise BadRequest(400, "malformed request") from None
        except httptools.HttpParserError:
            # What follows a request that closes the connection is not read (RFC 9112 section 9.6).
            if self._begun or not self._requests or self._requests[-1].keep_alive:
                raise BadRequest(400, "malformed request") from None
        requests, self._requests = self._requests, []
        if len(requests) > done:
            self._pending = 0
        elif self._pending > self._max_head:
            raise BadRequest(431, f"request head is larger than {self._max_head} bytes")
        return requests, tail

    # --- callbacks of the parser --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_size = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun = True
        self._begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url
        self._head_size += len(url)
        if self._head_size > self._max_head:
            self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._max_head:
            self._too_long()
        key = _header_name(name)
        text = value.decode("latin-1").strip()
        if key in self._headers:
            if key in _ONCE:
                raise BadRequest(400, f"header {key} stands twice")
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        """The head has ended."""
        headers = self._headers
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            raise BadRequest(413, "this port takes no request body")

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._begun = False
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        try:
            target = self._url.decode("ascii")
        except UnicodeDecodeError:
            raise BadRequest(400, "request target is not ASCII") from None
        if not target.startswith("/"):
            raise BadRequest(400, "request target must be a path")
        parser = self._parser
        self._requests.append(
            Request(
                method=parser.get_method().decode("ascii"),
                target=target,
                path=unquote(path) if "%" in (path := target.partition("?")[0]) else path,
                headers=self._headers,
                http_version=version,
                keep_alive=parser.should_keep_alive(),
            )
        )

    def _too_long(self) -> None:
        raise BadRequest(431, f"request head is larger than {self._max_head} bytes")

    def close(self) -> None:
        """Nothing more will be read; ends the circle of references with the parser, which only the collector would."""
        self._parser = None


@functools.lru_cache(maxsize=512)
def _header_name(name: bytes) -> str:
    """A header's name in lower case; clients use the same few dozen."""
    return name.decode("latin-1").lower()


def tokens_of(value: str) -> frozenset[str]:
    """The comma separated tokens of a header, in lower case."""
    return frozenset(part.strip().lower() for part in value.split(","))
