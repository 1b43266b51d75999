"""Names, ports, command lines, environments and restarts of a fleet, without a process."""

from __future__ import annotations

import socket
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.errors import SettingsError, StartError
from trunkline.fleet.children.restarts import Backoff, gives_up
from trunkline.fleet.plan.layout import (
    FleetPlan,
    TakenPort,
    make_plan,
    part_command,
    part_environment,
    plan_ports,
    ports_needed,
    taken_text,
)
from trunkline.fleet.plan.parts import authority
from trunkline.fleet.plan.ports import check_ports, free_first_port
from trunkline.settings.load import load


def plan_of(port: int = 8080, *, file: str | None = None, tmp_path: Path | None = None, **environ: str) -> FleetPlan:
    path = None
    if file is not None and tmp_path is not None:
        path = tmp_path / "fleet.toml"
        path.write_text(file)
    return make_plan(load(path, environ, {}), port)


def test_edge_has_the_port_and_nodes_follow() -> None:
    """The edge has the port, its admin port is the next one; nodes are two apart and count from 1."""
    plan = plan_of()
    assert (plan.edge.name, plan.edge.port, plan.balancer.admin_port) == ("edge", 8080, 8081)
    assert [(node.name, node.port, node.admin_port) for node in plan.nodes] == [
        ("node-1", 8082, 8083),
        ("node-2", 8084, 8085),
    ]


@given(count=st.integers(1, 64), port=st.integers(1, 65_535 - 132), edge=st.sampled_from(["relay", "traefik"]))
def test_no_port_is_used_twice(count: int, port: int, edge: str) -> None:
    """However many nodes: every port of the fleet is there once, within range and within the span it says."""
    plan = plan_of(port, TRUNKLINE_UP_NODES=str(count), TRUNKLINE_UP_EDGE=edge)
    ports = plan_ports(plan)
    assert len(set(ports)) == len(ports) == 2 * count + (5 if edge == "traefik" else 2)
    assert max(ports) < port + ports_needed(count, edge)


def test_traefik_stands_before_a_steering_balancer() -> None:
    """With --edge traefik the port is Traefik's, and the balancer that it asks listens on loopback alone."""
    plan = plan_of(TRUNKLINE_UP_EDGE="traefik", HOST="0.0.0.0")
    assert plan.traefik is not None
    assert (plan.edge.name, plan.edge.host, plan.edge.port) == ("traefik", "0.0.0.0", 8080)
    assert (plan.balancer.mode, plan.balancer.host) == ("steer", "127.0.0.1")
    environ = part_environment(plan, plan.balancer, {})
    settings = load(None, environ, {}).settings
    assert (settings.traefik.host, settings.traefik.http_port) == ("0.0.0.0", 8080)
    assert settings.traefik.balancer_url == plan.balancer.page_url


@pytest.mark.parametrize(
    ("environ", "host"),
    [({}, "127.0.0.1"), ({"HOST": "0.0.0.0"}, "0.0.0.0"), ({"TRUNKLINE_SERVER_HOST": "10.0.0.7"}, "10.0.0.7")],
)
def test_loopback_unless_an_address_is_asked_for(environ: dict[str, str], host: str) -> None:
    """The default of a server does not open a fleet to the network; an explicit address opens the edge alone."""
    plan = plan_of(**environ)
    assert plan.edge.host == host
    assert {node.host for node in plan.nodes} == {"127.0.0.1"}


def test_host_of_the_file_counts(tmp_path: Path) -> None:
    """server.host in the file is an explicit address, and the file is passed on."""
    plan = plan_of(file="[server]\nhost = '::1'\n", tmp_path=tmp_path)
    assert plan.edge.page_url == "http://[::1]:8080"
    for part in (plan.nodes[0], plan.balancer):
        command = part_command(plan, part, "nats://127.0.0.1:4", "python")
        assert command[-2:] == ["--config", str(tmp_path / "fleet.toml")]
    assert "[::1]:8080" in part_command(plan, plan.balancer, "nats://127.0.0.1:4", "python")


def test_admin_port_can_be_off_or_elsewhere() -> None:
    """admin.port 0 holds for every node; another value is where the first node's begins."""
    assert [node.admin_port for node in plan_of(TRUNKLINE_ADMIN_PORT="0").nodes] == [0, 0]
    assert plan_of(TRUNKLINE_ADMIN_PORT="0").nodes[0].admin_url == ""
    assert [node.admin_port for node in plan_of(TRUNKLINE_ADMIN_PORT="9000").nodes] == [9000, 9002]


def test_ports_that_do_not_fit_are_refused() -> None:
    """Ports above the last one, and an admin port that meets a data port, name the setting and the port."""
    with pytest.raises(SettingsError, match=r"up\.port.*65534.*65539"):
        plan_of(65_534)
    with pytest.raises(SettingsError, match=r"admin\.port.*8082"):
        plan_of(8080, TRUNKLINE_ADMIN_PORT="8082")


