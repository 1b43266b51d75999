"""What a machine is to hold, from the settings and the flags of the command. Pure."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from trunkline.settings.sections import Settings

Role = Literal["node", "balancer", "load"]
ROLES: Final[tuple[Role, ...]] = ("node", "balancer", "load")

CONNECTIONS: Final = 10_000
"""What a node takes that no memory limit bounds."""


class Wanted(msgspec.Struct, frozen=True):
    """What a machine is to hold.

    Attributes:
        connections: of clients, at once.
        roles: what runs on it: nodes, a balancer that relays, the load tester.
        backends: over which a balancer spreads them, at addresses of their own.
        memory_limit: of a node in bytes, by its setting; None: that of its control group.
        most: connections of a node, by its setting; None: what its memory takes.
        base_bytes: memory of a node without connections, `each_bytes` for one of them.
        message_bytes: longest message of a client.
        listens: ports that ours listen on, by setting.
    """

    connections: int = CONNECTIONS
    roles: tuple[Role, ...] = ("node", "balancer")
    backends: int = 1
    memory_limit: int | None = None
    most: int | None = None
    base_bytes: int = 134_217_728
    each_bytes: int = 184_320
    message_bytes: int = 65_536
    listens: tuple[tuple[str, int], ...] = ()

    @property
    def files_each(self) -> int:
        """Open files that a connection needs: two in a relay, which has a socket on either side."""
        return 2 if "balancer" in self.roles else 1

    @property
    def dials(self) -> bool:
        """Whether this machine opens a connection for each client: to a backend, or as the client."""
        return "balancer" in self.roles or "load" in self.roles


def wanted(settings: Settings, *, connections: int | None, roles: tuple[Role, ...], backends: int | None) -> Wanted:
    """From settings; what the flags say wins."""
    server = settings.server
    ports = (
        ("server.port", server.port),
        ("admin.port", settings.admin.port if settings.admin.port is not None else server.port + 1),
        ("balancer.port", settings.balancer.port),
        ("balancer.admin_port", settings.balancer.admin_port),
        ("up.port", settings.up.port),
    )
    return Wanted(
        connections=connections or server.max_connections or CONNECTIONS,
        roles=roles,
        backends=backends or len(settings.balancer.backends) or 1,
        memory_limit=server.memory_limit_bytes,
        most=server.max_connections,
        base_bytes=server.memory_base_bytes,
        each_bytes=server.memory_per_connection_bytes,
        message_bytes=server.message_bytes,
        listens=tuple((name, port) for name, port in ports if port),
    )
