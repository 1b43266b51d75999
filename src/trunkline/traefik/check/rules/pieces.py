"""Mistakes that one piece of Traefik's configuration shows by itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from trunkline.settings.quantities import go_seconds
from trunkline.traefik.check.corpus import Corpus
from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.findings import Finding, Severity

LONGEST_INTERVAL_S = 10.0
"""A health check less often than this leaves clients at a dead server for longer than people wait."""

_DEFAULT_INTERVAL_S, _DEFAULT_TIMEOUT_S = 30.0, 5.0


def below(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every value below a node with its full name."""
    for name, child in node.parts.items():
        full = f"{path}.{name}" if path else name
        yield full, child
        yield from below(child, full)
    for item in node.items:
        yield from below(item, path)


def upgrade_headers(corpus: Corpus) -> Iterator[Finding]:
    """A middleware that sets Connection or Upgrade on requests."""
    for piece in corpus.of("file", "docker"):
        for name, middleware in piece.middlewares.items():
            for header, value in middleware.below("headers", "customRequestHeaders").items():
                if header.lower() in ("connection", "upgrade"):
                    yield piece.finding("upgrade-headers", value, name=name, header=header)


def unexpanded_values(corpus: Corpus) -> Iterator[Finding]:
    """A header value that looks like a variable, which Traefik sends as it stands."""
    for piece in corpus.of("file", "docker"):
        # Compose itself replaces ${NAME}, once and for all requests; $${NAME} is how it writes a plain ${NAME}.
        sign = r"\$\$\{\w+\}" if piece.provider == "docker" else r"\$\{\w+\}"
        for name, middleware in piece.middlewares.items():
            for kind in ("customRequestHeaders", "customResponseHeaders"):
                for header, value in middleware.below("headers", kind).items():
                    if not re.search(sign, value.text or ""):
                        continue
                    instead = "let a forwardAuth service answer with the header and name it in authResponseHeaders"
                    if header.lower() in ("x-real-ip", "x-forwarded-for"):
                        instead = "delete it; Traefik sets X-Real-Ip and X-Forwarded-For by itself"
                    text = (value.text or "").replace("$$", "$")
                    yield piece.finding("unexpanded-value", value, name=name, header=header, text=text, instead=instead)


def unverified_servers(corpus: Corpus) -> Iterator[Finding]:
    """TLS without verification."""
    for piece in corpus.pieces:
        for path, node in below(piece.node):
            if path.endswith(".insecureSkipVerify") and (node.text or "").lower() == "true":
                option = "rootCAs" if "ransport" in path else "ca"
                yield piece.finding("insecure-skip-verify", node, path=path, option=option)


def open_api(corpus: Corpus) -> Iterator[Finding]:
    """The API without authentication."""
    for piece in corpus.of("static"):
        insecure = piece.node.at("api", "insecure")
        if insecure is not None and (insecure.text or "").lower() == "true":
            yield piece.finding("insecure-api", insecure)


def slow_health_checks(corpus: Corpus) -> Iterator[Finding]:
    """A health check too seldom for a failover."""
    for piece in corpus.of("file", "docker"):
        for name, service in piece.services.items():
            check = service.at("loadBalancer", "healthCheck")
            if check is None:
                continue
            written = check.word("interval")
            # Traefik's defaults, which also hold for what cannot be read.
            interval_s = (go_seconds(written) if written else None) or _DEFAULT_INTERVAL_S
            timeout_s = go_seconds(check.word("timeout")) or _DEFAULT_TIMEOUT_S
            if interval_s > LONGEST_INTERVAL_S:
                yield piece.finding(
                    "slow-health-check",
                    check.at("interval") or check,
                    name=name,
                    interval=f"interval {written}" if written else f"no interval, so {_DEFAULT_INTERVAL_S:g} s",
                    longest_s=interval_s + timeout_s,
                )


def lost_weights(corpus: Corpus) -> Iterator[Finding]:
    """A server that Traefik removes for its weight."""
    for piece in corpus.of("file", "docker"):
        for name, service in piece.services.items():
            for kind, entries in (("loadBalancer", "servers"), ("weighted", "services")):
                for entry in service.entries(kind, entries):
                    weight = entry.at("weight")
                    try:
                        value = int((weight.text if weight is not None else None) or "1")
                    except ValueError:
                        continue
                    child = kind == "weighted"
                    if weight is None or value > 0 or (child and value == 0):
                        continue
                    why = "a share is at least 0" if child else "Traefik removes the server, sticky clients included"
                    severity: Severity = "error" if value < 0 else "warning"
                    yield piece.finding("weight", weight, severity, name=name, weight=value, why=why)


def own_child(corpus: Corpus) -> Iterator[Finding]:
    """A service that leads to itself."""
    for piece in corpus.of("file"):
        for name, service in piece.services.items():
            children = [*service.entries("weighted", "services"), *service.entries("mirroring", "mirrors")]
            named = [child.at("name") for child in children]
            named += [service.at("mirroring", "service"), service.at("failover", "service")]
            named += [service.at("failover", "fallback")]
            for node in named:
                if node is not None and node.text == name:
                    yield piece.finding("own-child", node, name=name)


RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (
    upgrade_headers,
    unexpanded_values,
    unverified_servers,
    open_api,
    slow_health_checks,
    lost_weights,
    own_child,
)
