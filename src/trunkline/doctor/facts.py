"""What was read of a machine and of the servers that were asked; None is what could not be read. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

Place = Literal["host", "container", "pod"]
ServiceKind = Literal["NATS", "Redis", "Traefik"]


class Ports(msgspec.Struct, frozen=True):
    """A range of ports, both ends included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


class Files(msgspec.Struct, frozen=True):
    """Open files.

    Attributes:
        hard: what the process may open once it has raised its own limit.
        most: of all processes of the machine (`fs.file-max`); `open_now` of them are.
        ceiling: what a hard limit may be set to (`fs.nr_open`).
    """

    hard: int | None = None
    most: int | None = None
    open_now: int | None = None
    ceiling: int | None = None


class Network(msgspec.Struct, frozen=True):
    """Settings of the kernel's network.

    Attributes:
        somaxconn: longest queue of a listening socket; `syn_backlog` of handshakes under way.
        ports: from which outgoing connections get theirs, without those of `reserved`.
        tracked: connections in the table of connections (conntrack), which holds `tracked_most`.
        tcp_memory_bytes: of all TCP buffers together; the kernel counts them in pages of `page_bytes`.
    """

    somaxconn: int | None = None
    syn_backlog: int | None = None
    ports: Ports | None = None
    reserved: tuple[Ports, ...] = ()
    tracked: int | None = None
    tracked_most: int | None = None
    tcp_memory_bytes: int | None = None
    page_bytes: int = 4096


class Memory(msgspec.Struct, frozen=True):
    """Memory in bytes: `limit` of the control group, None for none."""

    limit: int | None = None
    total: int | None = None
    available: int | None = None
    swap_used: int | None = None


class Disk(msgspec.Struct, frozen=True):
    """The file system that holds a directory: `kind` as the kernel names it."""

    directory: str
    kind: str
    total: int
    free: int
    files_free: int | None = None


class Clock(msgspec.Struct, frozen=True):
    """The clock: whether a time service keeps it, by how much it may be off, and what it is read from."""

    synchronised: bool | None = None
    off_ms: float | None = None
    source: str = ""


class Service(msgspec.Struct, frozen=True):
    """A server that was asked, or a program that is installed here.

    Attributes:
        where: its address without secrets, or the program's path.
        version: as it says it; empty when unknown.
        problem: why it could not be asked, in words.
        asked: whether a running server was asked.
        stores: of NATS, whether JetStream is on.
        message_bytes: of NATS, its longest message.
    """

    kind: ServiceKind
    where: str
    version: str = ""
    problem: str = ""
    asked: bool = False
    stores: bool | None = None
    message_bytes: int | None = None


class Machine(msgspec.Struct, frozen=True):
    """All that was read.

    Attributes:
        system: name of the kernel, e.g. `Linux`, and its version.
        place: in what the process runs.
        cpus: that the process may use, `cpu_quota` of their time.
        io_uring: whether a process may use it.
    """

    system: str
    place: Place = "host"
    cpus: int = 1
    cpu_quota: float | None = None
    files: Files = Files()
    network: Network = Network()
    memory: Memory = Memory()
    disk: Disk | None = None
    clock: Clock = Clock()
    io_uring: bool | None = None
    python: str = ""
    services: tuple[Service, ...] = ()
