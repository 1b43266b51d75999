"""Mistakes that show between pieces: names that nobody defines, orders, hosts and proxies. Pure.

Rule: what is missing is a mistake only where the set is complete. Entry points and resolvers are defined in the static
configuration, so a file that defines entry points settles them; a fence of a text settles nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator

from trunkline.traefik.check.corpus import Corpus, Piece
from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.findings import Finding, Severity

# Traefik makes it by itself for the API, ping and metrics.
_OWN_ENTRY_POINT = "traefik"
# There is one on port 80 when nothing else is defined.
_DEFAULT_ENTRY_POINT = "http"


def undefined_entry_points(corpus: Corpus) -> Iterator[Finding]:
    """An entry point that the static configuration does not define."""
    static = corpus.of("static")
    defined = {name for piece in static for name in piece.node.below("entryPoints")}
    if not defined:
        # With providers it is a whole configuration, and not the half of one whose flags define the entry points.
        if not any(not piece.fenced and piece.node.at("providers") for piece in static):
            return
        defined = {_DEFAULT_ENTRY_POINT}
    for piece, what, node in (*_static_entry_points(corpus), *_router_entry_points(corpus)):
        name = node.text or ""
        if name and name != _OWN_ENTRY_POINT and not _among(name, defined) and "${" not in name:
            yield piece.finding(
                "undefined-entry-point",
                node,
                what=what,
                name=name,
                defined=", ".join(sorted(defined)),
                instead=_instead(
                    name, defined, f"define entryPoints.{name}.address, on loopback if it is not for clients"
                ),
            )


def _static_entry_points(corpus: Corpus) -> Iterator[tuple[Piece, str, Node]]:
    for piece in corpus.of("static"):
        for what in (("metrics", "prometheus", "entryPoint"), ("ping", "entryPoint")):
            node = piece.node.at(*what)
            if node is not None:
                yield piece, ".".join(what), node
        for name, resolver in piece.node.below("certificatesResolvers").items():
            node = resolver.at("acme", "httpChallenge", "entryPoint")
            if node is not None:
                yield piece, f"the httpChallenge of {name}", node
        for name, point in piece.node.below("entryPoints").items():
            node = point.at("http", "redirections", "entryPoint", "to")
            # A port such as ":443" needs no entry point of ours.
            if node is not None and not (node.text or "").lstrip(":").isdigit():
                yield piece, f"the redirection of {name}", node


def _router_entry_points(corpus: Corpus) -> Iterator[tuple[Piece, str, Node]]:
    for piece in corpus.of("file", "docker"):
        for protocol in ("http", "tcp", "udp"):
            for name, router in piece.node.below(protocol, "routers").items():
                for node in router.entries("entryPoints"):
                    yield piece, f"router {name}", node


def undefined_names(corpus: Corpus) -> Iterator[Finding]:
    """A middleware, service or certificate resolver that nothing defines."""
    static = corpus.of("static")
    complete = any(not piece.fenced and piece.node.at("entryPoints") for piece in static)
    resolvers = {name for piece in static for name in piece.node.below("certificatesResolvers")}
    for provider in ("file", "docker"):
        pieces = corpus.of(provider)
        known = {name for piece in pieces for name in piece.middlewares}
        targets = {name for piece in pieces for name in piece.services}
        for piece in pieces:
            if piece.fenced:
                continue
            for name, router in piece.routers.items():
                what = f"router {name}"
                for node in router.entries("middlewares"):
                    yield from _undefined(piece, what, "middleware", node, known, complete)
                if provider == "file":
                    yield from _undefined(piece, what, "service", router.at("service"), targets, complete)
                if complete:
                    yield from _undefined(piece, what, "resolver", router.at("tls", "certResolver"), resolvers, True)
    for piece in static if complete else []:
        for name, point in piece.node.below("entryPoints").items():
            resolver = point.at("http", "tls", "certResolver")
            yield from _undefined(piece, f"entry point {name}", "resolver", resolver, resolvers, True)


def _undefined(
    piece: Piece, what: str, kind: str, node: Node | None, known: set[str], complete: bool
) -> Iterator[Finding]:
    name = ((node.text if node is not None else None) or "").removesuffix(f"@{piece.provider}")
    # Another provider's name, or a variable of Compose.
    if node is None or not name or "@" in name or "${" in name or _among(name, known):
        return
    yield piece.finding(
        f"undefined-{kind}",
        node,
        "error" if complete else "warning",
        what=what,
        name=name,
        why="nothing defines; Traefik drops the router" if complete else "none of the given files defines",
        instead=_instead(name, known, f"define it, or delete the name; one of another provider is {name}@PROVIDER"),
    )


def _among(name: str, known: set[str]) -> bool:
    return name.lower() in {other.lower() for other in known}


def _instead(name: str, known: set[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"write {near[0]}" if near else otherwise


def picks_outside_retry(corpus: Corpus) -> Iterator[Finding]:
    """A router whose retry repeats the request without a new pick."""
    kinds: dict[tuple[str, str], Node] = {
        (piece.provider, name): node
        for piece in corpus.of("file", "docker")
        for name, node in piece.middlewares.items()
    }
    for piece in corpus.of("file", "docker"):
        for name, router in piece.routers.items():
            picked = ""
            for node in router.entries("middlewares"):
                middleware = kinds.get((piece.provider, (node.text or "").removesuffix(f"@{piece.provider}")))
                if middleware is None:
                    continue
                answers = middleware.entries("forwardAuth", "authResponseHeaders")
                if any((header.text or "").lower() in ("cookie", "x-trunkline-pick") for header in answers):
                    picked = node.text or ""
                elif middleware.at("retry") is not None and picked:
                    yield piece.finding("pick-outside-retry", node, name=name, picked=picked, retry=node.text)


def conflicting_labels(corpus: Corpus) -> Iterator[Finding]:
    """Replicas with different labels of one service, router or middleware."""
    first: dict[tuple[int, str, str], tuple[Node, object]] = {}
    for piece in corpus.of("docker"):
        for kind, entries in (
            ("service", piece.services), ("router", piece.routers), ("middleware", piece.middlewares),
        ):  # fmt: skip
            for name, node in entries.items():
                content = _plain(node, without_servers=kind == "service")
                earlier = first.setdefault((piece.group, kind, name.lower()), (node, content))
                if earlier[1] != content:
                    yield piece.finding("conflicting-labels", node, kind=kind, name=name, first=earlier[0].line)


def _plain(node: Node, without_servers: bool) -> object:
    if isinstance(node.value, dict):
        # Each container adds its own server.
        return {
            name: _plain(child, without_servers)
            for name, child in node.value.items()
            if not (without_servers and name == "servers")
        }
    if isinstance(node.value, list):
        return [_plain(item, without_servers) for item in node.value]
    return node.value


def strict_cookies(corpus: Corpus) -> Iterator[Finding]:
    """A sticky cookie that a page of another site never sends."""
    hosts = _hosts(corpus)
    for piece in corpus.of("file", "docker"):
        for name, service in piece.services.items():
            for kind in ("loadBalancer", "weighted"):
                node = service.at(kind, "sticky", "cookie", "sameSite")
                if node is not None and (node.text or "").lower() == "strict" and len(hosts) != 1:
                    yield piece.finding("same-site-strict", node, name=name, why=_why_strict_fails(hosts))


def _why_strict_fails(hosts: set[str]) -> str:
    if not hosts:
        return "the files do not show on which host the page is; on another site the cookie is not sent"
    why = f"the routers have the hosts {', '.join(sorted(hosts))}"
    sites = {".".join(host.rsplit(".", 2)[-2:]) for host in hosts}
    if len(sites) > 1:
        return f"{why}; pages of one do not send the cookie to another"
    return f"{why}, which are one site only if {sites.pop()} is not a shared suffix"


def _hosts(corpus: Corpus) -> set[str]:
    found: set[str] = set()
    for piece in corpus.of("file", "docker"):
        for name, router in piece.routers.items():
            if router.word("service").endswith("@internal") or name in ("traefik", "dashboard"):
                continue
            for arguments in re.findall(r"\bHost\(([^)]*)\)", router.word("rule")):
                found |= {host.lower() for host in re.findall(r"[`\"]([^`\"]+)[`\"]", arguments)}
    return found


def depth_without_proxies(corpus: Corpus) -> Iterator[Finding]:
    """A client address taken from a header that Traefik has thrown away."""
    points = [point for piece in corpus.of("static") for point in piece.node.below("entryPoints").values()]
    if any(
        point.at("forwardedHeaders", "trustedIPs") or point.is_true("forwardedHeaders", "insecure") for point in points
    ):
        return
    why = "but no entry point trusts a proxy" if points else "which needs a proxy that Traefik trusts"
    for piece in corpus.of("file", "docker"):
        for name, middleware in piece.middlewares.items():
            for kind in _BY_ADDRESS:
                depth = middleware.at(*kind, "ipStrategy", "depth")
                if depth is not None and depth.text != "0":
                    severity: Severity = "error" if points else "warning"
                    yield piece.finding("depth-without-proxy", depth, severity, name=name, why=why)


_BY_ADDRESS = (("rateLimit", "sourceCriterion"), ("inFlightReq", "sourceCriterion"), ("ipAllowList",), ("ipWhiteList",))

RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (
    undefined_entry_points,
    undefined_names,
    picks_outside_retry,
    conflicting_labels,
    strict_cookies,
    depth_without_proxies,
)
