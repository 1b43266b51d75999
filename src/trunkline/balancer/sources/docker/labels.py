"""What a container is as a backend, by its labels. Pure.

Labels of our own, `_READERS`, count on a container that has `trunkline.enable=true`. By default the port is the only
TCP port that its image exposes, the server name the container's, the network `balancer.docker_network`.

Without `trunkline.enable`, a container with `traefik.enable=true` is read by Traefik's labels of one HTTP service:
`traefik.http.services.<name>.loadbalancer.server.port`, `.server.scheme`, `.server.url`, `.server.weight`,
`.healthcheck.path`, and `traefik.docker.network`; as there, the lowest of several exposed ports is taken. Labels of our
own may stand beside them and win. Routers and middlewares are Traefik's affair; `trunkline.enable=false` keeps a
container out whatever Traefik's labels are.

State: only a running container is a backend.

- Paused, being stopped, or unhealthy by its own HEALTHCHECK: draining. It may hold connections that go on, and leaving
  it out would forget their count just when it comes back a second later.
- Its HEALTHCHECK has not passed yet (`starting`): left out, since it has nothing to lose, and its slow start is to
  begin when it can serve.

Rule: label names are compared without regard to case, as Traefik does. A value that does not fit, or a `trunkline.`
name that does not exist, leaves the container out with a sentence that names label, value and what is allowed: a
backend with a guessed weight or port is worse than one that is missing.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Mapping

import msgspec

from trunkline.placement.backend import BackendSpec, canonical_url

_OWN = "trunkline."
_NOT_READ = frozenset({"trunkline.enable", "trunkline.deploy"})  # the switch, and which deploy made a container
_SERVICE = re.compile(r"traefik\.http\.services\.([^.]+)\.loadbalancer\.(.+)")
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})
_SCHEMES = ("http", "https", "ws", "wss")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PATH = re.compile(r"/[^\s?#]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_LONGEST_SHOWN = 100


class Container(msgspec.Struct, frozen=True):
    """A container, as the daemon describes it.

    Attributes:
        ports: TCP ports that it exposes, in any order.
        networks: its address in each network by the network's name, in the daemon's order; empty without one.
        host_network: it shares the network of the daemon's machine.
        state: `running`, `paused`, `exited` and so on, as the daemon names it.
        health: state of its HEALTHCHECK: `healthy`, `unhealthy`, `starting`; empty without one.
        service: of Swarm, whose name its certificate has; empty for none.
        machine: address of its machine, if that is not the daemon's.
    """

    name: str
    labels: Mapping[str, str]
    ports: tuple[int, ...] = ()
    networks: Mapping[str, str] = {}
    host_network: bool = False
    state: str = "running"
    health: str = ""
    stopping: bool = False
    service: str = ""
    machine: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What became of a container.

    Attributes:
        spec: the backend, None when it is none.
        problem: why a container with the labels of a backend is none; empty without them, or when it does not run.
        notes: labels that are understood by Traefik alone and were ignored.
    """

    spec: BackendSpec | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()


def asks(labels: Mapping[str, str]) -> bool:
    """Whether a container of these labels wants to be looked at; a wrong value of the switch counts as yes."""
    own, traefik = (labels.get(key) for key in _switches(labels))
    if own is not None:
        return own.strip().lower() not in _FALSE
    return traefik is not None and traefik.strip().lower() not in _FALSE


def read(container: Container, *, network: str, host: str, source: str = "docker") -> Verdict:
    """Judge one container; its address is that in `network`, or in its first network that has one.

    Of a container that shares the network of the daemon's machine the address is `host`. `source` is the kind of source
    that names it.
    """
    if not asks(container.labels) or container.state not in ("running", "paused") or container.health == "starting":
        return Verdict()
    notes: list[str] = []
    try:
        wanted = _labels_of(container, notes)
        url = wanted.url or _url(container, wanted, network, host)
    except _Wrong as wrong:
        return Verdict(problem=str(wrong), notes=tuple(notes))
    server_name = ""
    if url.startswith("https:"):
        server_name = wanted.server_name or ("" if wanted.url else container.service or container.name)
    spec = BackendSpec(
        url=url,
        weight=wanted.weight,
        group=wanted.colour,
        pool=wanted.pool,
        capacity=wanted.capacity,
        health_path=wanted.health_path,
        source=source,
        name=container.name,
        draining=container.stopping or container.state == "paused" or container.health == "unhealthy",
        server_name=server_name,
    )
    return Verdict(spec, notes=tuple(notes))


