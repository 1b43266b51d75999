"""Who is let in: malformed requests, limits by address, capacity, origins, and whose word about addresses counts."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import Answer, RawPeer, http, upgrade
from trunkline.server.node.node import Node


async def handshake(node: Node, path: str = "/ws", **headers: str) -> Answer:
    """Try a handshake; `X_Forwarded_For="…"` becomes a header. Hangs up after the answer."""
    peer = await RawPeer.connect(node.port)
    try:
        await peer.send(upgrade(path, {name.replace("_", "-"): value for name, value in headers.items()}))
        return await peer.answer()
    finally:
        peer.close()


async def test_a_megabyte_of_headers_is_refused(start_node: StartNode) -> None:
    """The head is bounded whether it is one long header, many headers or a long target; then the connection ends."""
    node = await start_node()
    for head in [
        b"GET /ws HTTP/1.1\r\nX-Long: " + b"x" * (1 << 20),
        b"GET /ws HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(80_000)),
        b"GET /" + b"x" * (1 << 20),
        b"GET /ws HTTP/1.1\r\n" + b"x" * (1 << 20),
    ]:
        peer = await RawPeer.connect(node.port)
        sending = asyncio.create_task(peer.send(head))
        answer = await peer.answer()
        assert answer.status == 431
        assert b"16384" in answer.body
        await asyncio.gather(sending, return_exceptions=True)
        peer.close()
    assert (await handshake(node)).status == 101


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": "!" * 24}, 400),
        ({"Connection": "keep-alive"}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Host": ""}, 400),
    ],
)
async def test_broken_handshakes_are_told_apart(start_node: StartNode, change: dict[str, str], status: int) -> None:
    """400 for a broken upgrade, 426 with the version for what is no upgrade to WebSocket 13."""
    node = await start_node()
    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade("/ws", change))
    answer = await peer.answer()
    assert answer.status == status
    if status == 426:
        assert answer.headers["sec-websocket-version"] == "13"
    peer.close()


async def test_unknown_paths_are_404(start_node: StartNode) -> None:
    """There is no endpoint but those declared, and a switched-off one is not there."""
    node = await start_node(server__echo=False, server__chat=False)
    for path in ["/wss", "/ws/", "/ws/echo", "/ws/chat/a", "/ws/chat/a/b", "/api/game?matchId=m", "/"]:
        assert (await handshake(node, path)).status == 404, path
    assert (await handshake(node, "/ws")).status == 101


async def test_handshakes_of_an_address_are_limited(start_node: StartNode) -> None:
    """Over its burst an address gets 429 with Retry-After; the limit is counted and passes with time."""
    node = await start_node(limits__exempt=(), limits__handshake_burst=3, limits__handshake_per_s=2.0)
    answers = [await handshake(node) for _ in range(5)]
    assert [answer.status for answer in answers[:3]] == [101, 101, 101]
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert node.runtime.meter.connections_failed.values["address_rate",] >= 1
    async with asyncio.timeout(patient(3)):
        while (await handshake(node)).status != 101:
            await asyncio.sleep(0.1)


async def test_loopback_is_exempt_by_default(start_node: StartNode) -> None:
    """A proxy or a test on the same machine is not limited."""
    node = await start_node(limits__handshake_burst=1, limits__http_burst=1)
    assert {(await handshake(node)).status for _ in range(20)} == {101}
    assert {(await http(node.port, "/healthz")).status for _ in range(20)} == {200}


async def test_a_full_node_answers_503(start_node: StartNode, open_peer: OpenPeer) -> None:
    """At capacity a handshake gets 503 with a Retry-After; room comes back when somebody leaves."""
    node = await start_node(server__max_connections=2)
    peers = [await open_peer(node) for _ in range(2)]
    answer = await handshake(node)
    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert node.runtime.meter.capacity_rejections.values == {("full",): 1}
    assert 'ws_capacity_rejections_total{reason="full"} 1.0' in (await http(node.port, "/metrics")).body.decode()
    await peers[0].socket.close()
    assert (await handshake(node)).status == 101


async def test_a_fixed_accept_rate_sheds(start_node: StartNode) -> None:
    """Above `accept_per_s` handshakes get 503 with Retry-After."""
    node = await start_node(limits__accept_per_s=1.0)
    statuses = [(await handshake(node)).status for _ in range(4)]
    assert statuses == [101, 503, 503, 503]
    assert node.runtime.meter.capacity_rejections.values == {("accept_rate",): 3}


async def test_http_requests_of_an_address_are_limited(start_node: StartNode) -> None:
    """Plain HTTP has a rate by address of its own: 429 with Retry-After."""
    node = await start_node(limits__exempt=(), limits__http_burst=3, limits__http_per_s=1.0)
    answers = [await http(node.port, "/api/instance") for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1


async def test_pages_of_the_same_host_may_connect_by_default(start_node: StartNode) -> None:
    """Without a setting, a browser's page may connect to its own host only; other clients send no Origin."""
    node = await start_node(server__hosts=("site.example",))
    assert (await handshake(node, Host="site.example:80", Origin="http://site.example:80")).status == 101
    assert (await handshake(node, Host="site.example", Origin="https://site.example")).status == 101
    assert (await handshake(node)).status == 101
    for origin in ["https://evil.example", "https://site.example.evil.example", "null", "file://", "", "https://"]:
        assert (await handshake(node, Host="site.example", Origin=origin)).status == 403, origin
    assert node.runtime.meter.connections_failed.values["origin",] == 6


