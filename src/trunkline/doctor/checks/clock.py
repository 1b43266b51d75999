"""The clock: tokens expire by it, and latencies between machines are measured with it. Pure."""

from __future__ import annotations

from typing import Final

from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, ok, unknown, warning
from trunkline.doctor.wanted import Wanted

SLOW: Final = frozenset({"hpet", "acpi_pm", "jiffies", "refined-jiffies"})
"""Sources that cost a system call and some microseconds each time; a node asks for the time with every message."""


def clock(machine: Machine, wanted: Wanted) -> Finding:
    """Whether a time service keeps it, and whether reading it is cheap."""
    del wanted
    found = machine.clock
    if found.source in SLOW:
        do = "use tsc or the host's own clock (kernel parameter clocksource=tsc); the kernel's log says why it does not"
        return warning("clock", f"it is read from {found.source}, which is slow", do)
    if found.synchronised is None:
        return unknown("clock", "the kernel does not say whether it is synchronised")
    if not found.synchronised:
        where = "" if machine.place == "host" else "on the host: "
        do = f"{where}install a time service (apt-get install chrony); chrony tells the kernel only with rtcsync"
        return warning("clock", "no time service keeps it, as far as the kernel knows", do)
    source = f", read from {found.source}" if found.source else ""
    off = f", off by {found.off_ms:.0f} ms at most" if found.off_ms is not None else ""
    return ok("clock", f"synchronised{off}{source}")
