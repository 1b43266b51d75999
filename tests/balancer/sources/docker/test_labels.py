"""Labels of containers, Trunkline's own and Traefik's, and what they make of a container."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.balancer.sources.docker.labels import Container, Verdict, asks, read
from trunkline.placement.backend import BackendSpec, place_of

OURS = {"trunkline.enable": "true"}
TRAEFIK = {"traefik.enable": "true"}
SERVICE = "traefik.http.services.ws.loadbalancer"
NETWORKS = {"front": "10.1.0.2", "back": "10.2.0.2"}


def judge(labels: dict[str, str], *, network: str = "", **facts: Any) -> Verdict:
    """The verdict on a running container that exposes port 3001 in two networks, but for `facts`."""
    known: dict[str, Any] = {"ports": (3001,), "networks": NETWORKS, **facts}
    return read(Container("ws-1", labels, **known), network=network, host="127.0.0.1")


def spec_of(labels: dict[str, str], **facts: Any) -> BackendSpec:
    verdict = judge(labels, **facts)
    assert verdict.problem == ""
    assert verdict.spec is not None
    return verdict.spec


def test_the_switch_alone_is_enough() -> None:
    """One exposed port and one label make a backend in the first network, named like its container."""
    assert spec_of(OURS) == BackendSpec("http://10.1.0.2:3001", source="docker", name="ws-1")


def test_every_label_of_our_own() -> None:
    """Port, weight, colour, health path, pool, capacity, scheme, network and certificate name are taken over."""
    labels = {
        **OURS,
        "trunkline.port": "8443",
        "trunkline.weight": "2.5",
        "trunkline.colour": "green",
        "trunkline.deploy": "5f2a91c0",  # which deploy made it
        "trunkline.health-path": "/alive",
        "trunkline.pool": "match",
        "trunkline.capacity": "500",
        "trunkline.scheme": "wss",
        "trunkline.network": "back",
        "trunkline.server-name": "ws.example.org",
    }
    assert spec_of(labels) == BackendSpec(
        "https://10.2.0.2:8443",
        weight=2.5,
        group="green",
        pool="match",
        capacity=500,
        health_path="/alive",
        source="docker",
        name="ws-1",
        server_name="ws.example.org",
    )


def test_tls_by_address_verifies_the_containers_name() -> None:
    """An address is in no certificate, so the container's name is asked for; without TLS there is nothing to ask."""
    assert spec_of({**OURS, "trunkline.scheme": "https"}).server_name == "ws-1"
    assert spec_of({**OURS, "trunkline.server-name": "x.example"}).server_name == ""


@pytest.mark.parametrize("value", ["true", "True", " TRUE ", "1", "yes"])
def test_spellings_of_yes(value: str) -> None:
    """Whatever Docker files commonly write for true switches it on."""
    assert judge({"trunkline.enable": value}).spec is not None


@pytest.mark.parametrize(
    "labels", [{}, {"trunkline.enable": "false"}, {"trunkline.port": "80"}, {"traefik.enable": "0"}]
)
def test_a_container_that_does_not_ask_is_passed_over_in_silence(labels: dict[str, str]) -> None:
    """No switch, or one that is off, is no problem to log."""
    assert not asks(labels)
    assert judge(labels) == Verdict()


def test_our_switch_overrules_traefiks() -> None:
    """trunkline.enable=false keeps a container of Traefik's out; true makes Traefik's labels not count."""
    service = {f"{SERVICE}.server.port": "9000"}
    assert judge({**TRAEFIK, **service, "trunkline.enable": "false"}) == Verdict()
    assert spec_of({**TRAEFIK, **service, **OURS}).url == "http://10.1.0.2:3001"


