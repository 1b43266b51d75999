"""What a local Prometheus scrapes, from what the fleet's balancer reports: `file_sd` targets. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec


class Service(msgspec.Struct):
    """One backend in the balancer's overview."""

    url: str
    name: str = ""
    group: str = ""


class Overview(msgspec.Struct):
    """The part of `/balancer-metrics` that matters here."""

    services: list[Service]


class Targets(msgspec.Struct, frozen=True):
    """One entry of a `file_sd` file."""

    targets: tuple[str, ...]
    labels: dict[str, str]


def targets_of(overview: Overview) -> list[Targets]:
    """Scrape targets of all backends, by URL; a label only where the balancer knows it."""
    found = []
    for service in sorted(overview.services, key=lambda service: service.url):
        address = _host_and_port(service.url)
        if address is None:
            continue
        labels = {name: value for name, value in (("node", service.name), ("colour", service.group)) if value}
        found.append(Targets((address,), labels))
    return found


def _host_and_port(url: str) -> str | None:
    """What Prometheus takes; None for what it could not scrape without TLS, and for what is no URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or not host:
        return None
    return f"{f'[{host}]' if ':' in host else host}:{80 if port is None else port}"


def targets_json(targets: list[Targets]) -> bytes:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(targets), indent=1) + b"\n"
