"""The parts of a fleet on one machine: their names, where they listen, and what shows that they are ready. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from trunkline.monitor.local.ports import ALERTMANAGER_STEP, NODE_EXPORTER_STEP

HOST: Final = "127.0.0.1"
"""Where everything listens but the edge, which may have another address."""


class Place(msgspec.Struct, frozen=True):
    """What all parts have: a name, which is also that of the log file, and the address and port clients connect to."""

    name: str
    host: str
    port: int

    @property
    def page_url(self) -> str:
        """Where a browser on this machine finds it."""
        return f"http://{authority(self.host, self.port)}"

    @property
    def websocket_url(self) -> str:
        """Where a client on this machine connects, if it is a node or the edge."""
        return f"ws://{authority(self.host, self.port)}/ws"


class NodePlan(Place, frozen=True):
    """One node of the fleet.

    Attributes:
        admin_port: 0 for none.
        colour: its deploy group.
        app: the application as module:attribute, empty for the stock app.
        python: the interpreter that runs it, empty for that of the fleet.
        version: what it reports as `server.version`, empty for that of the fleet's settings.
    """

    admin_host: str
    admin_port: int
    colour: str
    app: str = ""
    python: str = ""
    version: str = ""

    @property
    def admin_url(self) -> str:
        """Where the admin port is, empty for none."""
        return f"http://{authority(self.admin_host, self.admin_port)}" if self.admin_port else ""

    @property
    def ready_url(self) -> str:
        """What answers 200 when the node wants traffic."""
        return f"{self.page_url}/ready"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        return ((self.host, self.port), (self.admin_host, self.admin_port))


class BalancerPlan(Place, frozen=True):
    """The balancer: the edge itself when it relays, else what Traefik asks."""

    mode: Literal["relay", "steer"]
    admin_host: str
    admin_port: int

    @property
    def admin_url(self) -> str:
        """Where its admin port is."""
        return f"http://{authority(self.admin_host, self.admin_port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 when it has a backend."""
        return f"{self.admin_url}/ready"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        return ((self.host, self.port), (self.admin_host, self.admin_port))


class TraefikPlan(Place, frozen=True):
    """A Traefik that the balancer steers; the three ports are on loopback.

    Attributes:
        fail_open_port: through it Traefik asks the balancer.
        ping_port: there it answers that it is alive.
        metrics_port: that of its series, 0 for none.
        command: program and arguments.
        files: what it reads, path and text, to be written before it starts.
    """

    fail_open_port: int
    ping_port: int
    metrics_port: int = 0
    command: tuple[str, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()

    @property
    def ready_url(self) -> str:
        """What answers 200 when it has fetched its routes: only then the page of a node comes through."""
        return f"{self.page_url}/healthz"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        own = (self.fail_open_port, self.ping_port, self.metrics_port)
        return ((self.host, self.port), *((HOST, port) for port in own if port))


class MonitorPlan(Place, frozen=True):
    """Prometheus, which has the port, Alertmanager and node_exporter, watching the fleet."""

    @property
    def ready_url(self) -> str:
        """What answers 200 when Prometheus is ready."""
        return f"{self.page_url}/-/ready"

    @property
    def alertmanager(self) -> str:
        """Host and port of Alertmanager."""
        return authority(HOST, self.port + ALERTMANAGER_STEP)

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that the three listen on."""
        return tuple((HOST, self.port + step) for step in (0, ALERTMANAGER_STEP, NODE_EXPORTER_STEP))


PartPlan = NodePlan | BalancerPlan | TraefikPlan | MonitorPlan


def authority(host: str, port: int) -> str:
    """`host:port` under which this machine reaches what listens there, as a URL spells it."""
    name = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