@pytest.mark.parametrize(
    ("label", "value", "allowed"),
    [
        ("trunkline.enable", "maybe", "true or false"),
        ("trunkline.port", "http", "a port from 1 to 65535"),
        ("trunkline.port", "0", "a port from 1 to 65535"),
        ("trunkline.port", "65536", "a port from 1 to 65535"),
        ("trunkline.port", "٣٠٠١", "a port from 1 to 65535"),
        ("trunkline.weight", "-1", "a number from 0 to 1000"),
        ("trunkline.weight", "nan", "a number from 0 to 1000"),
        ("trunkline.weight", "inf", "a number from 0 to 1000"),
        ("trunkline.weight", "heavy", "a number from 0 to 1000"),
        ("trunkline.capacity", "0", "a whole number of at least 1"),
        ("trunkline.capacity", "1.5", "a whole number of at least 1"),
        ("trunkline.colour", "", "1 to 63 letters"),
        ("trunkline.pool", "a b", "1 to 63 letters"),
        ("trunkline.health-path", "health", 'a path such as "/health"'),
        ("trunkline.health-path", "/a\r\nX: y", 'a path such as "/health"'),
        ("trunkline.scheme", "ftp", "http, https, ws or wss"),
        ("trunkline.server-name", "a/b", "a host name"),
    ],
)
def test_a_wrong_value_is_named_and_the_container_left_out(label: str, value: str, allowed: str) -> None:
    """The sentence has the label, the value and what is allowed."""
    verdict = judge({**OURS, label: value})
    assert verdict.spec is None
    assert verdict.problem.startswith(f"label {label}: {value.strip()!r} cannot be used; allowed: {allowed}")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("wieght", "weight"), ("color", "colour"), ("health_path", "health-path")]
)
def test_a_slip_in_a_labels_name_is_no_silent_default(wrong: str, meant: str) -> None:
    """An unknown label of ours leaves the container out and names the nearest."""
    verdict = judge({**OURS, f"trunkline.{wrong}": "1"})
    assert verdict.spec is None
    assert verdict.problem == f"there is no label trunkline.{wrong}; did you mean trunkline.{meant}?"


def test_no_port_and_too_many_ports() -> None:
    """Which port is meant must be clear."""
    assert judge(OURS, ports=()).problem == "it exposes no TCP port; name one with trunkline.port"
    several = judge(OURS, ports=(9090, 3001)).problem
    assert several == "it exposes 2 ports (3001, 9090); name one with trunkline.port"
    assert spec_of({**OURS, "trunkline.port": "9090"}, ports=(3001, 9090)).url == "http://10.1.0.2:9090"


def test_the_network_decides_on_the_address() -> None:
    """The setting chooses a network, a label overrules it, and a wrong one is named with those that are there."""
    assert spec_of(OURS, network="back").url == "http://10.2.0.2:3001"
    assert spec_of({**OURS, "trunkline.network": "front"}, network="back").url == "http://10.1.0.2:3001"
    missing = judge(OURS, network="side").problem
    assert missing == "it is not in the network side; its networks: front, back"
    compose = judge(OURS, network="web", networks={"shop_web": "10.3.0.2"}).problem
    assert compose.endswith("did you mean shop_web?")
    assert "no address in the network" in judge(OURS, network="front", networks={"front": ""}).problem


def test_addresses_without_a_network_setting() -> None:
    """The first network with an address counts, IPv6 is bracketed, the host's network is the daemon's machine."""
    assert spec_of(OURS, networks={"none": "", "six": "fd00::7"}).url == "http://[fd00::7]:3001"
    assert spec_of(OURS, networks={"host": ""}, host_network=True).url == "http://127.0.0.1:3001"
    assert judge(OURS, networks={}).problem.startswith("it has no address of its own")


def test_states() -> None:
    """Paused, unhealthy and stopping drain; anything that does not run, or is not ready yet, is left out in silence."""
    assert not spec_of(OURS).draining
    assert not spec_of(OURS, health="healthy").draining
    assert spec_of(OURS, state="paused").draining
    assert spec_of(OURS, health="unhealthy").draining
    assert spec_of(OURS, stopping=True).draining
    for state in ("created", "restarting", "removing", "exited", "dead"):
        assert judge(OURS, state=state) == Verdict()
    assert judge(OURS, health="starting") == Verdict()


def test_traefiks_labels_are_understood() -> None:
    """A service of Traefik's gives port, scheme, weight and health path; names may be written in any case."""
    labels = {
        "traefik.enable": "true",
        "traefik.http.routers.ws.rule": "Host(`ws.example.org`)",
        "traefik.docker.network": "back",
        "traefik.http.services.ws.loadBalancer.server.port": "9000",
        f"{SERVICE}.server.scheme": "https",
        f"{SERVICE}.server.weight": "3",
        f"{SERVICE}.healthcheck.path": "/alive",
    }
    verdict = judge(labels, ports=(80, 9000))
    assert verdict.spec == BackendSpec(
        "https://10.2.0.2:9000",
        weight=3.0,
        health_path="/alive",
        source="docker",
        name="ws-1",
        server_name="ws-1",
    )
    assert verdict.notes == ()


