"""Containers and images as the Docker Engine's API describes them, as far as a deploy reads or writes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from trunkline.deploy.runtimes.base import RuntimeNode

COLOUR: Final = "trunkline.colour"
DEPLOY: Final = "trunkline.deploy"
PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
NUMBER: Final = "com.docker.compose.container-number"
COMPOSE_IMAGE: Final = "com.docker.compose.image"
REPLACES: Final = "com.docker.compose.replace"
SWARM_SERVICE: Final = "com.docker.swarm.service.name"


class Listed(msgspec.Struct, frozen=True, rename="pascal"):
    """A container in a list."""

    id: str
    names: tuple[str, ...] = ()
    labels: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """Without the slash that the API puts before it."""
        return self.names[0].removeprefix("/") if self.names else self.id[:12]


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """A command that says whether a container is well; times in ns."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Config(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """What a container runs, or what an image says that it runs."""

    image: str = ""
    env: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] | None = None
    exposed_ports: Mapping[str, Mapping[str, str]] | None = None
    volumes: Mapping[str, Mapping[str, str]] | None = None
    healthcheck: Healthcheck | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    shell: tuple[str, ...] | None = None
    hostname: str = ""
    domainname: str = ""
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    network_disabled: bool = False


class Image(msgspec.Struct, frozen=True, rename="pascal"):
    """An image that the daemon has."""

    id: str
    config: Config | None = None


class Attachment(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """How a container is attached to a network. Addresses of its own are left out: two containers cannot have one."""

    aliases: tuple[str, ...] | None = None
    links: tuple[str, ...] | None = None
    driver_opts: Mapping[str, str] | None = None
    gw_priority: int = 0


class Networks(msgspec.Struct, frozen=True, rename="pascal"):
    """The networks of a container by name."""

    networks: Mapping[str, Attachment | None] | None = None


class State(msgspec.Struct, frozen=True, rename="pascal"):
    """Of a container's process."""

    status: str = ""
    running: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    exit_code: int = 0
    error: str = ""


class Binding(msgspec.Struct, frozen=True, rename="pascal"):
    """A port of the machine that leads to one of a container."""

    host_ip: str = ""
    host_port: str = ""


class Host(msgspec.Struct, frozen=True, rename="pascal"):
    """What a deploy reads of a container's HostConfig, which is handed on as it is."""

    network_mode: str = ""
    port_bindings: Mapping[str, tuple[Binding, ...] | None] | None = None

    @property
    def fixed_ports(self) -> frozenset[tuple[str, str]]:
        """Ports of the machine that it has for itself, as (number, protocol)."""
        return frozenset(
            (binding.host_port, port.partition("/")[2] or "tcp")
            for port, bindings in (self.port_bindings or {}).items()
            for binding in bindings or ()
            if binding.host_port.isdecimal() and int(binding.host_port)
        )


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A container as it was inspected; `image` is the id of its image."""

    id: str
    name: str
    image: str
    state: State
    config: Config
    host_config: msgspec.Raw
    network_settings: Networks
    restart_count: int = 0

    @property
    def called(self) -> str:
        """Its name without the slash that the API puts before it."""
        return self.name.removeprefix("/")

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.config.labels or {}

    @property
    def colour(self) -> str:
        """The deploy group of its node."""
        return self.labels.get(COLOUR, "")

    @property
    def host(self) -> Host:
        """What is read of its HostConfig."""
        return msgspec.json.decode(self.host_config, type=Host)


class Endpoints(msgspec.Struct, frozen=True, rename="pascal"):
    """The networks that a container begins with."""

    endpoints_config: Mapping[str, Attachment]


class NewContainer(Config, frozen=True, rename="pascal", omit_defaults=True, kw_only=True):
    """The body of a request that creates a container."""

    host_config: msgspec.Raw
    networking_config: Endpoints


def node_of(container: Container) -> RuntimeNode:
    """A container as a node of a deploy."""
    state = container.state
    return RuntimeNode(
        container.called,
        container.colour,
        running=state.running and not state.restarting,
        failures=container.restart_count,
        given_up=_given_up(container),
    )


def _given_up(container: Container) -> str:
    """Why it is not started again, empty while it is, or when it has not been started yet."""
    state = container.state
    if state.status not in ("exited", "dead"):
        return ""
    if state.error:
        return state.error
    if state.oom_killed:
        return "it was killed: it needed more than its memory limit"
    return f"it exited with code {state.exit_code}"
