"""Each check over machines that differ from a good one in one thing."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from trunkline.doctor.examine import examine
from trunkline.doctor.facts import Clock, Disk, Files, Machine, Memory, Network, Place, Ports, Service
from trunkline.doctor.finding import Finding, State, exit_code
from trunkline.doctor.wanted import Wanted, wanted
from trunkline.settings.sections import BalancerSettings, ServerSettings, Settings

GIB = 1 << 30
FILES = Files(hard=65_536, most=2_000_000, open_now=1_000, ceiling=1 << 20)
NETWORK = Network(4096, 4096, Ports(10_240, 65_535), (), 100, 262_144, GIB)
MEMORY = Memory(4 * GIB, 8 * GIB, 6 * GIB, 0)
DISK = Disk("/var/lib/nats", "ext4", 100 * GIB, 50 * GIB, 1_000_000)
SERVICES = (
    Service("NATS", "nats://nats:4222", "2.11.4", asked=True, stores=True, message_bytes=1 << 20),
    Service("Redis", "redis://redis:6379", "7.2.1", asked=True),
    Service("Traefik", "http://edge:8080", "3.7.0", asked=True),
)
GOOD = Machine(
    "Linux 6.1", cpus=4, files=FILES, network=NETWORK, memory=MEMORY, disk=DISK, clock=Clock(True, 2.0, "tsc"),
    io_uring=True, python="3.13.1", services=SERVICES,
)  # fmt: skip


def found(check: str, machine: Machine, load: Wanted = Wanted()) -> Finding:  # noqa: B008 - a constant
    """What one check says."""
    return next(finding for finding in examine(machine, load) if finding.check == check)


def test_a_good_machine_is_ready() -> None:
    """Nothing to do, nowhere."""
    findings = examine(GOOD, Wanted())
    assert [(each.check, each.state, each.do) for each in findings if each.state != "ok"] == []
    assert exit_code(findings, strict=True) == 0


def test_what_cannot_be_read_is_said() -> None:
    """On a system without /proc nothing fails, and nothing is called good that was not seen."""
    findings = examine(Machine("Darwin 24.0"), Wanted())
    assert {each.check for each in findings if each.state == "unknown"} >= {
        "open files", "files of the machine", "listen queue", "local ports", "TCP memory", "free memory",
        "disk for NATS", "clock", "io_uring",
    }  # fmt: skip
    assert exit_code(findings) == 0


def network(**changed: object) -> Machine:
    return replace(GOOD, network=replace(NETWORK, **changed))


def disk(**changed: object) -> Machine:
    return replace(GOOD, disk=replace(DISK, **changed))


def memory(**changed: object) -> Machine:
    return replace(GOOD, memory=replace(MEMORY, **changed))


def service(number: int, **changed: object) -> Machine:
    return replace(GOOD, services=(replace(SERVICES[number], **changed),))


@pytest.mark.parametrize(
    ("check", "machine", "state", "says", "do"),
    [
        ("open files", replace(GOOD, files=replace(FILES, hard=1024)), "error", "1,024", "LimitNOFILE=65536"),
        ("files of the machine", replace(GOOD, files=replace(FILES, most=99_000)), "warning", "99,000", "=2000000"),
        ("files of the machine", replace(GOOD, files=replace(FILES, ceiling=4096)), "error", "4,096", "fs.nr_open"),
        ("listen queue", network(somaxconn=128), "warning", "somaxconn is 128", "net.core.somaxconn=4096"),
        ("listen queue", network(syn_backlog=512), "warning", "512", "net.ipv4.tcp_max_syn_backlog=4096"),
        ("local ports", network(ports=Ports(60_000, 61_000)), "error", "1,001", "ip_local_port_range='10240 65535'"),
        ("connection tracking", network(tracked=250_000), "error", "250,000 of 262,144", "nf_conntrack_max=524288"),
        ("TCP memory", network(tcp_memory_bytes=1 << 20), "warning", "1 MiB", "net.ipv4.tcp_mem='40000 60000 80000'"),
        ("memory limit", memory(limit=512 << 20), "error", "takes 2,184", "MemoryMax=1886M"),
        ("free memory", memory(available=GIB), "warning", "1,024 of", "a larger machine"),
        ("free memory", memory(swap_used=GIB), "warning", "1,024 MiB are swapped out", "vm.swappiness=1"),
        ("processors", replace(GOOD, cpu_quota=0.5), "warning", "0.5", "CPUQuota=100%"),
        ("disk for NATS", disk(free=GIB // 2), "error", "0.5 of 100.0 GiB", "free or add room"),
        ("disk for NATS", disk(free=5 * GIB), "warning", "5.0 of", "10 GiB"),
        ("disk for NATS", disk(kind="tmpfs"), "warning", "tmpfs", "on a disk"),
        ("disk for NATS", disk(kind="nfs4"), "warning", "nfs4", "of this machine"),
        ("disk for NATS", disk(files_free=10), "warning", "10 files", "inodes"),
        ("clock", replace(GOOD, clock=Clock(False, None, "tsc")), "warning", "no time service", "install chrony"),
        ("clock", replace(GOOD, clock=Clock(True, 1.0, "hpet")), "warning", "hpet", "clocksource=tsc"),
        ("io_uring", replace(GOOD, io_uring=False), "ok", "forbidden", ""),
        ("NATS", service(0, version="2.10.9"), "error", "2.10.9", "2.11 or newer"),
        ("NATS", service(0, stores=False), "error", "JetStream is off", "-js"),
        ("NATS", service(0, message_bytes=65_536), "error", "65,536", "max_payload to 69,632"),
        ("NATS", service(0, version="", problem="it does not answer"), "error", "4222: it does not", "start it"),
        ("NATS", service(0, version="git"), "unknown", "git", ""),
        ("Redis", service(1, version="6.2.0"), "error", "6.2.0", "7.0 or newer"),
        ("Traefik", service(2, version="2.11.0"), "error", "2.11.0", "3.0 or newer"),
        ("Traefik", service(2, version="3.1.0"), "warning", "3.1.0", "3.7 is the oldest"),
    ],
)  # fmt: skip
def test_what_is_not_ready_says_what_to_do(check: str, machine: Machine, state: State, says: str, do: str) -> None:
    """One finding differs from those of a good machine: with the number that was read, and the one to set."""
    finding = found(check, machine)
    assert finding.state == state
    assert says in finding.found
    assert do in finding.do
    assert bool(finding.do) == (state in ("warning", "error"))
    others = [each for each in examine(machine, Wanted()) if each.check != check]
    assert all(each.state == "ok" for each in others)


@pytest.mark.parametrize(
    ("place", "check", "machine", "do"),
    [
        ("container", "open files", replace(GOOD, files=replace(FILES, hard=1024)), "nofile: 65536 in Compose"),
        ("pod", "open files", replace(GOOD, files=replace(FILES, hard=1024)), "container runtime"),
        ("container", "listen queue", network(somaxconn=128), "sysctl net.core.somaxconn=4096 (Compose: sysctls"),
        ("pod", "listen queue", network(somaxconn=128), "securityContext.sysctls"),
        ("container", "connection tracking", network(tracked=250_000), "on the host: sysctl -w"),
        ("pod", "memory limit", memory(limit=512 << 20), "resources.limits.memory: 1886Mi"),
        ("container", "memory limit", memory(limit=512 << 20), "mem_limit: 1886m"),
        ("pod", "processors", replace(GOOD, cpu_quota=0.5), "resources.limits.cpu"),
        ("container", "disk for NATS", disk(kind="overlay"), "mount a volume"),
        ("container", "clock", replace(GOOD, clock=Clock(False)), "on the host: install"),
    ],
)
def test_a_container_is_told_what_to_ask_for(place: Place, check: str, machine: Machine, do: str) -> None:
    """What is the host's is said to be; what a container has for itself is set where it is started."""
    assert do in found(check, replace(machine, place=place)).do


