"""The stack on a real daemon says what is wrong when it cannot start."""

from __future__ import annotations

import pytest

from tests.support.compose.stack import Stack

pytestmark = pytest.mark.timeout(400)

UP = "docker compose up -d --wait --no-build"


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
