"""Connects `trunkline deploy` to its fleet: by the settings and options, or by the `trunkline up` of this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec.structs import replace

from trunkline.deploy.load_parts import LoadWitnesses, smoking
from trunkline.deploy.machine.plan import Plan
from trunkline.deploy.parts import Parts
from trunkline.deploy.runtimes.base import Runtime, RuntimeFailed
from trunkline.deploy.runtimes.local import LocalRuntime
from trunkline.deploy.runtimes.none import NoRuntime
from trunkline.deploy.world.reach import LOCAL, Fleet, fleet_of
from trunkline.docker.endpoint import config_dir, of_environment
from trunkline.docker.package import require
from trunkline.errors import SettingsError
from trunkline.load.deploys.preflight import preflight
from trunkline.load.token_file import TokenFile
from trunkline.process.control.messages import CONTROL_SOCKET
from trunkline.settings.balancer import BalancerSettings
from trunkline.settings.kubernetes import KubernetesSettings
from trunkline.settings.load import Loaded
from trunkline.settings.sections import Settings

RUNTIMES = ("none", "local", "docker", "kubernetes")
FEED_PATH = "/ws"


class Reached(NamedTuple):
    """What a command knows of its fleet before it connects.

    Attributes:
        loaded: the settings, with the bus that is meant.
        balancers: admin addresses, empty for that of the settings.
        edge: where clients connect, empty when nobody says so.
        alertmanagers: host and port of those whose alerts are shown.
    """

    loaded: Loaded
    balancers: tuple[str, ...]
    edge: str
    alertmanagers: tuple[str, ...]


async def find(loaded: Loaded, balancers: Sequence[str], edge: str | None, *, local: bool) -> Reached:
    """Where the fleet is: what the options say, else the running `trunkline up`, else the settings.

    Args:
        loaded: settings.
        balancers: admin addresses that were named.
        edge: address that was named.
        local: whether it has to be that of `trunkline up`; otherwise it is when nothing else is named and it runs.

    Raises RuntimeFailed when it has to be and does not run.
    """
    settings = loaded.settings
    alertmanagers = settings.monitor.alertmanagers
    named = bool(balancers) or loaded.sources["bus.url"] != "default"
    if local or (not named and (settings.up.data_dir / CONTROL_SOCKET).exists()):
        try:
            places = await LocalRuntime(settings.up.data_dir).places()
        except RuntimeFailed:
            if local:
                raise
        else:
            settings = replace(settings, bus=replace(settings.bus, url=places.bus))
            found = tuple(balancers) or (places.balancer,)
            if places.alertmanager:
                alertmanagers = (places.alertmanager,)
            elif loaded.sources["monitor.alertmanagers"] == "default":
                alertmanagers = ()  # the default address has none, or that of another fleet
            return Reached(loaded._replace(settings=settings), found, edge or places.edge, alertmanagers)
    return Reached(loaded, tuple(balancers), edge or _relay(settings.balancer), alertmanagers)


class Edge(NamedTuple):
    """Where clients connect, and as whom the deploy's own do.

    Attributes:
        url: ws:// or wss:// address of the feed, empty when nobody says so. Nodes are asked at its path.
        token: bearer token, empty for none.
        renewed: a newer one, once there is one.
        verify_tls: whether certificates have to be valid.
        ca_file: certificates to trust instead of the system's.
    """

    url: str
    token: str
    renewed: Callable[[], str | None]
    verify_tls: bool
    ca_file: str

    async def why_not(self, witnesses: int) -> str:
        """Why witnesses cannot be run from here, empty when nothing speaks against it."""
        return await preflight(self.url, witnesses, token=self.token, verify_tls=self.verify_tls, ca_file=self.ca_file)


@contextlib.asynccontextmanager
async def connected(reached: Reached, *, world: bool = True) -> AsyncIterator[Fleet]:
    """The fleet, until the end of the `with`; raises as `fleet_of` does."""
    async with fleet_of(reached.loaded.settings, reached.balancers, owner=owner(), world=world) as fleet:
        yield fleet


def runtime_of(plan: Plan, settings: Settings) -> Runtime:
    """That of a plan; raises SettingsError when there is none so called, StartError when it lacks a package."""
    match plan.runtime:
        case "none":
            return NoRuntime()
        case "local":
            return LocalRuntime(settings.up.data_dir)
        case "docker":
            return _docker(plan)
        case "kubernetes":
            return _kubernetes(settings.kubernetes)
    raise SettingsError("--runtime", value=plan.runtime, allowed=f"there are {', '.join(RUNTIMES)}")


def _docker(plan: Plan) -> Runtime:
    require("--runtime docker")
    from trunkline.deploy.runtimes.docker.runtime import DockerRuntime, Scope

    scope = Scope(plan.id, plan.from_colour, plan.to_colour, plan.what.project)
    return DockerRuntime(of_environment(os.environ), scope, config_dir(os.environ))


def _kubernetes(settings: KubernetesSettings) -> Runtime:
    from trunkline.deploy.runtimes.kubernetes.runtime import KubernetesRuntime
    from trunkline.kubernetes.kubeconfig import find_access

    return KubernetesRuntime(find_access(settings.kubeconfig, settings.context, os.environ), settings)


def edge_of(url: str, token_file: Path | None, ca: Path | None, *, insecure: bool) -> Edge:
    """Where the deploy's own clients connect; raises SettingsError for no WebSocket address."""
    if url and urlsplit(url).scheme not in ("ws", "wss"):
        raise SettingsError("--edge", value=url, allowed="an address such as wss://live.example.org/ws")
    file = TokenFile(token_file) if token_file is not None else None
    token = file.token if file is not None else ""

    def renewed() -> str | None:
        return file.renewed(time.monotonic()) if file is not None else None

    return Edge(url, token, renewed, not insecure, str(ca) if ca is not None else "")


def parts_of(fleet: Fleet, loaded: Loaded, edge: Edge) -> Parts:
    """What the driver works with; without an edge there are no witnesses."""
    return Parts(
        store=fleet.store,
        world=fleet.world,
        runtime=lambda plan: runtime_of(plan, loaded.settings),
        smoke=smoking(
            urlsplit(edge.url).path or FEED_PATH, token=edge.token, verify_tls=edge.verify_tls, ca_file=edge.ca_file
        ),
        preflight=edge.why_not,
        witnesses=partial(
            LoadWitnesses,
            edge.url,
            token=edge.token,
            renewed=edge.renewed,
            verify_tls=edge.verify_tls,
            ca_file=edge.ca_file,
        )
        if edge.url
        else None,
    )


def owner() -> str:
    """Who runs this, in words for people."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a bare user number, as in a container
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def _relay(balancer: BalancerSettings) -> str:
    """Where clients connect to the relay of the settings, empty when Traefik stands there."""
    if balancer.mode != "relay" or not balancer.port:
        return ""
    host = LOCAL.get(balancer.host, balancer.host)
    scheme = "wss" if balancer.tls_cert_file is not None else "ws"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{balancer.port}/ws"
