"""Mistakes that show between pieces: names that nobody defines, orders, hosts and proxies. Pure.

Rule: what is missing is a mistake only where the set is complete. Entry points and resolvers are defined in the static
configuration, so a file that defines entry points settles them; a fence of a text settles nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator

from trunkline.traefik.check.corpus import Corpus, Finding, Piece
from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.pieces import middlewares, routers, services

# Traefik makes it by itself for the API, ping and metrics.
_OWN_ENTRY_POINT = "traefik"
# There is one on port 80 when nothing else is defined.
_DEFAULT_ENTRY_POINT = "http"


def undefined_entry_points(corpus: Corpus) -> Iterator[Finding]:
    """An entry point that the static configuration does not define."""
    defined = {name for piece in corpus.of("static") for name in (piece.node.at("entryPoints") or Node(0, {})).parts}
    if not defined:
        static = corpus.of("static")
        # With providers it is a whole configuration, and not the half of one whose flags define the entry points.
        if not any(not piece.fenced and piece.node.at("providers") for piece in static):
            return
        defined = {_DEFAULT_ENTRY_POINT}
    for piece, what, node in _entry_point_names(corpus):
        name = node.text or ""
        if name and name != _OWN_ENTRY_POINT and not _among(name, defined) and "${" not in name:
            yield Finding(
                piece.file,
                node.line,
                "undefined-entry-point",
                f"{what} names the entry point {name}, which is not defined ({', '.join(sorted(defined))} are)",
                _instead(name, defined, f"define entryPoints.{name}.address, on loopback if it is not for clients"),
            )


def _entry_point_names(corpus: Corpus) -> Iterator[tuple[Piece, str, Node]]:
    for piece in corpus.of("static"):
        for what in (("metrics", "prometheus"), ("ping",)):
            node = piece.node.at(*what, "entryPoint")
            if node is not None:
                yield piece, ".".join((*what, "entryPoint")), node
        for name, resolver in (piece.node.at("certificatesResolvers") or Node(0, {})).parts.items():
            node = resolver.at("acme", "httpChallenge", "entryPoint")
            if node is not None:
                yield piece, f"the httpChallenge of {name}", node
        for name, point in (piece.node.at("entryPoints") or Node(0, {})).parts.items():
            node = point.at("http", "redirections", "entryPoint", "to")
            # A port such as ":443" needs no entry point of ours.
            if node is not None and not (node.text or "").lstrip(":").isdigit():
                yield piece, f"the redirection of {name}", node
    for piece in corpus.of("file", "docker"):
        for protocol in ("http", "tcp", "udp"):
            for name, router in (piece.node.at(protocol, "routers") or Node(0, {})).parts.items():
                for node in (router.at("entryPoints") or Node(0, [])).items:
                    yield piece, f"router {name}", node


def undefined_names(corpus: Corpus) -> Iterator[Finding]:
    """A middleware, service or certificate resolver that nothing defines."""
    complete = any(not piece.fenced and piece.node.at("entryPoints") for piece in corpus.of("static"))
    resolvers = {
        name for piece in corpus.of("static") for name in (piece.node.at("certificatesResolvers") or Node(0, {})).parts
    }
    for provider in ("file", "docker"):
        pieces = corpus.of(provider)
        known = {name for piece in pieces for name, _ in middlewares(piece)}
        targets = {name for piece in pieces for name, _ in services(piece)}
        for piece in pieces:
            if piece.fenced:
                continue
            for name, router in routers(piece):
                for node in (router.at("middlewares") or Node(0, [])).items:
                    yield from _undefined(piece, f"router {name}", "middleware", node, known, complete)
                service = router.at("service")
                if service is not None and provider == "file":
                    yield from _undefined(piece, f"router {name}", "service", service, targets, complete)
                resolver = router.at("tls", "certResolver")
                if resolver is not None and complete:
                    yield from _undefined(piece, f"router {name}", "certificate resolver", resolver, resolvers, True)
    for piece in corpus.of("static") if complete else []:
        for name, point in (piece.node.at("entryPoints") or Node(0, {})).parts.items():
            resolver = point.at("http", "tls", "certResolver")
            if resolver is not None:
                yield from _undefined(piece, f"entry point {name}", "certificate resolver", resolver, resolvers, True)


def _undefined(piece: Piece, who: str, kind: str, node: Node, known: set[str], complete: bool) -> Iterator[Finding]:
    name = (node.text or "").removesuffix(f"@{piece.provider}")
    # Another provider's name, or a variable of Compose.
    if not name or "@" in name or "${" in name or _among(name, known):
        return
    yield Finding(
        piece.file,
        node.line,
        f"undefined-{kind.split()[-1]}",
        f"{who} names the {kind} {name}, which "
        + ("nothing defines; Traefik drops the router" if complete else "none of the given files defines"),
        _instead(name, known, f"define it, or delete the name; one of another provider is {name}@PROVIDER"),
        "error" if complete else "warning",
    )


def _among(name: str, known: set[str]) -> bool:
    return name.lower() in {other.lower() for other in known}


def _instead(name: str, known: set[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"write {near[0]}" if near else otherwise


def picks_outside_retry(corpus: Corpus) -> Iterator[Finding]:
    """A router whose retry repeats the request without asking for another server."""
    kinds: dict[tuple[str, str], Node] = {
        (piece.provider, name): node for piece in corpus.of("file", "docker") for name, node in middlewares(piece)
    }
    for piece in corpus.of("file", "docker"):
        for name, router in routers(piece):
            picked = ""
            for node in (router.at("middlewares") or Node(0, [])).items:
                middleware = kinds.get((piece.provider, (node.text or "").removesuffix(f"@{piece.provider}")))
                if middleware is None:
                    continue
                answers = (middleware.at("forwardAuth", "authResponseHeaders") or Node(0, [])).items
                if any((header.text or "").lower() in ("cookie", "x-trunkline-pick") for header in answers):
                    picked = node.text or ""
                elif middleware.at("retry") is not None and picked:
                    yield Finding(
                        piece.file,
                        node.line,
                        "pick-outside-retry",
                        f"router {name} asks {picked} for a server once and then retries that same dead server",
                        f"write the retry first: [{node.text}, {picked}]",
                    )


def conflicting_labels(corpus: Corpus) -> Iterator[Finding]:
    """Replicas whose labels say different things of one service, router or middleware."""
    first: dict[tuple[int, str, str], tuple[Node, object]] = {}
    for piece in corpus.of("docker"):
        for kind, entries in (("service", services), ("router", routers), ("middleware", middlewares)):
            for name, node in entries(piece):
                content = _plain(node, without_servers=kind == "service")
                earlier = first.setdefault((piece.group, kind, name.lower()), (node, content))
                if earlier[1] == content:
                    continue
                yield Finding(
                    piece.file,
                    node.line,
                    "conflicting-labels",
                    f"{kind} {name} is defined differently on line {earlier[0].line}: Traefik then drops it",
                    "write the same labels on every container of it",
                )


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
        for name, service in services(piece):
            for kind in ("loadBalancer", "weighted"):
                node = service.at(kind, "sticky", "cookie", "sameSite")
                if node is None or (node.text or "").lower() != "strict" or len(hosts) == 1:
                    continue
                if hosts:
                    why = f"the routers have the hosts {', '.join(sorted(hosts))}"
                    why += (
                        "; pages of one do not send the cookie to another"
                        if len({_site(host) for host in hosts}) > 1
                        else f", which are one site only if {_site(next(iter(hosts)))} is not a shared suffix"
                    )
                else:
                    why = "the files do not show on which host the page is; on another site the cookie is not sent"
                yield Finding(
                    piece.file,
                    node.line,
                    "same-site-strict",
                    f"the sticky cookie of service {name} is sameSite=strict, and {why}",
                    "write sameSite: lax where page and socket are on one site, none with secure: true elsewhere",
                    "warning",
                )


def _hosts(corpus: Corpus) -> set[str]:
    found: set[str] = set()
    for piece in corpus.of("file", "docker"):
        for name, router in routers(piece):
            if router.word("service").endswith("@internal") or name in ("traefik", "dashboard"):
                continue
            for arguments in re.findall(r"\bHost\(([^)]*)\)", router.word("rule")):
                found |= {host.lower() for host in re.findall(r"[`\"]([^`\"]+)[`\"]", arguments)}
    return found


def _site(host: str) -> str:
    return ".".join(host.rsplit(".", 2)[-2:])


def depth_without_proxies(corpus: Corpus) -> Iterator[Finding]:
    """A client address taken from a header that Traefik has thrown away."""
    static = corpus.of("static")
    points = [point for piece in static for point in (piece.node.at("entryPoints") or Node(0, {})).parts.values()]
    trusting = any(
        point.at("forwardedHeaders", "trustedIPs") or point.is_true("forwardedHeaders", "insecure") for point in points
    )
    if trusting:
        return
    for piece in corpus.of("file", "docker"):
        for name, middleware in middlewares(piece):
            for kind in _BY_ADDRESS:
                depth = middleware.at(*kind, "ipStrategy", "depth")
                if depth is None or depth.text == "0":
                    continue
                yield Finding(
                    piece.file,
                    depth.line,
                    "depth-without-proxy",
                    f"middleware {name} takes the address from X-Forwarded-For, "
                    + ("but no entry point trusts a proxy" if points else "which needs a proxy that Traefik trusts")
                    + ": all clients count as one",
                    "delete ipStrategy, or name the proxies in entryPoints.NAME.forwardedHeaders.trustedIPs",
                    "error" if points else "warning",
                )


_BY_ADDRESS = (
    ("rateLimit", "sourceCriterion"),
    ("inFlightReq", "sourceCriterion"),
    ("ipAllowList",),
    ("ipWhiteList",),
)

RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (
    undefined_entry_points,
    undefined_names,
    picks_outside_retry,
    conflicting_labels,
    strict_cookies,
    depth_without_proxies,
)
