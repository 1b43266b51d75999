from __future__ import annotations

import resource
from pathlib import Path

import pytest

from trunkline.server.node.resources import Resources, cpu_quota, memory_limit_bytes, usable_cpus

MIB = 1 << 20


class Machine:
    """A made-up cgroup tree."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "cgroup"
        self.self_cgroup = directory / "self"
        self.self_cgroup.write_text("")

    def put(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def memory(self) -> int | None:
        return memory_limit_bytes(self.root, self.self_cgroup)

    def quota(self) -> float | None:
        return cpu_quota(self.root, self.self_cgroup)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_no_cgroup_no_limit(machine: Machine) -> None:
    """Where nothing can be read nothing limits."""
    assert machine.memory() is None
    assert machine.quota() is None
    machine.self_cgroup.unlink()
    assert machine.memory() is None


def test_version_2_in_a_container(machine: Machine) -> None:
    """With a cgroup namespace the limit stands at the root of what is seen."""
    machine.self_cgroup.write_text("0::/\n")
    machine.put("memory.max", 512 * MIB)
    machine.put("cpu.max", "50000 100000")
    assert machine.memory() == 512 * MIB
    assert machine.quota() == 0.5


def test_version_2_nested(machine: Machine) -> None:
    """The smallest limit on the way up binds, wherever it stands."""
    machine.self_cgroup.write_text("0::/kubepods/pod1/app\n")
    machine.put("kubepods/pod1/app/memory.max", "max")
    machine.put("kubepods/pod1/memory.max", 300 * MIB)
    machine.put("kubepods/memory.max", 900 * MIB)
    machine.put("kubepods/pod1/app/cpu.max", "200000 100000")
    machine.put("kubepods/pod1/cpu.max", "max 100000")
    machine.put("kubepods/cpu.max", "150000 100000")
    assert machine.memory() == 300 * MIB
    assert machine.quota() == 1.5


def test_version_2_with_a_path_of_the_host(machine: Machine) -> None:
    """A path that does not exist in the container falls back to what is mounted."""
    machine.self_cgroup.write_text("0::/../../docker/abc\n")
    machine.put("memory.max", 256 * MIB)
    assert machine.memory() == 256 * MIB


def test_version_1(machine: Machine) -> None:
    """Version 1 has a hierarchy for each controller, and a huge number for no limit."""
    machine.self_cgroup.write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n")
    machine.put("memory/docker/abc/memory.limit_in_bytes", 128 * MIB)
    machine.put("memory/memory.limit_in_bytes", 9223372036854771712)
    machine.put("cpu,cpuacct/docker/abc/cpu.cfs_quota_us", 25_000)
    machine.put("cpu,cpuacct/docker/abc/cpu.cfs_period_us", 100_000)
    machine.put("cpu,cpuacct/cpu.cfs_quota_us", -1)
    machine.put("cpu,cpuacct/cpu.cfs_period_us", 100_000)
    assert machine.memory() == 128 * MIB
    assert machine.quota() == 0.25


def test_version_1_without_limit(machine: Machine) -> None:
    """The huge number alone is no limit."""
    machine.self_cgroup.write_text("4:memory:/\n")
    machine.put("memory/memory.limit_in_bytes", 9223372036854771712)
    assert machine.memory() is None


def test_this_machine_can_be_read() -> None:
    """On the machine that runs the tests nothing raises, and what is found makes sense."""
    limit, quota = memory_limit_bytes(), cpu_quota()
    assert limit is None or limit > MIB
    assert quota is None or quota > 0
    assert 0 < usable_cpus(quota) <= 1.0
    assert usable_cpus(0.25) == 0.25


def test_use_of_cpu_and_memory() -> None:
    """CPU is a share of what may be used: half a second of CPU in two seconds of half a CPU is 50 %."""
    wall, cpu = 100.0, 7.0
    resources = Resources(memory_limit_override=77, cpus=0.5, wall=lambda: wall, cpu=lambda: cpu)
    assert resources.memory_limit == 77
    assert resources.memory_bytes > MIB
    assert resources.cpu_percent == 0.0
    wall, cpu = 102.0, 7.5
    resources.sample()
    assert resources.cpu_percent == pytest.approx(50.0)
    wall = 102.001
    resources.sample()
    assert resources.cpu_percent == pytest.approx(50.0)
    wall, cpu = 103.001, 9.0
    resources.sample()
    assert resources.cpu_percent == 100.0


def test_a_process_without_files() -> None:
    """Where /proc cannot be opened any more, memory stays as it was seen last, and CPU time is still measured."""
    times = iter([0.0, 10.0])
    resources = Resources(cpus=1.0, wall=lambda: next(times), cpu=lambda: 0.0)
    resources.cpu_percent = 50.0
    seen = resources.memory_bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        resources.sample()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (resources.memory_bytes, resources.cpu_percent) == (seen, 0.0)
