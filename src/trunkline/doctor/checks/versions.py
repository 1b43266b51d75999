"""Releases of the servers beside ours. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from trunkline.doctor.facts import Machine, Service, ServiceKind
from trunkline.doctor.finding import Finding, error, ok, unknown, warning
from trunkline.doctor.wanted import Wanted

OLDEST: Final[dict[ServiceKind, tuple[int, int]]] = {"NATS": (2, 11), "Redis": (7, 0), "Traefik": (3, 0)}
TESTED: Final[dict[ServiceKind, tuple[int, int]]] = {"NATS": (2, 11), "Redis": (7, 0), "Traefik": (3, 7)}
"""The oldest release that the tests run."""

WHY: Final[dict[ServiceKind, str]] = {
    "NATS": "history is read in batches",
    "Redis": "functions are used",
    "Traefik": "of version 2 the configuration is another one",
}

ENVELOPE_BYTES: Final = 4096
"""What a publication has beside the message of the client that made it."""


def services(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    """Each server that was asked, and each program that is installed."""
    for service in machine.services:
        yield _service(service, wanted)


def _service(service: Service, wanted: Wanted) -> Finding:
    name: str = service.kind
    if service.problem:
        do = "start it, or correct its address or log-in"
        return error(name, f"{service.where}: {service.problem}", do)
    oldest, tested = OLDEST[service.kind], TESTED[service.kind]
    version = number(service.version)
    found = f"{service.version or 'of an unknown version'} at {service.where}"
    if version is None:
        return unknown(name, found)
    if version < oldest:
        do = f"take {_text(oldest)} or newer: {WHY[service.kind]}"
        return error(name, found, do)
    if service.stores is False:
        do = "start it with JetStream on (nats-server -js, or jetstream {} in its file): history and deploys need it"
        return error(name, f"{found}: JetStream is off", do)
    need = wanted.message_bytes + ENVELOPE_BYTES
    if service.message_bytes is not None and service.message_bytes < need:
        do = f"raise its max_payload to {need:,}, or lower server.message_bytes ({wanted.message_bytes:,})"
        return error(name, f"{found} takes messages of {service.message_bytes:,} bytes", do)
    if version < tested:
        return warning(name, found, f"{_text(tested)} is the oldest release that Trunkline is tested with")
    return ok(name, found)


def number(version: str) -> tuple[int, int] | None:
    """Major and minor of a version as programs print it, None when there are none."""
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
