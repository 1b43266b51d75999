"""Values that Traefik reads and then refuses: rules, addresses, networks, expressions, kinds. Pure.

An entry point that cannot be opened stops Traefik. A router or middleware that cannot be built is dropped, and a
middleware takes its routers with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from trunkline.traefik.check.corpus import Corpus, Piece
from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.findings import Finding
from trunkline.traefik.check.router_rule import Protocol, Syntax, rule_fault
from trunkline.traefik.check.values import (
    is_filled_in,
    is_network,
    is_status_range,
    why_no_address,
    why_no_expression,
)

_PROTOCOLS: Final[tuple[Protocol, ...]] = ("http", "tcp")


def bad_rules(corpus: Corpus) -> Iterator[Finding]:
    """A router without a rule, or with one of an older version, or with a broken one."""
    old = any(piece.node.word("core", "defaultRuleSyntax").lower() == "v2" for piece in corpus.of("static"))
    for piece in corpus.of("file", "docker"):
        for protocol in _PROTOCOLS:
            for name, router in piece.node.below(protocol, "routers").items():
                yield from _bad_rule(piece, protocol, name, router, "v2" if old else "v3")


def _bad_rule(piece: Piece, protocol: Protocol, name: str, router: Node, default: Syntax) -> Iterator[Finding]:
    rule = router.at("rule")
    text = (rule.text if rule is not None else None) or ""
    if piece.provider == "docker":
        # Traefik makes a rule for a container that has none; Compose writes a plain $ as $$.
        if not text:
            return
        text = text.replace("$$", "$")
    if is_filled_in(text) or (piece.fenced and not text):
        return
    syntax: Syntax = "v2" if (router.word("ruleSyntax").lower() or default) == "v2" else "v3"
    tls = router.at("tls")
    has_tls = protocol == "http" or (tls is not None and tls.value is not None and not _is_off(tls))
    fault = rule_fault(text, protocol, syntax, has_tls)
    if fault is not None:
        at, why, instead = rule or router, fault.why, fault.instead
        if fault.taken:
            yield piece.finding("old-rule", at, name=name, why=why, instead=instead)
        else:
            yield piece.finding("bad-rule", at, name=name, why=why, instead=instead)


class _Listener(NamedTuple):
    """What an entry point listens on."""

    name: str
    node: Node
    protocol: str
    host: str
    port: str
    shares: bool

    def collides(self, other: _Listener) -> bool:
        """Whether both cannot be opened at once."""
        if (self.protocol, self.port) != (other.protocol, other.port) or self.port in ("", "0"):
            return False
        everywhere = self.host in _EVERYWHERE or other.host in _EVERYWHERE
        return (everywhere or self.host == other.host) and not (self.shares and other.shares)


_EVERYWHERE: Final = ("", "0.0.0.0", "[::]")


def entry_points(corpus: Corpus) -> Iterator[Finding]:
    """An address on which nothing can listen, or on which two entry points would."""
    for piece in corpus.of("static"):
        opened: list[_Listener] = []
        for listener in _listeners(piece):
            if isinstance(listener, Finding):
                yield listener
                continue
            first = next((other for other in opened if other.collides(listener)), None)
            if first is not None and first.name != listener.name:
                where = f"{listener.host}:{listener.port}/{listener.protocol}"
                yield piece.finding(
                    "shared-address", listener.node, first=first.name, name=listener.name, address=where
                )
            opened.append(listener)


def _listeners(piece: Piece) -> Iterator[_Listener | Finding]:
    points = piece.node.below("entryPoints")
    for name, point in points.items():
        node = point.at("address") or point
        address = node.text or ""
        if is_filled_in(address) or (piece.fenced and not address):
            continue
        why = why_no_address(address)
        if why is not None:
            yield piece.finding("bad-address", node, name=name, address=address, why=why)
            continue
        where, _, protocol = address.partition("/")
        host, _, port = where.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host
        shares = point.is_true("reusePort")
        yield _Listener(name, node, protocol.lower() or "tcp", host, port, shares)
        http3 = point.at("http3")
        if http3 is not None and http3.value is not None and (http3.text or "true").lower() == "true":
            yield _Listener(name, node, "udp", host, port, shares)
    own = _needs_own(piece.node)
    if own is not None and points and "traefik" not in {name.lower() for name in points}:
        yield _Listener("traefik (for the API, ping or metrics)", own, "tcp", "", "8080", False)


def _needs_own(static: Node) -> Node | None:
    """The option for which Traefik opens an entry point of its own on port 8080."""
    for path in (("ping",), ("metrics", "prometheus")):
        node = static.at(*path)
        if node is None or node.value is None or (node.text or "true").lower() != "true":
            continue
        if not node.is_true("manualRouting") and node.word("entryPoint") in ("", "traefik"):
            return node
    for path in (("api",), ("providers", "rest")):
        node = static.at(*path)
        if node is not None and node.is_true("insecure"):
            return node
    return None


def bad_networks(corpus: Corpus) -> Iterator[Finding]:
    """An address or network that is none."""
    for piece in corpus.of("static"):
        for name, point in piece.node.below("entryPoints").items():
            for option in ("proxyProtocol", "forwardedHeaders"):
                node = point.at(option)
                if node is None or node.value is None:
                    continue
                trusted = node.entries("trustedIPs")
                what = f"{option} of the entry point {name}"
                if option == "proxyProtocol" and not (trusted or node.is_true("insecure") or _is_off(node)):
                    yield piece.finding("no-networks", node, what=what)
                if option == "forwardedHeaders" or not node.is_true("insecure"):
                    yield from _bad_networks(piece, trusted, what, "Traefik does not start")
    for piece in corpus.of("file", "docker"):
        for protocol in _PROTOCOLS:
            for name, middleware in piece.node.below(protocol, "middlewares").items():
                lists = [
                    middleware.entries(*kind, option)
                    for kind, option in (
                        (("ipAllowList",), "sourceRange"),
                        (("ipWhiteList",), "sourceRange"),
                        (("ipAllowList", "ipStrategy"), "excludedIPs"),
                        (("ipWhiteList", "ipStrategy"), "excludedIPs"),
                        (("rateLimit", "sourceCriterion", "ipStrategy"), "excludedIPs"),
                        (("inFlightReq", "sourceCriterion", "ipStrategy"), "excludedIPs"),
                    )
                ]
                nodes = [node for entries in lists for node in entries]
                yield from _bad_networks(piece, nodes, f"middleware {name}", "it is dropped with its routers")


def _is_off(node: Node) -> bool:
    return node.text is not None and node.text.lower() != "true"


def _bad_networks(piece: Piece, nodes: list[Node], what: str, effect: str) -> Iterator[Finding]:
    for node in nodes:
        network = (node.text or "").strip()
        if not is_filled_in(network) and not is_network(network):
            yield piece.finding("bad-network", node, what=what, network=network, effect=effect)


_NEEDED: Final[tuple[tuple[str, str, int | None], ...]] = (
    ("addPrefix", "prefix", None),
    ("redirectScheme", "scheme", None),
    ("circuitBreaker", "expression", None),
    ("ipAllowList", "sourceRange", None),
    ("retry", "attempts", 1),
    ("buffering", "maxRequestBodyBytes", 0),
    ("buffering", "maxResponseBodyBytes", 0),
    ("buffering", "memRequestBodyBytes", 0),
    ("buffering", "memResponseBodyBytes", 0),
)
"""Kind, option, and what it must be at least."""

_EXPRESSIONS: Final = (
    ("redirectRegex", "regex"),
    ("replacePathRegex", "regex"),
    ("stripPrefixRegex", "regex"),
    ("headers", "accessControlAllowOriginListRegex"),
    ("forwardAuth", "authResponseHeadersRegex"),
)


def bad_middlewares(corpus: Corpus) -> Iterator[Finding]:
    """A middleware that cannot be built: of several kinds or none, without what it needs, or with a wrong value."""
    for piece in corpus.of("file", "docker"):
        for protocol in _PROTOCOLS:
            for name, middleware in piece.node.below(protocol, "middlewares").items():
                yield from _several(piece, "middleware", name, middleware)
                for kind, option, least in _NEEDED:
                    node = middleware.at(kind)
                    if node is not None and isinstance(node.value, dict):
                        yield from _missing(piece, name, kind, option, least, node)
                for kind, option in _EXPRESSIONS:
                    yield from _bad_expressions(piece, name, f"{kind}.{option}", middleware.at(kind, option))
                for node in middleware.entries("errors", "status"):
                    if not is_filled_in(node.text or "") and not is_status_range((node.text or "").strip()):
                        yield piece.finding("bad-status", node, what=f"middleware {name}", status=node.text or "")
            for name, service in piece.node.below(protocol, "services").items():
                yield from _several(piece, "service", name, service)


def _several(piece: Piece, what: str, name: str, node: Node) -> Iterator[Finding]:
    # The middlewares of a service are no kind of it.
    kinds = [kind for kind, part in node.parts.items() if part.value is not None and kind != "middlewares"]
    if not kinds and piece.provider == "file" and not piece.fenced:
        yield piece.finding("no-kind", node, what=what, name=name)
    elif len(kinds) > 1:
        yield piece.finding("several-kinds", node, what=what, name=name, kinds=" and ".join(sorted(kinds)))


def _missing(piece: Piece, name: str, kind: str, option: str, least: int | None, node: Node) -> Iterator[Finding]:
    value = node.at(option)
    if value is None or value.value is None or value.value in ("", []):
        # The buffer's limits have defaults, and a fence may leave out what it is not about.
        if (least is None or least > 0) and node.parts and not piece.fenced:
            yield piece.finding("missing-option", value or node, name=name, option=f"{kind}.{option}")
    elif least is not None and re.fullmatch(r"[-+]?[0-9]+", value.text or "") and int(value.text or "") < least:
        yield piece.finding("too-small", value, name=name, option=f"{kind}.{option}", value=value.text, least=least)


def _bad_expressions(piece: Piece, name: str, option: str, node: Node | None) -> Iterator[Finding]:
    for entry in (node.items or [node]) if node is not None else []:
        text = entry.text or ""
        if piece.provider == "docker":
            text = text.replace("$$", "$")
        why = None if is_filled_in(text) else why_no_expression(text)
        if why is not None:
            yield piece.finding("bad-expression", entry, name=name, option=option, expression=text, why=why)


RULES: tuple[Callable[[Corpus], Iterator[Finding]], ...] = (bad_rules, entry_points, bad_networks, bad_middlewares)
