"""Plain HTTP through the edge, and what must never reach a backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from aiohttp import web

from tests.support.balancer.relay_peers import (
    FixedPlacer,
    Session,
    Wire,
    echo,
    edge_settings,
    handshake,
    request,
    says,
)
from tests.support.free_ports import free_port
from trunkline.balancer.own_pages import OwnPages
from trunkline.balancer.relay.client import ClientConnection
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.relay.meter import EdgeEvent
from trunkline.balancer.relay.pass_through import TURN_LINES
from trunkline.errors import StartError
from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import PageRequest
from trunkline.http1.requests import Response
from trunkline.placement.placing import Refusal
from trunkline.settings.balancer import HeaderEntry, RouteEntry

HOST = b"Host: play.example.org\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


@pytest.fixture
async def http_backend() -> Any:
    """An HTTP server of another implementation that tells what it got."""

    async def tell(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        return web.json_response(
            {
                "method": request.method,
                "target": request.raw_path,
                "headers": [[name, value] for name, value in request.headers.items()],
                "length": len(body),
                "first": body[:10].decode("latin-1"),
            }
        )

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(int(request.query["n"])):
            await response.write(b"%07d\n" % number * 1000)
        return response

    async def odd(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=302,
            headers=[
                ("Location", "/elsewhere"),
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
                ("Content-Encoding", "gzip"),
            ],
            body=b"not really gzip",
        )

    async def early_no(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="no")

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/stream", stream)
    app.router.add_route("*", "/odd", odd)
    app.router.add_route("*", "/early-no", early_no)
    app.router.add_route("*", "/{rest:.*}", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_request_passes(start_edge: Any, http_backend: str) -> None:
    """Target and headers reach the backend as they were sent, with the forwarding headers, asked without a key."""
    placer = FixedPlacer(http_backend)
    edge = await start_edge(placer)
    answer = await request(
        edge.port,
        b"GET /a%2fb/%C3%A9//x?y=%20+z HTTP/1.1\r\n"
        + HOST
        + b"X-CaSe: Kept\r\nTE: trailers\r\nX-Utf: \xc3\xa9\r\n\r\n",
    )
    told = json.loads(answer.body)
    assert told["target"] == "/a%2fb/%C3%A9//x?y=%20+z"
    headers = dict(told["headers"])
    assert headers["Host"] == "play.example.org"
    assert headers["X-CaSe"] == "Kept"
    assert headers["X-Utf"] == "é"
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert not {"TE", "User-Agent", "Accept", "Accept-Encoding", "Connection"} & set(headers)
    assert placer.asked[0].key == ""
    assert placer.heard == [("dropped", http_backend)]


async def test_absolute_targets_pass_as_paths(start_edge: Any, http_backend: str) -> None:
    """Their host is the one that counts (RFC 9112 section 3.2.2), for routes and for the backend."""
    route = RouteEntry("/", host="other.example.org", rewrite="/its")
    edge = await start_edge(FixedPlacer(http_backend), routes=(route,))
    answer = await request(edge.port, b"GET http://other.example.org/a%2fb?c HTTP/1.1\r\n" + HOST + b"\r\n")
    told = json.loads(answer.body)
    assert told["target"] == "/its/a%2fb?c"
    assert [value for name, value in told["headers"] if name == "Host"] == ["other.example.org"]


async def test_pipelined_requests_are_answered_in_order(start_edge: Any, http_backend: str) -> None:
    """Requests sent in one go come back one after the other on the same connection, HEAD and bodies among them."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(
        b"GET /one HTTP/1.1\r\n" + HOST + b"\r\n"
        b"HEAD /two HTTP/1.1\r\n" + HOST + b"\r\n"
        b"POST /three HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"
        b"POST /four HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n"
        b"GET /five HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    )
    assert json.loads((await wire.answer()).body)["target"] == "/one"
    head = await wire.answer(head=True)
    assert head.status == 200
    assert int(head.headers["content-length"]) > 0
    three, four = json.loads((await wire.answer()).body), json.loads((await wire.answer()).body)
    assert (three["method"], three["length"], three["first"]) == ("POST", 5, "hello")
    assert (four["target"], four["length"], four["first"]) == ("/four", 5, "abcde")
    five = await wire.answer()
    assert five.headers["connection"] == "close"
    assert await wire.ended() == b""


