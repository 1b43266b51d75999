"""Reads what the checks need of this machine; nothing is changed.

Rules:

- What cannot be read is None, and becomes a finding of its own: a container hides much, and other systems have
  no /proc.
- Limits are those of a process: of this one, or of a running server by its process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from trunkline.doctor.facts import Clock, Disk, Files, Machine, Memory, Network, Place, Ports
from trunkline.process.open_files import MOST
from trunkline.server.node.resources import cpu_quota, memory_limit_bytes

_CONTAINERS: Final = ("docker", "containerd", "kubepods", "libpod", "lxc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_IO_URING_SETUP: Final = 425
"""Its number is the same on every architecture."""

_UNSYNCHRONISED: Final = 0x40
_TIME_ERROR: Final = 5


def read_machine(
    store: Path, *, pid: int | None = None, root: Path = Path("/"), environ: Mapping[str, str] | None = None
) -> Machine:
    """What there is to see.

    Args:
        store: directory in which NATS keeps publications, or will.
        pid: a process whose limits count, by default this one.
        root: where /proc and /sys are.
        environ: environment, by default that of this process.
    """
    environ = os.environ if environ is None else environ
    process = root / "proc" / (str(pid) if pid is not None else "self")
    groups = root / "sys/fs/cgroup"
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        place=_place(root, environ),
        cpus=_cpus(pid),
        cpu_quota=cpu_quota(groups, process / "cgroup"),
        files=_files(root, process, own=pid is None),
        network=_network(root),
        memory=_memory(root, memory_limit_bytes(groups, process / "cgroup")),
        disk=_disk(store, root),
        clock=_clock(root),
        io_uring=_io_uring(),
        python=platform.python_version(),
    )


def _place(root: Path, environ: Mapping[str, str]) -> Place:
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "pod"
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return "container"
    group = _text(root / "proc/1/cgroup")
    if "kubepods" in group:
        return "pod"
    return "container" if any(name in group for name in _CONTAINERS) else "host"


def _cpus(pid: int | None) -> int:
    with contextlib.suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(pid or 0))
    return os.cpu_count() or 1


def _files(root: Path, process: Path, *, own: bool) -> Files:
    match = re.search(r"^Max open files\s+\S+\s+(\S+)", _text(process / "limits"), re.MULTILINE)
    hard: int | None = None
    if match:
        hard = int(match[1]) if match[1].isdigit() else MOST
    elif own:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        hard = MOST if hard == resource.RLIM_INFINITY else hard
    in_use = _numbers(root / "proc/sys/fs/file-nr")
    return Files(
        hard=hard,
        most=_number(root / "proc/sys/fs/file-max"),
        open_now=in_use[0] if in_use else None,
        ceiling=_number(root / "proc/sys/fs/nr_open"),
    )


def _network(root: Path) -> Network:
    net = root / "proc/sys/net"
    ports = _numbers(net / "ipv4/ip_local_port_range")
    tcp = _numbers(net / "ipv4/tcp_mem")
    return Network(
        somaxconn=_number(net / "core/somaxconn"),
        syn_backlog=_number(net / "ipv4/tcp_max_syn_backlog"),
        ports=Ports(*ports) if len(ports) == 2 else None,
        reserved=_ranges(_text(net / "ipv4/ip_local_reserved_ports")),
        tracked=_number(net / "netfilter/nf_conntrack_count"),
        tracked_most=_number(net / "netfilter/nf_conntrack_max"),
        tcp_memory_bytes=tcp[2] * _PAGE if len(tcp) == 3 else None,
        page_bytes=_PAGE,
    )


def _ranges(text: str) -> tuple[Ports, ...]:
    found = re.findall(r"(\d+)(?:-(\d+))?", text)
    return tuple(Ports(int(first), int(last or first)) for first, last in found)


def _memory(root: Path, limit: int | None) -> Memory:
    lines = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE))
    total, available, swap, free = (
        int(lines[name]) * 1024 if name in lines else None
        for name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    )
    return Memory(limit, total, available, swap - free if swap is not None and free is not None else None)


def _disk(store: Path, root: Path) -> Disk | None:
    try:
        there = _nearest(store.absolute())
        room, real = os.statvfs(there), there.resolve()
    except OSError:
        return None
    # File systems without a fixed number of files report none at all.
    files_free = room.f_favail if room.f_files else None
    return Disk(
        str(store), _kind(real, _text(root / "proc/self/mountinfo")), room.f_blocks * room.f_frsize,
        room.f_bavail * room.f_frsize, files_free,
    )  # fmt: skip


def _nearest(path: Path) -> Path:
    """The path, or what is there above it; raises OSError where this process may not look."""
    while True:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            path = path.parent
        else:
            return path


def _kind(directory: Path, mounts: str) -> str:
    """The kind of the file system that is mounted deepest above a directory."""
    best, kind = -1, "an unknown file system"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two mounts on one place the later one is seen.
        if directory.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


class _Timex(ctypes.Structure):
    """The first fields of the kernel's `struct timex`; the others are not read."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("others", ctypes.c_byte * 256),
    )  # fmt: skip


def _clock(root: Path) -> Clock:
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    with contextlib.suppress(AttributeError, OSError):
        timex = _Timex()  # no modes: it is read, and nothing is set
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
        if state >= 0:
            held = state != _TIME_ERROR and not timex.status & _UNSYNCHRONISED
            return Clock(held, timex.maxerror / 1000 if held else None, source)
    return Clock(source=source)


def _io_uring() -> bool | None:
    """Asked for a ring without its parameters, the kernel refuses in one way or the other, and makes none."""
    if platform.system() != "Linux":
        return None
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    ctypes.set_errno(0)
    syscall(_IO_URING_SETUP, ctypes.c_uint(1), None)
    return ctypes.get_errno() == errno.EFAULT


def _numbers(path: Path) -> tuple[int, ...]:
    words = _text(path).split()
    return tuple(map(int, words)) if all(word.isdigit() for word in words) else ()


def _number(path: Path) -> int | None:
    found = _numbers(path)
    return found[0] if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