def test_command_and_environment_give_each_node_its_place() -> None:
    """Flags name the place; whatever in the environment says otherwise is taken away, all the rest stays."""
    plan = plan_of(PORT="9999", TRUNKLINE_SERVER_APP="shop.live:app")
    node = plan.nodes[1]
    assert part_command(plan, node, "nats://127.0.0.1:4", "python") == [
        "python", "-m", "trunkline", "serve", "shop.live:app", "--host", "127.0.0.1", "--port", "8084",
        "--name", "node-2", "--colour", "blue", "--bus", "nats://127.0.0.1:4",
    ]  # fmt: skip
    environ = {
        "PORT": "9999", "HOST": "0.0.0.0", "TRUNKLINE_SERVER_PORT": "1", "TRUNKLINE_ADMIN_PORT": "2",
        "TRUNKLINE_BUS_URL": "memory", "HEARTBEAT_INTERVAL": "5000", "TRUNKLINE_LIMITS_RATE_BURST": "7", "PATH": "/bin",
    }  # fmt: skip
    own = part_environment(plan, node, environ)
    assert own.pop("PYTHONUNBUFFERED") == "1"
    assert own == {
        "TRUNKLINE_ADMIN_PORT": "8085",
        "TRUNKLINE_SERVER_ADVERTISE": "http://127.0.0.1:8084",
        "TRUNKLINE_SERVER_TRUSTED_PROXIES": "127.0.0.0/8,::1/128",
        "HEARTBEAT_INTERVAL": "5000",
        "TRUNKLINE_LIMITS_RATE_BURST": "7",
        "PATH": "/bin",
    }
    assert load(None, own, {}).settings.admin.port == 8085


@pytest.mark.parametrize(
    ("host", "expected"), [("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1"), ("live.example", "live.example:1")]
)
def test_addresses_can_be_reached_from_here(host: str, expected: str) -> None:
    """A node that listens everywhere is shown at an address that a browser can open."""
    assert authority(host, 1) == expected


# --- ports ------------------------------------------------------------------------------------------------------------


def test_taken_ports_are_told_in_one_sentence() -> None:
    """Ports that share a reason are told together, with what to do and what the fleet needs."""
    taken = [TakenPort("127.0.0.1", port, "already in use") for port in (8081, 8080)]
    what, next_step = taken_text(taken, plan_of())
    assert what == "the fleet cannot start, ports 8080, 8081 on 127.0.0.1: already in use"
    assert "--port" in next_step
    assert "8080, 8081, 8082, 8083, 8084, 8085" in next_step


def test_every_taken_port_is_found() -> None:
    """Ports in use are named, free ones are not, and the check leaves them free."""
    first = free_first_port(6)
    plan = plan_of(first)
    check_ports(plan)
    with socket.create_server(("127.0.0.1", first + 3)), pytest.raises(StartError) as refused:
        check_ports(plan)
    assert f"port {first + 3} on 127.0.0.1: already in use" in refused.value.what
    check_ports(plan)


def test_port_taken_on_all_interfaces_is_found() -> None:
    """Somebody who listens on all interfaces has the port on loopback too."""
    first = free_first_port(4)
    with socket.create_server(("0.0.0.0", first)), pytest.raises(StartError, match=f"port {first} "):
        check_ports(plan_of(first, TRUNKLINE_UP_NODES="1"))


def test_host_that_is_not_here_is_named() -> None:
    """An address that this machine does not have is no port problem and says so."""
    with pytest.raises(StartError, match=r"on 192\.0\.2\.1: "):
        check_ports(plan_of(free_first_port(6), HOST="192.0.2.1"))


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_limit() -> None:
    """Half a second, doubling, ten at most."""
    backoff = Backoff()
    assert [backoff.ended(1.0) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]


def test_backoff_starts_over_after_a_long_run() -> None:
    """A part that was up for 30 s has proved itself; one that was up for less has not."""
    backoff = Backoff()
    for _ in range(4):
        backoff.ended(0.1)
    assert backoff.ended(29.9) == 8
    assert backoff.ended(30.0) == 0.5
    assert backoff.ended(0.1) == 1


@given(st.lists(st.floats(0, 100)))
def test_backoff_stays_within_its_bounds(runs: list[float]) -> None:
    """Whatever happens, a wait is from 0.5 to 10 s and at most twice the one before."""
    backoff = Backoff()
    waits = [backoff.ended(up_s) for up_s in runs]
    assert all(0.5 <= wait <= 10 for wait in waits)
    assert all(later <= 2 * earlier for earlier, later in pairwise(waits))


@pytest.mark.parametrize(
    ("code", "was_ready", "ends"), [(2, False, True), (2, True, False), (1, False, False), (-9, False, False)]
)
def test_only_a_first_refusal_ends_the_fleet(code: int, was_ready: bool, ends: bool) -> None:
    """Exit code 2 before the node was ever ready; anything else is worth another try."""
    assert gives_up(code, was_ready, 99, None) is ends


def test_who_joins_is_given_up_after_a_few_starts() -> None:
    """A node that was never ready; one that was is started again without end."""
    assert [gives_up(1, False, starts, 3) for starts in (1, 2, 3)] == [False, False, True]
    assert not gives_up(1, True, 99, 3)
    assert gives_up(2, False, 1, 3)
