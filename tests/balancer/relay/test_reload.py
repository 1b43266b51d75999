"""An edge takes over reloaded settings for clients that come from then on; relayed connections stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.balancer.authority import Authority
from tests.support.balancer.relay_peers import FixedPlacer, StartEdge, Wire, echo, edge_settings, handshake
from trunkline.balancer.relay.edge import Edge
from trunkline.errors import SettingsError
from trunkline.settings.balancer import HeaderEntry
from trunkline.settings.reloaded import RELOADED

HEADERS = (HeaderEntry("X-Team", "shop"),)

EFFECTS: dict[str, tuple[Any, Callable[[Edge], Any], Any]] = {
    "balancer.hosts": (("a.example",), lambda edge: edge._hosts.refusal("a.example", False), ""),
    "balancer.retries": (7, lambda edge: edge._context.settings.retries, 7),
    "balancer.idle_timeout_ms": (70, lambda edge: edge.relays._idle_s, 0.07),
    "balancer.body_bytes": (7, lambda edge: edge._context.settings.body_bytes, 7),
    "balancer.max_connections": (7, lambda edge: edge.relays._limit, 7),
    "balancer.trusted_proxies": (("10.0.0.7",), lambda edge: len(edge._context.trusted_proxies), 1),
    "balancer.handshake_burst": (7.0, lambda edge: edge._context.limiter._burst, 7.0),
    "balancer.handshake_per_s": (7.0, lambda edge: edge._context.limiter._per_s, 7.0),
    "balancer.connections_per_address": (7, lambda edge: edge.relays._per_address_limit, 7),
    "balancer.exempt": (("10.0.0.7",), lambda edge: [len(edge._limiter._exempt), len(edge.relays._exempt)], [1, 1]),
    "balancer.drain_ms": (70, lambda edge: edge.settings.drain_ms, 70),
}
"""Of each setting another value, where its effect is seen, and what is seen then."""

SEEN_ELSEWHERE = {
    "balancer.backends", "balancer.metrics_networks", "balancer.request_headers", "balancer.response_headers",
    "balancer.tls_cert_file", "balancer.tls_key_file", "balancer.tls_verify", "balancer.tls_ca_file",
    "balancer.tls_client_cert_file", "balancer.tls_client_key_file",
}  # fmt: skip
"""Settings whose effect has a test of its own, here or with a whole balancer."""


def test_every_setting_of_the_table_has_its_look() -> None:
    """A row that does nothing would be noticed."""
    rows = {key for key in RELOADED if key.startswith("balancer.")}
    assert rows == EFFECTS.keys() | SEEN_ELSEWHERE


@pytest.mark.parametrize("key", EFFECTS)
async def test_it_counts_after_a_reload_and_not_before_it_is_taken_over(start_edge: StartEdge, key: str) -> None:
    """Preparing alone changes nothing, for another part may be refused yet."""
    value, look, seen = EFFECTS[key]
    edge = await start_edge(FixedPlacer())
    assert look(edge) != seen
    take_over = edge.prepare(edge_settings(**{key.partition(".")[2]: value}))
    assert look(edge) != seen
    take_over()
    assert look(edge) == seen


async def test_headers_of_requests_and_answers(start_edge: StartEdge, raw_backend: Any, relay_kind: str) -> None:
    """A handshake that comes after the reload has them; a connection that is relayed goes on."""
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url))
    before = await Wire.upgraded(edge.port)
    edge.prepare(edge_settings(request_headers=HEADERS, response_headers=HEADERS))()
    after = await Wire.connect(edge.port)
    after.send(handshake())
    assert (await after.answer()).headers["x-team"] == "shop"
    assert [b"X-Team: shop\r\n" in head for head in backend.heads] == [False, True]
    before.send(b"still here")
    assert await before.take(10) == b"still here"
    for wire in (before, after):
        wire.close()


async def test_the_listener_has_another_certificate(start_edge: StartEdge, tmp_path: Path, raw_backend: Any) -> None:
    """From another file; who is connected stays, and the file of before is looked at no more."""
    authority = Authority(tmp_path)
    old, new = tmp_path / "old.pem", tmp_path / "new.pem"
    authority.sign(old, "old")
    authority.sign(new, "new")
    backend = await raw_backend(echo)
    edge = await start_edge(FixedPlacer(backend.url), tls_cert_file=old)
    before = await Wire.connect(edge.port, ssl=authority.client())
    before.send(handshake())
    assert (await before.answer()).status == 101
    edge.prepare(edge_settings(tls_cert_file=new))()
    assert await shown_name(edge, authority) == "new"
    authority.sign(old, "older")
    assert edge._tls is not None
    edge._tls.look()
    assert await shown_name(edge, authority) == "new"
    before.send(b"still here")
    assert await before.take(10) == b"still here"
    before.close()


@pytest.mark.parametrize("setting", ["tls_cert_file", "tls_ca_file", "tls_client_cert_file"])
async def test_a_certificate_that_cannot_be_used_changes_nothing(
    start_edge: StartEdge, tmp_path: Path, setting: str
) -> None:
    """Neither it nor what is beside it."""
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "edge.pem", "edge")
    edge = await start_edge(FixedPlacer(), tls_cert_file=tmp_path / "edge.pem")
    with pytest.raises(SettingsError, match=setting):
        edge.prepare(edge_settings(**{"tls_cert_file": tmp_path / "edge.pem", "retries": 7, setting: tmp_path / "no"}))
    assert edge._context.settings.retries != 7
    assert await shown_name(edge, authority) == "edge"


async def test_backends_are_verified_by_another_authority(
    start_edge: StartEdge, tmp_path: Path, raw_backend: Any
) -> None:
    """What is trusted changes both ways: an authority that is named no more is trusted no more."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    two.sign(tmp_path / "backend.pem", "backend")
    backend = await raw_backend(echo, two.server(tmp_path / "backend.pem"))
    edge = await start_edge(FixedPlacer(backend.url), tls_ca_file=one.file)
    assert await status_of(edge) == 502
    edge.prepare(edge_settings(tls_ca_file=two.file))()
    assert await status_of(edge) == 101
    edge.prepare(edge_settings(tls_ca_file=one.file))()
    assert await status_of(edge) == 502
    edge.prepare(edge_settings(tls_verify=False))()
    assert await status_of(edge) == 101


async def test_backends_are_shown_another_certificate(start_edge: StartEdge, tmp_path: Path, raw_backend: Any) -> None:
    """Of a backend that wants one."""
    authority = Authority(tmp_path)
    authority.sign(tmp_path / "backend.pem", "backend")
    authority.sign(tmp_path / "client.pem", "client")
    backend = await raw_backend(echo, authority.server(tmp_path / "backend.pem", asks=True))
    edge = await start_edge(FixedPlacer(backend.url), tls_ca_file=authority.file)
    assert await status_of(edge) == 502
    edge.prepare(edge_settings(tls_ca_file=authority.file, tls_client_cert_file=tmp_path / "client.pem"))()
    assert await status_of(edge) == 101


async def shown_name(edge: Edge, authority: Authority) -> str:
    """Common name of the certificate that a new handshake is shown."""
    wire = await Wire.connect(edge.port, ssl=authority.client())
    subject = wire.writer.get_extra_info("peercert")["subject"]
    wire.close()
    return next(value for part in subject for name, value in part if name == "commonName")


async def status_of(edge: Edge) -> int:
    """The status of a handshake."""
    wire = await Wire.connect(edge.port)
    wire.send(handshake())
    status = (await wire.answer()).status
    wire.close()
    return status
