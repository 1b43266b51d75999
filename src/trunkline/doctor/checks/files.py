"""Open files: of the process, and of all processes of the machine. Pure."""

from __future__ import annotations

from typing import Final

from trunkline.doctor.checks.advice import set_to
from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, error, ok, unknown, warning
from trunkline.doctor.wanted import Wanted
from trunkline.process.open_files import Shares

SMALLEST: Final = 1 << 16
OFTEN: Final = 2
"""The machine allows so many times what one process needs: it has others."""


def needed(connections: int, each: int) -> int:
    """The least power of two, from 65,536 on, that has room for so many connections."""
    files = SMALLEST
    while Shares(files, each).connections < connections:
        files *= 2
    return files


def open_files(machine: Machine, wanted: Wanted) -> Finding:
    """Each connection is an open file, in a relay two; the soft limit is raised to the hard one, which has to do."""
    hard, each = machine.files.hard, wanted.files_each
    if hard is None:
        return unknown("open files", "the limit of open files could not be read")
    room, files = Shares(hard, each).connections, needed(wanted.connections, each)
    found = f"the hard limit is {hard:,}: room for {room:,} connections{' through a relay' if each == 2 else ''}"
    if room >= wanted.connections:
        return ok("open files", found)
    where = {
        "host": f"LimitNOFILE={files} in the systemd unit; for a shell a line in /etc/security/limits.d/",
        "container": f"ulimits: nofile: {files} in Compose, or docker run --ulimit nofile={files}",
        "pod": f"LimitNOFILE={files} for the container runtime of the cluster's node: a pod cannot ask for it",
    }[machine.place]
    return error("open files", f"{found}; wanted are {wanted.connections:,}", where)


def files_of_machine(machine: Machine, wanted: Wanted) -> Finding:
    """`fs.file-max` bounds all processes together, and `fs.nr_open` what a hard limit may be set to."""
    files, need = machine.files, needed(wanted.connections, wanted.files_each)
    if files.most is None or files.ceiling is None:
        return unknown("files of the machine", "fs.file-max and fs.nr_open could not be read")
    if files.ceiling < need:
        found = f"fs.nr_open is {files.ceiling:,}: no limit of open files can be set to {need:,}"
        return error("files of the machine", found, set_to(machine, "fs.nr_open", str(max(need, 1 << 20))))
    in_use = files.open_now or 0
    found = f"{in_use:,} of {_most(files.most)} are open"
    if files.most - in_use < need * OFTEN:
        most = max(2_000_000, in_use + need * OFTEN)
        return warning("files of the machine", found, set_to(machine, "fs.file-max", str(most)))
    return ok("files of the machine", found)


def _most(files: int) -> str:
    return "practically unlimited" if files >= 1 << 60 else f"{files:,}"
