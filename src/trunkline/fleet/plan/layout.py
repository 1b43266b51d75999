"""What a fleet on one machine consists of: names, ports, command lines, environments. Pure.

Rules:

- Clients come in through the edge, which has the chosen port; every other port follows behind it.
- A data port and its admin port are neighbours, so parts are two ports apart.
- Nodes read the same file and the same environment as the fleet. Only what distinguishes them is laid over that, and
  names such as PORT that would give all of them the same place are taken away.
- The fleet is for one machine: nodes listen on loopback, and so does the edge unless an address is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from trunkline.errors import SettingsError
from trunkline.fleet.plan.parts import HOST, BalancerPlan, MonitorPlan, NodePlan, PartPlan, TraefikPlan
from trunkline.settings.load import Loaded

PORT_STEP: Final = 2
LAST_PORT: Final = 65_535

STOP_MARGIN_S: Final = 10.0
"""Time beyond its own shutdown deadline after which a node that does not end is killed."""

_VERSION: Final = "TRUNKLINE_SERVER_VERSION"

_OWN_PLACE: Final = (
    "PORT", "HOST", "TRUNKLINE_SERVER_PORT", "TRUNKLINE_SERVER_HOST", "TRUNKLINE_SERVER_NAME",
    "TRUNKLINE_SERVER_COLOUR", "TRUNKLINE_SERVER_APP", "TRUNKLINE_SERVER_ADVERTISE", "TRUNKLINE_ADMIN_PORT",
    "TRUNKLINE_BUS_URL", "TRUNKLINE_BALANCER_HOST", "TRUNKLINE_BALANCER_PORT", "TRUNKLINE_BALANCER_ADMIN_PORT",
    "TRUNKLINE_BALANCER_MODE",
)  # fmt: skip


class FleetPlan(msgspec.Struct, frozen=True):
    """The whole fleet.

    Attributes:
        traefik: the Traefik before the balancer, None when the balancer is the edge.
        nodes: those that it starts with.
        bus_prefix: the first token of all subjects.
        app: the application of nodes that name no other, as module:attribute; empty for the stock app.
        rotate_bytes: size at which a node's log file is rotated.
        keep_days: days that log files of parts stay which the fleet has no more.
        stop_timeout_s: time a node has for its orderly stop.
    """

    nodes: tuple[NodePlan, ...]
    balancer: BalancerPlan
    traefik: TraefikPlan | None
    monitor: MonitorPlan | None
    data_dir: Path
    bus_prefix: str
    app: str
    config_file: Path | None
    rotate_bytes: int
    keep_days: int
    stop_timeout_s: float

    @property
    def edge(self) -> BalancerPlan | TraefikPlan:
        """Where clients come in."""
        return self.traefik or self.balancer

    @property
    def parts(self) -> tuple[PartPlan, ...]:
        """All parts but NATS, in the order of their ports as a reader looks for them."""
        others = (self.traefik, self.balancer, self.monitor)
        return (*(part for part in others if part is not None), *self.nodes)

    @property
    def logs_dir(self) -> Path:
        """Where the log files of the nodes are."""
        return self.data_dir / "logs"

    def log_path(self, name: str) -> Path:
        """The log file of the part called `name`."""
        return self.logs_dir / f"{name}.log"


def make_plan(loaded: Loaded, first_port: int, monitor_port: int = 0) -> FleetPlan:
    """Give every part its name and ports (`monitor_port` 0: no monitoring); raises SettingsError if they do not fit."""
    settings = loaded.settings
    count = settings.up.nodes
    # A server listens on all interfaces by default; a fleet that somebody tries out must not be open to the network.
    host = HOST if loaded.sources["server.host"] == "default" else settings.server.host
    admin = settings.admin
    first_node = first_port + PORT_STEP
    first_admin = first_node + 1 if admin.port is None else admin.port
    nodes = tuple(
        NodePlan(
            name=f"node-{index + 1}",
            host=HOST,
            port=first_node + PORT_STEP * index,
            admin_host=admin.host,
            admin_port=first_admin + PORT_STEP * index if first_admin else 0,
            colour=settings.server.colour,
            app=settings.server.app,
        )
        for index in range(count)
    )
    behind = first_node + PORT_STEP * count
    traefik = None
    if settings.up.edge == "traefik":
        metrics_port = behind + 3 if monitor_port else 0
        traefik = TraefikPlan("traefik", host, first_port, behind + 1, behind + 2, metrics_port)
        balancer = BalancerPlan("balancer", HOST, behind, "steer", settings.balancer.admin_host, first_port + 1)
    else:
        balancer = BalancerPlan("edge", host, first_port, "relay", settings.balancer.admin_host, first_port + 1)
    plan = FleetPlan(
        nodes=nodes,
        balancer=balancer,
        traefik=traefik,
        monitor=MonitorPlan("monitor", HOST, monitor_port) if monitor_port else None,
        data_dir=settings.up.data_dir,
        bus_prefix=settings.bus.prefix,
        app=settings.server.app,
        config_file=loaded.file,
        rotate_bytes=settings.log.rotate_bytes,
        keep_days=settings.log.keep_days,
        stop_timeout_s=settings.server.shutdown_deadline_ms / 1000 + STOP_MARGIN_S,
    )
    _check_ports_fit(plan, loaded, first_port)
    return plan


def _check_ports_fit(plan: FleetPlan, loaded: Loaded, first_port: int) -> None:
    used = plan_ports(plan)
    if max(used) > LAST_PORT:
        raise SettingsError(
            "up.port",
            value=str(first_port),
            allowed=f"{len(plan.nodes)} nodes need the ports up to {max(used)}, and {LAST_PORT} is the last one",
            source=loaded.sources["up.port"],
        )
    twice = next((port for port in used if used.count(port) > 1), None)
    if twice is not None:
        raise SettingsError(
            "admin.port",
            value=str(loaded.settings.admin.port),
            allowed=f"port {twice} would be in use twice within the fleet; leave admin.port out",
            source=loaded.sources["admin.port"],
        )


def ports_needed(nodes: int, edge: str) -> int:
    """How many ports in a row a fleet takes."""
    return PORT_STEP * (nodes + 1) + (4 if edge == "traefik" else 0)


def plan_ports(plan: FleetPlan) -> list[int]:
    """Every port of the plan, in order of its parts."""
    return [port for part in plan.parts for _, port in part.ports if port]


def part_command(plan: FleetPlan, part: PartPlan, nats_url: str, python: str) -> list[str]:
    """The command line of a part, run by `python` unless it is a node with another one.

    `nats_url` must hold no token: other users of the machine can read a command line.
    """
    if isinstance(part, TraefikPlan):
        return list(part.command)
    command = [part.python or python if isinstance(part, NodePlan) else python, "-m", "trunkline"]
    if isinstance(part, MonitorPlan):
        command += ["monitor", "up", "--fleet", plan.balancer.admin_url, "--port", str(part.port)]
        command += ["--data-dir", str(plan.data_dir.absolute() / "monitor")]
    elif isinstance(part, BalancerPlan):
        host = f"[{part.host}]" if ":" in part.host else part.host
        command += ["balance", "--listen", f"{host}:{part.port}", "--mode", part.mode, "--bus", nats_url]
    else:
        command.append("serve")
        if part.app:
            command.append(part.app)
        command += ["--host", part.host, "--port", str(part.port), "--name", part.name, "--colour", part.colour]
        command += ["--bus", nats_url]
    if plan.config_file is not None:
        command += ["--config", str(plan.config_file)]
    return command


def part_environment(plan: FleetPlan, part: PartPlan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a part: that of the fleet, with a place of its own."""
    own = {name: value for name, value in environ.items() if name not in _OWN_PLACE}
    if isinstance(part, NodePlan):
        own["TRUNKLINE_ADMIN_PORT"] = str(part.admin_port)
        own["TRUNKLINE_SERVER_ADVERTISE"] = part.page_url
        # Only the edge reaches a node here, so its forwarding headers can be trusted.
        own.setdefault("TRUNKLINE_SERVER_TRUSTED_PROXIES", "127.0.0.0/8,::1/128")
        if part.python:
            # That of the fleet's release is not this one's, and an older release does not know the setting.
            own.pop(_VERSION, None)
        if part.version:
            own[_VERSION] = part.version
    elif isinstance(part, MonitorPlan):
        if plan.traefik is not None:
            own["TRUNKLINE_MONITOR_TRAEFIK"] = f"{HOST}:{plan.traefik.metrics_port}"
    elif isinstance(part, BalancerPlan):
        own["TRUNKLINE_BALANCER_ADMIN_PORT"] = str(part.admin_port)
        # Whoever took it over would have no supervisor, and this one would start another without a port.
        own["TRUNKLINE_BALANCER_HAND_OVER"] = "false"
        if plan.traefik is not None:
            own |= traefik_environment(plan)
    # Lines of a part that dies are still in its buffer otherwise.
    own["PYTHONUNBUFFERED"] = "1"
    return own


