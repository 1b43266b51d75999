"""What this process may use and what it uses: cgroup limits (version 2, then 1), resident memory, CPU time.

A limit may stand at any level above the process's own group, and the smallest one binds, so the path is walked from the
process's group to the root. What cannot be read does not limit.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

CGROUP_ROOT = Path("/sys/fs/cgroup")
SELF_CGROUP = Path("/proc/self/cgroup")

# Version 1 has no word for "no limit", it shows the largest page-aligned number instead.
_UNLIMITED_BYTES = 1 << 60


def memory_limit_bytes(root: Path = CGROUP_ROOT, self_cgroup: Path = SELF_CGROUP) -> int | None:
    """The memory limit of this process's cgroup in bytes, None for none; `root` is where cgroups are mounted."""
    for directories, file in (
        (_version2(root, self_cgroup), "memory.max"),
        (_version1(root, self_cgroup, "memory"), "memory.limit_in_bytes"),
    ):
        limits = [
            int(text)
            for directory in directories
            for text in [_read(directory / file)]
            if text.isdigit() and int(text) < _UNLIMITED_BYTES
        ]
        if limits:
            return min(limits)
    return None


def cpu_quota(root: Path = CGROUP_ROOT, self_cgroup: Path = SELF_CGROUP) -> float | None:
    """How many CPUs' worth of time the cgroup allows, e.g. 0.5; None for no quota."""
    quotas = [_ratio(*_read(path / "cpu.max").split()[:2]) for path in _version2(root, self_cgroup)]
    quotas += [
        _ratio(_read(path / "cpu.cfs_quota_us"), _read(path / "cpu.cfs_period_us"))
        for path in _version1(root, self_cgroup, "cpu")
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def usable_cpus(quota: float | None) -> float:
    """How many CPUs a node can use: one at most, as its event loop is one thread, and less under a smaller quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(1.0, float(affinity), quota if quota is not None else 1.0)


class Resources:
    """What this process may use, found once, and what it uses, as of the last `sample`.

    `memory_limit_override` is the operator's, instead of the cgroup's. 100 % of `cpu_percent` means all of `cpus`,
    the CPUs that the process may use (None finds out). `wall` and `cpu` are clocks in seconds: a steady
    one, and CPU time used.
    """

    def __init__(
        self,
        *,
        memory_limit_override: int | None = None,
        cpus: float | None = None,
        wall: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.memory_limit = memory_limit_override if memory_limit_override is not None else memory_limit_bytes()
        self.cpus = cpus if cpus is not None else usable_cpus(cpu_quota())
        self._wall = wall
        self._cpu = cpu
        self._process = psutil.Process()
        self._last_wall = wall()
        self._last_cpu = cpu()
        self.memory_bytes = int(self._process.memory_info().rss)
        self.cpu_percent = 0.0

    def sample(self) -> None:
        """Measure again. Within 50 ms of the last sample the CPU share stays: over so little time it would be noise."""
        # A process that has no more files cannot look; what it saw last is the best it knows.
        with contextlib.suppress(OSError):
            self.memory_bytes = int(self._process.memory_info().rss)
        wall, cpu = self._wall(), self._cpu()
        elapsed = wall - self._last_wall
        if elapsed >= 0.05:
            share = (cpu - self._last_cpu) / (elapsed * self.cpus)
            self.cpu_percent = min(100.0, max(0.0, 100.0 * share))
            self._last_wall, self._last_cpu = wall, cpu


def _version2(root: Path, self_cgroup: Path) -> Iterator[Path]:
    for number, _, path in _groups(self_cgroup):
        if number == "0":
            for mount in (root, root / "unified"):
                yield from _upwards(mount, path)


def _version1(root: Path, self_cgroup: Path, controller: str) -> Iterator[Path]:
    for number, controllers, path in _groups(self_cgroup):
        if number != "0" and controller in controllers.split(","):
            for mount in dict.fromkeys((root / controllers, root / controller)):
                yield from _upwards(mount, path)


def _groups(self_cgroup: Path) -> Iterator[tuple[str, str, str]]:
    for line in _read(self_cgroup).splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[0], parts[1], parts[2]


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's directory and those above it. In a container the path may be the host's and not exist here."""
    directory = mount.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
    while True:
        yield directory
        if directory == mount:
            return
        directory = directory.parent


def _ratio(quota: str = "", period: str = "") -> float | None:
    # "max" in version 2 and -1 in version 1 stand for no quota.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
