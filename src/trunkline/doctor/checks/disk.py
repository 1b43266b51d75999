"""The disk on which NATS keeps publications. Pure."""

from __future__ import annotations

from typing import Final

from trunkline.doctor.facts import Machine
from trunkline.doctor.finding import Finding, error, ok, unknown, warning
from trunkline.doctor.wanted import Wanted

GIB: Final = 1 << 30
LEAST: Final = GIB
ENOUGH: Final = 10 * GIB
FILES: Final = 10_000

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
OF_CONTAINER: Final = frozenset({"overlay", "aufs"})
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"})


def disk_for_nats(machine: Machine, wanted: Wanted) -> Finding:
    """History is what recovers clients: it needs room, on a disk that is there after a restart."""
    del wanted
    disk = machine.disk
    if disk is None:
        do = "name the store of NATS: trunkline doctor --store DIRECTORY"
        return unknown("disk for NATS", "the directory could not be read", do)
    found = f"{disk.directory} is on {disk.kind}, {disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free"
    if disk.kind in IN_MEMORY:
        return warning("disk for NATS", f"{found}: it is memory, and empty after a restart", "put the store on a disk")
    if disk.kind in REMOTE:
        do = "put the store on a disk of this machine: over a network it is slow, and a lock may be lost"
        return warning("disk for NATS", found, do)
    if disk.free < LEAST:
        do = "free or add room: NATS stops storing at its limit or at a full disk, and publications are refused"
        return error("disk for NATS", found, do)
    if disk.kind in OF_CONTAINER and machine.place != "host":
        do = "mount a volume for the store: what is in the container's own layer goes with it"
        return warning("disk for NATS", found, do)
    if disk.free < ENOUGH:
        do = f"room for {ENOUGH // GIB} GiB, or less history (channels.history, channels.history_age_s)"
        return warning("disk for NATS", found, do)
    if disk.files_free is not None and disk.files_free < FILES:
        return warning("disk for NATS", f"{found}; {disk.files_free:,} files can be made", "free files (inodes)")
    return ok("disk for NATS", found)
