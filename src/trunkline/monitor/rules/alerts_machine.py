"""Alerts on the machines below the nodes, from node_exporter, and on the file descriptors of every process. Pure.

Rules:

- A limit that does not exist (no conntrack table, no limit of descriptors) is no limit that is near: such series are
  absent or 0, and the expressions ask for more than 0.
- What a machine does while it boots lasts minutes; loads are judged over 15.
- Disks are in `alerts_disks.py`, evaluated in the same group.
"""

from __future__ import annotations

from trunkline.monitor.rules import alerts_disks
from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.settings.monitor import MonitorSettings

_LABELS = {"scope": "machine"}
_M1 = 'job="node",instance="m1:9100"'
_FIRES = {"job": "node", "instance": "m1:9100", **_LABELS}
_FIRES_INSTANCE = {"instance": "m1:9100", **_LABELS}
# Interfaces inside the machine: their errors are those of containers that come and go.
_WIRES = '{device!~"lo|veth.*|docker.*|br-.*|virbr.*|cali.*|cni.*|flannel.*|ifb.*|dummy.*"}'


def _cpu(idle: str, iowait: str = "0x200") -> dict[str, str]:
    return {
        f'node_cpu_seconds_total{{{_M1},cpu="0",mode="idle"}}': idle,
        f'node_cpu_seconds_total{{{_M1},cpu="0",mode="iowait"}}': iowait,
    }


def _memory(available: int) -> dict[str, str]:
    return {
        f"node_memory_MemAvailable_bytes{{{_M1}}}": f"{available}x100",
        f"node_memory_MemTotal_bytes{{{_M1}}}": "16000000000x100",
    }


def _conntrack(entries: int, limit: int) -> dict[str, str]:
    return {
        f"node_nf_conntrack_entries{{{_M1}}}": f"{entries}x100",
        f"node_nf_conntrack_entries_limit{{{_M1}}}": f"{limit}x100",
    }


_TELLS_FILES = '{job=~"traefik|nats|node|cadvisor|postgres|prometheus|alertmanager"}'


def _fds(used: int, limit: int) -> dict[str, str]:
    target = 'job="traefik",instance="m1:8082"'
    return {
        f"process_open_fds{{{target}}}": f"{used}x100",
        f"process_max_fds{{{target}}}": f"{limit}x100",
    }


def _network(device: str, errors: str, packets: str) -> dict[str, str]:
    labels = f'{_M1},device="{device}"'
    return {
        f"node_network_receive_errs_total{{{labels}}}": errors,
        f"node_network_transmit_errs_total{{{labels}}}": "0x100",
        f"node_network_receive_packets_total{{{labels}}}": packets,
        f"node_network_transmit_packets_total{{{labels}}}": packets,
    }


_LOAD: tuple[Alert, ...] = (
    Alert(
        name="TrunklineMachineCpuBusy",
        # Waiting for a disk is not work: a CPU that waits could run a node.
        expr='1 - sum by (instance) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[5m])) '
        '/ count by (instance) (node_cpu_seconds_total{mode="idle"}) > 0.9',
        severity="warning",
        lasts="15m",
        summary="CPU of {{ $labels.instance }} is {{ $value | humanizePercentage }} busy",
        description="Messages take longer for every node on this machine. Nodes have alerts of their own.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(_cpu("0+0.75x200"), "25m", _FIRES_INSTANCE, "CPU of m1:9100 is 95% busy"),
            Case(_cpu("0+7.5x200"), "25m"),
            Case(_cpu("0x200", "0+15x200"), "25m"),
        ),
    ),
    Alert(
        name="TrunklineMachineOverloaded",
        expr='node_load5 / on (instance) group_left count by (instance) (node_cpu_seconds_total{mode="idle"}) > 2',
        severity="warning",
        lasts="15m",
        summary='Load of {{ $labels.instance }} is {{ $value | printf "%.1f" }} for each CPU',
        description="More tasks want to run, or wait for disks, than there are CPUs: everything here is slow.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                _cpu("0+1x200") | {f"node_load5{{{_M1}}}": "3x200"},
                "25m",
                _FIRES,
                "Load of m1:9100 is 3.0 for each CPU",
            ),
            Case(_cpu("0+1x200") | {f"node_load5{{{_M1}}}": "1.5x200"}, "25m"),
            # A machine that has just started is busy for a while.
            Case(_cpu("0+1x200") | {f"node_load5{{{_M1}}}": "8x40 1x160"}, "25m"),
        ),
    ),
    Alert(
        name="TrunklineMachineMemoryLow",
        expr="node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.1",
        severity="warning",
        lasts="10m",
        summary="{{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory available",
        description="Next the kernel drops file caches, then it kills a process: often a node or a database.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(_memory(1_280_000_000), "15m", _FIRES, "m1:9100 has 8% of its memory available"),
            Case(_memory(3_200_000_000), "15m"),
        ),
    ),
    Alert(
        name="TrunklineMachineMemoryExhausted",
        expr="node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.05",
        severity="critical",
        lasts="2m",
        summary="{{ $labels.instance }} has only {{ $value | humanizePercentage }} of its memory available",
        description="The kernel is about to kill a process; when it is a node, all its clients reconnect at once.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(_memory(480_000_000), "5m", _FIRES, "m1:9100 has only 3% of its memory available"),
            Case(_memory(1_280_000_000), "5m"),
        ),
    ),
    Alert(
        name="TrunklineMachineOutOfMemoryKill",
        expr="round(increase(node_vmstat_oom_kill[15m])) > 0",
        severity="critical",
        lasts="0m",
        summary="The kernel of {{ $labels.instance }} killed {{ $value }} processes for memory in 15 min",
        description="A killed node drops its clients without a goodbye; all reconnect. The kernel's log names it.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {f"node_vmstat_oom_kill{{{_M1}}}": "4x40 6x100"},
                "15m",
                _FIRES,
                "The kernel of m1:9100 killed 2 processes for memory in 15 min",
            ),
            Case({f"node_vmstat_oom_kill{{{_M1}}}": "4x100"}, "15m"),
            # A reboot begins the count anew.
            Case({f"node_vmstat_oom_kill{{{_M1}}}": "4x40 0x100"}, "15m"),
        ),
    ),
)

