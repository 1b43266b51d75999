"""Heads, bodies, routes and rewriting, with no socket."""

from __future__ import annotations

import collections
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.relay.forwarding import Caller, Forwarding
from trunkline.balancer.routes import Route, Routes, cookie_value, query_value
from trunkline.errors import SettingsError
from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import (
    CHUNKED,
    UNTIL_CLOSE,
    BadHead,
    check_answer_beginning,
    check_beginning,
    find_end,
    host_name,
    read_answer,
    read_request,
)
from trunkline.settings.balancer import BalancerSettings, HeaderEntry, RouteEntry

CALLER = Caller("192.0.2.1", "192.0.2.1", trusted=False, secure=False, untrusted=False)
TOKEN = st.text("abcXYZ019-_!~", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).filter(
    lambda text: not any(0x7F <= ord(char) < 0x80 for char in text)
)


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=8))
def test_whatever_is_valid_passes_unchanged(fields: list[tuple[str, str]]) -> None:
    """Names and values of any header that means nothing to the relay reach the backend as they came, in order."""
    fields = [("X-" + name, value) for name, value in fields]
    head = "GET /x HTTP/1.1\r\nHost: h\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    request = read_request(head.encode("latin-1"))
    passed = Forwarding(BalancerSettings()).request_fields(request, CALLER)
    expected = [
        (name, value)
        for name, value in fields
        if name.lower().replace("_", "-") not in ("x-forwarded-for", "x-real-ip", "x-forwarded-proto")
    ]
    assert [(name, value) for name, _, value in passed[1 : 1 + len(fields)]] == expected


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Any bytes are read or refused with BadHead, nothing else."""
    for read in (read_request, read_answer, check_beginning, check_answer_beginning):
        for head in (
            data + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\n" + data + b"\r\n\r\n",
            b"HTTP/1.1 200 \r\n" + data,
        ):
            with contextlib.suppress(BadHead):
                read(head)


@given(st.binary(min_size=1, max_size=40).filter(lambda data: data.strip(b" \t") != b""))
def test_no_header_smuggles_another(data: bytes) -> None:
    """Whatever stands in a header's value, what goes on has exactly as many lines as fields."""
    try:
        request = read_request(b"GET / HTTP/1.1\r\nHost: h\r\nX-Value: " + data + b"\r\n\r\n")
    except BadHead:
        return
    rendered = Forwarding(BalancerSettings()).upgrade_request(request, "/", CALLER)
    lines = rendered.split(b"\r\n")
    assert b"\n" not in b"".join(lines)
    assert b"\r" not in b"".join(lines)
    assert sum(line.startswith(b"X-Value:") for line in lines) == 1


