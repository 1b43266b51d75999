"""Alerts on containers, from cAdvisor. Pure.

Rules:

- Only what has a name is a container; the rest are control groups of the machine.
- A series of a container lives as long as its id. What is about the container of a name, over a replacement, is taken
  per machine and name before it is compared with the past.
- A container without a limit has no series for it, or 0, or a number beyond all memory: none of them is ever near.
"""

from __future__ import annotations

from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.settings.monitor import MonitorSettings

_LABELS = {"scope": "container"}
_NAMED = '{name!=""}'
_BY = "by (instance, name, container_label_com_docker_compose_service)"
_WHO = (
    "{{ with $labels.container_label_com_docker_compose_service }}{{ . }} ({{ $labels.name }})"
    "{{ else }}{{ $labels.name }}{{ end }} on {{ $labels.instance }}"
)
_WORKING_SET = f"max {_BY} (container_memory_working_set_bytes{_NAMED})"
_LIMIT = f"(max {_BY} (container_spec_memory_limit_bytes{_NAMED}) > 0)"
# One deploy replaces a container once; the subquery sees the replacement as one series.
_STARTS = f"changes((max {_BY} (container_start_time_seconds{_NAMED}))[15m:30s])"

_C1 = 'job="cadvisor",instance="m1:8080",id="/docker/1",name="shop-chat-1"'
_C2 = 'job="cadvisor",instance="m1:8080",id="/docker/2",name="shop-chat-1"'
_GROUP_OF_MACHINE = 'job="cadvisor",instance="m1:8080",id="/system.slice"'
_COMPOSE = _C1 + ',container_label_com_docker_compose_service="chat"'
_FIRES = {"instance": "m1:8080", "name": "shop-chat-1", **_LABELS}
_MEGABYTE = 1_000_000


def _memory(labels: str, used: int, limit: float) -> dict[str, str]:
    return {
        f"container_memory_working_set_bytes{{{labels}}}": f"{used}x100",
        f"container_spec_memory_limit_bytes{{{labels}}}": f"{limit:.0f}x100",
    }


def _throttled(throttled: str, periods: str, labels: str = _C1) -> dict[str, str]:
    return {
        f"container_cpu_cfs_throttled_periods_total{{{labels}}}": throttled,
        f"container_cpu_cfs_periods_total{{{labels}}}": periods,
    }