_LIMITS: tuple[Alert, ...] = (
    Alert(
        name="TrunklineMachineFileDescriptorsLow",
        expr="node_filefd_allocated / (node_filefd_maximum > 0) > 0.8",
        severity="warning",
        lasts="5m",
        summary="{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the files that its kernel allows",
        description="Every connection is an open file. At the limit no process of this machine accepts connections.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {f"node_filefd_allocated{{{_M1}}}": "90000x100", f"node_filefd_maximum{{{_M1}}}": "100000x100"},
                "10m",
                _FIRES,
                "m1:9100 uses 90% of the files that its kernel allows",
            ),
            Case(
                {f"node_filefd_allocated{{{_M1}}}": "90000x100", f"node_filefd_maximum{{{_M1}}}": "180000x100"}, "10m"
            ),
        ),
    ),
    Alert(
        name="TrunklineProcessFileDescriptorsLow",
        # Those of our jobs that tell it; a shared Prometheus knows others' processes too.
        expr=f"process_open_fds{_TELLS_FILES} / (process_max_fds{_TELLS_FILES} > 0) > 0.8",
        severity="critical",
        lasts="2m",
        summary="{{ $labels.job }} {{ $labels.instance }} uses {{ $value | humanizePercentage }} of its open files",
        description="Every connection is an open file. At its limit the process accepts no more of them.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                _fds(900, 1000),
                "5m",
                {"job": "traefik", "instance": "m1:8082", **_LABELS},
                "traefik m1:8082 uses 90% of its open files",
            ),
            Case(_fds(500, 1000), "5m"),
            Case(_fds(500, 0), "5m"),
        ),
    ),
    Alert(
        name="TrunklineMachineConntrackNearlyFull",
        expr="node_nf_conntrack_entries / (node_nf_conntrack_entries_limit > 0) > 0.8",
        severity="critical",
        lasts="2m",
        summary="The connection table of {{ $labels.instance }} is {{ $value | humanizePercentage }} full",
        description="When full, packets of new connections are dropped: clients see time-outs, nodes see nothing.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(_conntrack(60_000, 65_536), "5m", _FIRES, "The connection table of m1:9100 is 91.55% full"),
            Case(_conntrack(20_000, 65_536), "5m"),
            Case(_conntrack(5, 0), "5m"),
        ),
    ),
)

