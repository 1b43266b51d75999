"""What a local Prometheus scrapes, as the fleet's balancer tells it: `file_sd` targets. Pure."""

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
        parts = urlsplit(service.url)
        if parts.scheme != "http" or not parts.hostname:
            continue
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        labels = {name: value for name, value in (("node", service.name), ("colour", service.group)) if value}
        found.append(Targets((f"{host}:{parts.port or 80}",), labels))
    return found


def targets_json(targets: list[Targets]) -> bytes:
    """The text of the file."""
    return msgspec.json.format(msgspec.json.encode(targets), indent=1) + b"\n"
