"""The stack on a real daemon: it starts, serves, and says what is wrong when it cannot."""

from __future__ import annotations

import time

import pytest

from tests.support.compose.stack import Stack
from tests.support.patience import patient

pytestmark = pytest.mark.timeout(400)

UP = "docker compose up -d --wait --no-build"
TARGETS = "docker compose exec -T prometheus wget -qO- http://localhost:9090/api/v1/targets"
JOBS = {"trunkline-node", "trunkline-balancer", "traefik", "postgres", "node", "alertmanager", "prometheus"}


def test_it_starts_and_serves_two_hundred_clients(stack: Stack) -> None:
    """One command brings all of it up; 200 clients lose nothing, and Prometheus reaches all that it asks."""
    stack.sh(UP, within_s=200)
    lines = stack.sh("docker compose ps --format '{{.Service}} {{.Health}}'").splitlines()
    assert {line.split()[1] for line in lines} == {"healthy"}, lines
    assert stack.json("curl -sS http://localhost/health")["healthy"]
    ended = stack.sh(
        "docker compose run --rm -T trunkline load ws://traefik-lb/ws --connections 200 --duration 5s", within_s=120
    )
    assert "200 tried, 200 opened" in ended
    assert "PASSED" in ended
    deadline = time.monotonic() + patient(60)
    while JOBS - (up := reached(stack)):
        assert time.monotonic() < deadline, up
        time.sleep(0.5)


def reached(stack: Stack) -> set[str]:
    """The jobs of which Prometheus reaches a target."""
    found = stack.json(TARGETS)["data"]["activeTargets"]
    return {each["labels"]["job"] for each in found if each["health"] == "up"}


def test_a_missing_secret_stops_the_start(stack: Stack) -> None:
    """Where the operator gives all secrets, one that is not there is named, and no node is started."""
    stack.environment["TRUNKLINE_SECRETS_MUST_BE_GIVEN"] = "yes"
    try:
        done = stack.try_sh(f"{UP} websocket-blue", within_s=100)
    finally:
        del stack.environment["TRUNKLINE_SECRETS_MUST_BE_GIVEN"]
    assert done.returncode != 0
    assert 'service "prepare" didn\'t complete successfully: exit 1' in done.stderr
    assert "prepare: no file for admin_token, postgres_password" in stack.sh("docker compose logs prepare")
    assert stack.sh("docker compose ps --quiet websocket-blue") == ""


def test_a_directory_of_secrets_that_is_not_there(stack: Stack) -> None:
    """It is not made in silence."""
    stack.environment["TRUNKLINE_SECRETS"] = "./not-there"
    try:
        done = stack.try_sh(f"{UP} websocket-blue", within_s=100)
    finally:
        del stack.environment["TRUNKLINE_SECRETS"]
    assert done.returncode != 0
    assert "not-there" in done.stderr


def test_a_taken_port_is_named(stack: Stack) -> None:
    """Docker names the port; with another one the stack starts. The relay needs no Traefik."""
    files = "-f compose.yaml -f deploy/compose/relay.yaml"
    up = f"docker compose {files} up -d --wait --no-build balancer websocket-blue"
    done = stack.try_sh(f"busybox nc -l -p 80 & taken=$!; trap 'kill $taken' EXIT; sleep 0.2; {up}", within_s=100)
    assert done.returncode != 0
    assert "80" in done.stderr
    assert "address already in use" in done.stderr
    stack.sh(f"TRUNKLINE_HTTP_PORT=8080 {up}", within_s=100)
    assert stack.json("curl -sS http://localhost:8080/health")["healthy"]
    assert "traefik" not in stack.sh(f"docker compose {files} ps --services")
