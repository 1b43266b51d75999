"""Heads of requests and answers, for node and relay: read more strictly than HTTP allows. Pure.

Rules:

- A request that two readers could understand differently is refused and nothing of it goes on: two lengths, a length
  beside a transfer coding, any coding but chunked, a bare CR or LF, a folded line, a space before a colon, NUL, two
  Hosts.
- The whole head is checked for control characters before it is split, every CRLF separates two lines, and a line is a
  valid name, a colon and a value. So what is not named here is refused too. (Parsers with callbacks do not show how a
  line ended, which is what matters here; and a tokenizer in C costs twice as much, as each header is a call from it.)
- What passes keeps its bytes: names keep their case, values and targets their exact spelling. Only a target in absolute
  form (RFC 9112 section 3.2.2) becomes a path, and its authority the Host.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping, Set
from typing import Final

import msgspec

MAX_HOST = 300
_TCHAR = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]"
_NAME = re.compile(f"{_TCHAR}+")
_METHOD = re.compile(f"{_TCHAR}{{1,32}}")
_PRINTED = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""All bytes that lines may hold."""

_VERSION = re.compile(r"HTTP/[0-9](?:\.[0-9])?")
_BEGINNING = re.compile(rf"{_TCHAR}{{1,32}}(?: [\x21-\x7e]*(?: [\x21-\x7e]*\r?)?)?".encode())
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_ANSWER_BEGINNING = re.compile(rb"H?|HT|HTT|HTTP|HTTP/|HTTP/1|HTTP/1\.(?:[01](?: [1-5]?)?)?")
_ANSWER_BEGINS = len("HTTP/1.1 1")
_BARE_LF = re.compile(rb"(?:^|[^\r])\n")
_ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9._~%-]+)?\])(?::([0-9]{0,5}))?"
)
_LENGTH = re.compile(r"[0-9]{1,18}")
_CLIMB = re.compile(r"/(?:\.|%2[eE]){2}(?:[/?;\\]|%2[fF]|%5[cC]|$)")

ONCE: Final = frozenset(
    {
        "host", "content-length", "transfer-encoding", "sec-websocket-key", "sec-websocket-version",
        "sec-websocket-accept", "origin", "authorization",
    }
)  # fmt: skip
"""Headers whose meaning must not depend on which of two a reader picks."""

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

Field = tuple[str, str, str]
"""A header: its name as sent, its name in lower case, its value (latin-1, so that every byte survives)."""


class BadHead(Exception):
    """What came cannot be understood in one way only; to a client it is `status` 400, 413, 431 or 505 and `text`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class RequestHead(msgspec.Struct):
    """The head of a request; its body has `length` bytes, or is CHUNKED.

    `headers` are by name in lower case, repeated ones joined by ", " (cookies by "; "); `fields` keep their order.
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
        connection = self.headers.get("connection")
        if connection is None or connection == "Upgrade":
            return self.minor == 1
        tokens = tokens_of(connection)
        return "close" not in tokens if self.minor else "keep-alive" in tokens

    @property
    def upgrades(self) -> bool:
        """Whether it asks to leave HTTP (RFC 9110 section 7.8)."""
        headers = self.headers
        if "upgrade" not in headers:
            return False
        connection = headers.get("connection", "")
        return connection == "Upgrade" or "upgrade" in tokens_of(connection)

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks to leave HTTP for WebSocket (RFC 6455 section 4.2.1)."""
        return self.upgrades and "websocket" in tokens_of(self.headers["upgrade"])


class AnswerHead(msgspec.Struct):
    """The head of an answer; its body has `length` bytes, is CHUNKED or goes on UNTIL_CLOSE."""

    status: int
    phrase: str
    fields: list[Field]
    headers: dict[str, str]
    length: int


class PageRequest(msgspec.Struct, frozen=True):
    """A GET or HEAD that the balancer may answer itself; path and query as sent.

    `untrusted`: forwarding headers came from a proxy that is not trusted, so the real client is unknown.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    address: str
    untrusted: bool


def find_end(data: bytes, limit: int, scanned: int = 0) -> int:
    """The index behind the empty line of the head that `data` begins with, -1 when it is not complete.

    The first `scanned` bytes were looked at before. Raises BadHead (431) when the head is longer than `limit` bytes.
    """
    end = data.find(b"\r\n\r\n", max(scanned - 3, 0), limit)
    if end >= 0:
        return end + 4
    if len(data) >= limit:
        raise BadHead(431, f"the head is longer than {limit} bytes")
    return -1


def check_beginning(data: bytes, scanned: int = 0) -> None:
    """Refuse what can no longer become a head, before its end has come; the first `scanned` bytes were checked before.

    Raises BadHead: 400 or 505.
    """
    end = data.find(b"\r\n")
    # With the first read and with the end of the line, but not with each read between: it may come byte by byte.
    if end + 2 > scanned:
        line = data if end < 0 else data[:end]
        if not _BEGINNING.fullmatch(line):
            raise BadHead(400, "malformed request line")
        if end >= 0:
            _request_line(line.decode("ascii"))
    if _BARE_LF.search(data, max(scanned - 1, 0)):
        raise BadHead(400, "a line ends without CR")


def check_answer_beginning(data: bytes, scanned: int = 0) -> None:
    """Refuse what can no longer become an answer's head, as `check_beginning` does for requests.

    Raises BadHead: 400.
    """
    end = data.find(b"\r\n")
    if not _ANSWER_BEGINNING.fullmatch(data[:_ANSWER_BEGINS]):
        raise BadHead(400, "malformed status line")
    if end >= 0 and end + 2 > scanned and not _STATUS_LINE.fullmatch(data[:end].decode("latin-1")):
        raise BadHead(400, "malformed status line")
    if _BARE_LF.search(data, max(scanned - 1, 0)):
        raise BadHead(400, "a line ends without CR")


