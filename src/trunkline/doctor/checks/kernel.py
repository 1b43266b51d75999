"""The kernel and what it lets a process do. Pure."""

from __future__ import annotations

from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, ok, unknown
from trunkline.doctor.wanted import Wanted


def io_uring(machine: Machine, wanted: Wanted) -> Finding:
    """Nothing here needs it: said because seccomp profiles of containers forbid it, and other servers need it."""
    del wanted
    if machine.io_uring is None:
        return unknown("io_uring", "whether a process may use it could not be found out")
    return ok("io_uring", f"{'allowed' if machine.io_uring else 'forbidden or not there'}; nothing here needs it")
