"""Mistakes that one piece of Traefik's configuration shows by itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from trunkline.settings.quantities import go_seconds
from trunkline.traefik.check.corpus import Corpus, Finding, Piece
from trunkline.traefik.check.documents import Node

LONGEST_INTERVAL_S = 10.0
"""A health check less often than this leaves clients at a dead server for longer than people wait."""

_DEFAULT_INTERVAL_S, _DEFAULT_TIMEOUT_S = 30.0, 5.0


def middlewares(piece: Piece) -> Iterator[tuple[str, Node]]:
    """The HTTP middlewares of a piece by name."""
    found = piece.node.at("http", "middlewares")
    yield from (found.parts if found is not None else {}).items()


def services(piece: Piece) -> Iterator[tuple[str, Node]]:
    """The HTTP services of a piece by name."""
    found = piece.node.at("http", "services")
    yield from (found.parts if found is not None else {}).items()


def routers(piece: Piece) -> Iterator[tuple[str, Node]]:
    """The HTTP routers of a piece by name."""
    found = piece.node.at("http", "routers")
    yield from (found.parts if found is not None else {}).items()


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
        for name, middleware in middlewares(piece):
            headers = middleware.at("headers", "customRequestHeaders")
            for header, value in (headers.parts if headers is not None else {}).items():
                if header.lower() in ("connection", "upgrade"):
                    yield Finding(
                        piece.file,
                        value.line,
                        "upgrade-headers",
                        f"middleware {name} sets {header} on every request: plain HTTP on its routers becomes false "
                        "upgrades, which servers refuse with 400",
                        "delete it; Traefik passes WebSocket upgrades by itself",
                    )


def unexpanded_values(corpus: Corpus) -> Iterator[Finding]:
    """A header value that looks like a variable, which Traefik sends as it stands."""
    for piece in corpus.of("file", "docker"):
        # Compose itself replaces ${NAME}, once and for all requests; $${NAME} is how it writes a plain ${NAME}.
        sign = r"\$\$\{\w+\}" if piece.provider == "docker" else r"\$\{\w+\}"
        for name, middleware in middlewares(piece):
            for kind in ("customRequestHeaders", "customResponseHeaders"):
                headers = middleware.at("headers", kind)
                for header, value in (headers.parts if headers is not None else {}).items():
                    if not re.search(sign, value.text or ""):
                        continue
                    instead = "let a forwardAuth service answer with the header and name it in authResponseHeaders"
                    if header.lower() in ("x-real-ip", "x-forwarded-for"):
                        instead = "delete it; Traefik sets X-Real-Ip and X-Forwarded-For by itself"
                    yield Finding(
                        piece.file,
                        value.line,
                        "unexpanded-value",
                        f"middleware {name} sends {header} as the text {(value.text or '').replace('$$', '$')!r}: "
                        "Traefik expands no variables",
                        instead,
                    )


def unverified_servers(corpus: Corpus) -> Iterator[Finding]:
    """TLS without verification."""
    for piece in corpus.pieces:
        for path, node in below(piece.node):
            if path.endswith(".insecureSkipVerify") and (node.text or "").lower() == "true":
                yield Finding(
                    piece.file,
                    node.line,
                    "insecure-skip-verify",
                    f"{path}: anyone on the way can pose as the server",
                    "delete it and name the authority in rootCAs"
                    if "ransport" in path
                    else "delete it and name the authority in ca",
                )


def open_api(corpus: Corpus) -> Iterator[Finding]:
    """The API without authentication."""
    for piece in corpus.of("static"):
        insecure = piece.node.at("api", "insecure")
        if insecure is not None and (insecure.text or "").lower() == "true":
            yield Finding(
                piece.file,
                insecure.line,
                "insecure-api",
                "api.insecure opens the dashboard and the whole configuration, without a password, on port 8080",
                "delete it; lead a router with basicAuth to the service api@internal",
            )


def slow_health_checks(corpus: Corpus) -> Iterator[Finding]:
    """A health check too seldom for a failover."""
    for piece in corpus.of("file", "docker"):
        for name, service in services(piece):
            check = service.at("loadBalancer", "healthCheck")
            if check is None:
                continue
            written = check.word("interval")
            # Traefik's defaults, which also hold for what cannot be read.
            interval = (go_seconds(written) if written else None) or _DEFAULT_INTERVAL_S
            timeout = go_seconds(check.word("timeout")) or _DEFAULT_TIMEOUT_S
            if interval <= LONGEST_INTERVAL_S:
                continue
            says = f"interval {written}" if written else f"no interval, so {_DEFAULT_INTERVAL_S:g} s"
            yield Finding(
                piece.file,
                (check.at("interval") or check).line,
                "slow-health-check",
                f"the health check of service {name} has {says}: a dead server gets clients for up to "
                f"{interval + timeout:g} s",
                "set interval: 5s and timeout: 2s",
                "warning",
            )


def lost_weights(corpus: Corpus) -> Iterator[Finding]:
    """A server that Traefik removes for its weight."""
    for piece in corpus.of("file", "docker"):
        for name, service in services(piece):
            for kind, entries in (("loadBalancer", "servers"), ("weighted", "services")):
                for entry in (service.at(kind, entries) or Node(0, [])).items:
                    weight = entry.at("weight")
                    try:
                        value = int((weight.text if weight is not None else None) or "1")
                    except ValueError:
                        continue
                    child = kind == "weighted"
                    if weight is None or value > 0 or (child and value == 0):
                        continue
                    yield Finding(
                        piece.file,
                        weight.line,
                        "weight",
                        f"weight {value} of service {name}: "
                        + ("a share is at least 0" if child else "Traefik removes the server, sticky clients included"),
                        "write a weight of 1 or more, or delete the entry",
                        "error" if value < 0 else "warning",
                    )


def own_child(corpus: Corpus) -> Iterator[Finding]:
    """A service that leads to itself."""
    for piece in corpus.of("file"):
        for name, service in services(piece):
            named = [entry.at("name") for entry in (service.at("weighted", "services") or Node(0, [])).items]
            named += [entry.at("name") for entry in (service.at("mirroring", "mirrors") or Node(0, [])).items]
            named += [service.at("mirroring", "service"), service.at("failover", "service")]
            named += [service.at("failover", "fallback")]
            for node in named:
                if node is not None and node.text == name:
                    yield Finding(
                        piece.file,
                        node.line,
                        "own-child",
                        f"service {name} leads to itself",
                        "give the service with the servers a name of its own",
                    )


RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (
    upgrade_headers,
    unexpanded_values,
    unverified_servers,
    open_api,
    slow_health_checks,
    lost_weights,
    own_child,
)
