"""Up to the 101: admission, heads rewritten, backends that misbehave, another backend."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from tests.support.balancer.relay_peers import (
    FixedPlacer,
    Session,
    Wire,
    answer_101,
    echo,
    handshake,
    hang,
    request,
    says,
)
from tests.support.free_ports import free_port
from tests.support.patience import patient
from trunkline.balancer.relay.dial import Dialer
from trunkline.placement.placing import Refusal
from trunkline.settings.balancer import HeaderEntry, RouteEntry

pytestmark = pytest.mark.usefixtures("relay_kind")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\nX-Why: none\r\n\r\noops"


def false_accept(session: Session) -> bytes:
    head = answer_101(session.head)
    at = head.index(b"Accept: ") + 8
    return head[:at] + (b"A" if head[at : at + 1] != b"A" else b"B") + head[at + 1 :]


async def lies(session: Session) -> None:
    session.writer.write(false_accept(session))
    await session.reader.read()


async def hangs_up(session: Session) -> None:
    session.writer.write(b"HTTP/1.1 101 Swi")


FAULTS = {
    "200": (says(OK), "bad_answer"),
    "500": (says(BROKEN), "status_5xx"),
    "hangs": (hang, "handshake_timeout"),
    "hangs_up": (hangs_up, "closed"),
    "says_nothing": (says(b""), "closed"),
    "false_accept": (lies, "bad_answer"),
    "garbage": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "bad_answer"),
    "no_upgrade_header": (says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n"), "bad_answer"),
    "bare_lf": (says(b"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n"), "bad_answer"),
    "banner": (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "bad_answer"),
    "endless_head": (says(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 100_000), "bad_answer"),
    "two_lengths": (says(b"HTTP/1.1 404 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "bad_answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_another_backend_before_the_101(start_edge: Any, raw_backend: Any, fault: str) -> None:
    """A backend that fails before the 101 is told of as failed, and the client ends up on another one."""
    behave, why = FAULTS[fault]
    bad, good = await raw_backend(behave), await raw_backend(echo)
    placer = FixedPlacer(bad.url, good.url)
    edge = await start_edge(placer, handshake_timeout_ms=300)
    wire = await Wire.upgraded(edge.port)
    wire.send(b"through")
    assert await wire.take(7) == b"through"
    assert placer.heard == [("failed", bad.url, why), ("opened", good.url)]
    assert [ask.tried for ask in placer.asked] == [(), (bad.url,)]
    assert edge.meter.retries == 1
    wire.close()


async def test_refused_dial_tries_another(start_edge: Any, raw_backend: Any) -> None:
    """A backend that nobody listens at is a failed dial."""
    good = await raw_backend(echo)
    dead = f"http://127.0.0.1:{free_port()}"
    placer = FixedPlacer(dead, good.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    assert placer.heard == [("failed", dead, "dial"), ("opened", good.url)]
    wire.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "empty..label", "long" * 20])
async def test_a_name_that_does_not_resolve_is_a_failed_dial(
    start_edge: Any, raw_backend: Any, relay_kind: str, host: str
) -> None:
    """A backend whose name is unknown, or cannot be one, fails like one that nobody listens at."""
    good = await raw_backend(echo)
    placer = FixedPlacer(f"http://{host}:80", good.url)
    edge = await start_edge(placer)
    wire = await Wire.upgraded(edge.port)
    assert placer.heard[0] == ("failed", f"http://{host}:80", "dial")
    wire.close()


async def test_a_fault_of_our_own_drops_the_pick(
    start_edge: Any, raw_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in between, a pick is reported exactly once, and no backend is blamed for it."""

    def fail(*_: object) -> bool:
        raise ValueError

    monkeypatch.setattr("trunkline.balancer.relay.upgrade.accepts", fail)
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, connections_per_address=1)
    for _ in range(2):
        wire = await Wire.connect(edge.port)
        wire.send(handshake())
        assert (await wire.answer()).status == 500
        wire.close()
    assert placer.heard == [("dropped", backend.url)] * 2


