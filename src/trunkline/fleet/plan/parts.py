"""The parts of a fleet on one machine: their names, where they listen, and what shows that they are ready. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from trunkline.monitor.local.ports import ALERTMANAGER_STEP, NODE_EXPORTER_STEP

HOST: Final = "127.0.0.1"
"""Where everything listens but the edge, which may have another address."""


class NodePlan(msgspec.Struct, frozen=True):
    """One node of the fleet.

    Attributes:
        name: its name, also that of its log file.
        host: the address its data port listens on.
        port: its data port.
        admin_host: the address its admin port listens on.
        admin_port: its admin port, 0 for none.
    """

    name: str
    host: str
    port: int
    admin_host: str
    admin_port: int

    @property
    def page_url(self) -> str:
        """Where a browser finds the node, on this machine."""
        return f"http://{authority(self.host, self.port)}"

    @property
    def websocket_url(self) -> str:
        """Where a client connects, on this machine."""
        return f"ws://{authority(self.host, self.port)}/ws"

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


class BalancerPlan(msgspec.Struct, frozen=True):
    """The balancer: the edge itself when it relays, else what Traefik asks for each pick.

    Attributes:
        name: its name.
        mode: relay or steer.
        host: the address it listens on.
        port: its port.
        admin_port: its admin port, on loopback.
    """

    name: str
    mode: Literal["relay", "steer"]
    host: str
    port: int
    admin_port: int

    @property
    def page_url(self) -> str:
        """Where it is, on this machine."""
        return f"http://{authority(self.host, self.port)}"

    @property
    def admin_url(self) -> str:
        """Where its admin port is."""
        return f"http://{authority(HOST, self.admin_port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 when it has a backend."""
        return f"{self.admin_url}/ready"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        return ((self.host, self.port), (HOST, self.admin_port))


class TraefikPlan(msgspec.Struct, frozen=True):
    """A Traefik that the balancer steers.

    Attributes:
        name: its name.
        host: the address it listens on.
        port: its port.
        fail_open_port: the loopback port through which it asks the balancer.
        ping_port: the loopback port on which it answers that it is alive.
        metrics_port: the loopback port of its series, 0 for none.
        command: program and arguments.
        files: what it reads, path and text, to be written before it starts.
    """

    name: str
    host: str
    port: int
    fail_open_port: int
    ping_port: int
    metrics_port: int = 0
    command: tuple[str, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()

    @property
    def page_url(self) -> str:
        """Where it is, on this machine."""
        return f"http://{authority(self.host, self.port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 when it has fetched its routes: only then the page of a node comes through."""
        return f"{self.page_url}/healthz"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that it listens on."""
        own = (self.fail_open_port, self.ping_port, self.metrics_port)
        return ((self.host, self.port), *((HOST, port) for port in own if port))


class MonitorPlan(msgspec.Struct, frozen=True):
    """Prometheus, Alertmanager and node_exporter, watching the fleet.

    Attributes:
        name: its name.
        port: that of Prometheus; those of the others follow.
    """

    name: str
    port: int

    @property
    def page_url(self) -> str:
        """Where Prometheus is."""
        return f"http://{authority(HOST, self.port)}"

    @property
    def ready_url(self) -> str:
        """What answers 200 when Prometheus is ready."""
        return f"{self.page_url}/-/ready"

    @property
    def ports(self) -> tuple[tuple[str, int], ...]:
        """Addresses and ports that the three listen on."""
        return tuple((HOST, self.port + step) for step in (0, ALERTMANAGER_STEP, NODE_EXPORTER_STEP))


PartPlan = NodePlan | BalancerPlan | TraefikPlan | MonitorPlan


def reachable(host: str) -> str:
    """The address under which this machine reaches something that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def authority(host: str, port: int) -> str:
    """`host:port` as a URL on this machine spells it."""
    name = reachable(host)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