def test_traefiks_url_of_a_server() -> None:
    """server.url says it all, and contradicts a port or scheme beside it."""
    labels = {**TRAEFIK, f"{SERVICE}.server.url": "http://10.9.9.9:7000"}
    assert spec_of(labels, ports=(), networks={}).url == "http://10.9.9.9:7000"
    assert "remove its server.port" in judge({**labels, f"{SERVICE}.server.port": "1"}).problem
    with_path = judge({**TRAEFIK, f"{SERVICE}.server.url": "http://10.9.9.9:7000/ws"}).problem
    assert with_path.startswith(f"label {SERVICE}.server.url: 'http://10.9.9.9:7000/ws' cannot be used")


def test_traefik_takes_the_lowest_port() -> None:
    """With no port label the lowest exposed port is used, as Traefik itself does."""
    assert spec_of(TRAEFIK, ports=(9000, 80)).url == "http://10.1.0.2:80"


def test_what_is_for_traefik_alone_is_noted() -> None:
    """An interval per service cannot be kept, and a note says so; the container stays a backend."""
    verdict = judge({**TRAEFIK, f"{SERVICE}.healthcheck.interval": "3s", f"{SERVICE}.passhostheader": "false"})
    assert verdict.spec is not None
    assert verdict.notes == (
        f"{SERVICE}.healthcheck.interval is ignored: balancer.health_interval_ms holds for all backends",
        f"{SERVICE}.passhostheader is ignored: it is for Traefik alone",
    )


def test_two_services_of_traefik_are_ambiguous() -> None:
    """Which of two services takes WebSockets cannot be guessed."""
    other = "traefik.http.services.api.loadbalancer.server.port"
    problem = judge({**TRAEFIK, f"{SERVICE}.server.port": "1", other: "2"}).problem
    assert problem.startswith("it has 2 Traefik services (api, ws)")


def test_our_labels_beside_traefiks() -> None:
    """A colour can be added to a container that Traefik's labels describe, and our values win."""
    labels = {**TRAEFIK, f"{SERVICE}.server.port": "9000", "trunkline.colour": "green"}
    assert (spec_of(labels).url, spec_of(labels).group) == ("http://10.1.0.2:9000", "green")
    assert spec_of({**labels, "trunkline.port": "7"}).url == "http://10.1.0.2:7"


def test_wrong_values_of_traefik() -> None:
    """h2c cannot carry WebSockets, and the sentence says so."""
    assert "WebSockets do not pass over h2c" in judge({**TRAEFIK, f"{SERVICE}.server.scheme": "h2c"}).problem
    assert judge({"traefik.enable": "perhaps"}).problem.startswith("label traefik.enable: 'perhaps'")


def test_a_long_value_is_cut_in_the_log() -> None:
    """A label of a megabyte does not become a log line of a megabyte."""
    assert len(judge({**OURS, "trunkline.port": "9" * 1_000_000}).problem) < 300
    assert len(judge({**OURS, "trunkline." + "x" * 1_000_000: "1"}).problem) < 600


NAMES = st.sampled_from(
    [
        "trunkline.enable", "trunkline.port", "trunkline.weight", "trunkline.capacity", "trunkline.scheme",
        "trunkline.health-path", "traefik.enable", f"{SERVICE}.server.port", f"{SERVICE}.server.url", "other",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=20), st.sampled_from(["true", "1", "80", "https", "/x", "http://h:1", "http://[", "1e3"])
)


@given(
    st.dictionaries(NAMES, VALUES), st.sampled_from(["running", "paused", "exited"]), st.lists(st.integers(1, 65535))
)
def test_any_labels_are_judged(labels: dict[str, str], state: str, ports: list[int]) -> None:
    """Whatever labels hold, the answer is a usable backend, one line why not, or nothing at all."""
    verdict = judge(labels, state=state, ports=tuple(ports))
    assert "\n" not in verdict.problem
    assert (verdict.spec is None) or (verdict.problem == "")
    if verdict.spec is not None:
        place = place_of(verdict.spec.url)
        assert 1 <= place.port <= 65_535
        assert 0 <= verdict.spec.weight <= 1000
        assert state != "exited"
    elif asks(labels) and state == "running":
        assert verdict.problem