_NETWORK: tuple[Alert, ...] = (
    Alert(
        name="TrunklineMachineNetworkErrors",
        expr=(
            f"(rate(node_network_receive_errs_total{_WIRES}[5m]) + rate(node_network_transmit_errs_total{_WIRES}[5m])) "
            f"/ (rate(node_network_receive_packets_total{_WIRES}[5m]) "
            f"+ rate(node_network_transmit_packets_total{_WIRES}[5m])) > 0.001 "
            f"and rate(node_network_receive_errs_total{_WIRES}[5m]) "
            f"+ rate(node_network_transmit_errs_total{_WIRES}[5m]) > 1"
        ),
        severity="warning",
        lasts="10m",
        summary="{{ $labels.device }} of {{ $labels.instance }}: {{ $value | humanizePercentage }} of packets fail",
        description="Lost packets are sent again: messages come late. Mostly a cable, a port, a driver or a full ring.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                _network("eth0", "0+300x100", "0+15000x100"),
                "20m",
                _FIRES | {"device": "eth0"},
                "eth0 of m1:9100: 1% of packets fail",
            ),
            # Many errors, but far more packets; then many of few packets.
            Case(_network("eth0", "0+30x100", "0+1500000x100"), "20m"),
            Case(_network("eth0", "0+3x100", "0+15x100"), "20m"),
            Case(_network("veth12ab", "0+300x100", "0+15000x100"), "20m"),
        ),
    ),
    Alert(
        name="TrunklineMachineListenOverflows",
        expr="rate(node_netstat_TcpExt_ListenOverflows[5m]) > 1",
        severity="warning",
        lasts="5m",
        summary='{{ $labels.instance }} turns away {{ $value | printf "%.1f" }} new connections per second',
        description=(
            "A queue of connections that no program has accepted yet is full. Clients wait seconds and try again; "
            "look for a reconnect storm, or a process whose event loop stands still."
        ),
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {f"node_netstat_TcpExt_ListenOverflows{{{_M1}}}": "0+60x100"},
                "15m",
                _FIRES,
                "m1:9100 turns away 4.0 new connections per second",
            ),
            Case({f"node_netstat_TcpExt_ListenOverflows{{{_M1}}}": "500+7x100"}, "15m"),
        ),
    ),
    Alert(
        name="TrunklineMachineClockSkew",
        # The kernel's own estimate is 0 where nothing disciplines the clock, so it is also held against Prometheus's.
        expr=("abs(node_timex_offset_seconds) > 0.05 or abs(node_time_seconds - timestamp(node_time_seconds)) > 2"),
        severity="warning",
        lasts="10m",
        summary="The clock of {{ $labels.instance }} is {{ $value | humanizeDuration }} off",
        description="Delivery latencies between machines, tokens with an expiry and logs are wrong by that much.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {f"node_timex_offset_seconds{{{_M1}}}": "-0.2x100"}, "15m", _FIRES, "The clock of m1:9100 is 200ms off"
            ),
            Case(
                {f"node_timex_offset_seconds{{{_M1}}}": "0x100", f"node_time_seconds{{{_M1}}}": "30+15x100"},
                "15m",
                _FIRES,
                "The clock of m1:9100 is 30s off",
            ),
            Case(
                {f"node_timex_offset_seconds{{{_M1}}}": "0.001x100", f"node_time_seconds{{{_M1}}}": "0.4+15x100"},
                "15m",
            ),
        ),
    ),
    Alert(
        name="TrunklineMachineClockUnsynchronised",
        expr="node_timex_maxerror_seconds >= 16 and node_timex_sync_status == 0",
        severity="info",
        lasts="15m",
        summary="Nothing keeps the clock of {{ $labels.instance }} right, by up to {{ $value | humanizeDuration }}",
        description="No time service disciplines the kernel's clock, so it drifts. Start chrony or systemd-timesyncd.",
        dashboard="trunkline-system",
        labels=_LABELS,
        cases=(
            Case(
                {f"node_timex_maxerror_seconds{{{_M1}}}": "16x200", f"node_timex_sync_status{{{_M1}}}": "0x200"},
                "20m",
                _FIRES,
                "Nothing keeps the clock of m1:9100 right, by up to 16s",
            ),
            # Just started: a service has the clock in hand, and will tell its error.
            Case(
                {f"node_timex_maxerror_seconds{{{_M1}}}": "16x200", f"node_timex_sync_status{{{_M1}}}": "1x200"}, "20m"
            ),
            Case(
                {f"node_timex_maxerror_seconds{{{_M1}}}": "0.02x200", f"node_timex_sync_status{{{_M1}}}": "1x200"},
                "20m",
            ),
        ),
    ),
)


def group(settings: MonitorSettings) -> Group:
    """The alerts on machines and their disks.

    Args:
        settings: of [monitor]; none changes these limits, which are the kernel's own.
    """
    return Group("trunkline-machine", (*_LOAD, *alerts_disks.ALERTS, *_LIMITS, *_NETWORK))
