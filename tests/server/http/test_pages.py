"""Plain HTTP on the data port, against the contract: every page, its shape, and how connections behave."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.patience import patient
from tests.support.server.live_node import OpenPeer, StartNode
from tests.support.server.raw_peer import RawPeer, http
from trunkline import __version__
from trunkline.metrics.series import ALIASES, SERIES
from trunkline.server.http.pages import CHECKED

PAGES = ["/", "/trunkline.js", "/page.js", "/page.css", "/health", "/api/health", "/healthz", "/ready", "/readyz",
         "/api/instance", "/api/stats", "/metric", "/metrics"]  # fmt: skip

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


async def test_every_page_answers_get_and_head(start_node: StartNode) -> None:
    """HEAD tells the same length and type as GET and has no body; every answer carries the security headers."""
    node = await start_node()
    for path in PAGES:
        got = await http(node.port, path)
        assert (path, got.status) == (path, 200)
        assert SECURITY.items() <= got.headers.items()
        assert "default-src 'none'" in got.headers["content-security-policy"]
        assert got.body
        head = await http(node.port, path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert abs(int(head.headers["content-length"]) - len(got.body)) < 50
    types = {path: (await http(node.port, path)).headers["content-type"] for path in ["/", "/trunkline.js", "/health"]}
    assert types["/"].startswith("text/html")
    assert types["/trunkline.js"].startswith("text/javascript")
    assert types["/health"] == "application/json"


async def test_the_page_connects_to_its_own_host_alone(start_node: StartNode) -> None:
    """Its policy names the host that it came from, as a trusted proxy reports it too, and no scheme as a whole."""
    node = await start_node(server__hosts=("*",), server__trusted_proxies=("127.0.0.1",))

    async def connects(host: str, **headers: str) -> str:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        policy = (await http(node.port, "/", host=host, headers=fields)).headers["content-security-policy"]
        return next(part for part in policy.split("; ") if part.startswith("connect-src "))

    plain = "connect-src 'self' ws://play.example.org:80 wss://play.example.org:80"
    assert await connects("play.example.org:80") == plain
    proxied = "connect-src 'self' ws://inner:1 wss://inner:1 ws://play.example.org wss://play.example.org"
    assert await connects("inner:1", X_Forwarded_For="1.1.1.1", X_Forwarded_Host="play.example.org") == proxied
    for host in ("[::1]:3001", "a;script-src", "a_b", "*"):
        assert await connects(host) == "connect-src 'self'", host
    for path in PAGES[1:]:
        policy = (await http(node.port, path)).headers["content-security-policy"]
        assert policy == "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", path


async def test_refusals(start_node: StartNode) -> None:
    """404 for nothing, 405 with Allow for other methods, 413 for a body, 426 at WebSocket endpoints."""
    node = await start_node()
    assert (await http(node.port, "/nothing")).status == 404
    assert (await http(node.port, "/../etc/passwd")).status == 404
    assert (await http(node.port, "/%2e%2e/%2e%2e/etc/passwd")).status == 404
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"]:
        answer = await http(node.port, "/health", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (await http(node.port, "/health", method="POST", headers={"Content-Length": "5"})).status == 413
    for path in ["/ws", "/ws/echo", "/ws/chat/abc", "/api/game"]:
        answer = await http(node.port, path)
        assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
        assert SECURITY.items() <= answer.headers.items()
    # What was asked for is not shown to a browser as anything but text.
    answer = await http(node.port, "/%3Cscript%3Ealert(1)%3C/script%3E%0d%0aX-Evil:%201")
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert "x-evil" not in answer.headers


async def test_connections_are_kept_and_requests_answered_in_order(start_node: StartNode) -> None:
    """Keep-alive serves many requests; pipelined ones are answered in order; `Connection: close` ends it."""
    node = await start_node()
    peer = await RawPeer.connect(node.port)
    for _ in range(3):
        await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await peer.answer()
        assert (answer.body, answer.headers["connection"]) == (b"alive\n", "keep-alive")
    paths = [b"/healthz", b"/nothing", b"/ready", b"/api/stats"] * 5
    await peer.send(b"".join(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths))
    answers = [await peer.answer() for _ in paths]
    assert [answer.status for answer in answers] == [200, 404, 200, 200] * 5
    assert answers[3].json()["active_connections"] == 0
    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await peer.answer()).headers["connection"] == "close"
    assert await peer.ended() == b""
    old = await RawPeer.connect(node.port)
    await old.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await old.answer()).status == 200
    assert await old.ended() == b""


async def test_too_many_pipelined_requests_end_the_connection(start_node: StartNode) -> None:
    """A read full of requests is refused as a whole."""
    node = await start_node()
    peer = await RawPeer.connect(node.port)
    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
    assert (await peer.answer()).status == 429


async def test_a_websocket_may_follow_plain_requests(start_node: StartNode) -> None:
    """An upgrade on a kept connection works, also in the same packet behind another request and before frames."""
    from tests.support.server.raw_peer import TEXT, frame, upgrade

    node = await start_node()
    peer = await RawPeer.connect(node.port)
    heartbeat = frame(TEXT, b'{"type":"heartbeat"}')
    await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" + upgrade() + heartbeat)
    assert (await peer.answer()).status == 200
    assert (await peer.answer()).status == 101
    assert [(await peer.message())["type"] for _ in range(2)] == ["connection_established", "pong"]
    peer.close()


async def test_request_ids(start_node: StartNode) -> None:
    """X-Request-ID comes back when it is harmless, in pages and in the 101; else one is made."""
    node = await start_node()
    assert (await http(node.port, "/healthz", headers={"X-Request-ID": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = {(await http(node.port, "/healthz")).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    long = await http(node.port, "/healthz", headers={"X-Request-ID": "x" * 129})
    assert len(long.headers["x-request-id"]) < 129
    from tests.support.server.raw_peer import upgrade

    peer = await RawPeer.connect(node.port)
    await peer.send(upgrade("/ws", {"X-Request-ID": "abc-2"}))
    assert (await peer.answer()).headers["x-request-id"] == "abc-2"
    peer.close()


async def test_health_has_the_shape_of_the_contract(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Field by field what dashboards read."""
    node = await start_node(server__max_connections=4, server__memory_limit_bytes=1 << 40)
    await open_peer(node)
    answer = await http(node.port, "/health")
    assert answer.status == 200
    found = answer.json()
    assert set(found) == {"status", "healthy", "checks", "warnings", "errors", "uptime"}
    assert found["healthy"] is True
    # A busy machine may show its CPU as a warning.
    assert found["status"] in ("healthy", "degraded")
    assert set(found["checks"]) == {"bus", "capacity", "memory", "cpu"}
    assert found["checks"]["bus"] == {"status": "connected", "healthy": True}
    assert found["checks"]["capacity"] == {"current": 1, "max": 4, "percentage": 25.0, "healthy": True}
    assert set(found["checks"]["memory"]) == {"used_mb", "limit_mb", "percentage", "healthy"}
    assert found["checks"]["memory"]["limit_mb"] == 1024 * 1024
    assert found["checks"]["memory"]["used_mb"] > 1
    assert set(found["checks"]["cpu"]) == {"percentage", "healthy"}
    assert 0 <= found["uptime"] < 60
    assert found["errors"] == []
    assert (await http(node.port, "/api/health")).json()["checks"]["capacity"] == found["checks"]["capacity"]


