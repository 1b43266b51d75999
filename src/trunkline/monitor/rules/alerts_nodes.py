"""Alerts on what a single node has and spends: memory, CPU, its event loop, what waits for its clients. Pure.

Rule: a share is judged only where there is a whole: without a memory limit there is no memory alert.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.rules import recording  # noqa: F401 - declares what the expressions read
from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.monitor.rules.samples import AT_NODE, NODE, lasting, node, of_node
from trunkline.settings.monitor import MonitorSettings

WITHOUT_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""What may wait for the clients of a node whose memory nobody limits."""

_GIB: Final = 1024**3


def _memory() -> tuple[Alert, ...]:
    def fires(share: float) -> Case:
        return Case(
            node(ws_memory_bytes=f"{int(share * _GIB)}x40", ws_memory_limit_bytes=f"{_GIB}x40"),
            "7m",
            AT_NODE,
            f"{NODE} uses {100 * share:.4g}% of its memory limit",
        )

    # No limit; and a start that takes much for a moment.
    silent = (
        Case(node(ws_memory_bytes=f"{9 * _GIB}x40", ws_memory_limit_bytes="0x40"), "7m"),
        Case(
            node(ws_memory_bytes=f"{int(0.97 * _GIB)}x3 {_GIB // 4}x37", ws_memory_limit_bytes=f"{_GIB}x40"),
            "7m",
        ),
    )
    return (
        Alert(
            name="TrunklineMemoryHigh",
            expr="instance:ws_memory:ratio > 0.8",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory limit",
            description="At the limit the kernel kills the process and with it all of its connections.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting("285s", fires(0.875)),
                *silent,
                Case(
                    node(ws_memory_bytes=f"{_GIB // 2}x40", ws_memory_limit_bytes=f"{_GIB}x40"),
                    "7m",
                ),
            ),
        ),
        Alert(
            name="TrunklineMemoryCritical",
            expr="instance:ws_memory:ratio > 0.9",
            severity="critical",
            lasts="2m",
            summary="{{ $labels.instance }} uses {{ $value | humanizePercentage }} of its memory limit",
            description="The kernel is about to kill the process and with it all of its connections.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting("105s", fires(0.9375)),
                *silent,
                Case(
                    node(ws_memory_bytes=f"{int(0.875 * _GIB)}x40", ws_memory_limit_bytes=f"{_GIB}x40"),
                    "7m",
                ),
            ),
        ),
    )


def _cpu() -> tuple[Alert, ...]:
    def alert(name: str, limit: int, at: int, below: int, words: str, severe: bool) -> Alert:
        return Alert(
            name=name,
            expr=f"avg_over_time(ws_cpu_usage_percent[5m]) > {limit}",
            severity="critical" if severe else "warning",
            lasts="5m",
            summary="{{ $labels.instance }} uses {{ $value | humanize }} % of the CPU time it may use",
            description=words,
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "285s",
                    Case(
                        node(ws_cpu_usage_percent=f"{at}x60"),
                        "11m",
                        AT_NODE,
                        f"{NODE} uses {at} % of the CPU time it may use",
                    ),
                ),
                Case(node(ws_cpu_usage_percent=f"{below}x60"), "11m"),
                # One burst, such as the handshakes after a start.
                Case(node(ws_cpu_usage_percent="100x6 20x60"), "11m"),
            ),
        )

    return (
        alert(
            "TrunklineCpuHigh",
            70,
            80,
            70,
            "A node's event loop is one thread: what it may use is one CPU, or its quota. Messages begin to wait soon.",
            False,
        ),
        alert(
            "TrunklineCpuCritical",
            90,
            97,
            90,
            "The event loop is busy all the time: messages and heartbeats are late, new clients are turned away.",
            True,
        ),
    )


def _loop() -> tuple[Alert, ...]:
    shed = 'ws_capacity_rejections_total{reason=~"lag|accept_rate"}'
    return (
        Alert(
            name="TrunklineEventLoopLag",
            expr="avg_over_time(ws_event_loop_lag_seconds[5m]) > 0.1",
            severity="warning",
            lasts="5m",
            summary="{{ $labels.instance }} is {{ $value | humanizeDuration }} late at whatever it does",
            description="Every message of every client of this node waits that long. Above limits.loop_lag_shed_ms the "
            "node turns new clients away.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "285s",
                    Case(
                        node(ws_event_loop_lag_seconds="0.25x60"),
                        "11m",
                        AT_NODE,
                        f"{NODE} is 250ms late at whatever it does",
                    ),
                ),
                Case(node(ws_event_loop_lag_seconds="0.002x60"), "11m"),
                # One long tick.
                Case(node(ws_event_loop_lag_seconds="0x10 3 0x60"), "5m"),
            ),
        ),
        Alert(
            name="TrunklineHandshakesShed",
            expr=f"sum without (reason) (rate({shed}[5m])) > 0.1 unless ws_draining == 1",
            severity="warning",
            lasts="2m",
            summary="{{ $labels.instance }} turns {{ $value | humanize }} clients a second away because it is behind",
            description="They get 503 with Retry-After before anything is spent on them, and come back later.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "135s",
                    Case(
                        of_node("ws_capacity_rejections_total", "0+30x60", reason="lag") | node(ws_draining="0x60"),
                        "10m",
                        AT_NODE,
                        f"{NODE} turns 2 clients a second away because it is behind",
                    ),
                ),
                # Draining and full nodes have alerts of their own, or none.
                Case(of_node("ws_capacity_rejections_total", "0+30x60", reason="draining"), "10m"),
                Case(of_node("ws_capacity_rejections_total", "0+30x60", reason="full"), "10m"),
                Case(
                    of_node("ws_capacity_rejections_total", "0+30x60", reason="lag") | node(ws_draining="1x60"),
                    "10m",
                ),
                # Hardly anybody.
                Case(of_node("ws_capacity_rejections_total", "0+1x60", reason="lag"), "10m"),
                # The counter begins anew.
                Case(of_node("ws_capacity_rejections_total", "900x20 0x60", reason="lag"), "8m"),
            ),
        ),
    )


