"""HTTP on the data port: requests read from bytes that come in any pieces, bad ones refused, answers rendered."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.http1.heads import BadHead, read_request, tokens_of
from trunkline.http1.requests import (
    SECURITY_HEADERS,
    Request,
    RequestReader,
    Response,
    json_response,
    render,
    text_response,
)
from trunkline.server.http.admission import request_id

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
UPGRADE = b"GET /ws?x=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
MAX_HEAD = 16384


def read(*parts: bytes) -> tuple[list[Request], bytes | None]:
    """Requests of a connection, and what followed an upgrade."""
    reader = RequestReader(MAX_HEAD)
    requests: list[Request] = []
    tail = None
    for part in parts:
        if tail is not None:
            tail += part
            continue
        found, tail = reader.feed(part)
        requests += found
    return requests, tail


def refused(*parts: bytes) -> int:
    """The status that a connection's bytes are refused with."""
    with pytest.raises(BadHead) as caught:
        read(*parts)
    return caught.value.status


def bytewise(stream: bytes) -> list[bytes]:
    """A stream in reads of one byte."""
    return [stream[at : at + 1] for at in range(len(stream))]


def test_a_request() -> None:
    """Method, target, decoded path, query and headers are as sent; names in lower case."""
    stream = b"GET /a%20b/%C3%A9?x=1&y=%26&x=2&z HTTP/1.1\r\nHost: A\r\nX-Thing:  v \r\n\r\n"
    (request,), tail = read(stream)
    assert tail is None
    assert (request.method, request.path) == ("GET", "/a b/é")
    assert request.target == "/a%20b/%C3%A9?x=1&y=%26&x=2&z"
    assert request.query == {"x": "2", "y": "&", "z": ""}
    assert request.headers == {"host": "A", "x-thing": "v"}
    assert (request.http_version, request.keep_alive, request.wants_websocket) == ("1.1", True, False)


def test_many_query_fields_do_no_harm() -> None:
    """Beyond a hundred fields a query is cut, not refused with an exception."""
    target = "/?" + "&".join(f"k{number}={number}" for number in range(300))
    query = Request("GET", target, "/", {}).query
    assert len(query) == 100
    assert query["k99"] == "99"


def test_pipelining() -> None:
    """Requests that come in one read come out in order."""
    stream = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20))
    assert [request.target for request in read(stream)[0]] == [f"/{number}" for number in range(20)]
    assert read(stream)[0] == read(*bytewise(stream))[0]


@pytest.mark.parametrize(
    ("head", "version", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "1.1", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "1.1", False),
        (b"GET / HTTP/1.0\r\n\r\n", "1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "1.0", True),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "1.1", True),
    ],
)
def test_keep_alive(head: bytes, version: str, keep_alive: bool) -> None:
    """HTTP/1.1 keeps a connection unless told otherwise, HTTP/1.0 only when asked."""
    (request,), _ = read(head)
    assert (request.http_version, request.keep_alive) == (version, keep_alive)


def test_head_and_other_methods() -> None:
    """A method is passed on as sent; that most are not served is not decided here."""
    stream = b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    assert [request.method for request in read(stream)[0]] == ["HEAD", "POST"]


def test_nothing_is_read_after_connection_close() -> None:
    """What follows a request that closes the connection does not spoil its answer."""
    (request,), _ = read(HEAD + b"Connection: close\r\n\r\n" + HEAD + b"\r\n")
    assert not request.keep_alive


@pytest.mark.parametrize("tail", [b"", b"\x81\x80abcd", b"GET / HTTP/1.1\r\n", b"\r\n\x00"])
def test_upgrade_tail(tail: bytes) -> None:
    """What a client sends behind its handshake is returned exactly, however the reads fall."""
    requests, rest = read(UPGRADE + tail)
    assert ([request.wants_websocket for request in requests], rest) == ([True], tail)
    for cut in range(len(UPGRADE) + len(tail) + 1):
        stream = UPGRADE + tail
        assert read(stream[:cut], stream[cut:]) == (requests, tail)
    assert read(*bytewise(UPGRADE + tail)) == (requests, tail)