def test_many_spaces_cost_no_time() -> None:
    """A value of spaces is read in linear time."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nA: x" + b" \t" * 400_000 + b"y\r\n\r\n"
    assert len(read_request(head).headers["a"]) == 800_002


def test_find_end() -> None:
    """The end is found across reads, and only within the limit."""
    assert find_end(b"GET / HTTP/1.1\r\n\r\nrest", 100) == 18
    assert find_end(b"abc\r\n\r", 100) == -1
    assert find_end(b"abc\r\n\r\n", 100, 6) == 7
    with pytest.raises(BadHead) as caught:
        find_end(b"x" * 100, 100)
    assert caught.value.status == 431


def test_answer_lengths() -> None:
    """An answer's body ends as RFC 9112 section 6.3 says."""
    assert read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").length == 7
    assert read_answer(b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n").length == CHUNKED
    assert read_answer(b"HTTP/1.0 200 OK\r\n\r\n").length == UNTIL_CLOSE
    assert read_answer(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n").length == 0
    assert read_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", to_head=True).length == 0


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.binary(max_size=10), st.integers(1, 30))
def test_chunks_in_any_pieces(chunks: list[bytes], rest: bytes, step: int) -> None:
    """A chunked body read in pieces of any size gives its content, and leaves what follows it."""
    raw = b"".join(b"%X;ext\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: t\r\n\r\n" + rest
    reader = BodyReader(CHUNKED, 1000)
    content, after = b"", b""
    for at in range(0, len(raw), step):
        piece = raw[at : at + step]
        if reader.done:
            after += piece
            continue
        got, left = reader.feed(piece)
        content += got
        after += left
    assert reader.done
    assert content == b"".join(chunks)
    assert after == rest


@given(st.binary(max_size=100))
def test_any_bytes_as_chunks(data: bytes) -> None:
    """Any bytes are chunks or refused."""
    with contextlib.suppress(BadHead):
        content, rest = BodyReader(CHUNKED, 50).feed(data)
        assert len(content) + len(rest) <= max(len(data) - 3, 0)


def test_endless_chunk_lines_are_refused() -> None:
    """A size line or trailers without end do not pile up."""
    for beginning, piece in ((b"", b"1;"), (b"0\r\n", b"Trailer: x\r\n")):
        reader = BodyReader(CHUNKED, 50)
        reader.feed(beginning)
        with pytest.raises(BadHead):
            collections.deque(map(reader.feed, [piece] * 2000), 0)


@pytest.mark.parametrize(
    ("prefix", "rewrite", "target", "expected"),
    [
        ("/api/match/game", "/api/game", "/api/match/game?matchId=%C3%A9", "/api/game?matchId=%C3%A9"),
        ("/api", "/", "/api/x//y%2f?", "/x//y%2f?"),
        ("/api", "/", "/api", "/"),
        ("/api", "/", "/api?x=1", "/?x=1"),
        ("/", "/v2", "/x", "/v2/x"),
        ("/a/", "/b/", "/a/c", "/b/c"),
        ("/a", None, "/a/b?c", "/a/b?c"),
    ],
)
def test_rewriting(prefix: str, rewrite: str | None, target: str, expected: str) -> None:
    """The prefix alone is replaced; query and percent-encoding stay."""
    route = Route(RouteEntry(prefix, rewrite=rewrite), "random", "query:x")
    assert route.matches("h", target.partition("?")[0])
    assert route.rewritten(target) == expected


def test_hosts_of_routes() -> None:
    """A wildcard holds all names below it and not the name itself; ports and case do not matter."""
    routes = Routes(
        BalancerSettings(
            routes=(RouteEntry("/", host="*.Example.org", pool="below"), RouteEntry("/", host="example.org", pool="it"))
        )
    )
    assert routes.find("A.b.EXAMPLE.org:8443", "/").pool == "below"
    assert routes.find("example.org", "/").pool == "it"
    assert routes.find("notexample.org", "/").pool == ""
    assert host_name("[::1]:80") == "::1"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("query:m", "a b"),
        ("query:none", None),
        ("query:empty", None),
        ("path:1", "x"),
        ("path:2", "y z"),
        ("path:3", None),
        ("header:X-Match", "h"),
        ("cookie:m", "c"),
    ],
)
def test_affinity_values(key: str, expected: str | None) -> None:
    """The value comes from where the key says; an empty or missing one is none."""
    route = Route(RouteEntry("/", affinity=key), "affinity", "query:m")
    headers = {"x-match": "h", "cookie": "other=1; m=c; m=d"}
    assert route.affinity("/x/y%20z?empty=&m=first&m=a+b", headers) == expected
    assert Route(RouteEntry("/", affinity=key), "random", "query:m").affinity("/x?m=1", headers) is None


def test_values_that_are_too_long_are_none() -> None:
    """A value is bounded, for it becomes a key in memory."""
    route = Route(RouteEntry("/"), "affinity", "query:m")
    assert route.affinity("/?m=" + "x" * 257, {}) is None


def test_query_and_cookie_values() -> None:
    """Names are compared decoded in a query and as they are in cookies."""
    assert query_value("a%62=1", "ab") == "1"
    assert query_value("", "a") is None
    assert cookie_value('xlb=1; lb="quoted"', "lb") == "quoted"
    assert cookie_value("lbx=1", "lb") is None


@pytest.mark.parametrize("name", ["Connection", "upgrade", "Content-Length", "Sec-WebSocket-Key"])
def test_framing_cannot_be_set(name: str) -> None:
    """Headers that frame messages are not the operator's to set."""
    with pytest.raises(SettingsError, match="request_headers"):
        Forwarding(BalancerSettings(request_headers=(HeaderEntry(name, "x"),)))


def test_set_and_removed_headers() -> None:
    """The operator's headers replace what came, whatever its case; an empty value removes."""
    forwarding = Forwarding(BalancerSettings(request_headers=(HeaderEntry("x-a", "new"), HeaderEntry("Cookie"))))
    head = read_request(b"GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-a: 2\r\ncookie: c\r\n\r\n")
    fields = forwarding.request_fields(head, CALLER)
    assert [value for _, lower, value in fields if lower == "x-a"] == ["new"]
    assert not any(lower == "cookie" for _, lower, _ in fields)