def _outboxes() -> tuple[Alert, ...]:
    limit = f"(0.1 * (ws_memory_limit_bytes > 0) or 0 * ws_memory_limit_bytes + {WITHOUT_LIMIT_BYTES})"
    mib = 1024 * 1024
    return (
        Alert(
            name="TrunklineOutboxSaturated",
            expr=f"ws_outbox_bytes > {limit}",
            severity="warning",
            lasts="2m",
            summary="{{ $labels.instance }} holds {{ $value | humanize1024 }}B for clients that read slowly",
            description="More than a tenth of the node's memory (256 MiB where there is no limit) waits for clients. "
            "They get publications late, then lose some, then their connection.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "105s",
                    Case(
                        node(ws_outbox_bytes=f"{64 * mib}x40", ws_memory_limit_bytes=f"{512 * mib}x40"),
                        "4m",
                        AT_NODE,
                        f"{NODE} holds 64MiB for clients that read slowly",
                    ),
                ),
                Case(
                    node(ws_outbox_bytes=f"{512 * mib}x40", ws_memory_limit_bytes="0x40"),
                    "4m",
                    AT_NODE,
                    f"{NODE} holds 512MiB for clients that read slowly",
                ),
                Case(node(ws_outbox_bytes=f"{64 * mib}x40", ws_memory_limit_bytes="0x40"), "4m"),
                Case(node(ws_outbox_bytes=f"{32 * mib}x40", ws_memory_limit_bytes=f"{512 * mib}x40"), "4m"),
                # A wave that is written out at once.
                Case(
                    node(ws_outbox_bytes=f"0x4 {128 * mib}x2 0x40", ws_memory_limit_bytes=f"{512 * mib}x50"),
                    "4m",
                ),
            ),
        ),
        Alert(
            name="TrunklineSlowClients",
            # A single client on a bad line is no matter of the node.
            expr="instance:ws_slow_clients:ratio > 0.1 and ws_slow_clients > 1",
            severity="warning",
            lasts="2m",
            summary="{{ $value | humanizePercentage }} of the clients of {{ $labels.instance }} read too slowly",
            description="Something is written faster than they take it. They lose publications first and their "
            "connection after limits.outbox_grace_ms.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "105s",
                    Case(
                        node(ws_slow_clients="30x40", ws_connections_active="200x40"),
                        "4m",
                        AT_NODE,
                        f"15% of the clients of {NODE} read too slowly",
                    ),
                ),
                Case(node(ws_slow_clients="20x40", ws_connections_active="200x40"), "8m"),
                # The only client of a test, and nobody at all.
                Case(node(ws_slow_clients="1x40", ws_connections_active="3x40"), "8m"),
                Case(node(ws_slow_clients="0x40", ws_connections_active="0x40"), "8m"),
                # A broadcast makes all of them slow for a moment.
                Case(node(ws_slow_clients="0x4 200x2 0x40", ws_connections_active="200x46"), "4m"),
            ),
        ),
        Alert(
            name="TrunklineSlowClientsDisconnected",
            expr="increase(ws_slow_clients_disconnected_total[10m]) / (avg_over_time(ws_connections_active[10m]) > 0) "
            "> 0.1 and increase(ws_slow_clients_disconnected_total[10m]) > 5",
            severity="critical",
            lasts="1m",
            summary="{{ $labels.instance }} cut off {{ $value | humanizePercentage }} of its clients within 10 minutes "
            "because they read too slowly",
            description="They come back, ask for what they missed and are too slow again.",
            dashboard="trunkline-fleet",
            labels={"scope": "node"},
            cases=(
                *lasting(
                    "210s",
                    Case(
                        node(ws_slow_clients_disconnected_total="0+1x80", ws_connections_active="100x80"),
                        "15m",
                        AT_NODE,
                        f"{NODE} cut off 40% of its clients within 10 minutes because they read too slowly",
                    ),
                ),
                Case(node(ws_slow_clients_disconnected_total="0x40 1x40", ws_connections_active="4x80"), "12m"),
                Case(node(ws_slow_clients_disconnected_total="0+1x80", ws_connections_active="1000x80"), "15m"),
                # The node began anew, and nobody is there yet.
                Case(
                    node(ws_slow_clients_disconnected_total="500x40 0x40", ws_connections_active="100x40 0x40"), "12m"
                ),
            ),
        ),
    )


def group(settings: MonitorSettings) -> Group:
    """All of them.

    Args:
        settings: not needed here; every group is made in the same way.
    """
    return Group("nodes", (*_memory(), *_cpu(), *_loop(), *_outboxes()))
