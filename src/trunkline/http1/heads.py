"""Heads of requests and answers: read from bytes more strictly than HTTP allows, for others will read them again. Pure.

Rules:

- A request that two readers could understand differently is refused and nothing of it goes on: two lengths, a length
  beside a transfer coding, any coding but chunked, a bare LF, a folded line, a space before a colon, NUL, two Hosts.
- One pattern describes what a header line may be, and the lines must cover the head without a gap. So what is not
  named here is refused too. (Parsers with callbacks do not show how a line ended, which is what matters here.)
- What passes keeps its bytes: names keep their case, values and targets their exact spelling.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

MAX_HOST = 300
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"[A-Z]+ [\x21-\x7e]+ HTTP/[2-9](?:\.[0-9])?\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
_BARE_LF = re.compile(rb"(?:^|[^\r])\n")
_HOST = re.compile(
    r"[A-Za-z0-9._~!$&'()*+;=%-]+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]+)?\](?::[0-9]{0,5})?"
)
_LENGTH = re.compile(r"[0-9]{1,18}")
_CLIMB = re.compile(r"/(?:\.|%2[eE]){2}(?:[/?;\\]|%2[fF]|%5[cC]|$)")

_ONCE = frozenset(
    {
        "host", "content-length", "transfer-encoding", "sec-websocket-key", "sec-websocket-version",
        "sec-websocket-accept", "origin", "authorization",
    }
)  # fmt: skip

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

Field = tuple[str, str, str]
"""A header: its name as sent, its name in lower case, its value (latin-1, so that every byte survives)."""


class BadHead(Exception):
    """What came cannot be understood in one way only.

    Attributes:
        status: what to answer to a client: 400, 431 or 505.
        text: one line that says why.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class RequestHead(msgspec.Struct):
    """The head of a request.

    Attributes:
        method: as sent.
        target: path and query as sent.
        minor: 0 or 1, of HTTP/1.x.
        fields: the headers in their order.
        headers: the values by name in lower case; repeated ones joined by ", " (cookies by "; ").
        length: bytes of the body that follows, CHUNKED when it tells its length itself.
    """

    method: str
    target: str
    minor: int
    fields: list[Field]
    headers: dict[str, str]
    length: int

    @property
    def path(self) -> str:
        """The target without its query, as sent."""
        return self.target.partition("?")[0]

    @property
    def keep_alive(self) -> bool:
        """Whether the client will send another request on the connection."""
        tokens = tokens_of(self.headers.get("connection", ""))
        return "close" not in tokens if self.minor else "keep-alive" in tokens

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks to leave HTTP for WebSocket (RFC 6455 section 4.2.1, RFC 9110 section 7.8)."""
        headers = self.headers
        return "websocket" in tokens_of(headers.get("upgrade", "")) and "upgrade" in tokens_of(
            headers.get("connection", "")
        )


class AnswerHead(msgspec.Struct):
    """The head of an answer.

    Attributes:
        status: 100 to 599.
        phrase: its text.
        fields: the headers in their order.
        headers: the values by name in lower case.
        length: bytes of the body that follows, CHUNKED or UNTIL_CLOSE.
    """

    status: int
    phrase: str
    fields: list[Field]
    headers: dict[str, str]
    length: int


class PageRequest(msgspec.Struct, frozen=True):
    """A request that the balancer may answer itself.

    Attributes:
        method: GET or HEAD.
        path: the path as sent, without the query.
        query: what stands behind the "?", as sent.
        headers: by name in lower case.
        address: whose request it is, as far as that can be trusted.
        stranger: forwarding headers came from a proxy that is not trusted, so the real client is unknown.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    address: str
    stranger: bool


