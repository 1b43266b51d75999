"""Memory and processors. Pure."""

from __future__ import annotations

from typing import Final

from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, error, ok, unknown, warning
from trunkline.doctor.wanted import Wanted
from trunkline.server.node.capacity import MAX_CONNECTIONS, max_connections

MIB: Final = 1 << 20
SWAPPED: Final = 64 * MIB


def memory_limit(machine: Machine, wanted: Wanted) -> Finding:
    """A node takes as many connections as its memory limit has room for, and refuses the others."""
    if "node" not in wanted.roles:
        return ok("memory limit", "no node runs here")
    limit = wanted.memory_limit or machine.memory.limit
    need = wanted.base_bytes + wanted.connections * wanted.each_bytes
    takes = wanted.most or max_connections(limit, wanted.base_bytes, wanted.each_bytes)
    bound = f"{limit // MIB:,} MiB" if limit is not None else "none"
    found = f"{bound}: a node takes {takes:,} connections"
    if takes < wanted.connections and limit is None:
        do = f"set server.max_connections to {wanted.connections}; without a limit of memory a node stops there"
        return error("memory limit", f"{found}; wanted are {wanted.connections:,}", do)
    if takes < wanted.connections and wanted.connections > MAX_CONNECTIONS:
        do = f"start several nodes, or set server.max_connections: by itself a node takes {MAX_CONNECTIONS:,} at most"
        return error("memory limit", f"{found}; wanted are {wanted.connections:,}", do)
    if takes < wanted.connections:
        where = {
            "host": f"MemoryMax={-(-need // MIB)}M in the systemd unit",
            "container": f"mem_limit: {-(-need // MIB)}m in Compose",
            "pod": f"resources.limits.memory: {-(-need // MIB)}Mi",
        }[machine.place]
        return error("memory limit", f"{found}; wanted are {wanted.connections:,}", f"{where}, or more nodes")
    if limit is not None and wanted.most and limit < need:
        do = f"raise the limit to {-(-need // MIB):,} MiB, or leave server.max_connections to the node"
        return warning("memory limit", f"{found} by server.max_connections, which need {need // MIB:,} MiB", do)
    return ok("memory limit", found)


def free_memory(machine: Machine, wanted: Wanted) -> Finding:
    """What is available, and whether programs were moved to the disk, from where an event loop waits for them."""
    memory = machine.memory
    if memory.available is None or memory.total is None:
        return unknown("free memory", "the memory of the machine could not be read")
    need = wanted.base_bytes + wanted.connections * wanted.each_bytes
    found = f"{memory.available // MIB:,} of {memory.total // MIB:,} MiB are available"
    if memory.available < need and "node" in wanted.roles:
        do = "a larger machine, fewer connections (server.max_connections), or stop what else runs here"
        return warning("free memory", f"{found}; connections that are all busy take up to {need // MIB:,} MiB", do)
    if memory.swap_used is not None and memory.swap_used > SWAPPED:
        do = "set vm.swappiness=1, or MemorySwapMax=0 in the unit; then restart what was swapped out"
        return warning("free memory", f"{found}; {memory.swap_used // MIB:,} MiB are swapped out", do)
    return ok("free memory", found)


def processors(machine: Machine, wanted: Wanted) -> Finding:
    """An event loop needs one processor without a break; a quota stops it for the rest of each period."""
    del wanted
    found = f"{machine.cpus} processors"
    if machine.cpu_quota is None:
        return ok("processors", found)
    found = f"{found}, of which {machine.cpu_quota:g} may be used"
    if machine.cpu_quota >= 1.0:
        return ok("processors", found)
    where = {
        "host": "CPUQuota=100% or more in the systemd unit",
        "container": "cpus: 1 or more in Compose",
        "pod": "resources.limits.cpu: 1 or more, or no limit and a request",
    }[machine.place]
    return warning("processors", f"{found}: the event loop stands still for the rest of each period", where)
