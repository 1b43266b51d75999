"""Which backends the EndpointSlices of a Service stand for. Pure.

conditions of an endpoint                                     what it is here
------------------------------------------------------------  ---------------------------------------------------
ready, not terminating                                        a backend
terminating                                                   draining, if it was ready before or is serving still
neither ready nor terminating, and was ready before           draining: it takes no more, and may have connections
neither ready nor terminating, never seen ready               left out: it is starting

Rules:

- Conditions may be missing: `ready` then means yes, `serving` the same as `ready`, `terminating` no.
- A Service has as many slices as it needs, and while endpoints are moved between them one may be in two. It is one
  backend; draining wins, because it is the newer state of the two.
- A pod of a dual-stack Service is in slices of both address types and is one backend: by its IPv4 address if it has
  one, with the conditions that stand there.
- The port is chosen by its name or by its number at the pod. The number that the Service itself has for it is in no
  slice. Each slice has its own ports: a name may mean another number in another one.
- Over TLS the certificate has to name the Service, `name.namespace.svc`, and not the address of a pod.

Source: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from trunkline.balancer.sources.dns_answers import is_usable
from trunkline.errors import SettingsError
from trunkline.kubernetes.objects import Meta
from trunkline.placement.backend import BackendSpec, canonical_url

SERVICE_LABEL: Final = "kubernetes.io/service-name"
"""Label of a slice that names its Service."""

_ENTRY: Final = re.compile(
    r"((?P<scheme>https?|wss?)://)?((?P<namespace>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)/)?"
    r"(?P<service>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(:(?P<port>[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?))?"
)
_TLS: Final = {"http": False, "ws": False, "https": True, "wss": True}
_TLS_PROTOCOLS: Final = frozenset({"https", "kubernetes.io/wss"})


class ServicePort(msgspec.Struct, frozen=True):
    """One entry of `balancer.kubernetes`.

    Attributes:
        namespace: empty for that of the pod or the context.
        service: name of the Service.
        port: name of the port, or its number at the pod; empty for the only one.
        tls: whether backends speak TLS; None: as `appProtocol` of the port says.
    """

    namespace: str
    service: str
    port: str
    tls: bool | None

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.service}" if self.namespace else self.service
        return f"{where}:{self.port}" if self.port else where


def parse_entry(text: str) -> ServicePort:
    """Read an entry of `balancer.kubernetes`; raises SettingsError."""
    found = _ENTRY.fullmatch(text.strip())
    if found is None:
        allowed = (
            'allowed: "namespace/service:port" with the name of the port or its number at the pod, "https://" first'
        )
        raise SettingsError("balancer.kubernetes", value=text, allowed=f"{allowed} for TLS")
    tls = _TLS[found["scheme"]] if found["scheme"] else None
    return ServicePort(found["namespace"] or "", found["service"], found["port"] or "", tls)


class Conditions(msgspec.Struct, frozen=True):
    """`conditions` of an endpoint."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None

    @property
    def leaves_serving(self) -> bool:
        """It ends, and serves until then."""
        serving = self.ready is not False if self.serving is None else self.serving
        return bool(self.terminating) and serving


class TargetRef(msgspec.Struct, frozen=True):
    """What an endpoint is: a pod, mostly."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """An entry of `endpoints`."""

    addresses: tuple[str, ...] | None = None
    conditions: Conditions = Conditions()
    target_ref: TargetRef | None = None
    node_name: str | None = None


class SlicePort(msgspec.Struct, frozen=True, rename="camel"):
    """An entry of `ports`."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.port})" if self.name else f"{self.port}"


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """An EndpointSlice."""

    metadata: Meta
    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


class Found(msgspec.Struct, frozen=True):
    """What the slices of a Service say.

    Attributes:
        specs: the backends.
        ready: keys of the endpoints that have been ready so far, for the next time.
        problem: what an operator has to mend, empty for nothing.
    """

    specs: tuple[BackendSpec, ...]
    ready: frozenset[str]
    problem: str = ""


class _Place(msgspec.Struct, frozen=True):
    key: str
    name: str
    machine: str
    address: str
    port: SlicePort
    draining: bool