async def test_a_body_of_tiny_chunks_takes_turns(start_edge: Any, http_backend: str) -> None:
    """40,000 chunks of one byte come through whole, a bounded number at a time, and the next request is served."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    most = 0
    feed = BodyReader.feed

    def watched(reader: BodyReader, data: bytes, *most_lines: int) -> tuple[bytes, bytes]:
        nonlocal most
        content, rest = feed(reader, data, *most_lines)
        most = max(most, len(content))
        return content, rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BodyReader, "feed", watched)
        for again in range(2):
            body = b"1\r\na\r\n" * 40_000 + b"0\r\n\r\n"
            wire.send(b"POST /%d HTTP/1.1\r\n" % again + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        wire.send(b"GET /last HTTP/1.1\r\n" + HOST + b"\r\n")
        answers = [json.loads((await wire.answer()).body) for _ in range(3)]
    assert [(each["target"], each["length"]) for each in answers] == [("/0", 40_000), ("/1", 40_000), ("/last", 0)]
    assert 0 < most <= TURN_LINES / 2
    wire.close()


async def test_large_bodies_stream_both_ways(start_edge: Any, http_backend: str) -> None:
    """Megabytes pass in both directions, and a slow reader's answer is not held in memory."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(b"POST /up HTTP/1.1\r\n" + HOST + b"Content-Length: 10000000\r\n\r\n" + b"u" * 10_000_000)
    assert json.loads((await wire.answer()).body)["length"] == 10_000_000
    wire.send(b"GET /stream?n=1000 HTTP/1.1\r\n" + HOST + b"\r\n")
    answer = await wire.answer()
    assert answer.headers["transfer-encoding"] == "chunked"
    assert len(answer.body) == 8_000_000
    assert answer.body[-8:] == b"0000999\n"
    wire.close()


async def test_http_1_0_gets_an_answer_up_to_the_end(start_edge: Any, http_backend: str) -> None:
    """A client of HTTP/1.0 gets no chunks; the end of the connection ends the body."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(b"GET /stream?n=3 HTTP/1.0\r\n\r\n")
    answer = await wire.answer()
    assert "transfer-encoding" not in answer.headers
    assert len(answer.body) == 24_000


async def test_answers_are_passed_as_they_are(start_edge: Any, http_backend: str) -> None:
    """No redirect is followed, nothing decoded, no cookie kept, and two Set-Cookie stay two."""
    edge = await start_edge(FixedPlacer(http_backend, cookie="77"), sticky_cookie="lb", sticky_secure=False)
    answer = await request(edge.port, b"GET /odd HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (answer.status, answer.headers["location"], answer.body) == (302, "/elsewhere", b"not really gzip")
    assert [line for line in answer.lines if line.startswith("Set-Cookie")] == [
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
        "Set-Cookie: lb=77; Path=/; HttpOnly; SameSite=Lax",
    ]
    again = json.loads((await request(edge.port, GET + b"\r\n")).body)
    assert "Cookie" not in dict(again["headers"])


async def test_100_continue(start_edge: Any, http_backend: str) -> None:
    """A client that waits for 100 Continue gets it before it sends its body."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert (await wire.answer()).status == 100
    wire.send(b"body")
    told = json.loads((await wire.answer()).body)
    assert told["length"] == 4
    assert "Expect" not in dict(told["headers"])
    wire.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_are_bounded(start_edge: Any, http_backend: str, chunked: bool) -> None:
    """A body over the limit is a 413, told beforehand or found out on the way."""
    edge = await start_edge(FixedPlacer(http_backend), body_bytes=1000)
    framing = b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" if chunked else b"Content-Length: 1001\r\n\r\n"
    rest = b"\r\n1\r\nx\r\n0\r\n\r\n" if chunked else b"x"
    answer = await request(edge.port, b"POST /x HTTP/1.1\r\n" + HOST + framing + b"x" * 1000 + rest)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


