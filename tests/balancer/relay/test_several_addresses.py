"""Backends whose name has several addresses, of which the first never answers."""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.balancer.authority import Authority
from tests.support.balancer.relay_peers import FixedPlacer, Wire, echo
from tests.support.patience import patient
from tests.support.unanswered import unanswered
from trunkline.balancer.relay.dial import Dialer
from trunkline.net.staggered import Address
from trunkline.placement.backend import Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is loopback on Linux alone")


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has two addresses: one that answers nothing, and loopback."""

    async def resolve(self: Dialer, place: Place) -> Sequence[Address]:
        return [(socket.AF_INET, (host, place.port)) for host in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(Dialer, "_resolve", resolve)


@pytest.mark.usefixtures("resolved")
@pytest.mark.parametrize("tls", [False, True])
async def test_the_second_address_is_reached(
    start_edge: Any, raw_backend: Any, relay_kind: str, tls: bool, tmp_path: Path
) -> None:
    """In much less than the dial's time, over both kinds of relays, and over TLS by the backend's name."""
    context: ssl.SSLContext | None = None
    settings: dict[str, Any] = {"dial_timeout_ms": 5000}
    if tls:
        authority = Authority(tmp_path)
        authority.sign(tmp_path / "backend.pem", "localhost")
        context = authority.server(tmp_path / "backend.pem")
        settings["tls_ca_file"] = authority.file
    backend = await raw_backend(echo, context)
    url = f"{'https' if tls else 'http'}://localhost:{backend.port}"
    edge = await start_edge(FixedPlacer(url), **settings)
    with unanswered("127.0.0.2", backend.port):
        began = time.monotonic()
        wire = await Wire.upgraded(edge.port)
        assert time.monotonic() - began < patient(2.0)
    wire.send(b"through")
    assert await wire.take(7) == b"through"
    wire.close()


async def test_an_address_without_a_route_is_passed_over(
    start_edge: Any, raw_backend: Any, relay_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an AAAA record's on a host without IPv6: the system refuses it at once."""

    async def resolve(self: Dialer, place: Place) -> Sequence[Address]:
        # To broadcast no TCP connection can lead.
        return [(socket.AF_INET, (host, place.port)) for host in ("255.255.255.255", "127.0.0.1")]

    monkeypatch.setattr(Dialer, "_resolve", resolve)
    backend = await raw_backend(echo, None)
    edge = await start_edge(FixedPlacer(f"http://localhost:{backend.port}"))
    wire = await Wire.upgraded(edge.port)
    wire.send(b"through")
    assert await wire.take(7) == b"through"
    wire.close()