def test_a_relay_needs_twice_the_files_and_entries() -> None:
    """A connection on either side; nodes alone, or a load test, need one."""
    machine = replace(GOOD, files=replace(FILES, hard=16_384), network=replace(NETWORK, tracked_most=30_000))
    assert found("open files", machine).state == found("connection tracking", machine).state == "error"
    alone = Wanted(roles=("node",))
    assert found("open files", machine, alone).state == found("connection tracking", machine, alone).state == "ok"


def test_ports_are_counted_to_each_backend() -> None:
    """Twice the backends, twice the connections; a node dials nobody; reserved ports are not free."""
    load = Wanted(connections=60_000, roles=("load",))
    machine = replace(GOOD, files=replace(FILES, hard=1 << 20))
    assert found("local ports", machine, load).state == "error"
    assert found("local ports", machine, replace(load, backends=2)).state == "ok"
    assert found("local ports", machine, replace(load, roles=("node",))).state == "ok"
    reserved = replace(machine, network=replace(NETWORK, reserved=(Ports(1, 40_000), Ports(65_000, 70_000))))
    assert found("local ports", reserved, replace(load, backends=2)).state == "error"


def test_a_port_that_may_be_taken_is_named() -> None:
    """It is within the range of outgoing connections, and not reserved."""
    load = Wanted(listens=(("server.port", 3001), ("up.port", 18_080)))
    finding = found("local ports", GOOD, load)
    assert (finding.state, "up.port (18080)" in finding.found, "server.port" in finding.found) == (
        "warning",
        True,
        False,
    )
    assert "ip_local_reserved_ports=18080" in finding.do
    reserved = replace(GOOD, network=replace(NETWORK, reserved=(Ports(18_000, 18_100),)))
    assert found("local ports", reserved, load).state == "ok"
    others = replace(GOOD, network=replace(NETWORK, reserved=(Ports(20_000, 20_100), Ports(11_000, 11_000))))
    assert "ip_local_reserved_ports=11000,18080,20000-20100," in found("local ports", others, load).do