async def test_origins_by_setting(start_node: StartNode) -> None:
    """Listed origins and subdomains of a pattern may connect, nobody else's pages, not even the host's own."""
    node = await start_node(server__origins=("https://app.example", "https://*.parts.example"))
    for origin in [
        "https://app.example",
        "https://APP.example",
        "https://a.parts.example",
        "https://a.b.parts.example",
    ]:
        assert (await handshake(node, Origin=origin)).status == 101, origin
    for origin in ["http://app.example", "https://parts.example", "https://evilparts.example", "http://localhost"]:
        refused = await handshake(node, Origin=origin)
        assert (refused.status, b"server.origins" in refused.body) == (403, True), origin
    open_node = await start_node(server__origins=("*",))
    assert (await handshake(open_node, Origin="https://anyone.example")).status == 101


# --- under which name -------------------------------------------------------------------------------------------------


REBOUND = [
    "rebound.example",
    "localhost.rebound.example",
    "127.0.0.1.rebound.example",
    "10.0.0.1",
    "0.0.0.0",
    "[2001:db8::1]",
]


async def test_loopback_is_not_reached_by_a_name_of_somebody_else(
    start_node: StartNode, unused_tcp_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A page whose name leads to this machine opens no endpoint and reads no page; the refusal says what to set."""
    node = await start_node(server__trusted_proxies=("127.0.0.2/32",), admin__port=unused_tcp_port)
    for host in [f"{name}:{node.port}" for name in REBOUND]:
        answer = await handshake(node, Host=host, Origin=f"http://{host}")
        assert (answer.status, host.encode() in answer.body) == (400, True), host
        assert b"server.hosts" in answer.body
        assert b"server.trusted_proxies" in answer.body
        for path in ("/", "/metrics", "/health", "/api/stats"):
            # A page can add these to a plain request.
            for headers in ({}, {"X-Forwarded-For": "203.0.113.1"}):
                assert (await http(node.port, path, headers=headers, host=host)).status == 400, path
        token = {"Authorization": f"Bearer {node.admin.token}"}
        assert (await http(node.admin.port, "/api/channels", headers=token, host=host)).status == 400
    for host in ("localhost", "LOCALHOST.:80", "app.localhost:3001", f"127.0.0.1:{node.port}", "127.9.9.9", "[::1]:1"):
        assert (await handshake(node, Host=host)).status == 101, host
        assert (await http(node.admin.port, "/api/channels", headers=token, host=host)).status == 200, host
    assert node.runtime.meter.connections_failed.values["unknown_host",] == len(REBOUND)
    said = capfd.readouterr()
    assert (said.out + said.err).count("host_refused") == 1


async def test_names_that_the_operator_gave(start_node: StartNode) -> None:
    """Listed names, what lies below a listed domain, and the advertised name are served on loopback."""
    node = await start_node(
        server__hosts=("site.example", "*.parts.example", "10.0.0.1", "[2001:db8::1]"),
        server__advertise="http://node-1.fleet.example:3001",
    )
    named = [
        "site.example",
        "SITE.example.:80",
        "a.parts.example",
        "10.0.0.1",
        "[2001:db8::1]:1",
        "node-1.fleet.example",
    ]
    for host in named:
        assert (await handshake(node, Host=host)).status == 101, host
        assert (await http(node.port, "/metrics", host=host)).status == 200, host
    for host in ["parts.example", "evilparts.example", "a.site.example"]:
        assert (await handshake(node, Host=host)).status == 400, host
    anything = await start_node(server__hosts=("*",))
    assert (await handshake(anything, Host="rebound.example")).status == 101


async def test_a_trusted_proxy_forwards_any_name(start_node: StartNode) -> None:
    """Behind the operator's proxy a node serves every name, but /metrics only addresses and names that are given."""
    node = await start_node(server__trusted_proxies=("127.0.0.0/8",))
    forwarded = {"X-Forwarded-For": "127.0.0.1"}
    assert (await handshake(node, Host="play.example.org", X_Forwarded_For="203.0.113.9")).status == 101
    assert (await http(node.port, "/", headers=forwarded, host="play.example.org")).status == 200
    assert (await http(node.port, "/metrics", headers=forwarded, host="play.example.org")).status == 403
    assert (await http(node.port, "/metrics", headers=forwarded)).status == 200


async def test_metrics_on_any_address_need_a_name_that_nobody_can_register(
    start_node: StartNode, unused_tcp_port: int
) -> None:
    """Where a node listens on all addresses, names of containers and private domains are fine, and a token is."""
    node = await start_node(server__host="0.0.0.0", server__hosts=("named.example",), admin__port=unused_tcp_port)
    for host in (
        "node-1:3001",
        "10.0.0.1",
        "[fd00::1]",
        "host.docker.internal",
        "n.svc.cluster.local",
        "named.example",
    ):
        assert (await http(node.port, "/metrics", host=host)).status == 200, host
    refused = await http(node.port, "/metrics", host="rebound.example:3001")
    assert refused.status == 403
    assert b"rebound.example:3001" in refused.body
    assert b"server.hosts" in refused.body
    token = {"Authorization": f"Bearer {node.admin.token}"}
    assert (await http(node.port, "/metrics", headers=token, host="rebound.example")).status == 200
    assert (await http(node.port, "/health", host="rebound.example")).status == 200
    assert (await handshake(node, Host="rebound.example")).status == 101


# --- whose address ----------------------------------------------------------------------------------------------------


async def test_forged_forwarding_headers_buy_no_handshakes(start_node: StartNode) -> None:
    """Without a trusted proxy, X-Forwarded-For neither gets a fresh rate nor changes the address."""
    node = await start_node(limits__exempt=(), limits__handshake_burst=3, limits__handshake_per_s=0.5)
    statuses = [(await handshake(node, X_Forwarded_For=f"203.0.113.{number}")).status for number in range(6)]
    assert statuses == [101, 101, 101, 429, 429, 429]


@pytest.mark.parametrize("hidden", ["unknown", "_x", "", "127.0.0.1, unknown"])
async def test_a_hidden_client_is_not_its_proxy(start_node: StartNode, hidden: str) -> None:
    """A trusted proxy that hides the client lends it neither its exemption from limits nor its place in a network."""
    node = await start_node(
        limits__handshake_burst=2, limits__handshake_per_s=0.5, server__trusted_proxies=("127.0.0.1",)
    )
    answers = [await handshake(node, X_Forwarded_For=hidden) for _ in range(3)]
    assert [answer.status for answer in answers] == [101, 101, 429]
    refused = await http(node.port, "/metrics", headers={"X-Forwarded-For": hidden})
    assert refused.status == 403
    for answer in (answers[-1], refused):
        assert b"the proxy 127.0.0.1 does not say who the client is" in answer.body
    assert (await handshake(node)).status == 101


async def test_a_trusted_proxy_names_the_client(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Each client behind it has a rate of its own; what a client made up to its left does not count."""
    node = await start_node(
        limits__exempt=(),
        limits__handshake_burst=2,
        limits__handshake_per_s=0.5,
        server__trusted_proxies=("127.0.0.1",),
    )
    for client in ["203.0.113.1", "203.0.113.2"]:
        given = [
            (await handshake(node, X_Forwarded_For=f"198.51.100.{number}, {client}")).status for number in range(3)
        ]
        assert given == [101, 101, 429]
    await open_peer(node, additional_headers={"X-Forwarded-For": "evil, 203.0.113.9, 127.0.0.1"})
    assert "203.0.113.9" in {connection.identity.address for connection in node.registry.connections}


async def test_metrics_are_for_allowed_networks(start_node: StartNode) -> None:
    """Who asks is the original client; what a stranger's proxy forwarded is a stranger's, whatever it says."""
    node = await start_node()
    assert (await http(node.port, "/metrics")).status == 200
    for name in ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"]:
        answer = await http(node.port, "/metrics", headers={name: "127.0.0.1"})
        assert (answer.status, b"name it in server.trusted_proxies" in answer.body) == (403, True), name
    behind = await start_node(server__trusted_proxies=("127.0.0.0/8",))
    for forwarded, status in [
        ("10.1.2.3", 200),
        ("203.0.113.5", 403),
        ("127.0.0.1, 203.0.113.5", 403),
        ("203.0.113.5, 10.1.2.3", 200),
        ("10.1.2.3:51234", 200),
        ("203.0.113.5:51234", 403),
        ("[2001:db8::5]:51234", 403),
        ("unknown", 403),
    ]:
        assert (await http(behind.port, "/metrics", headers={"X-Forwarded-For": forwarded})).status == status, forwarded
    for name, value in [("Forwarded", 'for="[2001:db8::5]:1"'), ("X-Real-IP", "203.0.113.5"), ("Via", "1.1 front")]:
        assert (await http(behind.port, "/metrics", headers={name: value})).status == 403, name
    closed = await start_node(server__metrics_networks=("192.0.2.0/24",))
    assert (await http(closed.port, "/metrics")).status == 403


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_messages_over_the_rate_are_refused_and_then_taken_again(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """Over the burst each message gets RATE_LIMIT_EXCEEDED with `retry_after_ms`; then one is taken again."""
    node = await start_node(limits__rate_burst=5, limits__rate_per_s=4.0)
    peer = await open_peer(node)
    for number in range(8):
        await peer.send({"type": "heartbeat", "id": number})
    answers = [await peer.next() for _ in range(8)]
    assert [answer["type"] for answer in answers] == ["pong"] * 5 + ["error"] * 3
    refused = answers[-1]
    assert (refused["code"], refused["temporary"], refused["id"]) == ("RATE_LIMIT_EXCEEDED", True, 7)
    assert 0 < refused["retry_after_ms"] <= 251
    assert "5" in refused["message"]
    assert "4" in refused["message"]
    # The node reads its clock once in 50 ms.
    await asyncio.sleep(refused["retry_after_ms"] / 1000 + 0.06)
    await peer.ask({"type": "heartbeat"}, "pong")
    assert node.runtime.meter.rate_limited == 3
    other = await open_peer(node)
    await other.ask({"type": "heartbeat"}, "pong")