class _Wrong(Exception):
    """A sentence about the label that cannot be used."""


class _Labels(msgspec.Struct):
    """What the labels set."""

    url: str = ""
    port: int | None = None
    lowest_port: bool = False
    scheme: str = "http"
    weight: float = 1.0
    colour: str = ""
    pool: str = ""
    capacity: int | None = None
    health_path: str | None = None
    server_name: str = ""
    network: str = ""


def _switches(labels: Mapping[str, str]) -> tuple[str, str]:
    """The two switches as this container spells them."""
    spelled = {name.lower(): name for name in labels}
    return spelled.get("trunkline.enable", "trunkline.enable"), spelled.get("traefik.enable", "traefik.enable")


def _labels_of(container: Container, notes: list[str]) -> _Labels:
    labels = {name.lower(): value.strip() for name, value in container.labels.items()}
    switch = "trunkline.enable" if "trunkline.enable" in labels else "traefik.enable"
    if labels[switch].lower() not in _TRUE:
        raise _refusal(switch, labels[switch], "true or false")
    wanted = _Labels()
    if switch == "traefik.enable":
        _read_traefik(labels, wanted, notes)
    own = {name: value for name, value in labels.items() if name.startswith(_OWN)}
    for name, value in own.items():
        if name in _NOT_READ:
            continue
        if name not in _READERS:
            close = difflib.get_close_matches(name, _READERS, n=1)
            near = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(_READERS)}"
            raise _Wrong(f"there is no label {_cut(name)}{near}")
        field, reader, allowed = _READERS[name]
        _set(wanted, field, reader, name, value, allowed)
    if not own.keys().isdisjoint({"trunkline.port", "trunkline.scheme"}):
        wanted.url = ""
    return wanted


def _read_traefik(labels: Mapping[str, str], wanted: _Labels, notes: list[str]) -> None:
    wanted.lowest_port = True
    services: dict[str, dict[str, tuple[str, str]]] = {}
    for name, value in labels.items():
        if name == "traefik.docker.network":
            wanted.network = value
        match = _SERVICE.fullmatch(name)
        if match is not None:
            services.setdefault(match[1], {})[match[2]] = (name, value)
    if len(services) > 1:
        names = ", ".join(sorted(services))
        raise _Wrong(f"it has {len(services)} Traefik services ({_cut(names)}); say with trunkline.enable=true and "
                     "trunkline.port which one is meant")  # fmt: skip
    for option, (name, value) in next(iter(services.values()), {}).items():
        if option not in _TRAEFIK_READERS:
            notes.append(f"{_cut(name)} is ignored: {_WHY_IGNORED.get(option, 'it is for Traefik alone')}")
            continue
        field, reader, allowed = _TRAEFIK_READERS[option]
        _set(wanted, field, reader, name, value, allowed)
    options = next(iter(services.values()), {})
    if "server.url" in options and not {"server.port", "server.scheme"}.isdisjoint(options):
        raise _Wrong(f"{options['server.url'][0]} says where it listens; remove its server.port and server.scheme")


def _set(wanted: _Labels, field: str, reader: Callable[[str], object], name: str, value: str, allowed: str) -> None:
    try:
        setattr(wanted, field, reader(value))
    except ValueError:
        raise _refusal(name, value, allowed) from None


