"""Queues, local ports, the table of connections and TCP's memory. Pure."""

from __future__ import annotations

from typing import Final

from trunkline.doctor.checks.advice import set_to
from trunkline.doctor.facts import Machine, Ports
from trunkline.doctor.finding import Finding, error, ok, unknown, warning
from trunkline.doctor.wanted import Wanted
from trunkline.net.listening import BACKLOG

PORTS: Final = "10240 65535"
TRACKED_BYTES: Final = 320
"""What one entry of the table of connections takes."""

TRACKED_SPARE: Final = 2
"""The table holds ended connections too, for two minutes: after all clients came back at once, as many again."""

SOCKET_BYTES: Final = 16 * 1024
"""TCP memory for each connection of which a few are busy at a time."""


def listen_queue(machine: Machine, wanted: Wanted) -> Finding:
    """Connections that wait to be accepted: when all clients come back at once, what does not fit waits for seconds."""
    del wanted
    network = machine.network
    if network.somaxconn is None:
        return unknown("listen queue", "net.core.somaxconn could not be read")
    if network.somaxconn < BACKLOG:
        found = f"net.core.somaxconn is {network.somaxconn:,}, and {BACKLOG:,} are asked for"
        return warning("listen queue", found, set_to(machine, "net.core.somaxconn", str(BACKLOG)))
    if network.syn_backlog is not None and network.syn_backlog < BACKLOG:
        found = f"net.ipv4.tcp_max_syn_backlog is {network.syn_backlog:,}, below the listen queue of {BACKLOG:,}"
        return warning("listen queue", found, set_to(machine, "net.ipv4.tcp_max_syn_backlog", str(BACKLOG)))
    return ok("listen queue", f"{network.somaxconn:,} connections may wait, {BACKLOG:,} are asked for")


def local_ports(machine: Machine, wanted: Wanted) -> Finding:
    """An outgoing connection takes a local port, which another one to the same address and port cannot have."""
    ports = machine.network.ports
    if ports is None:
        return unknown("local ports", "net.ipv4.ip_local_port_range could not be read")
    free = len(ports) - sum(
        max(0, min(each.last, ports.last) - max(each.first, ports.first) + 1) for each in machine.network.reserved
    )
    each = -(-wanted.connections // wanted.backends)
    found = f"{ports.first} to {ports.last}: {free:,} connections to one address of a backend"
    if wanted.dials and each > free:
        do = f"{set_to(machine, 'net.ipv4.ip_local_port_range', PORTS)}; more backends, or more addresses, add as many"
        return error("local ports", f"{found}; wanted are {each:,}", do)
    taken = [
        (name, port)
        for name, port in wanted.listens
        if port in ports and not any(port in each for each in machine.network.reserved)
    ]
    if taken:
        names = ", ".join(f"{name} ({port})" for name, port in taken)
        # The setting is replaced as a whole: what others have reserved stays.
        reserved = {*machine.network.reserved, *(Ports(port, port) for _, port in taken)}
        value = ",".join(map(str, sorted(reserved, key=lambda each: each.first)))
        do = set_to(machine, "net.ipv4.ip_local_reserved_ports", value)
        return warning("local ports", f"{found}; an outgoing connection may take the port of {names}", do)
    return ok("local ports", found)


def connection_tracking(machine: Machine, wanted: Wanted) -> Finding:
    """Where a firewall or Docker tracks connections, its table drops new ones when it is full."""
    network = machine.network
    if network.tracked_most is None:
        return ok("connection tracking", "connections are not tracked here, or the table is the host's")
    # A relay's connection to its backend is one of its own.
    need = wanted.connections * wanted.files_each * TRACKED_SPARE
    held = network.tracked or 0
    found = f"{held:,} of {network.tracked_most:,} connections are in the table"
    if network.tracked_most - held >= need:
        return ok("connection tracking", found)
    most = 1 << (held + need - 1).bit_length()
    size = f"{most * TRACKED_BYTES // (1 << 20):,} MiB"
    do = f"{set_to(machine, 'net.netfilter.nf_conntrack_max', str(most))} (takes up to {size} of memory)"
    return error("connection tracking", f"{found}; {need:,} more are wanted", do)


def tcp_memory(machine: Machine, wanted: Wanted) -> Finding:
    """All TCP buffers together: above the bound the kernel drops packets, and every connection gets slow."""
    most = machine.network.tcp_memory_bytes
    if most is None:
        return unknown("TCP memory", "net.ipv4.tcp_mem could not be read")
    need = wanted.connections * wanted.files_each * SOCKET_BYTES
    found = f"{most // (1 << 20):,} MiB for all buffers, {need // (1 << 20):,} MiB for what is wanted"
    if most >= need:
        return ok("TCP memory", found)
    pages = -(-need // machine.network.page_bytes)
    value = f"{pages // 2} {pages * 3 // 4} {pages}"
    return warning("TCP memory", found, set_to(machine, "net.ipv4.tcp_mem", value))
