"""All checks over a machine, in order. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trunkline.doctor.checks.clock import clock
from trunkline.doctor.checks.disk import disk_for_nats
from trunkline.doctor.checks.files import files_of_machine, open_files
from trunkline.doctor.checks.kernel import io_uring
from trunkline.doctor.checks.memory import free_memory, memory_limit, processors
from trunkline.doctor.checks.network import connection_tracking, listen_queue, local_ports, tcp_memory
from trunkline.doctor.checks.versions import services
from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding
from trunkline.doctor.wanted import Wanted

CHECKS: Final[tuple[Callable[[Machine, Wanted], Finding], ...]] = (
    open_files,
    files_of_machine,
    listen_queue,
    local_ports,
    connection_tracking,
    tcp_memory,
    memory_limit,
    free_memory,
    processors,
    disk_for_nats,
    clock,
    io_uring,
)


def examine(machine: Machine, wanted: Wanted) -> tuple[Finding, ...]:
    """What each check finds, the machine first and then the servers beside ours."""
    return (*(check(machine, wanted) for check in CHECKS), *services(machine, wanted))