def backends_of(
    slices: Iterable[EndpointSlice], entry: ServicePort, namespace: str, were_ready: frozenset[str]
) -> Found:
    """The backends of a Service.

    Args:
        slices: all of its slices.
        entry: which port is meant.
        namespace: of the Service.
        were_ready: `ready` of the time before.
    """
    ordered = sorted(slices, key=lambda each: (each.address_type, each.metadata.name))
    places: dict[str, _Place] = {}
    present: set[str] = set()
    ready = set(were_ready)
    lacking: list[EndpointSlice] = []
    for one in ordered:
        if one.address_type not in ("IPv4", "IPv6") or not one.endpoints:
            continue
        port = _port(one, entry.port)
        if port is None:
            lacking.append(one)
            continue
        for endpoint in one.endpoints:
            place = _place(endpoint, port)
            if place is None:
                continue
            present.add(place.key)
            if not place.draining:
                ready.add(place.key)
            elif place.key not in ready and not endpoint.conditions.leaves_serving:
                continue
            places[place.key] = _united(places.get(place.key), place)
    specs = {spec.url: spec for spec in _specs(places.values(), entry, namespace)}
    return Found(
        tuple(specs[url] for url in sorted(specs)), frozenset(ready & present), _problem(entry, ordered, lacking)
    )


def _place(endpoint: Endpoint, port: SlicePort) -> _Place | None:
    # Of several addresses consumers use the first.
    address = endpoint.addresses[0] if endpoint.addresses else ""
    try:
        if not is_usable(address):
            return None
    except ValueError:
        return None
    conditions, target = endpoint.conditions, endpoint.target_ref or TargetRef()
    key = target.uid or (f"{target.kind}/{target.name}" if target.name else address)
    draining = conditions.ready is False or bool(conditions.terminating)
    return _Place(key, target.name, endpoint.node_name or "", address, port, draining)


def _united(first: _Place | None, second: _Place) -> _Place:
    """One endpoint that two slices have; those of IPv4 come first."""
    if first is None:
        return second
    if (":" in first.address) != (":" in second.address):
        return first
    return msgspec.structs.replace(first, draining=first.draining or second.draining)


def _specs(places: Iterable[_Place], entry: ServicePort, namespace: str) -> Iterator[BackendSpec]:
    for place in places:
        tls = entry.tls if entry.tls is not None else place.port.app_protocol in _TLS_PROTOCOLS
        host = f"[{place.address}]" if ":" in place.address else place.address
        yield BackendSpec(
            url=canonical_url(f"{'https' if tls else 'http'}://{host}:{place.port.port}"),
            source="kubernetes",
            name=place.name,
            draining=place.draining,
            server_name=f"{entry.service}.{namespace}.svc" if tls else "",
            node_name=place.machine,
        )


def _tcp(one: EndpointSlice) -> list[SlicePort]:
    return [each for each in one.ports or () if 0 < (each.port or 0) < 65536 and each.protocol in (None, "TCP")]


def _port(one: EndpointSlice, wanted: str) -> SlicePort | None:
    """The port that is meant, None where there is none, or several and none is named."""
    ports = _tcp(one)
    if not wanted:
        return ports[0] if len(ports) == 1 else None
    return next((each for each in ports if wanted in (each.name, str(each.port))), None)


def _problem(entry: ServicePort, slices: list[EndpointSlice], lacking: list[EndpointSlice]) -> str:
    if not slices:
        return "it has no EndpointSlice: is there a Service of this name with a selector?"
    if all(each.address_type == "FQDN" for each in slices):
        return "its endpoints are host names, which are not taken: list them in balancer.dns"
    if lacking:
        listed = ", ".join(sorted({str(port) for one in lacking for port in _tcp(one)}))
        if not listed:
            return "it has no port for TCP: write one into the Service, a headless one too"
        if not entry.port:
            return f"it has several ports ({listed}): write the one that is meant, {entry.service}:port"
        return f"it has no port {entry.port} at its pods; its ports: {listed}"
    return ""
