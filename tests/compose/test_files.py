"""The compose files, as Docker Compose itself reads them: nothing is started."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.compose.stack import compose_program
from tests.support.docker.namespace import CannotRun
from tests.support.patience import patient
from trunkline.monitor.files.compose import IMAGES
from trunkline.settings.load import load

OURS = "trunkline:latest"
ONE_SHOTS = {"prepare", "traefik-files", "monitoring-files", "elasticsearch-setup"}
WRITABLE = {"elasticsearch", "elasticsearch-setup", "kibana", "filebeat"}
"""Images that write into their own directories."""

TLS = {"TRUNKLINE_DOMAIN": "live.example.org", "TRUNKLINE_ACME_EMAIL": "ops@example.org"}


def config(*files: str, **environment: str) -> dict[str, Any]:
    """The whole model of the given files, all profiles in it."""
    try:
        program = compose_program()
    except CannotRun as why:
        pytest.skip(str(why))
    named = [word for file in ("compose.yaml", *files) for word in ("--file", file)]
    done = subprocess.run(
        [program, *named, "--profile", "*", "config", "--format", "json"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], **environment}, text=True, capture_output=True, check=False,
        timeout=patient(30),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return config()


@pytest.fixture(scope="module")
def services(model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = model["services"]
    return found


def of_service(check: Callable[[str, dict[str, Any]], bool], services: dict[str, Any]) -> list[str]:
    """The services of which it does not hold."""
    return sorted(name for name, service in services.items() if not check(name, service))


def test_no_service_can_gain_rights(services: dict[str, Any]) -> None:
    """No new privileges, no capability but those named, and nothing of an image can be changed."""
    assert not of_service(lambda _, each: each.get("security_opt") == ["no-new-privileges:true"], services)
    assert not of_service(lambda _, each: each.get("cap_drop") == ["ALL"] and not each.get("privileged"), services)
    assert not of_service(lambda name, each: each.get("read_only", False) or name in WRITABLE, services)
    assert {name: each["cap_add"] for name, each in services.items() if "cap_add" in each} == {
        "prepare": ["CHOWN", "DAC_OVERRIDE"],
        "traefik-lb": ["NET_BIND_SERVICE"],
        "cadvisor": ["DAC_READ_SEARCH", "SYS_PTRACE"],
    }


def test_every_service_is_bounded(services: dict[str, Any]) -> None:
    """Memory and CPU have limits, what runs on has reservations, and logs of containers do not grow without end."""

    def limited(name: str, service: dict[str, Any]) -> bool:
        resources = service.get("deploy", {}).get("resources", {})
        limits = resources.get("limits", {})
        if name in ONE_SHOTS | {"trunkline"}:
            return "mem_limit" in service and "cpus" in service
        return "memory" in limits and "cpus" in limits and "memory" in resources.get("reservations", {})

    assert not of_service(limited, services)
    assert not of_service(lambda _, each: "max-size" in each["logging"]["options"], services)
    limits = {name: each["deploy"]["resources"]["limits"] for name, each in services.items() if "deploy" in each}
    assert int(limits["prometheus"]["memory"]) == 2 << 30
    assert int(limits["grafana"]["memory"]) == 1 << 30


def test_every_service_is_checked(services: dict[str, Any]) -> None:
    """What runs on has a healthcheck, in the file or in our image; what ends by itself has none, and is waited for."""

    def checked(name: str, service: dict[str, Any]) -> bool:
        check = service.get("healthcheck", {})
        if name in ONE_SHOTS | {"trunkline"}:
            return bool(check.get("disable"))
        return "test" in check

    assert not of_service(checked, services)
    waited = {
        name
        for service in services.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert waited == ONE_SHOTS
    assert {name for name, each in services.items() if each.get("restart") == "no"} == ONE_SHOTS | {"trunkline"}


def test_images_are_pinned(services: dict[str, Any]) -> None:
    """Every image has a version, and those that `trunkline monitor render` names too are the same."""
    images = {name: service["image"] for name, service in services.items()}
    foreign = {name: image for name, image in images.items() if image != OURS}
    assert all(re.search(r":v?\d+\.\d+", image) for image in foreign.values())
    assert {name: images[name] for name in IMAGES} == IMAGES


def test_only_the_edge_is_open(services: dict[str, Any]) -> None:
    """Port 80 is on all addresses of IPv4; every other port is on loopback. Prometheus has none."""
    ports = {
        (name, port["published"], port["host_ip"]) for name, each in services.items() for port in each.get("ports", ())
    }
    assert ports == {
        ("traefik-lb", "80", "0.0.0.0"),
        ("grafana", "3000", "127.0.0.1"),
        ("kibana", "5601", "127.0.0.1"),
    }


def test_networks_are_apart(model: dict[str, Any]) -> None:
    """Who reaches whom: Traefik neither NATS nor a database, Prometheus nobody but what it asks."""
    on: dict[str, set[str]] = {}
    for name, service in model["services"].items():
        for network in service.get("networks") or ():
            on.setdefault(network, set()).add(name)
    nodes = {"websocket-blue", "websocket-green"}
    assert on["edge"] == {"traefik-lb"}
    assert on["fleet"] == {"traefik-lb", "balancer", "trunkline", *nodes}
    assert on["bus"] == {"nats", "nats-exporter", "balancer", "trunkline", *nodes}
    assert on["data"] == {"postgres", "redis", "postgres-exporter", *nodes}
    assert on["outbound"] == {"alertmanager", "grafana", "kibana", *nodes}
    assert {name for name, network in model["networks"].items() if network.get("internal")} == {
        "fleet", "bus", "data", "monitoring", "logging",
    }  # fmt: skip
    alone = {name for name, each in model["services"].items() if each.get("network_mode") == "none"}
    assert alone == ONE_SHOTS - {"elasticsearch-setup"}


def test_files_and_secrets_are_mounted_as_little_as_can_be(services: dict[str, Any]) -> None:
    """Files of the machine are read-only, only the deploy tool has the Docker socket, no variable has a secret."""
    bound = [
        (name, mount) for name, each in services.items() for mount in each.get("volumes", ()) if mount["type"] == "bind"
    ]
    writable = {(name, mount["target"]) for name, mount in bound if not mount.get("read_only")}
    assert writable == {("trunkline", "/var/run/docker.sock")}
    assert {name for name, mount in bound if "docker.sock" in mount["source"]} == {"trunkline"}
    secrets = [
        (name, mount)
        for name, each in services.items()
        for mount in each.get("volumes", ())
        if mount.get("source") == "secrets"
    ]
    assert all(mount.get("read_only") for name, mount in secrets if name != "prepare")
    names = {name for each in services.values() for name in each.get("environment") or ()}
    assert not {name for name in names if re.search("PASSWORD|SECRET|TOKEN", name) and not name.endswith("_FILE")} - {
        "SECRETS", "SECRETS_MUST_BE_GIVEN", "GF_SECURITY_ADMIN_PASSWORD__FILE",
    }  # fmt: skip


@pytest.mark.parametrize("override", ["", "relay", "tls", "loopback-ports"])
def test_settings_are_known(override: str) -> None:
    """What a service of ours has in its environment and in the settings file is read without an objection."""
    files = (f"deploy/compose/{override}.yaml",) if override else ()
    found = config(*files, **TLS)["services"]
    ours = {name: each for name, each in found.items() if each["image"] == OURS and name != "prepare"}
    assert len(ours) == 6
    for service in ours.values():
        environment = {name: value for name, value in service["environment"].items() if name != "TRUNKLINE_CONFIG"}
        settings = load(ROOT / "deploy/compose/trunkline.toml", environment, {}).settings
        if service["command"] == ["serve"]:
            # A stop must not be cut off.
            assert service["stop_grace_period"] == "40s"
            assert settings.server.shutdown_deadline_ms <= 30_000
            assert settings.metrics.aliases == ("websocket", "go")


def test_the_relay_takes_the_place_of_traefik() -> None:
    """With relay.yaml the balancer has port 80, and nothing of Traefik is started or scraped."""
    found = config("deploy/compose/relay.yaml")["services"]
    assert found["traefik-lb"]["profiles"] == found["traefik-files"]["profiles"] == ["traefik"]
    assert [(port["published"], port["target"]) for port in found["balancer"]["ports"]] == [("80", 8080)]
    assert found["balancer"]["environment"]["TRUNKLINE_BALANCER_MODE"] == "relay"


def test_tls_needs_a_name() -> None:
    """tls.yaml opens port 443, lets a deploy's clients find the edge by its name, and says what is missing."""
    edge = config("deploy/compose/tls.yaml", **TLS)["services"]["traefik-lb"]
    assert [port["published"] for port in edge["ports"]] == ["80", "443"]
    assert edge["networks"] == {"edge": None, "fleet": {"aliases": ["live.example.org"]}, "monitoring": None}
    with pytest.raises(AssertionError, match=r"the host name that clients use|a mail address for the certificates"):
        config("deploy/compose/tls.yaml")


def test_loopback_ports_stay_on_loopback() -> None:
    """What loopback-ports.yaml opens is open to this machine alone."""
    found = config("deploy/compose/loopback-ports.yaml")["services"]
    opened = [port for name, each in found.items() if name != "traefik-lb" for port in each.get("ports", ())]
    assert len(opened) == 6
    assert {port["host_ip"] for port in opened} == {"127.0.0.1"}