async def test_tls_to_a_plain_backend_fails_as_tls(start_edge: Any, raw_backend: Any) -> None:
    """A backend that is to speak TLS and does not is a TLS failure or an ended connection, never a plain one."""
    plain, good = await raw_backend(says(b"HTTP/1.1 400 Bad\r\n\r\n")), await raw_backend(echo)
    placer = FixedPlacer(plain.url.replace("http", "https"), good.url)
    edge = await start_edge(placer, dial_timeout_ms=1000)
    wire = await Wire.upgraded(edge.port)
    assert placer.heard[0][0] == "failed"
    assert placer.heard[0][2] in ("tls", "dial", "dial_timeout")
    wire.close()


async def test_the_last_5xx_reaches_the_client(start_edge: Any, raw_backend: Any) -> None:
    """When no backend took it, the last one's own 5xx is the answer, with its body."""
    first, second = await raw_backend(says(BROKEN)), await raw_backend(says(BROKEN.replace(b"oops", b"last")))
    placer = FixedPlacer(first.url, second.url)
    edge = await start_edge(placer)
    answer = await request(edge.port, handshake())
    assert (answer.status, answer.body, answer.headers["x-why"]) == (500, b"last", "none")
    assert placer.heard == [("failed", first.url, "alike"), ("failed", second.url, "alike")], "the request's own fault"


