"""Mistakes in what stands around Traefik: Compose services, scrape configurations, dashboards, scripts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from trunkline.traefik.check.corpus import ComposeService, Corpus
from trunkline.traefik.check.documents import Node, pairs
from trunkline.traefik.check.findings import Finding, finding

_SOCKET = "docker.sock"
_DOCKER_TOOLS = ("socket-proxy", "portainer", "watchtower", "cadvisor", "dozzle", "autoheal")
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
        for volume in service.node.entries("volumes"):
            source = volume.text or volume.word("source")
            # Also as the default of a variable: ${SOCKET:-/var/run/docker.sock}:/var/run/docker.sock
            if any(part.rstrip("}").endswith(_SOCKET) for part in source.split(":")):
                yield finding("docker-socket", service.file, volume.line, name=service.name)


def _works_on_docker(service: ComposeService) -> bool:
    environment = pairs(service.node.at("environment") or Node(0, None))
    if any(name == "TRUNKLINE_BALANCER_DOCKER" for _, name, _ in environment):
        return True
    return any(tool in service.node.word("image").lower() for tool in _DOCKER_TOOLS)


def published_api(corpus: Corpus) -> Iterator[Finding]:
    """The open API on a port of the machine."""
    if not any(piece.node.is_true("api", "insecure") for piece in corpus.of("static")):
        return
    for service in corpus.services:
        for port in service.node.entries("ports") if service.is_traefik else []:
            text = port.text or f"{port.word('published')}:{port.word('target')}"
            inside = text.partition("/")[0].rpartition(":")[2]
            if inside == "8080" and not text.startswith(("127.", "localhost:", "[::1]")):
                yield finding("published-api", service.file, port.line, name=service.name)


def scraped_nats(corpus: Corpus) -> Iterator[Finding]:
    """Prometheus scraping a NATS server, which serves no metrics."""
    for file, tree in corpus.scrapes:
        for job in tree.entries("scrape_configs"):
            if job.word("metrics_path") not in ("", "/metrics"):
                continue
            for group in job.entries("static_configs"):
                for target in group.entries("targets"):
                    if (target.text or "").endswith(_NATS_MONITOR):
                        what = f"{target.text} is the monitoring port of nats-server, which has no /metrics"
                        yield finding("nats-metrics", file, target.line, what=what, scrape="scrape")


def text_lines(corpus: Corpus) -> Iterator[Finding]:
    """What is wrong wherever it stands."""
    for file, snippet in corpus.texts:
        for number, line in enumerate(snippet.text.splitlines(), snippet.first_line):
            if _METRIC.search(line):
                yield finding("unknown-metric", file, number)
            for selector in _REQUESTS.findall(line):
                # A JSON text writes the quotes of the query with a backslash.
                if _counts_code_0(selector) and not _NO_WEBSOCKETS.search(selector):
                    yield finding("websocket-errors", file, number)
            if snippet.language == "json":
                continue
            if _NATS_SCRAPED.search(line):
                what = "nats-server has no /metrics on its monitoring port 8222"
                yield finding("nats-metrics", file, number, what=what, scrape="ask")
            if _VALIDATE.search(line) and not line.lstrip().startswith("#"):
                yield finding("traefik-validate", file, number)


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
