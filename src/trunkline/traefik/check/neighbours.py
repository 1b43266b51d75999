"""Mistakes in what stands around Traefik: Compose services, scrape configurations, dashboards, scripts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from trunkline.traefik.check.corpus import ComposeService, Corpus, Finding
from trunkline.traefik.check.documents import Node, pairs

_SOCKET = "docker.sock"
_NATS_MONITOR = ":8222"
_NATS_SCRAPED = re.compile(r":8222/metrics\b")
_METRIC = re.compile(r"\btraefik_service_open_connections\b")
_REQUESTS = re.compile(r"\btraefik_(?:service|router|entrypoint)_requests?_(?:total|duration_seconds\w*)\{([^}]*)\}")
_NOT = re.compile(r"""\bcode\s*!(?P<how>[~=])\s*\\*["'](?P<codes>[^"'\\]*(?:\\+[^"'\\]+)*)\\*["']""")
_NO_WEBSOCKETS = re.compile(r"""\bprotocol\s*(!=\s*\\*["']websocket|=\s*\\*["']https?\b)""")
_VALIDATE = re.compile(r"(?:^|[\s/;&|(])traefik(?::\S+)?\s+validate\b")


def mounted_sockets(corpus: Corpus) -> Iterator[Finding]:
    """The Docker socket in a service that is no proxy and no tool of Docker."""
    for service in corpus.services:
        if service.is_traefik or _works_on_docker(service):
            continue
        for volume in (service.node.at("volumes") or Node(0, [])).items:
            source = volume.text or volume.word("source")
            # Also as the default of a variable: ${SOCKET:-/var/run/docker.sock}:/var/run/docker.sock
            if any(part.rstrip("}").endswith(_SOCKET) for part in source.split(":")):
                yield Finding(
                    service.file,
                    volume.line,
                    "docker-socket",
                    f"service {service.name} has the Docker socket: whoever takes it over owns the machine, "
                    "read-only or not",
                    "delete the mount; a service that really needs Docker talks to a socket proxy",
                )


def _works_on_docker(service: ComposeService) -> bool:
    image = service.node.word("image").lower()
    if any(
        name == "TRUNKLINE_BALANCER_DOCKER" for _, name, _ in pairs(service.node.at("environment") or Node(0, None))
    ):
        return True
    tools = ("socket-proxy", "portainer", "watchtower", "cadvisor", "dozzle", "autoheal")
    return any(tool in image for tool in tools)


def published_api(corpus: Corpus) -> Iterator[Finding]:
    """The open API on a port of the machine."""
    insecure = any(piece.node.is_true("api", "insecure") for piece in corpus.of("static"))
    for service in corpus.services:
        if not (insecure and service.is_traefik):
            continue
        for port in (service.node.at("ports") or Node(0, [])).items:
            text = port.text or f"{port.word('published')}:{port.word('target')}"
            inside = text.partition("/")[0].rpartition(":")[2]
            if inside == "8080" and not text.startswith(("127.", "localhost:", "[::1]")):
                yield Finding(
                    service.file,
                    port.line,
                    "published-api",
                    f"service {service.name} publishes port 8080, where api.insecure serves API and dashboard",
                    'delete it, or write "127.0.0.1:8080:8080"',
                )


def scraped_nats(corpus: Corpus) -> Iterator[Finding]:
    """Prometheus asking a NATS server for what it does not serve."""
    for file, tree in corpus.scrapes:
        for job in (tree.at("scrape_configs") or Node(0, [])).items:
            if job.word("metrics_path") not in ("", "/metrics"):
                continue
            for group in (job.at("static_configs") or Node(0, [])).items:
                for target in (group.at("targets") or Node(0, [])).items:
                    if (target.text or "").endswith(_NATS_MONITOR):
                        yield Finding(
                            file,
                            target.line,
                            "nats-metrics",
                            f"{target.text} is the monitoring port of nats-server, which has no /metrics",
                            "run prometheus-nats-exporter and scrape it (port 7777)",
                        )


def text_lines(corpus: Corpus) -> Iterator[Finding]:
    """Words that are wrong wherever they stand."""
    for file, snippet in corpus.texts:
        for number, line in enumerate(snippet.text.splitlines(), snippet.first_line):
            if _METRIC.search(line):
                yield Finding(
                    file,
                    number,
                    "unknown-metric",
                    "Traefik has no metric traefik_service_open_connections: the panel stays empty",
                    "use traefik_open_connections{entrypoint,protocol}, or ws_connections_active of the nodes",
                )
            for selector in _REQUESTS.findall(line):
                # A JSON text writes the quotes of the query with a backslash.
                if _counts_code_0(selector) and not _NO_WEBSOCKETS.search(selector):
                    yield Finding(
                        file,
                        number,
                        "websocket-errors",
                        "all but 2xx counts as an error here, and so does every WebSocket when it ends: its code "
                        'is 0 and its protocol "websocket"',
                        'add protocol!="websocket"; failed handshakes are code=~"[45].."',
                    )
            if snippet.language != "json" and _NATS_SCRAPED.search(line):
                yield Finding(
                    file,
                    number,
                    "nats-metrics",
                    "nats-server has no /metrics on its monitoring port 8222",
                    "run prometheus-nats-exporter and ask it (port 7777)",
                )
            if snippet.language != "json" and _VALIDATE.search(line) and not line.lstrip().startswith("#"):
                yield Finding(
                    file,
                    number,
                    "traefik-validate",
                    "Traefik has no command validate: it prints its help and fails",
                    "run: trunkline traefik check FILE…",
                )


def _counts_code_0(selector: str) -> bool:
    """Whether codes are taken for errors because they are not 200, with the 0 of WebSockets among them."""
    for found in _NOT.finditer(selector):
        if found["how"] == "=":
            return found["codes"].startswith("2")
        try:
            # Within a query, and once more within JSON, a backslash is written twice.
            pattern = re.compile(re.sub(r"\\+", r"\\", found["codes"]))
        except re.error:
            return False
        if pattern.fullmatch("200") and not pattern.fullmatch("0"):
            return True
    return False


RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (mounted_sockets, published_api, scraped_nats, text_lines)
