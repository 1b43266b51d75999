"""A configuration to ask Traefik about in place of the given one: the same options, but it stays on this machine. Pure.

Rules:

- Every entry point gets a port on loopback; those that collide as given collide here too, and an address that cannot be
  read is left for Traefik to refuse.
- What would talk to others is left out of what is started: other providers, ACME, collectors, plugins, log files.
  That its values can be read is asked before, of the whole file, which is not started.
- Servers are on a port of loopback where nothing listens, so that no health check leaves the machine.
- Go's templates would be executed, with names looked up and files read: a file that has some is not asked about.
- Routers may name entry points and resolvers of a static file that was not given: they are defined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import yaml

from trunkline.traefik.check.documents import Node
from trunkline.traefik.check.values import why_no_address

SENTINEL: Final = "asked-by-the-checker"
"""A router that is there when everything was read."""

UNREAD: Final = "the-checker-stops-here"
"""What makes Traefik end after it has read a whole static file, before it starts anything."""

DEAD: Final = "127.0.0.1:1"
_TOO_FAR: Final = {
    "providers", "tracing", "accesslog", "experimental", "spiffe", "hostresolver", "ocsp", "global", "log", "ping",
    "certificatesresolvers",
}  # fmt: skip

_LOG_ELSEWHERE: Final = {"filepath", "level", "otlp"}

Plain = None | str | list["Plain"] | dict[str, "Plain"]
Ports = Callable[[], int]
"""Gives a port of loopback that is free, another one each time."""


class Document(NamedTuple):
    """One document of a file: static or dynamic sections, as written."""

    file: str
    node: Node


def plain(node: Node) -> Plain:
    """A tree without its lines."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def text_of(tree: Plain) -> str:
    """A tree as YAML."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_only(static: Node) -> str:
    """The whole static configuration, made so that Traefik reads all of it and then ends."""
    tree = _sections(static)
    # The last of what Traefik checks before it starts anything.
    tree = {name: value for name, value in tree.items() if name.lower() != "ocsp"}
    # Its log begins before that: it must come here, and into no file and to no collector.
    for name, value in tree.items():
        if name.lower() == "log" and isinstance(value, dict):
            tree[name] = {option: part for option, part in value.items() if option.lower() not in _LOG_ELSEWHERE}
            tree = {key: part for key, part in tree.items() if part != {}}
    return text_of({**tree, "ocsp": {"responderOverrides": {UNREAD: ""}}})


def startable(static: Node | None, dynamics: Iterable[Node], directory: str, api_port: int, ports: Ports) -> str:
    """A static configuration that can be started here.

    Args:
        static: the given one; None for none.
        dynamics: what the entry points and resolvers are for that nobody defines.
        directory: where the dynamic files are.
        api_port: where API and ping answer, on loopback.
        ports: gives free ports.
    """
    tree: dict[str, Plain] = {}
    given = _sections(static) if static is not None else {}
    for name, value in given.items():
        if name.lower() not in _TOO_FAR and name.lower() not in ("entrypoints", "api", "metrics"):
            tree[name] = value
    dynamics = list(dynamics)
    points = _entry_points(_part(given, "entryPoints"), ports)
    resolvers = dict.fromkeys(_part(given, "certificatesResolvers"))
    if static is None:
        points |= {name: {"address": f"127.0.0.1:{ports()}"} for name in _named(dynamics, ("entryPoints",))}
        resolvers |= dict.fromkeys(_named(dynamics, ("tls", "certResolver")))
    if not points:
        # Traefik has this one when none is defined.
        points["http"] = {"address": f"127.0.0.1:{ports()}"}
    own = next((name for name in points if name.lower() == "traefik"), "traefik")
    tree["entryPoints"] = {**points, own: {"address": f"127.0.0.1:{api_port}"}}
    tree["api"] = {"insecure": "true"}
    tree["ping"] = {"entryPoint": own}
    prometheus = _part(_part(given, "metrics"), "prometheus")
    if prometheus:
        tree["metrics"] = {"prometheus": dict(prometheus)}
    tree["global"] = {"checkNewVersion": "false", "sendAnonymousUsage": "false"}
    tree["log"] = {"level": "ERROR", "noColor": "true"}
    tree["providers"] = {"providersThrottleDuration": "1ms", "file": {"directory": directory, "watch": "false"}}
    if resolvers:
        acme: Plain = {"caServer": f"http://{DEAD}/", "storage": f"{directory}.acme", "tlsChallenge": {}}
        tree["certificatesResolvers"] = {name: {"acme": acme} for name in resolvers}
    return text_of(tree)


def dynamic(node: Node) -> str:
    """A dynamic configuration whose servers are on this machine."""
    return text_of(_moved(plain(node), ()))


def is_template(node: Node) -> bool:
    """Whether Traefik would execute parts of a dynamic configuration."""
    return "{{" in text_of(plain(node))


def defined(nodes: Iterable[Node]) -> set[str]:
    """The names of all routers, services, middlewares and transports of dynamic configurations, in small letters."""
    return {
        name.lower()
        for node in nodes
        for protocol in node.parts.values()
        for kind in protocol.parts.values()
        for name in kind.parts
    }


def sentinel(entry_point: str) -> str:
    """A dynamic configuration with the router that is there when all was read."""
    router: Plain = {"rule": f"Host(`{SENTINEL}`)", "service": "api@internal", "entryPoints": [entry_point]}
    return text_of({"http": {"routers": {SENTINEL: router}}})


def _sections(node: Node) -> dict[str, Plain]:
    return {name: plain(child) for name, child in node.parts.items()}


def _part(tree: Plain, name: str) -> dict[str, Plain]:
    if not isinstance(tree, dict):
        return {}
    found = next((value for key, value in tree.items() if key.lower() == name.lower()), None)
    return found if isinstance(found, dict) else {}


def _entry_points(points: dict[str, Plain], ports: Ports) -> dict[str, Plain]:
    places: dict[tuple[str, str], int] = {}
    everywhere: set[str] = set()
    for point in points.values():
        host, port, _ = _place(point)
        if host in ("", "0.0.0.0", "[::]"):
            everywhere.add(port)
    found: dict[str, Plain] = {}
    for name, point in points.items():
        host, port, protocol = _place(point)
        options = point if isinstance(point, dict) else {}
        if point is None or isinstance(point, list) or why_no_address(f"{host}:{port}{protocol}"):
            found[name] = point
            continue
        place = ("" if port in everywhere else host.replace("localhost", "127.0.0.1"), port)
        # Without a port, or an address at all, Traefik takes any port, of all interfaces.
        moved = 0 if port in ("", "0") else places.setdefault(place, 0) or ports()
        places[place] = moved
        key = next((key for key in options if key.lower() == "address"), "address")
        found[name] = {**options, key: f"127.0.0.1:{moved}{protocol}"}
    return found


def _place(point: Plain) -> tuple[str, str, str]:
    address = next((v for k, v in point.items() if k.lower() == "address"), "") if isinstance(point, dict) else ""
    where, slash, protocol = (address if isinstance(address, str) else "").partition("/")
    host, _, port = where.rpartition(":")
    return host, port, slash + protocol


def _named(dynamics: Iterable[Node], path: tuple[str, ...]) -> list[str]:
    """What routers name under an option, without doubles."""
    found: dict[str, None] = {}
    for node in dynamics:
        tree = plain(node)
        for protocol in ("http", "tcp", "udp"):
            for router in _part(_part(tree, protocol), "routers").values():
                part: Plain = router
                for name in path[:-1]:
                    part = _part(part, name)
                last = path[-1].lower()
                value = (
                    next((v for k, v in part.items() if k.lower() == last), None) if isinstance(part, dict) else None
                )
                names = value if isinstance(value, list) else (value or "").split(",") if isinstance(value, str) else []
                found |= {name.strip(): None for name in names if isinstance(name, str) and name.strip()}
    return list(found)


_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://[A-Za-z0-9_.:\[\]-]+")
_HOST_PORT: Final = re.compile(r"[A-Za-z0-9_.\[\]:-]*:[0-9]+")


def _moved(tree: Plain, path: tuple[str, ...]) -> Plain:
    """The same tree with every server, and every Redis, where nothing listens."""
    if isinstance(tree, list):
        return [_moved(item, path) for item in tree]
    if isinstance(tree, dict):
        return {name: _moved(value, (*path, name.lower())) for name, value in tree.items()}
    if not tree or len(path) < 2:
        return tree
    if path[-2:] == ("servers", "url"):
        return _URL.sub(rf"\1://{DEAD}", tree, count=1)
    if path[-2:] in (("servers", "address"), ("redis", "endpoints")) and _HOST_PORT.fullmatch(tree):
        return DEAD
    if path[-2:] == ("healthcheck", "port") and tree.isdecimal():
        return "1"
    return tree