_ALERTS: tuple[Alert, ...] = (
    Alert(
        name="TrunklineContainerMemoryNearLimit",
        expr=f"{_WORKING_SET} / {_LIMIT} > 0.9",
        severity="warning",
        lasts="5m",
        summary=_WHO + " uses {{ $value | humanizePercentage }} of its memory limit",
        description="At the limit the kernel kills it. A node that is killed drops all its clients at once.",
        dashboard="trunkline-containers",
        labels=_LABELS,
        cases=(
            Case(
                _memory(_C1, 480 * _MEGABYTE, 512 * _MEGABYTE),
                "10m",
                _FIRES,
                "shop-chat-1 on m1:8080 uses 93.75% of its memory limit",
            ),
            Case(
                _memory(_COMPOSE, 480 * _MEGABYTE, 512 * _MEGABYTE),
                "10m",
                _FIRES | {"container_label_com_docker_compose_service": "chat"},
                "chat (shop-chat-1) on m1:8080 uses 93.75% of its memory limit",
            ),
            Case(_memory(_C1, 300 * _MEGABYTE, 512 * _MEGABYTE), "10m"),
            Case(_memory(_C1, 480 * _MEGABYTE, 0), "10m"),
            Case(_memory(_C1, 480 * _MEGABYTE, 9223372036854771712), "10m"),
            Case(_memory(_GROUP_OF_MACHINE, 480 * _MEGABYTE, 512 * _MEGABYTE), "10m"),
        ),
    ),
    Alert(
        name="TrunklineContainerCpuThrottled",
        expr=(
            f"sum {_BY} (rate(container_cpu_cfs_throttled_periods_total{_NAMED}[5m])) "
            f"/ (sum {_BY} (rate(container_cpu_cfs_periods_total{_NAMED}[5m])) > 0) > 0.25"
        ),
        severity="warning",
        lasts="15m",
        summary=_WHO + " is stopped for its CPU quota in {{ $value | humanizePercentage }} of all periods",
        description=(
            "A stopped process answers nobody for up to 100 ms at a time: latencies rise while its CPU looks idle. "
            "Raise the quota, or run more nodes."
        ),
        dashboard="trunkline-containers",
        labels=_LABELS,
        cases=(
            Case(
                _throttled("0+75x200", "0+150x200"),
                "25m",
                _FIRES,
                "shop-chat-1 on m1:8080 is stopped for its CPU quota in 50% of all periods",
            ),
            Case(_throttled("0+15x200", "0+150x200"), "25m"),
            Case(_throttled("0+75x200", "0+150x200", _GROUP_OF_MACHINE), "25m"),
            # Without a quota there are no periods.
            Case(_throttled("0x200", "0x200"), "25m"),
            # An image takes its time to load, and is throttled for it.
            Case(_throttled("0+75x40 3000x160", "0+150x200"), "25m"),
        ),
    ),
    Alert(
        name="TrunklineContainerOutOfMemory",
        # cAdvisor loses count when the container's first process is the one killed: then a start after a full memory
        # is what is left to see.
        expr=(
            f"round(sum {_BY} (increase(container_oom_events_total{_NAMED}[15m]))) > 0 "
            f"or ({_STARTS} > 0 and max {_BY} (max_over_time(container_memory_working_set_bytes{_NAMED}[15m])) "
            f"/ {_LIMIT} > 0.97)"
        ),
        severity="critical",
        lasts="0m",
        summary=_WHO + " ran out of memory {{ $value }} times in 15 min",
        description="The kernel killed a process at the container's memory limit; the clients of a node reconnect.",
        dashboard="trunkline-containers",
        labels=_LABELS,
        cases=(
            Case(
                {f"container_oom_events_total{{{_C1}}}": "0x40 1x60"},
                "15m",
                _FIRES,
                "shop-chat-1 on m1:8080 ran out of memory 1 times in 15 min",
            ),
            Case(
                {
                    f"container_oom_events_total{{{_C1}}}": "0x100",
                    f"container_start_time_seconds{{{_C1}}}": "100x40 700x60",
                    f"container_memory_working_set_bytes{{{_C1}}}": f"{510 * _MEGABYTE}x40 {90 * _MEGABYTE}x60",
                    f"container_spec_memory_limit_bytes{{{_C1}}}": f"{512 * _MEGABYTE}x100",
                },
                "15m",
                _FIRES,
                "shop-chat-1 on m1:8080 ran out of memory 1 times in 15 min",
            ),
            Case(
                {
                    f"container_oom_events_total{{{_C1}}}": "2x100",
                    f"container_start_time_seconds{{{_C1}}}": "100x40 700x60",
                    f"container_memory_working_set_bytes{{{_C1}}}": f"{300 * _MEGABYTE}x100",
                    f"container_spec_memory_limit_bytes{{{_C1}}}": f"{512 * _MEGABYTE}x100",
                },
                "15m",
            ),
            Case({f"container_oom_events_total{{{_GROUP_OF_MACHINE}}}": "0x40 1x60"}, "15m"),
            # Full and well: file caches are part of it, and nothing was killed.
            Case(
                _memory(_C1, 510 * _MEGABYTE, 512 * _MEGABYTE)
                | {
                    f"container_start_time_seconds{{{_C1}}}": "100x100",
                    f"container_oom_events_total{{{_C1}}}": "0x100",
                },
                "15m",
            ),
        ),
    ),
    Alert(
        name="TrunklineContainerRestarting",
        expr=f"{_STARTS} > 2",
        severity="critical",
        lasts="1m",
        summary=_WHO + " was started {{ $value }} times again in 15 min",
        description="It ends soon after each start. Clients that come to it lose their connection again and again.",
        dashboard="trunkline-containers",
        labels=_LABELS,
        cases=(
            Case(
                {f"container_start_time_seconds{{{_C1}}}": "100x10 260x10 420x10 580x60"},
                "12m",
                _FIRES,
                "shop-chat-1 on m1:8080 was started 3 times again in 15 min",
            ),
            # Replaced each time: another id, the same name.
            Case(
                {
                    f"container_start_time_seconds{{{_C1}}}": "100x10 260x10 _x60",
                    f"container_start_time_seconds{{{_C2}}}": "_x22 420x10 580x60",
                },
                "12m",
                _FIRES,
                "shop-chat-1 on m1:8080 was started 3 times again in 15 min",
            ),
            Case({f"container_start_time_seconds{{{_GROUP_OF_MACHINE}}}": "100x10 260x10 420x10 580x60"}, "12m"),
            # A deploy.
            Case(
                {
                    f"container_start_time_seconds{{{_C1}}}": "100x20 stale",
                    f"container_start_time_seconds{{{_C2}}}": "_x22 420x80",
                },
                "12m",
            ),
        ),
    ),
)


def group(settings: MonitorSettings) -> Group:
    """The alerts on containers.

    Args:
        settings: of [monitor]; none changes these limits, which are each container's own.
    """
    return Group("trunkline-containers", _ALERTS)