def test_upgrade_behind_plain_requests() -> None:
    """A connection may serve requests before it is upgraded."""
    requests, tail = read(HEAD + b"\r\n" + UPGRADE + b"xyz")
    assert ([request.target for request in requests], tail) == (["/", "/ws?x=1"], b"xyz")


def test_upgrade_needs_the_connection_header() -> None:
    """An Upgrade header alone ends no HTTP."""
    requests, tail = read(HEAD + b"Upgrade: websocket\r\n\r\n" + HEAD + b"\r\n")
    assert (len(requests), tail) == (2, None)


def test_repeated_headers() -> None:
    """Repeated list headers are joined in order."""
    (request,), _ = read(HEAD + b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n")
    assert request.headers["x-forwarded-for"] == "1.1.1.1, 2.2.2.2"


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Origin",
        "Authorization",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "Upgrade",
        "X-Request-ID",
        "hOST",
    ],
)
def test_headers_that_stand_once(name: str) -> None:
    """Two of a header whose meaning must not depend on who picks which are refused, even when they are equal."""
    line = f"{name}: websocket\r\n".encode()
    assert refused(b"GET / HTTP/1.1\r\n" + line + line + b"\r\n") == 400


BROKEN = {
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "two equal lengths": (HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    "length and chunks": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "length list": (HEAD + b"Content-Length: 0, 0\r\n\r\n", 400),
    "signed length": (HEAD + b"Content-Length: +5\r\n\r\nhello", 400),
    "negative length": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "empty length": (HEAD + b"Content-Length:\r\n\r\n", 400),
    "space before the colon": (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "folded header": (HEAD + b"X-A: b\r\n c\r\n\r\n", 400),
    "folded request id": (HEAD + b"X-Request-ID: a\r\n\tSet-Cookie: x\r\n\r\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in a header": (HEAD + b"X: a\nY: b\r\n\r\n", 400),
    "bare CR in a header": (HEAD + b"X: a\rY: b\r\n\r\n", 400),
    "NUL in a value": (HEAD + b"X: a\x00b\r\n\r\n", 400),
    "NUL in a name": (HEAD + b"X\x00: a\r\n\r\n", 400),
    "escape in a value": (HEAD + b"X: \x1b[31m\r\n\r\n", 400),
    "no colon": (HEAD + b"Xab\r\n\r\n", 400),
    "no name": (HEAD + b": a\r\n\r\n", 400),
    "absolute target without Host": (b"GET http://a/x HTTP/1.1\r\n\r\n", 400),
    "absolute target and a bad Host": (b"GET http://a/x HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "absolute target with a user": (b"GET http://me@a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute target without a host": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "absolute target with a fragment": (b"GET http://a/#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "target of another scheme": (b"GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "target that is not ASCII": ("GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "body": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
    "body of an upgrade": (UPGRADE[:-2] + b"Content-Length: 3\r\n\r\nabc", 413),
    "chunked body": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
    "unknown coding": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
}


@pytest.mark.parametrize(("stream", "status"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_requests(stream: bytes, status: int) -> None:
    """What two servers might read differently, or no server should, is refused; in one read or byte by byte."""
    assert refused(stream) == status
    assert refused(HEAD + b"\r\n" + stream) == status
    assert refused(*bytewise(stream)) == status


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://a/x%20y?z=1", "a", "/x%20y?z=1"),
        (b"HTTPS://B.example:8443/", "B.example:8443", "/"),
        (b"http://[::1]:80", "[::1]:80", "/"),
        (b"http://a?z", "a", "/?z"),
        (b"http://a//x", "a", "//x"),
    ],
)
def test_absolute_targets(target: bytes, host: str, path: str) -> None:
    """A target in absolute form is its path, and its host counts whatever the header says (RFC 9112 section 3.2.2)."""
    for head in (b" HTTP/1.1\r\nX-A: 1\r\nHost: other\r\n\r\n", b" HTTP/1.0\r\nX-A: 1\r\n\r\n"):
        found = read_request(b"GET " + target + head)
        assert (found.target, found.headers["host"]) == (path, host)
        assert found.fields == [("Host", "host", host), ("X-A", "x-a", "1")]


@pytest.mark.parametrize(
    "host",
    ["a", "A-1.example:80", "a_b", "a:", "127.0.0.1:65535", "[::1]", "[fe80::1%25eth0]:1", "a%20b", "x~!$&'()*+;="],
)
def test_hosts(host: str) -> None:
    """What is a host by RFC 3986 is served, in its exact spelling."""
    assert read_request(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).headers["host"] == host


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a,b", "a/", "a@b", "a:b", "a:1:2", "a:65536", "a:000080", "[::1", "::1", "[::g]", "[:::]", "[1.2.3.4]",
     "a%2", "a%zz", "a?b", "é", "[::1]a", "a" * 301, "http://a"],
)  # fmt: skip
def test_malformed_hosts(host: str) -> None:
    """What is no host is refused (RFC 9112 section 3.2)."""
    assert refused(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")) == 400


def test_a_long_head_is_refused_early() -> None:
    """A megabyte of headers is refused once the limit is passed, whatever they look like."""
    for start, piece in [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 1000),
        (b"GET / HTTP/1.1\r\n", b"X-Header: some value\r\n" * 50),
        (b"", b"\r\n" * 500),
    ]:
        reader = RequestReader(MAX_HEAD)
        reader.feed(start)
        status = taken = 0
        while not status and taken < 1 << 20:
            try:
                reader.feed(piece)
            except BadHead as bad:
                status = bad.status
            else:
                taken += len(piece)
        assert status == 431
        assert taken <= MAX_HEAD


def test_a_long_head_in_one_read_is_refused() -> None:
    """A head over the limit is refused even when it came whole."""
    assert refused(HEAD + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n") == 431
    assert refused(HEAD + b"X: y\r\n" * MAX_HEAD + b"\r\n") == 431
    assert refused(b"GET /" + b"a" * MAX_HEAD + b" HTTP/1.1\r\n\r\n") == 431


def test_the_limit_counts_one_request() -> None:
    """Many requests on one connection, each below the limit, are all served."""
    one = HEAD + b"X: " + b"a" * 10_000 + b"\r\n\r\n"
    assert len(read(one * 10)[0]) == 10
    assert len(read(*[one] * 10)[0]) == 10


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n"],
)
def test_bodies_where_the_port_takes_them(framing: bytes) -> None:
    """A body is read however the reads fall, what follows it is the next request, and a longer one is 413."""
    stream = b"POST /a HTTP/1.1\r\nHost: a\r\n" + framing + HEAD + b"\r\n"
    for parts in ([stream], bytewise(stream)):
        reader = RequestReader(MAX_HEAD, 5)
        requests = [request for part in parts for request in reader.feed(part)[0]]
        assert [(request.method, request.body) for request in requests] == [("POST", b"hello"), ("GET", b"")]
        assert not reader.mid_request
    with pytest.raises(BadHead) as caught:
        RequestReader(MAX_HEAD, 4).feed(stream)
    assert caught.value.status == 413


def test_bodies_that_are_not_kept() -> None:
    """A body that the port does not want is read to its end all the same."""
    reader = RequestReader(MAX_HEAD, 5, lambda head: "x-keep" in head.headers)
    (dropped, kept), _ = reader.feed(
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        b"POST /b HTTP/1.1\r\nHost: a\r\nX-Keep: 1\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert (dropped.body, kept.body) == (b"", b"hello")


def test_mid_request() -> None:
    """`mid_request` is true while a request has begun and not ended, also right behind a whole one."""
    reader = RequestReader(MAX_HEAD)
    assert not reader.mid_request
    reader.feed(HEAD)
    assert reader.mid_request
    reader.feed(b"\r\n")
    assert not reader.mid_request
    reader.feed(HEAD + b"\r\n" + b"GET /x")
    assert reader.mid_request
    reader.feed(b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert not reader.mid_request


@given(st.lists(st.integers(1, 40), min_size=1), st.sampled_from([b"", b"Connection: close\r\n"]))
def test_reads_may_be_cut_anywhere(cuts: list[int], extra: bytes) -> None:
    """However the reads fall, the same requests come out."""
    stream = HEAD + b"X-A: 1\r\nX-A: 2\r\n\r\n" + b"HEAD /b?c HTTP/1.1\r\nHost: b\r\n" + extra + b"\r\n"
    parts, at, turn = [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        parts.append(stream[at : at + step])
        at, turn = at + step, turn + 1
    assert read(*parts) == read(stream)


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_garbage_is_refused_and_nothing_else(start: bytes, rest: bytes) -> None:
    """Whatever comes is a request, unfinished, or a BadHead; no other exception gets out."""
    for stream in (start + rest, HEAD + start, b"GET /" + start + b" HTTP/1.1\r\n" + rest + b"\r\n\r\n"):
        reader = RequestReader(MAX_HEAD)
        requests: list[Request] = []
        status = 400
        try:
            requests, _ = reader.feed(stream)
        except BadHead as bad:
            status = bad.status
        assert status in (400, 413, 431, 505)
        assert all(isinstance(request.query, dict) for request in requests)


# --- answers ----------------------------------------------------------------------------------------------------------


def parsed(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def test_render() -> None:
    """An answer tells its length, whether the connection stays, and carries the security headers."""
    status, headers, body = parsed(render(Response(200, b"hi", headers=[("X-A", "b")]), request_id="r1"))
    assert (status, body) == ("HTTP/1.1 200 OK", b"hi")
    assert headers.items() >= {
        "Content-Length": "2", "Connection": "keep-alive", "X-A": "b", "X-Request-ID": "r1",
    }.items()  # fmt: skip
    assert headers.items() >= set(SECURITY_HEADERS)


def test_render_for_head() -> None:
    """HEAD gets the same head without the body."""
    response = text_response(404, "nothing here")
    whole = render(response, keep_alive=False)
    assert render(response, keep_alive=False, head_only=True) == whole[: -len(response.body)]
    assert parsed(whole)[1]["Connection"] == "close"


def test_render_of_an_unknown_status() -> None:
    """A status without a known phrase is still an answer."""
    assert render(Response(599)).startswith(b"HTTP/1.1 599 ")


@pytest.mark.parametrize("given", ["a\r\nSet-Cookie: x", "a\nb", "a\rb", "a\x00b", "a\x85b", ""])
def test_request_id_cannot_add_headers(given: str) -> None:
    """An X-Request-ID that would end its header is left out of the answer."""
    assert render(Response(200), request_id=given) == render(Response(200))


@given(st.binary(max_size=60))
def test_request_id_goes_through_as_one_header(value: bytes) -> None:
    """Whatever a client puts into X-Request-ID, the answer has the same headers, and the id as sent or not at all."""
    try:
        requests, _ = read(HEAD + b"X-Request-ID: " + value + b"\r\n\r\n")
    except BadHead:
        return
    for request in requests:
        echoed = request_id(request.headers)
        _, headers, _ = parsed(render(Response(200), request_id=echoed))
        _, plain, _ = parsed(render(Response(200)))
        assert headers.pop("X-Request-ID", None) == echoed
        assert headers == plain


def test_json_response() -> None:
    """JSON answers are not kept by caches."""
    response = json_response({"a": 1}, 503, [("Retry-After", "1")])
    status, headers, body = parsed(render(response))
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert (headers["Cache-Control"], headers["Retry-After"]) == ("no-store", "1")
    assert msgspec.json.decode(body) == {"a": 1}


def test_tokens_of() -> None:
    """Tokens are compared in lower case, without white space."""
    assert tokens_of(" Keep-Alive ,UPGRADE") == {"keep-alive", "upgrade"}
