"""The balancer's HTTP for operators: the admin port, and the port for Traefik, which answers the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.server.raw_peer import Answer, RawPeer, http
from trunkline.balancer.service import RelayService
from trunkline.net.admin.kept import kept_token
from trunkline.settings.balancer import BalancerSettings, RouteEntry
from trunkline.settings.sections import Settings
from trunkline.traefik.steer.service import SteeringService

PATHS = ("/healthz", "/ready", "/metrics", "/balancer-metrics", "/nothing")


def settings_with(**changes: Any) -> Settings:
    """Settings of a balancer on free ports; changes are those of its section."""
    balancer = msgspec.structs.replace(BalancerSettings(), **{"port": 0, "drain_ms": 0, **changes})
    settings = Settings()
    return msgspec.structs.replace(
        settings,
        balancer=balancer,
        log=msgspec.structs.replace(settings.log, access=False),
        traefik=msgspec.structs.replace(settings.traefik, balancer_url="http://127.0.0.1:8080"),
    )


@pytest.fixture(params=["relay", "steer"])
async def service(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RelayService | SteeringService]:
    """A balancer of each kind, which is served under two more names."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kind = RelayService if request.param == "relay" else SteeringService
    routes = (RouteEntry("/", host="routed.example"),)
    service = kind(settings_with(mode=request.param, hosts=("named.example",), routes=routes))
    await service.start()
    yield service
    await service.stop()


async def ask(port: int, raw: str) -> Answer:
    """The answer to a request written by hand."""
    peer = await RawPeer.connect(port)
    try:
        await peer.send(raw.encode())
        return await peer.answer()
    finally:
        peer.close()


def ports_of(service: RelayService | SteeringService) -> tuple[int, ...]:
    """Those that answer operators."""
    return (service.admin.port, service.port) if isinstance(service, SteeringService) else (service.admin.port,)


async def test_no_answer_is_kept_or_guessed_at(service: RelayService | SteeringService) -> None:
    """Every answer says so, errors too."""
    for port in ports_of(service):
        for path in PATHS:
            answer = await http(port, path)
            assert answer.status == {"/ready": 503, "/nothing": 404}.get(path, 200)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http(port, "/metrics", method="POST")).headers["cache-control"] == "no-store"


async def test_loopback_is_not_reached_by_a_name_of_somebody_else(service: RelayService | SteeringService) -> None:
    """A page whose name leads to this machine reads nothing; the refusal says what to set."""
    for port in ports_of(service):
        for path in PATHS:
            answer = await http(port, path, host=f"rebound.example:{port}")
            assert answer.status == 400, path
            assert f"rebound.example:{port}".encode() in answer.body
            assert b"balancer.hosts" in answer.body
        for host in ("localhost", f"127.0.0.1:{port}", "[::1]", "named.example", "routed.example:1"):
            assert (await http(port, "/metrics", host=host)).status == 200, host


async def test_the_host_of_http(service: RelayService | SteeringService) -> None:
    """HTTP/1.1 needs one well-formed Host (RFC 9112 section 3.2); that of an absolute target counts (section 3.2.2)."""
    for port in ports_of(service):
        for fields in ("", "Host: a b\r\n", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost:99999\r\n"):
            assert (await ask(port, f"GET /healthz HTTP/1.1\r\n{fields}\r\n")).status == 400, fields
        assert (await ask(port, "GET /healthz HTTP/1.0\r\n\r\n")).status == 200
        absolute = "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await ask(port, absolute)).status == 200
        absolute = "GET http://rebound.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await ask(port, absolute)).status == 400


async def test_the_page_is_not_for_what_a_proxy_forwarded(service: RelayService | SteeringService) -> None:
    """No forwarding header of any kind is a client's on loopback."""
    for port in ports_of(service):
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"):
            answer = await http(port, "/balancer-metrics", headers={name: "127.0.0.1"})
            assert (answer.status, b"a proxy forwarded" in answer.body) == (403, True), name
        token = {"Authorization": f"Bearer {kept_token(service.admin.port)}", "Via": "1.1 front"}
        assert (await http(port, "/balancer-metrics", headers=token)).status == 200


async def test_a_steering_port_on_all_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traefik finds it by any name; its page is for addresses and private names, as a container's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    service = SteeringService(settings_with(mode="steer", host="0.0.0.0", admin_port=0))
    await service.start()
    try:
        assert (await http(service.port, "/place", host="balancer.example.org")).status == 200
        assert (await http(service.port, "/balancer-metrics", host="balancer:8080")).status == 200
        answer = await http(service.port, "/balancer-metrics", host="rebound.example")
        assert (answer.status, b"balancer.hosts" in answer.body) == (403, True)
    finally:
        await service.stop()