async def test_a_dead_backend_is_replaced_for_get_alone(start_edge: Any, http_backend: str) -> None:
    """A GET whose backend cannot be dialled gets another, once; a POST gets 502."""
    dead = f"http://127.0.0.1:{free_port()}"
    placer = FixedPlacer(dead, http_backend)
    edge = await start_edge(placer)
    assert (await request(edge.port, GET + b"\r\n")).status == 200
    assert placer.heard == [("failed", dead, "dial"), ("dropped", http_backend)]
    answer = await request(edge.port, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx")
    assert answer.status == 502
    assert placer.heard[2:] == [("failed", dead, "dial")]


@pytest.mark.parametrize(
    ("said", "status"), [(b"", 502), (b"garbage\r\n\r\n", 502), (b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n", 502)]
)
async def test_a_broken_backend_is_a_502(start_edge: Any, raw_backend: Any, said: bytes, status: int) -> None:
    """A backend that closes or talks nonsense is a 502, and a failure of the backend."""
    backend = await raw_backend(says(said))
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    assert (await request(edge.port, GET + b"\r\n")).status == status
    assert placer.heard[0][:2] == ("failed", backend.url)


async def test_half_an_answer_is_cut_off(start_edge: Any, raw_backend: Any) -> None:
    """A backend that dies in the middle of a body does not make a whole answer."""
    backend = await raw_backend(says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
    edge = await start_edge(FixedPlacer(backend.url))
    wire = await Wire.connect(edge.port)
    wire.send(GET + b"\r\n")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await wire.answer()


async def test_a_fault_in_the_middle_of_an_answer_cuts_it_off(
    start_edge: Any, http_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once an answer has begun no other one is written into it."""

    async def fail(self: ClientConnection, keep: bool) -> None:
        raise ValueError

    monkeypatch.setattr(ClientConnection, "next_request", fail)
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(GET + b"\r\n")
    with contextlib.suppress(ConnectionError):
        assert b" 500 " not in await wire.reader.read()
    assert edge.meter.refusals.values == {}
    wire.close()


@pytest.mark.parametrize("host", ["empty..label", "long" * 20])
async def test_a_name_that_cannot_be_one_is_a_failed_dial(start_edge: Any, http_backend: str, host: str) -> None:
    """A GET whose backend has a name that no resolver takes gets another backend."""
    placer = FixedPlacer(f"http://{host}:80", http_backend)
    edge = await start_edge(placer)
    assert (await request(edge.port, GET + b"\r\n")).status == 200
    assert placer.heard == [("failed", f"http://{host}:80", "dial"), ("dropped", http_backend)]


async def test_a_header_of_the_operator_in_any_script(start_edge: Any, http_backend: str) -> None:
    """A value that Latin-1 does not have goes to the backend as UTF-8."""
    edge = await start_edge(FixedPlacer(http_backend), request_headers=(HeaderEntry(name="X-Price", value="5 €"),))
    assert (await request(edge.port, GET + b"\r\n")).status == 200


async def test_silence_is_a_504(start_edge: Any, raw_backend: Any) -> None:
    """A backend that never answers a plain request is a 504."""

    async def hang(session: Session) -> None:
        await session.reader.read()

    backend = await raw_backend(hang)
    edge = await start_edge(FixedPlacer(backend.url), handshake_timeout_ms=200, dial_timeout_ms=200)
    assert (await request(edge.port, GET + b"\r\n")).status == 504


async def test_a_refusal_and_an_early_no(start_edge: Any, http_backend: str) -> None:
    """A placer's refusal is the answer; a backend that refuses before the body has come ends the connection."""
    placer = FixedPlacer(http_backend)
    edge = await start_edge(placer)
    answer = await request(edge.port, b"POST /early-no HTTP/1.1\r\n" + HOST + b"Content-Length: 9000000\r\n\r\nx")
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    placer.refusal = Refusal(503, "all_down", "no backend is up", 1.0)
    answer = await request(edge.port, GET + b"\r\n")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_own_pages_come_first(start_edge: Any, http_backend: str) -> None:
    """Pages answer before routing, know who asks, and leave the rest to the backends."""
    seen: list[PageRequest] = []

    def pages(asked: PageRequest) -> Response | None:
        seen.append(asked)
        return (
            Response(200, b"{}", "application/json", [("X-Page", "1")]) if asked.path == "/balancer-metrics" else None
        )

    edge = await start_edge(FixedPlacer(http_backend), pages=pages)
    wire = await Wire.connect(edge.port)
    wire.send(b"GET /balancer-metrics?format=json HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1.2.3.4\r\n\r\n")
    answer = await wire.answer()
    assert (answer.body, answer.headers["content-type"], answer.headers["x-page"]) == (b"{}", "application/json", "1")
    assert (seen[0].query, seen[0].address, seen[0].untrusted) == ("format=json", "127.0.0.1", True)
    wire.send(GET + b"\r\n")
    assert json.loads((await wire.answer()).body)["target"] == "/"
    wire.close()


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)])
async def test_metrics_do_not_open_through_the_edge(start_edge: Any, start_node: Any, trusted: tuple[str, ...]) -> None:
    """Behind a proxy that the edge does not trust, or that hides the client, a node's series are for nobody."""
    node = await start_node(trusted_proxies=("127.0.0.0/8",))
    edge = await start_edge(FixedPlacer(f"http://127.0.0.1:{node.port}"), trusted_proxies=trusted)
    metrics = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
    assert (await request(edge.port, metrics + b"\r\n")).status == 200
    for header in (b"X-Forwarded-For: unknown", b"Forwarded: for=_x", b"X-Real-IP: -", b"Via: 1.1 front"):
        answer = await request(edge.port, metrics + header + b"\r\n\r\n")
        why = b"does not say who the client is" if trusted else b"name it in balancer.trusted_proxies"
        assert (answer.status, why in answer.body) == (403, True), header
    answer = await request(edge.port, metrics + b"X-Forwarded-For: 10.0.0.9\r\n\r\n")
    assert answer.status == (200 if trusted else 403)


async def test_a_proxy_before_the_edge_is_no_client(start_edge: Any, start_node: Any) -> None:
    """A node that trusts the edge alone does not take the proxy before it for the client."""
    node = await start_node(trusted_proxies=("127.0.0.1/32",))
    edge = await start_edge(FixedPlacer(f"http://127.0.0.1:{node.port}"), trusted_proxies=("127.0.0.0/8",))
    wire = await Wire.connect(edge.port, local_addr=("127.0.0.9", 0))
    wire.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.9:51234\r\n\r\n")
    assert (await wire.answer()).status == 403
    wire.close()


async def test_loopback_is_not_reached_by_a_name_of_somebody_else(start_edge: Any, http_backend: str) -> None:
    """A page whose name leads to the balancer's loopback port reaches no backend; the refusal says what to set."""
    placer = FixedPlacer(http_backend)
    events: list[EdgeEvent] = []
    route = RouteEntry("/", host="*.routed.example")
    edge = await start_edge(placer, on_event=events.append, routes=(route,), trusted_proxies=("127.0.0.9/32",))
    for line in (b"GET /ws", b"GET /balancer-metrics", b"HEAD /"):
        raw = line + b" HTTP/1.1\r\nHost: rebound.example:8080\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        answer = await request(edge.port, raw, head=line.startswith(b"HEAD"))
        assert (answer.status, answer.headers["connection"]) == (400, "close")
    answer = await request(edge.port, handshake(headers={"Host": "rebound.example:8080"}))
    assert answer.status == 400
    assert all(
        word in answer.body for word in (b"rebound.example:8080", b"balancer.hosts", b"balancer.trusted_proxies")
    )
    assert placer.asked == []
    assert [(event.reason, event.status) for event in events] == [("unknown_host", 400)] * 4
    for host in (b"localhost", b"127.0.0.1:1", b"play.example.org", b"a.routed.example"):
        assert (await request(edge.port, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")).status == 200, host
    wire = await Wire.connect(edge.port, local_addr=("127.0.0.9", 0))
    wire.send(b"GET / HTTP/1.1\r\nHost: public.example\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
    assert (await wire.answer()).status == 200
    wire.close()


async def test_the_page_needs_a_name_that_nobody_can_register(start_edge: Any, http_backend: str) -> None:
    """On any address, the balancer's own page is for addresses, private names and names that the operator gave."""
    settings = edge_settings(host="0.0.0.0")

    async def render(query: str, accept: str) -> tuple[str, bytes]:
        return "application/json", b"{}"

    edge = await start_edge(FixedPlacer(http_backend), pages=OwnPages(settings, render).answer, host="0.0.0.0")
    for host, status in [
        ("balancer:8080", 200),
        ("10.0.0.1", 200),
        ("play.example.org", 200),
        ("rebound.example:8080", 403),
    ]:
        answer = await request(edge.port, f"GET /balancer-metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.status == status, host
        assert (await request(edge.port, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())).status == 200
    assert b"rebound.example:8080" in answer.body
    assert b"balancer.hosts" in answer.body


# --- what must not pass -----------------------------------------------------------------------------------------------

SMUGGLED = {
    "two_lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "two_lengths_in_one": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx",
    "length_and_chunked": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked_twice": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two_codings": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "unknown_coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding_with_tab": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding_in_1_0": b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "signed_length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx",
    "hex_length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\nx",
    "empty_length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n\r\n",
    "bare_lf": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare_lf_in_head": GET + b"A: b\nContent-Length: 5\r\n\r\n",
    "bare_cr": GET + b"A: b\rContent-Length: 5\r\n\r\n",
    "folded": GET + b"A: b\r\n c\r\n\r\n",
    "folded_first": b"GET / HTTP/1.1\r\n Host: x\r\n" + HOST + b"\r\n",
    "space_before_colon": GET + b"Content-Length : 1\r\n\r\n",
    "no_colon": GET + b"Nonsense\r\n\r\n",
    "empty_name": GET + b": x\r\n\r\n",
    "nul": GET + b"A: b\0c\r\n\r\n",
    "nul_in_name": GET + b"A\0: b\r\n\r\n",
    "absolute_form_climbs": b"GET http://play.example.org/../x HTTP/1.1\r\n" + HOST + b"\r\n",
    "authority_form": b"CONNECT other.example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk_form": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "climbing": b"GET /api/%2e./secret HTTP/1.1\r\n" + HOST + b"\r\n",
    "http_0_9": b"GET /\r\n",
    "http_0_9_with_more": b"GET /\r\n" + HOST + b"\r\n",
    "two_spaces": b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n",
    "space_in_target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "two_hosts": GET + HOST + b"\r\n",
    "no_host": b"GET / HTTP/1.1\r\n\r\n",
    "host_list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host_with_path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "handshake_with_two_keys": handshake()[:-2] + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
}


@pytest.mark.parametrize("shape", SMUGGLED)
async def test_ambiguous_requests_are_refused(start_edge: Any, raw_backend: Any, shape: str) -> None:
    """What two readers could understand differently is a 400 that ends the connection; no backend hears of it."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)
    wire.send(SMUGGLED[shape] + GET + b"\r\n")
    answer = await wire.answer()
    assert answer.status == 400, answer
    assert answer.headers["connection"] == "close"
    assert await wire.ended() == b""
    assert backend.connections == 0
    assert placer.asked == []


@pytest.mark.parametrize(
    "chunks", [b"1\nx\r\n0\r\n\r\n", b"-1\r\nx", b"1 \r\nx\r\n", b"1\r\nxy\r\n0\r\n\r\n", b"g\r\n", b"1" * 20 + b"\r\n"]
)
async def test_malformed_chunks(start_edge: Any, http_backend: str, chunks: bytes) -> None:
    """A body whose chunks are malformed is a 400, and what follows is not taken for a request."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    wire.send(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + GET + b"\r\n")
    assert (await wire.answer()).status == 400
    assert await wire.ended() == b""


async def test_other_versions_are_a_505(start_edge: Any) -> None:
    """HTTP/2's preface is not spoken here."""
    edge = await start_edge(FixedPlacer())
    assert (await request(edge.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).status == 505


async def test_one_megabyte_of_headers(start_edge: Any, raw_backend: Any) -> None:
    """A head over the limit is a 431 that the client can still read, though it goes on sending."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    for big in (b"X: " + b"x" * 1_000_000, b"".join(b"X-%d: y\r\n" % n for n in range(100_000))):
        answer = await request(edge.port, GET + big + b"\r\n\r\n")
        assert answer.status == 431
    assert backend.connections == 0


async def test_a_head_in_pieces(start_edge: Any, http_backend: str) -> None:
    """A head that comes byte by byte is read all the same."""
    edge = await start_edge(FixedPlacer(http_backend))
    wire = await Wire.connect(edge.port)
    for byte in b"\r\n" + GET + b"X: y\r\n\r\n":
        wire.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await wire.answer()).status == 200
    wire.close()


async def test_an_incomplete_head_is_a_408(start_edge: Any) -> None:
    """A head that does not end in time is a 408, though its client keeps sending; saying nothing just ends."""
    edge = await start_edge(FixedPlacer(), handshake_timeout_ms=300)
    slow, silent = await Wire.connect(edge.port), await Wire.connect(edge.port)

    async def trickle() -> None:
        while True:
            slow.send(b"x")
            await asyncio.sleep(0.05)

    slow.send(GET + b"X: ")
    trickling = asyncio.create_task(trickle())
    assert (await slow.answer()).status == 408
    trickling.cancel()
    assert await silent.ended() == b""


async def test_slow_clients_cannot_lock_others_out(
    start_edge: Any, http_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is room for no more and all clients are silent, the one that waited longest makes room."""
    monkeypatch.setattr("trunkline.process.open_files.MOST_PENDING", 5)
    edge = await start_edge(FixedPlacer(http_backend))
    silent = [await Wire.connect(edge.port) for _ in range(5)]
    for wire in silent:
        wire.send(b"GET ")
    await asyncio.sleep(0.05)
    assert (await request(edge.port, GET + b"\r\n")).status == 200
    assert await silent[0].ended() in (b"", b"(reset)")
    silent[4].send(b"/ HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await silent[4].answer()).status == 200
    assert edge.meter.pending_dropped.values == {("data",): 1}
    for wire in silent:
        wire.close()


async def test_a_taken_port_stops_the_start(start_edge: Any) -> None:
    """The port that is in use is named; a socket handed in is listened on."""
    edge = await start_edge(FixedPlacer())
    with pytest.raises(StartError, match=str(edge.port)):
        await start_edge(FixedPlacer(), port=edge.port)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    other = Edge(edge.settings, FixedPlacer())
    await other.start([sock])
    assert other.port == port
    await other.stop(0.0)
