"""What EndpointSlices say of backends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.kubernetes.slices import endpoint, endpoint_slice
from trunkline.balancer.sources.kubernetes.slices import EndpointSlice, Found, backends_of, parse_entry
from trunkline.errors import SettingsError

NONE: frozenset[str] = frozenset()


def found(*slices: dict[str, Any], entry: str = "live/ws:ws", were_ready: frozenset[str] = NONE) -> Found:
    return backends_of(msgspec.convert(slices, tuple[EndpointSlice, ...]), parse_entry(entry), "live", were_ready)


def shown(these: Found) -> list[tuple[str, bool]]:
    return [(spec.url, spec.draining) for spec in these.specs]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("live/ws:http", ("live", "ws", "http", None)),
        ("ws", ("", "ws", "", None)),
        ("https://live/ws:8443", ("live", "ws", "8443", True)),
        ("http://ws:80", ("", "ws", "80", False)),
    ],
)
def test_an_entry_names_namespace_service_and_port(text: str, read: tuple[object, ...]) -> None:
    assert msgspec.structs.astuple(parse_entry(text)) == read


@pytest.mark.parametrize("text", ["", "live/", "a/b/c", "Live/ws", "ws:", "ftp://ws", "live/ws.svc:80", "ws:http?x=1"])
def test_an_entry_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r'balancer\.kubernetes.*"namespace/service:port"'):
        parse_entry(text)


@pytest.mark.parametrize(
    ("conditions", "seen", "draining"),
    [
        ({}, False, False),
        ({"ready": True, "serving": True, "terminating": False}, False, False),
        ({"ready": True, "terminating": True}, False, True),  # publishNotReadyAddresses
        ({"ready": False, "serving": True, "terminating": True}, False, True),
        ({"ready": False, "serving": False, "terminating": True}, True, True),
        ({"ready": False, "serving": False, "terminating": True}, False, None),
        ({"ready": False, "serving": False, "terminating": False}, True, True),
        ({"ready": False}, False, None),
        ({"ready": None, "serving": None, "terminating": None}, False, False),
    ],
)
def test_conditions(conditions: dict[str, bool | None], seen: bool, draining: bool | None) -> None:
    """None: it is left out."""
    one = {**endpoint("10.0.0.1", "ws-1"), "conditions": conditions}
    these = found(endpoint_slice("ws-a", one), were_ready=frozenset({"uid-of-ws-1"}) if seen else NONE)
    assert [spec.draining for spec in these.specs] == ([] if draining is None else [draining])


def test_an_endpoint_is_remembered_as_ready_while_it_is_there() -> None:
    ready = found(endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"))).ready
    assert ready == {"uid-of-ws-1"}
    assert found(endpoint_slice("ws-a"), were_ready=ready).ready == NONE


def test_several_slices_are_one_service_and_an_endpoint_in_two_is_one_backend() -> None:
    """While it is moved between slices it is in both; that it ends is newer than that it is ready."""
    leaving = endpoint("10.0.0.2", "ws-2", ready=False, serving=True, terminating=True)
    these = found(
        endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"), endpoint("10.0.0.2", "ws-2")),
        endpoint_slice("ws-b", leaving, endpoint("10.0.0.3", "ws-3")),
    )
    urls = [f"http://10.0.0.{number}:3001" for number in (1, 2, 3)]
    assert shown(these) == list(zip(urls, (False, True, False), strict=True))
    assert [spec.name for spec in these.specs] == ["ws-1", "ws-2", "ws-3"]
    assert {spec.source for spec in these.specs} == {"kubernetes"}


def test_a_dual_stack_pod_is_one_backend_by_its_ipv4_address() -> None:
    """One that has IPv6 alone is taken by that; the other family's conditions do not count."""
    these = found(
        endpoint_slice("ws-6", endpoint("fd00::1", "ws-1", ready=False), endpoint("fd00::2", "ws-2"), family="IPv6"),
        endpoint_slice("ws-4", endpoint("10.0.0.1", "ws-1")),
    )
    assert shown(these) == [("http://10.0.0.1:3001", False), ("http://[fd00::2]:3001", False)]


def test_endpoints_without_a_pod_are_told_apart_by_address() -> None:
    these = found(endpoint_slice("ws-a", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
    assert len(these.specs) == 2


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "ff02::1", "not-an-address", "fe80::1%eth0", ""])
def test_an_address_that_no_backend_can_have_is_left_out(address: str) -> None:
    assert found(endpoint_slice("ws-a", endpoint(address, "ws-1"))).specs == ()


def test_the_port_is_found_by_name_in_each_slice() -> None:
    """During a change of its number, slices of old and new pods have different ones."""
    new = endpoint_slice("ws-b", endpoint("10.0.0.2", "ws-2"), ports=[{"name": "ws", "port": 4001, "protocol": "TCP"}])
    these = found(endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1")), new)
    assert [spec.url for spec in these.specs] == ["http://10.0.0.1:3001", "http://10.0.0.2:4001"]


TWO = [
    {"name": "metrics", "port": 9090},
    {"name": "none", "port": 65536},
    {"name": "ws", "port": 3001},
    {"name": "quic", "port": 443, "protocol": "UDP"},
]


@pytest.mark.parametrize(
    ("entry", "url", "problem"),
    [
        ("ws:3001", "http://10.0.0.1:3001", ""),
        ("ws:metrics", "http://10.0.0.1:9090", ""),
        ("ws:http", None, "it has no port http at its pods; its ports: metrics (9090), ws (3001)"),
        ("ws:quic", None, "it has no port quic at its pods; its ports: metrics (9090), ws (3001)"),
        ("ws", None, "it has several ports (metrics (9090), ws (3001)): write the one that is meant, ws:port"),
    ],
)
def test_ports(entry: str, url: str | None, problem: str) -> None:
    these = found(endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"), ports=TWO), entry=entry)
    assert ([spec.url for spec in these.specs], these.problem) == ([url] if url else [], problem)


@pytest.mark.parametrize(
    ("entry", "protocol", "scheme", "name"),
    [
        ("ws", None, "http", ""),
        ("ws", "kubernetes.io/wss", "https", "ws.live.svc"),
        ("ws", "https", "https", "ws.live.svc"),
        ("http://ws", "https", "http", ""),
        ("https://ws", None, "https", "ws.live.svc"),
    ],
)
def test_tls_by_the_entry_or_by_what_the_port_says(entry: str, protocol: str | None, scheme: str, name: str) -> None:
    """The certificate has to name the Service."""
    port = {"name": "ws", "port": 3001, "appProtocol": protocol}
    (spec,) = found(endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"), ports=[port]), entry=entry).specs
    assert (spec.url, spec.server_name) == (f"{scheme}://10.0.0.1:3001", name)


def test_what_an_operator_has_to_mend_is_named() -> None:
    assert found().problem == "it has no EndpointSlice: is there a Service of this name with a selector?"
    names = endpoint_slice("ws-a", endpoint("db.example.org"), family="FQDN")
    assert "list them in balancer.dns" in found(names).problem
    headless = endpoint_slice("ws-a", endpoint("10.0.0.1", "ws-1"), ports=[])
    assert found(headless).problem == "it has no port for TCP: write one into the Service, a headless one too"
    assert found(endpoint_slice("ws-a", ports=[])).problem == ""  # a Service with no pod yet