def test_tcp_memory_is_set_in_the_pages_of_the_machine() -> None:
    """They have 64 KiB on some machines."""
    large = network(tcp_memory_bytes=1 << 20, page_bytes=65_536)
    assert "net.ipv4.tcp_mem='2500 3750 5000'" in found("TCP memory", large).do


def test_the_capacity_of_a_node_is_the_one_that_it_reports() -> None:
    """Without a limit 10,000, else by memory; one by its setting counts, and is warned of where memory does not do."""
    unlimited = memory(limit=None)
    assert found("memory limit", unlimited).state == "ok"
    more = Wanted(connections=20_000, roles=("node",))
    assert "server.max_connections to 20000" in found("memory limit", unlimited, more).do
    by_setting = replace(more, most=20_000)
    assert found("memory limit", unlimited, by_setting).state == "ok"
    assert found("memory limit", memory(limit=GIB), by_setting).state == "warning"
    assert found("memory limit", memory(limit=GIB), replace(more, memory_limit=5 * GIB)).state == "ok"
    assert "several nodes" in found("memory limit", memory(limit=64 * GIB), replace(more, connections=60_000)).do


def test_what_is_wanted_comes_from_the_settings() -> None:
    """Flags win; the ports are those that ours listen on."""
    settings = Settings(
        server=ServerSettings(max_connections=3000, port=4000),
        balancer=BalancerSettings(backends=("http://a:1", "http://b:1")),
    )
    load = wanted(settings, connections=None, roles=("node",), backends=None)
    assert (load.connections, load.backends, load.most) == (3000, 2, 3000)
    assert {("server.port", 4000), ("admin.port", 4001)} <= set(load.listens)
    load = wanted(settings, connections=9, roles=("node",), backends=5)
    assert (load.connections, load.backends) == (9, 5)


def test_warnings_count_when_asked() -> None:
    """The exit code says ready with warnings, unless they are to count."""
    findings = examine(network(somaxconn=128), Wanted())
    assert (exit_code(findings), exit_code(findings, strict=True)) == (0, 1)
    assert exit_code(examine(memory(limit=512 << 20), Wanted())) == 1


def test_what_is_advised_has_room_for_what_is_wanted() -> None:
    """Millions of connections: the values to set are not the usual ones."""
    load = Wanted(connections=3_000_000, roles=("node",))
    assert "fs.nr_open=4194304" in found("files of the machine", GOOD, load).do
    allowed = replace(GOOD, files=replace(FILES, ceiling=1 << 30))
    assert "fs.file-max=8389608" in found("files of the machine", allowed, load).do
    assert "LimitNOFILE=4194304" in found("open files", allowed, load).do