def traefik_environment(plan: FleetPlan) -> dict[str, str]:
    """The settings that make Traefik and the balancer of a fleet find each other."""
    if plan.traefik is None:
        return {}
    return {
        "TRUNKLINE_TRAEFIK_STEER": "true",
        "TRUNKLINE_TRAEFIK_HOST": plan.traefik.host,
        "TRUNKLINE_TRAEFIK_HTTP_PORT": str(plan.traefik.port),
        "TRUNKLINE_TRAEFIK_FAIL_OPEN_PORT": str(plan.traefik.fail_open_port),
        "TRUNKLINE_TRAEFIK_PING_PORT": str(plan.traefik.ping_port),
        "TRUNKLINE_TRAEFIK_BALANCER_URL": plan.balancer.page_url,
        # A fleet for trying out is small; its changes should show at once.
        "TRUNKLINE_TRAEFIK_POLL_INTERVAL_MS": "200",
        # What belongs to the public place of the real one: on this machine there is plain HTTP under any name.
        "TRUNKLINE_TRAEFIK_HTTPS_PORT": "0",
        "TRUNKLINE_TRAEFIK_METRICS_PORT": str(plan.traefik.metrics_port),
        "TRUNKLINE_TRAEFIK_DOMAIN": "*",
        "TRUNKLINE_TRAEFIK_SAME_SITE": "lax",
    }


class TakenPort(msgspec.Struct, frozen=True):
    """A port of the plan that cannot be used, and the reason."""

    host: str
    port: int
    why: str


def taken_text(taken: Sequence[TakenPort], plan: FleetPlan) -> tuple[str, str]:
    """What is wrong and what to do about it, when at least one port of the plan cannot be used."""
    places: dict[tuple[str, str], list[int]] = {}
    for port in taken:
        places.setdefault((port.host, port.why), []).append(port.port)
    what = "; ".join(
        f"port{'s' if len(ports) > 1 else ''} {', '.join(map(str, sorted(ports)))} on {host}: {why}"
        for (host, why), ports in places.items()
    )
    needed = ", ".join(str(port) for port in sorted(plan_ports(plan)))
    return (
        f"the fleet cannot start, {what}",
        f"Stop what uses it (another fleet?), or choose another first port with --port (this fleet needs {needed}).",
    )