def _request_line(line: str) -> tuple[str, str, int]:
    parts = line.split(" ")
    if len(parts) != 3 or not parts[1].isascii() or "\t" in line:
        raise BadHead(400, "malformed request line")
    method, target, version = parts
    if (method != "GET" and not _METHOD.fullmatch(method)) or not target:
        raise BadHead(400, "malformed request line")
    if version == "HTTP/1.1":
        return method, target, 1
    if version == "HTTP/1.0":
        return method, target, 0
    if _VERSION.fullmatch(version):
        raise BadHead(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    raise BadHead(400, "malformed request line")


def read_request(head: bytes, *, once: Set[str] = ONCE, passed_on: bool = True) -> RequestHead:
    """Read a request's head, its empty line included; raises BadHead: 400, or 505 for another version of HTTP.

    A target in absolute form becomes the path that it names, and its authority the Host, whatever Host stood there.
    Headers of `once` (in lower case) must not stand twice. A path that is `passed_on` is resolved by another server,
    and must not hold `..`.
    """
    lines = _lines(head)
    method, target, minor = _request_line(lines[0])
    authority = ""
    if target[0] != "/":
        authority, target = _absolute(target)
    if "#" in target:
        raise BadHead(400, "the request target has a fragment")
    if passed_on and ("/." in target or "/%2" in target) and _CLIMB.search(target.partition("?")[0]):
        # A backend that resolves it would serve a path that another route may lead to.
        raise BadHead(400, "the path climbs")
    fields, headers = _fields(lines, once)
    host = headers.get("host")
    if host is None:
        if minor:
            raise BadHead(400, "header Host is missing")
    elif not is_host(host):
        raise BadHead(400, "header Host is malformed")
    if authority:
        headers["host"] = authority
        fields = [("Host", "host", authority), *(field for field in fields if field[1] != "host")]
    length = _body_length(headers)
    if length == CHUNKED and minor == 0:
        raise BadHead(400, "HTTP/1.0 knows no Transfer-Encoding")
    # Without a length a request has no body (RFC 9112 section 6.3); an answer would go on until the end.
    return RequestHead(method, target, minor, fields, headers, 0 if length is None else length)


def _absolute(target: str) -> tuple[str, str]:
    """Authority and path, with its query, of a target in absolute form."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadHead(400, "the request target must be a path or an http:// address")
    authority, path = found.groups()
    if not is_host(authority):
        raise BadHead(400, "the host in the request target is malformed")
    return authority, path if path.startswith("/") else "/" + path


def read_answer(head: bytes, *, to_head: bool = False) -> AnswerHead:
    """Read an answer's head, its empty line included; raises BadHead. An answer `to_head` has no body."""
    lines = _lines(head)
    line = _STATUS_LINE.fullmatch(lines[0])
    if line is None:
        raise BadHead(400, "malformed status line")
    status = int(line[1])
    fields, headers = _fields(lines, ONCE)
    if to_head or status < 200 or status in (204, 304):
        length: int | None = 0
    else:
        length = _body_length(headers)
    return AnswerHead(status, line[2] or "", fields, headers, UNTIL_CLOSE if length is None else length)


def _lines(head: bytes) -> list[str]:
    """The first line and the header lines of a head that ends with its empty line."""
    lines = head.decode("latin-1").split("\r\n")
    # Without the bytes that may be printed, the ends of the lines are left: each CR before its LF, and no other.
    if len(head.translate(None, _PRINTED)) != 2 * (len(lines) - 1) or lines.pop() or lines.pop():
        raise BadHead(400, "malformed line in the head")
    return lines


def _fields(lines: list[str], once: Set[str]) -> tuple[list[Field], dict[str, str]]:
    fields: list[Field] = []
    headers: dict[str, str] = {}
    # Without the first line, which is of another kind.
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        lower = _lower(name)
        if not colon or not lower:
            raise BadHead(400, "malformed header line")
        value = value.strip(" \t")
        fields.append((name, lower, value))
        if lower in headers:
            if lower in once:
                raise BadHead(400, f"header {lower} stands twice")
            value = f"{headers[lower]}{'; ' if lower == 'cookie' else ', '}{value}"
        headers[lower] = value
    return fields, headers


@functools.lru_cache(maxsize=512)
def _lower(name: str) -> str:
    """A header's name in lower case, empty when it is no name; clients use the same few dozen."""
    return name.lower() if _NAME.fullmatch(name) else ""


@functools.lru_cache(maxsize=256)
def is_host(host: str) -> bool:
    """Whether this is a Host header's value (RFC 9110 section 7.2): a name or an address, and perhaps a port."""
    found = _HOST.fullmatch(host) if len(host) <= MAX_HOST else None
    if found is None or int(found[2] or 0) > 65_535:
        return False
    try:
        return found[1] is None or bool(ipaddress.IPv6Address(found[1]))
    except ValueError:
        return False


def host_and_port(host: str) -> tuple[str, str]:
    """The parts of a Host header's value; an IPv6 address keeps its brackets, the port is empty where there is none."""
    end = host.find("]") + 1
    name, _, port = host[end:].partition(":")
    return host[:end] + name, port


def host_name(host: str) -> str:
    """The name in a Host header's value, in lower case, without port, brackets and a final dot."""
    return host_and_port(host)[0].strip("[]").lower().rstrip(".")


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