def _url(container: Container, wanted: _Labels, network: str, host: str) -> str:
    port = wanted.port
    if port is None:
        ports = sorted(set(container.ports))
        if not ports:
            raise _Wrong("it exposes no TCP port; name one with trunkline.port")
        if len(ports) > 1 and not wanted.lowest_port:
            listed = ", ".join(map(str, ports[:10]))
            raise _Wrong(f"it exposes {len(ports)} ports ({listed}); name one with trunkline.port")
        port = ports[0]
    address = _address(container, wanted.network or network, host)
    bracketed = f"[{address}]" if ":" in address else address
    return canonical_url(f"{wanted.scheme}://{bracketed}:{port}")


def _address(container: Container, network: str, host: str) -> str:
    if container.host_network:
        return container.machine or host
    if network:
        address = container.networks.get(network)
        if address is None:
            there = ", ".join(container.networks) or "none"
            # Compose puts the project's name before the network's.
            near = [name for name in container.networks if name.endswith(f"_{network}")]
            hint = f"; did you mean {near[0]}?" if len(near) == 1 else ""
            raise _Wrong(f"it is not in the network {_cut(network)}; its networks: {_cut(there)}{hint}")
        if not address:
            raise _Wrong(f"it has no address in the network {_cut(network)}")
        return address
    address = next((address for address in container.networks.values() if address), "")
    if not address:
        raise _Wrong("it has no address of its own; attach it to a network that the balancer reaches")
    return address


def _whole(low: int, high: int) -> Callable[[str], int]:
    def reader(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return reader


def _weight(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1000):
        raise ValueError(text)
    return value


def _like(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def reader(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(text)
        return text

    return reader


def _scheme(text: str) -> str:
    if text.lower() not in _SCHEMES:
        raise ValueError(text)
    return text.lower()


def _server_name(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _like(_HOST)(text)


_Readers = Mapping[str, tuple[str, Callable[[str], object], str]]

_PORT_ALLOWED = "a port from 1 to 65535"
_SCHEME_ALLOWED = "http, https, ws or wss"
_PATH_ALLOWED = 'a path such as "/health"'
_NAME_ALLOWED = "1 to 63 letters, digits, '.', '_' and '-'"
_READERS: _Readers = {
    "trunkline.port": ("port", _whole(1, 65_535), _PORT_ALLOWED),
    "trunkline.scheme": ("scheme", _scheme, _SCHEME_ALLOWED),
    "trunkline.weight": ("weight", _weight, "a number from 0 to 1000"),
    "trunkline.colour": ("colour", _like(_LABEL), _NAME_ALLOWED),
    "trunkline.pool": ("pool", _like(_LABEL), _NAME_ALLOWED),
    "trunkline.capacity": ("capacity", _whole(1, 100_000_000), "a whole number of at least 1"),
    "trunkline.health-path": ("health_path", _like(_PATH), _PATH_ALLOWED),
    "trunkline.server-name": ("server_name", _server_name, "a host name"),
    "trunkline.network": ("network", _like(re.compile(r"\S{1,200}")), "the name of a network"),
}
_TRAEFIK_READERS: _Readers = {
    "server.port": ("port", _whole(1, 65_535), _PORT_ALLOWED),
    "server.scheme": ("scheme", _scheme, f"{_SCHEME_ALLOWED} (WebSockets do not pass over h2c)"),
    "server.url": ("url", canonical_url, "a URL of scheme, host and port such as http://10.0.0.1:3001"),
    "server.weight": ("weight", _weight, "a number from 0 to 1000"),
    "healthcheck.path": ("health_path", _like(_PATH), _PATH_ALLOWED),
}
_WHY_IGNORED = {
    "healthcheck.interval": "balancer.health_interval_ms holds for all backends",
    "healthcheck.timeout": "balancer.health_timeout_ms holds for all backends",
    "sticky.cookie.name": "balancer.sticky_cookie holds for all backends",
}


def _refusal(name: str, value: str, allowed: str) -> _Wrong:
    return _Wrong(f"label {_cut(name)}: {_cut(value)!r} cannot be used; allowed: {allowed}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