async def test_health_follows_capacity(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Full is unhealthy: 503 with the reason in `errors`; the default capacity is computed from the memory limit."""
    node = await start_node(server__max_connections=2)
    for _ in range(2):
        await open_peer(node)
    answer = await http(node.port, "/health")
    assert answer.status == 503
    found = answer.json()
    assert (found["status"], found["healthy"], found["checks"]["capacity"]["healthy"]) == ("unhealthy", False, False)
    assert any("capacity" in error for error in found["errors"])
    sized = await start_node(server__memory_limit_bytes=512 << 20)
    assert (await http(sized.port, "/health")).json()["checks"]["capacity"]["max"] == 2184


async def test_readiness_while_draining(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A draining node is alive and not ready, says so in its report, and is ready again after the drain's end."""
    node = await start_node()
    peer = await open_peer(node)
    node.draining.begin(60_000)
    for path in ["/ready", "/readyz"]:
        answer = await http(node.port, path)
        assert (answer.status, answer.body) == (503, b"draining\n")
    assert (await http(node.port, "/healthz")).status == 200
    assert (await http(node.port, "/health")).status == 200
    assert (await http(node.port, "/metric")).json()["state"] == "draining"
    assert "ws_draining 1.0" in (await http(node.port, "/metrics")).body.decode()
    await peer.ask({"type": "heartbeat"}, "pong")
    node.draining.end()
    assert (await http(node.port, "/ready")).status == 200
    assert (await http(node.port, "/metric")).json()["state"] == "up"


async def test_load_report(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`/metric` has the names that balancers read."""
    node = await start_node(
        server__pod_name="pod-1", server__pod_ip="10.0.0.1", server__node_name="m1", server__colour="green",
        server__max_connections=10,
    )  # fmt: skip
    await open_peer(node)
    found = (await http(node.port, "/metric")).json()
    assert set(found) == {
        "agentsConnections", "podName", "podIP", "nodeName", "state", "colour", "capacity", "accept_per_s",
        "loop_lag_ms", "run", "opened", "version",
    }  # fmt: skip
    assert found["agentsConnections"] == found["opened"] == 1
    assert [found[name] for name in ("podName", "podIP", "nodeName", "colour")] == ["pod-1", "10.0.0.1", "m1", "green"]
    assert (found["state"], found["capacity"]) == ("up", 10)
    assert found["accept_per_s"] > 0


async def test_stats_and_instance(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Counts and the last error; which process answers."""
    node = await start_node(server__name="n1")
    peer = await open_peer(node)
    await peer.ask({"type": "nonsense"}, "error")
    found = (await http(node.port, "/api/stats")).json()
    assert set(found) == {
        "active_connections", "total_connections", "messages_received", "messages_sent", "connection_duration_seconds",
        "last_error", "last_error_time",
    }  # fmt: skip
    assert (found["active_connections"], found["total_connections"], found["messages_received"]) == (1, 1, 1)
    assert found["messages_sent"] == 2
    assert found["last_error"].startswith("UNKNOWN_TYPE")
    assert abs(found["last_error_time"] - node.runtime.clock.wall_ms) < 60_000
    assert set(found["connection_duration_seconds"]) == {"p50", "p95", "p99"}
    instance = (await http(node.port, "/api/instance")).json()
    assert (instance["name"], instance["version"], instance["state"], instance["bus"]) == (
        "n1",
        __version__,
        "up",
        "memory",
    )
    assert "/ws" in instance["endpoints"]
    assert instance["server_version"] == ""


async def test_load_report_and_instance_name_the_release(start_node: StartNode) -> None:
    """`server.version` is opaque, as an image's tag or digest is; without it a report says null."""
    release = "registry.example.org/app@sha256:0123"
    node = await start_node(server__version=release)
    assert (await http(node.port, "/metric")).json()["version"] == release
    assert (await http(node.port, "/api/instance")).json()["server_version"] == release
    assert (await http((await start_node()).port, "/metric")).json()["version"] is None


async def test_metrics_hold_every_declared_series(start_node: StartNode, open_peer: OpenPeer) -> None:
    """What is scraped parses, and every series of the declaration is there with its kind and labels."""
    node = await start_node(metrics__aliases=("websocket", "go"))
    peer = await open_peer(node)
    await peer.ask({"type": "heartbeat"}, "pong")
    answer = await http(node.port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    for series in SERIES:
        family = families[series.name.removesuffix("_total")]
        assert family.type == series.kind, series.name
        assert family.documentation == series.help
        for sample in family.samples:
            if sample.name == series.name:
                assert set(sample.labels) == set(series.labels)
    values = {name: family.samples[0].value for name, family in families.items() if family.samples}
    assert values["ws_connections"] == 1
    assert values["ws_connections_active"] == 1
    assert values["ws_nats_connected"] == 1
    for name in (alias for family in ALIASES.values() for alias in family):
        assert any(sample.name.startswith(name) for family in families.values() for sample in family.samples), name
    assert families["websocket_connections_total"].type == "gauge"
    plain = await start_node()
    assert b"\nwebsocket_" not in (await http(plain.port, "/metrics")).body


@pytest.mark.parametrize("seed", range(3))
async def test_raw_bytes_never_harm_the_node(start_node: StartNode, open_peer: OpenPeer, seed: int) -> None:
    """Noise, and requests with noise in them, get an answer or an end, and the node serves on."""
    node = await start_node(server__handshake_timeout_ms=300, server__close_timeout_ms=100)
    rng = random.Random(seed)
    from tests.support.server.raw_peer import upgrade

    async def disturb() -> None:
        peer = await RawPeer.connect(node.port)
        if rng.random() < 0.3:
            data = rng.randbytes(rng.randrange(1, 3000))
        else:
            data = bytearray(
                upgrade(rng.choice(["/ws", "/ws/echo", "/api/game?matchId=a", "/health"])) + rng.randbytes(80)
            )
            for _ in range(rng.randrange(0, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            half = rng.randrange(len(data))
            await peer.send(bytes(data[:half]))
            await peer.send(bytes(data[half:]))
            if rng.random() < 0.7:
                await peer.ended(timeout=0.2)
        except (TimeoutError, ConnectionError):
            pass
        peer.close()

    for _ in range(4):
        await asyncio.gather(*(disturb() for _ in range(60)))
    good = await open_peer(node)
    await good.ask({"type": "heartbeat"}, "pong")
    async with asyncio.timeout(patient(5)):
        while node.data_port.pending._deadlines or len(node.registry.connections) > 1:
            await asyncio.sleep(0.02)


async def test_reports_for_allowed_networks_have_no_rate(start_node: StartNode) -> None:
    """A balancer may ask for the load report before each pick; pages, and requests by unknown proxies, keep a limit."""
    node = await start_node(limits__http_burst=2, limits__http_per_s=0.001, limits__exempt=())
    for _ in range(10):
        assert (await http(node.port, "/metric")).status == 200
    statuses = [(await http(node.port, "/api/stats")).status for _ in range(4)]
    assert statuses[-1] == 429
    # Health checks may share the address of whoever has used up its rate.
    for path in CHECKED:
        assert {(await http(node.port, path)).status for _ in range(4)} == {200}, path
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert (await http(node.port, "/metric", headers=forwarded)).status == 429