class Page(msgspec.Struct, frozen=True):
    """The balancer's own answer.

    Attributes:
        status: HTTP status.
        body: its bytes.
        content_type: of the body.
        headers: more headers.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Sequence[tuple[str, str]] = ()


def find_end(data: bytes, limit: int, scanned: int = 0) -> int:
    """Where the head at the beginning of `data` ends.

    Args:
        data: what has come so far.
        limit: most bytes of a head.
        scanned: how many of them were looked at before.

    Returns:
        The index behind its empty line, -1 when it is not complete.

    Raises:
        BadHead: 431 when it is longer than `limit`.
    """
    end = data.find(b"\r\n\r\n", max(scanned - 3, 0), limit)
    if end >= 0:
        return end + 4
    if len(data) >= limit:
        raise BadHead(431, f"the head is longer than {limit} bytes")
    return -1


def check_beginning(data: bytes) -> None:
    """Refuse what can no longer become a head, before its end has come; raises BadHead."""
    if _BARE_LF.search(data):
        raise BadHead(400, "a line ends without CR")
    first = data.find(b"\r\n")
    if first >= 0:
        _request_line(data)


def _request_line(data: bytes) -> re.Match[bytes]:
    line = _REQUEST_LINE.match(data)
    if line is None:
        if _OTHER_VERSION.match(data):
            raise BadHead(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise BadHead(400, "malformed request line")
    return line


def read_request(head: bytes) -> RequestHead:
    """Read a request's head, its empty line included; raises BadHead."""
    line = _request_line(head)
    method, target, minor = line[1].decode("ascii"), line[2].decode("ascii"), int(line[3])
    if not target.startswith("/"):
        raise BadHead(400, "the request target must be a path")
    if "#" in target:
        raise BadHead(400, "the request target has a fragment")
    if ("/." in target or "/%2" in target) and _CLIMB.search(target.partition("?")[0]):
        # A backend that resolves it would serve a path that another route may lead to.
        raise BadHead(400, "the path climbs")
    fields, headers = _fields(head, line.end())
    host = headers.get("host")
    if host is None:
        if minor:
            raise BadHead(400, "header Host is missing")
    elif len(host) > MAX_HOST or not _HOST.fullmatch(host):
        raise BadHead(400, "header Host is malformed")
    length = _body_length(headers)
    if length == CHUNKED and minor == 0:
        raise BadHead(400, "HTTP/1.0 knows no Transfer-Encoding")
    # Without a length a request has no body (RFC 9112 section 6.3); an answer would go on until the end.
    return RequestHead(method, target, minor, fields, headers, 0 if length is None else length)


def read_answer(head: bytes, *, to_head: bool = False) -> AnswerHead:
    """Read an answer's head, its empty line included; raises BadHead.

    Args:
        head: the bytes.
        to_head: it answers a HEAD request, and has no body.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadHead(400, "malformed status line")
    status = int(line[2])
    fields, headers = _fields(head, line.end())
    if to_head or status < 200 or status in (204, 304):
        length: int | None = 0
    else:
        length = _body_length(headers)
    return AnswerHead(
        status, (line[3] or b"").decode("latin-1"), fields, headers, UNTIL_CLOSE if length is None else length
    )


def _fields(head: bytes, at: int) -> tuple[list[Field], dict[str, str]]:
    fields: list[Field] = []
    headers: dict[str, str] = {}
    end = len(head) - 2
    match = _FIELD.match
    while at < end:
        found = match(head, at)
        if found is None:
            raise BadHead(400, "malformed header line")
        at = found.end()
        name, lower = _name(found[1])
        # Stripped here and not by the pattern: a pattern for it takes quadratic time over many spaces.
        value = found[2].strip(b" \t").decode("latin-1")
        fields.append((name, lower, value))
        if lower in headers:
            if lower in _ONCE:
                raise BadHead(400, f"header {lower} stands twice")
            value = f"{headers[lower]}{'; ' if lower == 'cookie' else ', '}{value}"
        headers[lower] = value
    if at != end or head[at:] != b"\r\n":
        raise BadHead(400, "malformed header line")
    return fields, headers


@functools.lru_cache(maxsize=512)
def _name(name: bytes) -> tuple[str, str]:
    text = name.decode("ascii")
    return text, text.lower()


def _body_length(headers: Mapping[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    length = headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadHead(400, "Content-Length stands beside Transfer-Encoding")
        if coding.lower() != "chunked":
            raise BadHead(400, "the only transfer coding spoken here is chunked")
        return CHUNKED
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise BadHead(400, "Content-Length is not one number")
    return int(length)


def tokens_of(value: str) -> frozenset[str]:
    """The comma separated tokens of a header, in lower case."""
    return frozenset(part.strip(" \t").lower() for part in value.split(","))
