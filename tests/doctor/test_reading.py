"""What is read of a machine: from files as the kernel writes them, and from this one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trunkline.doctor.examine import examine
from trunkline.doctor.facts import Ports
from trunkline.doctor.reading import read_machine
from trunkline.doctor.wanted import Wanted

PROC = {
    "proc/self/limits": """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             95000                95000                processes
Max open files            1024                 524288               files
""",
    "proc/sys/fs/file-nr": "2048\t0\t9223372036854775807\n",
    "proc/sys/fs/file-max": "9223372036854775807\n",
    "proc/sys/fs/nr_open": "1048576\n",
    "proc/sys/net/core/somaxconn": "128\n",
    "proc/sys/net/ipv4/tcp_max_syn_backlog": "512\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/sys/net/ipv4/ip_local_reserved_ports": "40000,50000-50010\n",
    "proc/sys/net/ipv4/tcp_mem": "188319\t251094\t376638\n",
    "proc/sys/net/netfilter/nf_conntrack_count": "17\n",
    "proc/sys/net/netfilter/nf_conntrack_max": "65536\n",
    "proc/meminfo": "MemTotal:  2048 kB\nMemAvailable:  1024 kB\nSwapTotal:  100 kB\nSwapFree:  40 kB\n",
    "proc/self/cgroup": "0::/system.slice/node.service\n",
    "proc/1/cgroup": "0::/init.scope\n",
    "sys/fs/cgroup/system.slice/node.service/memory.max": "536870912\n",
    "sys/fs/cgroup/system.slice/node.service/cpu.max": "50000 100000\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "proc/self/mountinfo": """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:25 / {store} rw,relatime shared:4 master:1 - xfs /dev/sdb1 rw
""",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with what a machine shows; `a store` is a mount of its own."""
    store = str(tmp_path / "a store").replace(" ", "\\040")
    for name, text in PROC.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{store}", store))
    (tmp_path / "a store").mkdir()
    return tmp_path


def test_each_number_is_where_the_kernel_writes_it(root: Path) -> None:
    """None is swapped with another one."""
    machine = read_machine(root / "a store" / "nats", root=root, environ={})
    files, network, memory = machine.files, machine.network, machine.memory
    assert (files.hard, files.most, files.open_now, files.ceiling) == (524_288, (1 << 63) - 1, 2048, 1 << 20)
    assert (network.somaxconn, network.syn_backlog, network.ports) == (128, 512, Ports(32_768, 60_999))
    assert network.reserved == (Ports(40_000, 40_000), Ports(50_000, 50_010))
    assert (network.tracked, network.tracked_most) == (17, 65_536)
    assert network.tcp_memory_bytes == 376_638 * os.sysconf("SC_PAGE_SIZE")
    assert (memory.limit, memory.total, memory.available, memory.swap_used) == (512 << 20, 2 << 20, 1 << 20, 60 << 10)
    assert machine.cpu_quota == 0.5
    assert machine.clock.source == "tsc"
    assert machine.place == "host"
    assert machine.disk is not None
    assert (machine.disk.kind, machine.disk.directory) == ("xfs", str(root / "a store" / "nats"))
    assert machine.disk.total >= machine.disk.free > 0


@pytest.mark.parametrize(
    ("file", "text", "environ", "place"),
    [
        (".dockerenv", "", {}, "container"),
        ("run/.containerenv", "", {}, "container"),
        ("proc/1/cgroup", "4:memory:/docker/0123\n", {}, "container"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1\n", {}, "pod"),
        (".dockerenv", "", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "pod"),
    ],
)
def test_a_container_is_known_by_what_it_shows(
    root: Path, file: str, text: str, environ: dict[str, str], place: str
) -> None:
    """Docker's and Podman's files, the group of the first process, what Kubernetes puts into the environment."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert read_machine(root, root=root, environ=environ).place == place


def test_no_limit_is_what_linux_grants(root: Path) -> None:
    """An infinite limit is no number; a server asks for 1,048,576 then."""
    limits = root / "proc/self/limits"
    limits.write_text(limits.read_text().replace("524288", "unlimited"))
    assert read_machine(root, root=root, environ={}).files.hard == 1 << 20


def test_where_nothing_can_be_read_nothing_fails(tmp_path: Path) -> None:
    """Only what Python itself knows is there."""
    machine = read_machine(tmp_path / "no" / "store", root=tmp_path, environ={})
    assert machine.files.hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert machine.network.ports is None
    assert machine.memory.limit is None
    assert machine.disk is not None
    assert machine.disk.kind == "an unknown file system"
    assert examine(machine, Wanted())


def test_a_store_that_may_not_be_looked_at_is_unknown(tmp_path: Path) -> None:
    """Doctor runs as anybody; a name that is too long cannot be looked at by anybody, root included."""
    machine = read_machine(tmp_path / ("x" * 300) / "nats", root=tmp_path, environ={})
    assert machine.disk is None
    (tmp_path / "file").write_text("")
    machine = read_machine(tmp_path / "file" / "nats", root=tmp_path, environ={})
    assert machine.disk is not None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine(tmp_path: Path) -> None:
    """The real one: its numbers are plausible, and the clock and io_uring have been asked."""
    machine = read_machine(tmp_path)
    assert machine.files.hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert machine.network.ports is not None
    assert len(machine.network.ports) > 0
    assert machine.memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.clock.synchronised is not None
    assert machine.io_uring is not None
    assert machine.disk is not None
    kind = subprocess.run(["findmnt", "-nT", tmp_path, "-o", "FSTYPE"], capture_output=True, text=True, check=False)
    assert kind.returncode != 0 or machine.disk.kind == kind.stdout.strip()


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_limits_of_another_process(tmp_path: Path) -> None:
    """A server may have been started with others than this shell."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        assert read_machine(tmp_path, pid=process.pid).files.hard == 99
        process.communicate(b"\n")
