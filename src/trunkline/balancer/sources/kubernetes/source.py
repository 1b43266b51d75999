"""Backends among the endpoints of Services, which the API server is watched for (see `slices`).

Facts:

- One watch follows the slices of each Service. Changes arrive at once; a cut watch goes on from where it was.
- While the API server is away, refuses, or its token has expired, the last list stays; begin and end are logged.
- A Service without slices, or without the port, is named in one log line until that changes.
- It needs `RULE` in the namespace of each Service.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from trunkline.balancer.sources.base import Update
from trunkline.balancer.sources.kubernetes.slices import (
    SERVICE_LABEL,
    EndpointSlice,
    ServicePort,
    backends_of,
    parse_entry,
)
from trunkline.kubernetes.access import Access
from trunkline.kubernetes.client import ApiClient
from trunkline.kubernetes.failures import ApiFailed, Rule
from trunkline.kubernetes.follow import FIRST_PAUSE_S, WATCH_S, Following
from trunkline.kubernetes.objects import ENDPOINT_SLICES, selector
from trunkline.placement.backend import BackendSpec

log = structlog.get_logger("trunkline.balancer")

RULE: Final = Rule("discovery.k8s.io", ("endpointslices",), ("list", "watch"))
"""What the balancer's Role has to allow."""


class KubernetesSource:
    """The endpoints of the Services that are named.

    Args:
        entries: `balancer.kubernetes`.
        access: the API server.
        namespace: of entries that name none, empty for that of `access`.
        watch_s: seconds that a watch is asked to last.
        first_pause_s: seconds before the second try after a failure.

    Raises:
        SettingsError: an entry that cannot be read.
    """

    def __init__(
        self,
        entries: Sequence[str],
        access: Access,
        namespace: str = "",
        *,
        watch_s: int = WATCH_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        default = namespace or access.namespace
        self._services: dict[tuple[str, str], _Service] = {}
        for text in dict.fromkeys(entries):
            entry = parse_entry(text)
            place = (entry.namespace or default, entry.service)
            self._services.setdefault(place, _Service(*place)).ports.append(_Port(entry))
        self._access = access
        self._watch_s = watch_s
        self._first_pause_s = first_pause_s
        self._sent: tuple[BackendSpec, ...] | None = None

    async def run(self, update: Update) -> None:
        """Follow the slices and give their backends at each change, until cancelled."""
        async with ApiClient(self._access) as client, asyncio.TaskGroup() as group:
            for service in self._services.values():
                service.news = functools.partial(self._send, update)
                group.create_task(self._following(client, service).run(service))

    def _following(self, client: ApiClient, service: _Service) -> Following[EndpointSlice]:
        labels = selector({SERVICE_LABEL: service.name})
        return Following(
            client, ENDPOINT_SLICES, EndpointSlice, service.namespace, labels,
            watch_s=self._watch_s, first_pause_s=self._first_pause_s,
        )  # fmt: skip

    def _send(self, update: Update) -> None:
        if not all(service.tried for service in self._services.values()):
            return  # the first list is given when every Service was asked for once
        specs = {spec.url: spec for service in self._services.values() for port in service.ports for spec in port.specs}
        if (found := tuple(specs.values())) != self._sent:
            self._sent = found
            update(found)


class _Port:
    """One entry, with what is known of it."""

    def __init__(self, entry: ServicePort) -> None:
        self.entry = entry
        self.specs: tuple[BackendSpec, ...] = ()
        self._ready: frozenset[str] = frozenset()
        self._problem = ""

    def take(self, slices: Mapping[str, EndpointSlice], namespace: str) -> None:
        """Find its backends, and name what is wrong once."""
        found = backends_of(slices.values(), self.entry, namespace, self._ready)
        self.specs, self._ready = found.specs, found.ready
        if found.problem != self._problem:
            self._problem = found.problem
            if found.problem:
                log.warning(
                    "kubernetes_service_unusable", service=f"{namespace}/{self.entry.service}", why=found.problem
                )


class _Service:
    """One Service; a `Follower` of its slices.

    Attributes:
        ports: the entries that name it.
        tried: whether there is a list, or the first attempt has failed.
        news: called after each change.
    """

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace = namespace
        self.name = name
        self.ports: list[_Port] = []
        self.tried = False
        self.news: Callable[[], None] = lambda: None
        self._lost = ""

    def changed(self, slices: Mapping[str, EndpointSlice]) -> None:
        """The slices are now as given."""
        for port in self.ports:
            port.take(slices, self.namespace)
        self.tried = True
        self.news()

    def working(self) -> None:
        """It is followed."""
        if self._lost:
            self._lost = ""
            log.info("kubernetes_back", service=f"{self.namespace}/{self.name}", backends=self._count())

    def failed(self, error: ApiFailed) -> None:
        """It is not; the last backends stay."""
        why = str(error)
        if why != self._lost:
            self._lost = why
            where = f"{self.namespace}/{self.name}"
            log.warning("kubernetes_lost", service=where, why=why, keeps_backends=self._count())
        self.tried = True
        self.news()

    def _count(self) -> int:
        return sum(len(port.specs) for port in self.ports)