@pytest.mark.parametrize("taken", [echo, says(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")])
async def test_failures_of_a_request_that_another_backend_takes_are_the_backends(
    start_edge: Any, raw_backend: Any, taken: Any
) -> None:
    """Both are to blame when a third one answers well: the request was in order."""
    first, second, third = [await raw_backend(each) for each in (says(BROKEN), lies, taken)]
    placer = FixedPlacer(first.url, second.url, third.url)
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    assert (await wire.answer()).status < 500
    await placer.hears("failed", first.url, "status_5xx")
    await placer.hears("failed", second.url, "bad_answer")
    wire.close()


async def test_a_failure_is_blamed_though_the_client_leaves(start_edge: Any, raw_backend: Any) -> None:
    """What the first backend did is known by then; the second has done nothing wrong."""
    first, second = await raw_backend(says(BROKEN)), await raw_backend(hang)
    placer = FixedPlacer(first.url, second.url)
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    async with asyncio.timeout(patient(5)):
        while not second.heads:
            await asyncio.sleep(0.01)
    wire.close()
    await placer.hears("failed", first.url, "status_5xx")
    assert ("dropped", second.url) in placer.heard


@pytest.mark.parametrize(("behave", "status"), [(hang, 504), (lies, 502)])
async def test_all_failed(start_edge: Any, raw_backend: Any, behave: Any, status: int) -> None:
    """When no backend answered usefully, it is 504 for silence and 502 for nonsense."""
    bad = await raw_backend(behave)
    edge = await start_edge(FixedPlacer(bad.url), handshake_timeout_ms=200, retries=0)
    answer = await request(edge.port, handshake())
    assert answer.status == status
    assert answer.body.count(b"\n") == 1


async def test_retries_are_bounded(start_edge: Any, raw_backend: Any) -> None:
    """No more backends are tried than the setting says."""
    bad = [await raw_backend(says(b"")) for _ in range(4)]
    placer = FixedPlacer(*(one.url for one in bad))
    edge = await start_edge(placer, retries=1)
    assert (await request(edge.port, handshake())).status == 502
    assert len(placer.asked) == 2


@pytest.mark.parametrize("status", [301, 401, 403, 404, 426, 429])
async def test_the_backends_no_is_passed_on(start_edge: Any, raw_backend: Any, status: int) -> None:
    """A 3xx or 4xx is the backend's word: it reaches the client with its body, and nobody is to blame."""
    no = await raw_backend(
        says(
            b"HTTP/1.1 %d No\r\nWWW-Authenticate: Bearer\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"
            % status
        )
    )
    placer = FixedPlacer(no.url, no.url)
    edge = await start_edge(placer)
    answer = await request(edge.port, handshake())
    assert (answer.status, answer.body, answer.headers["www-authenticate"]) == (status, b"no", "Bearer")
    assert answer.headers["content-length"] == "2"
    assert placer.heard == [("dropped", no.url)]


async def test_interim_answers_are_passed_over(start_edge: Any, raw_backend: Any) -> None:
    """A 103 before the 101 is not the answer."""

    async def hints(session: Session) -> None:
        session.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + answer_101(session.head))
        await session.reader.read()

    backend = await raw_backend(hints)
    edge = await start_edge(FixedPlacer(backend.url))
    (await Wire.upgraded(edge.port)).close()


async def test_a_refusal_of_the_placer(start_edge: Any) -> None:
    """A full fleet answers with the placer's status and text, and Retry-After rounded up."""
    placer = FixedPlacer()
    placer.refusal = Refusal(503, "full", "every backend is full", 4.2)
    edge = await start_edge(placer)
    answer = await request(edge.port, handshake())
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.body == b"every backend is full\n"
    assert edge.meter.refusals.values == {("full",): 1}


async def test_a_placer_that_answers_later(start_edge: Any, raw_backend: Any) -> None:
    """In a worker the pick comes from another process; that changes nothing else."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url, later=True)
    edge = await start_edge(placer)
    (await Wire.upgraded(edge.port)).close()
    assert edge.meter.opened == 1


async def test_the_client_leaves_meanwhile(start_edge: Any, raw_backend: Any) -> None:
    """A client that leaves before the 101 costs the backend nothing: dropped, and its connection is closed."""
    gone = asyncio.Event()

    async def watch(session: Session) -> None:
        try:
            await session.reader.read()
        finally:
            gone.set()

    backend = await raw_backend(watch)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    while not backend.heads:
        await asyncio.sleep(0.01)
    wire.close()
    await asyncio.wait_for(gone.wait(), patient(5))
    assert placer.heard == [("dropped", backend.url)]


async def test_a_pick_that_comes_too_late_is_dropped(start_edge: Any, raw_backend: Any) -> None:
    """A client that leaves while its pick is on the way leaves no reservation behind."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url, later=True)
    placer.pause_s = 0.3
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    while not placer.asked:
        await asyncio.sleep(0.01)
    wire.close()
    await placer.hears("dropped", backend.url)
    assert backend.connections == 0


async def test_one_of_many_backends_dies(start_edge: Any, raw_backend: Any) -> None:
    """While a backend resets every handshake, a hundred clients at once all get through."""

    async def reset(session: Session) -> None:
        session.writer.transport.abort()

    bad, good = await raw_backend(reset), await raw_backend(echo)
    placer = FixedPlacer(bad.url, good.url)
    edge = await start_edge(placer)
    wires = await asyncio.gather(*(Wire.upgraded(edge.port) for _ in range(100)))
    assert edge.connections == 100
    for wire in wires:
        wire.close()
    while edge.connections:
        await asyncio.sleep(0.01)
    assert placer.heard.count(("closed", good.url)) == 100


# --- the head on its way ----------------------------------------------------------------------------------------------


async def test_what_the_backend_sees(start_edge: Any, raw_backend: Any) -> None:
    """Host stays, forwarding headers are ours, hop-by-hop ones end here, the rest keeps its spelling."""
    backend = await raw_backend(echo)
    edge = await start_edge(
        FixedPlacer(backend.url), request_headers=(HeaderEntry("X-Edge", "one"), HeaderEntry("X-Secret"))
    )
    wire = await Wire.connect(edge.port)
    wire.send(
        handshake(
            "/a%2Fb/%7Ec?q=%20+x&é".encode("ascii", "ignore").decode(),
            {
                "Connection": "keep-alive, X-Hop, Upgrade, Host, Sec-WebSocket-Key",
                "X-Hop": "ends",
                "Keep-Alive": "5",
                "X-Forwarded-For": "6.6.6.6",
                "X_Forwarded_For": "6.6.6.6",
                "X-Real-IP": "6.6.6.6",
                "Forwarded": "for=6.6.6.6",
                "X-Forwarded-Proto": "https",
                "X-Secret": "shh",
                "COOKIE": "a=1; b=2",
                "Proxy-Authorization": "Basic x",
            },
        )
    )
    assert (await wire.answer()).status == 101
    lines = backend.heads[0].decode("latin-1").split("\r\n")
    assert lines[0] == "GET /a%2Fb/%7Ec?q=%20+x& HTTP/1.1"
    fields = {line.partition(":")[0]: line.partition(": ")[2] for line in lines[1:] if line}
    assert fields["Host"] == "play.example.org"
    assert fields["X-Forwarded-For"] == fields["X-Real-IP"] == "127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Forwarded-Host"] == "play.example.org"
    assert fields["X-Forwarded-Port"] == str(edge.port)
    assert fields["Connection"] == "Upgrade"
    assert fields["Upgrade"] == "websocket"
    assert fields["COOKIE"] == "a=1; b=2"
    assert fields["X-Edge"] == "one"
    assert b"6.6.6.6" not in backend.heads[0]
    for gone in ("X-Hop", "Keep-Alive", "Forwarded", "X-Secret", "Proxy-Authorization"):
        assert gone not in fields
    wire.close()


async def test_a_trusted_proxy_is_believed(start_edge: Any, raw_backend: Any) -> None:
    """Behind the operator's own proxy its headers stay; the client ends the chain: backends may not know the proxy."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer, trusted_proxies=("127.0.0.0/8",))
    wire = await Wire.upgraded(
        edge.port,
        X_Forwarded_For="6.6.6.6, 203.0.113.7:51234",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="front.example.org",
        Forwarded="for=203.0.113.7",
        X_Real_IP="6.6.6.6",
    )
    head = backend.heads[0]
    assert b"X-Forwarded-For: 6.6.6.6, 203.0.113.7:51234, 203.0.113.7\r\n" in head
    assert b'Forwarded: for=203.0.113.7, for="203.0.113.7"\r\n' in head
    assert b"X-Forwarded-Proto: https\r\n" in head
    assert b"X-Forwarded-Host: front.example.org\r\n" in head
    assert b"X-Real-IP: 203.0.113.7\r\n" in head
    assert placer.asked[0].address == "203.0.113.7"
    wire.close()
    wire = await Wire.upgraded(edge.port, Forwarded='for="[2001:db8::7]:80"')
    assert b"X-Forwarded-For: 2001:db8::7\r\n" in backend.heads[1]
    assert b'Forwarded: for="[2001:db8::7]:80", for="[2001:db8::7]"\r\n' in backend.heads[1]
    wire.close()


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)])
async def test_backends_learn_that_the_client_is_not_known(
    start_edge: Any, raw_backend: Any, trusted: tuple[str, ...]
) -> None:
    """The address of a proxy that is not trusted goes on as such; of one that hides the client nothing does."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), trusted_proxies=trusted, handshake_burst=1, handshake_per_s=0.1)
    sent = {"X_Forwarded_For": "unknown", "Via": "1.1 front", "True_Client_IP": "10.0.0.1"}
    (await Wire.upgraded(edge.port, **sent)).close()
    head = backend.heads[0]
    assert b"X-Trunkline-Client: unknown\r\n" in head
    assert (b"X-Forwarded-For: unknown, unknown\r\n" if trusted else b"X-Forwarded-For: 127.0.0.1\r\n") in head
    assert (b"X-Real-IP: 127.0.0.1\r\n" in head) is not bool(trusted)
    assert b"Via: 1.1 front\r\n" in head
    assert (b"True-Client-IP" in head) is bool(trusted)
    if trusted:
        # It does not share the exemption of the proxy, which is on loopback here.
        wire = await Wire.connect(edge.port)
        wire.send(handshake("/ws", {"X-Forwarded-For": "unknown"}))
        answer = await wire.answer()
        assert (answer.status, b"the proxy 127.0.0.1 does not say" in answer.body) == (429, True)
    (await Wire.upgraded(edge.port)).close()
    assert b"X-Trunkline-Client" not in backend.heads[-1]


async def test_headers_that_no_hop_may_take_out(start_edge: Any, raw_backend: Any) -> None:
    """A node lets in what has no Origin, so a Connection header that names it, or the like, takes nothing out."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    given = {"Origin": "https://evil.example", "Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"}
    wire = await Wire.connect(edge.port)
    names = ", ".join([*given, "Host", "Sec-WebSocket-Protocol", "X-Hop"])
    wire.send(handshake("/ws", {"Connection": f"Upgrade, {names}", **given, "X-Hop": "1"}))
    assert (await wire.answer()).status == 101
    for name, value in given.items():
        assert f"{name}: {value}\r\n".encode() in backend.heads[0]
    assert b"X-Hop" not in backend.heads[0]
    wire.close()


async def test_route_affinity_and_sticky_cookie(start_edge: Any, raw_backend: Any) -> None:
    """A match's path is rewritten, its id is the affinity value, and the sticky cookie goes both ways."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url, cookie="0123abcd")
    edge = await start_edge(
        placer, sticky_cookie="lb", sticky_same_site="none", response_headers=(HeaderEntry("X-Served", "edge"),)
    )
    wire = await Wire.connect(edge.port)
    wire.send(handshake("/api/match/game?matchId=m%2F7&x=%2b", {"Cookie": "theme=dark; lb=feedbeef"}))
    answer = await wire.answer()
    assert answer.headers["set-cookie"] == "lb=0123abcd; Path=/; HttpOnly; Secure; SameSite=None"
    assert answer.headers["x-served"] == "edge"
    assert backend.heads[0].startswith(b"GET /api/game?matchId=m%2F7&x=%2b HTTP/1.1\r\n")
    ask = placer.asked[0]
    assert (ask.policy, ask.affinity, ask.sticky) == ("affinity", "m/7", "feedbeef")
    assert ask.key
    wire.close()


async def test_own_routes_come_first(start_edge: Any, raw_backend: Any) -> None:
    """The operator's route by host and prefix chooses the pool; a longer name is not its prefix."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(
        placer, routes=(RouteEntry("/api", host="*.example.org", rewrite="/v2", pool="api", policy="p2c"),)
    )
    (await Wire.upgraded(edge.port, "/api/x")).close()
    (await Wire.upgraded(edge.port, "/apis")).close()
    assert [(ask.pool, ask.policy) for ask in placer.asked] == [("api", "p2c"), ("", "least_connections")]
    assert backend.heads[0].startswith(b"GET /v2/x ")
    assert backend.heads[1].startswith(b"GET /apis ")


# --- admission --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Content-Length": "5"}, 400),
        ({"Transfer-Encoding": "chunked"}, 400),
    ],
)
async def test_malformed_handshakes_stop_here(
    start_edge: Any, raw_backend: Any, headers: dict[str, str], status: int
) -> None:
    """A handshake that RFC 6455 does not allow is answered by the edge; no backend sees it."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    answer = await request(edge.port, handshake(headers=headers))
    assert answer.status == status
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"
    assert backend.connections == 0


async def test_handshakes_per_address(start_edge: Any, raw_backend: Any) -> None:
    """Beyond its burst an address gets 429 with Retry-After."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), exempt=(), handshake_burst=2.0, handshake_per_s=0.5)
    wires = [await Wire.upgraded(edge.port) for _ in range(2)]
    answer = await request(edge.port, handshake())
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    for wire in wires:
        wire.close()


async def test_connections_per_address(start_edge: Any, raw_backend: Any) -> None:
    """An address has so many connections at most; one that ends, or came to nothing, makes room."""
    backend, placer = await raw_backend(echo), FixedPlacer()
    edge = await start_edge(placer, exempt=(), connections_per_address=1)
    placer.refusal = Refusal(503, "full", "full", 1)
    assert (await request(edge.port, handshake())).status == 503
    placer.refusal, placer.urls = None, (backend.url,)
    first = await Wire.upgraded(edge.port)
    assert (await request(edge.port, handshake())).status == 429
    first.close()
    await placer.hears("closed", backend.url)
    (await Wire.upgraded(edge.port)).close()


async def test_connections_at_most(start_edge: Any, raw_backend: Any) -> None:
    """A full edge answers 503 with Retry-After."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), max_connections=1)
    first = await Wire.upgraded(edge.port)
    answer = await request(edge.port, handshake())
    assert answer.status == 503
    assert 2 <= int(answer.headers["retry-after"]) <= 5
    first.close()


async def test_no_more_files_is_no_backends_fault(
    start_edge: Any, raw_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this process can open no more sockets, the client is turned away with 503 and the pick is dropped."""
    backend = await raw_backend(echo)
    placer = FixedPlacer(backend.url)
    edge = await start_edge(placer)
    wire = await Wire.connect(edge.port)

    async def full(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    for name in ("_dial_socket", "_dial_transport"):
        monkeypatch.setattr(Dialer, name, full)
    wire.send(handshake())
    answer = await wire.answer()
    assert (answer.status, "retry-after" in answer.headers) == (503, True)
    assert placer.heard == [("dropped", backend.url)]
    wire.close()
