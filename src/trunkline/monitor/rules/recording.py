"""Recording rules: numbers that several alerts and panels need, or that are dear to compute. Pure.

Rules:

- `instance:` is of one node, `colour:` of one deploy group, `fleet:` of all together; the end is the window of a rate.
- A share is recorded only where its whole is above 0: a node without limit or without clients has no share.
- A rate is summed after it was taken, never before: a restart of one node would be a reset of the sum.
- What is left out of a series by `without` keeps the labels of its target, so `colour` and `node` survive where service
  discovery gives them.
"""

from __future__ import annotations

from typing import Final

from trunkline.metrics.series import LATENCY_BUCKETS
from trunkline.monitor.rules import rule
from trunkline.monitor.rules.rule import Group, Recording
from trunkline.settings.monitor import MonitorSettings

WINDOWS: Final = ("5m", "30m", "1h", "6h", "3d")
"""Windows of the SLO recordings, short and long ones of all burn rates."""

ORDERLY: Final = "address_rate|draining|starting"
"""Reasons of failed handshakes that are no errors: a limit at work, and a deploy."""

NODE_FAULTS: Final = "internal|admit_timeout|keys_unavailable|full|lag|accept_rate"
"""Reasons of failed handshakes for which a node is to blame, not its client and no deploy."""

EDGE_FAULTS: Final = "no_backend|all_down|full|place_timeout|backend_failed|edge_full|doors_full|internal"
"""Reasons for which the fleet is to blame. `all_tried` is not here: what it ends in is counted as backend_failed."""

_STEERING: Final = 'ws_balancer_build_info{mode="steer"}'
_RELAYING: Final = 'ws_balancer_build_info{mode="relay"}'

_NODES: Final = (
    Recording(
        "instance:ws_capacity:ratio",
        "ws_connections_active / (ws_connections_max > 0)",
        "Share of a node's connections that are taken.",
    ),
    Recording(
        "instance:ws_memory:ratio",
        "ws_memory_bytes / (ws_memory_limit_bytes > 0)",
        "Share of its memory limit that a node uses; absent without a limit.",
    ),
    Recording(
        "instance:ws_slow_clients:ratio",
        "ws_slow_clients / (ws_connections_active > 0)",
        "Share of a node's clients that do not take what is sent to them at once.",
    ),
    Recording(
        "instance:ws_errors:rate5m",
        # A counter with labels has no series before its first event: 0 stands in for it.
        '(sum without (code) (rate(ws_errors_total{code!="RATE_LIMIT_EXCEEDED"}[5m])) '
        "or 0 * rate(ws_connections_total[5m])) + "
        f'(sum without (reason) (rate(ws_connections_failed_total{{reason!~"{ORDERLY}"}}[5m])) '
        "or 0 * rate(ws_connections_total[5m]))",
        "Error messages and failed handshakes of a node per second; rate limits and deploys apart.",
    ),
    Recording(
        "instance:ws_errors:ratio_rate5m",
        "instance:ws_errors:rate5m / (instance:ws_errors:rate5m "
        "+ rate(ws_messages_received_total[5m]) + rate(ws_connections_total[5m]) > 0)",
        "Those errors beside all that clients asked of the node.",
    ),
    Recording(
        "instance:ws_message_latency_seconds:p95_5m",
        "histogram_quantile(0.95, rate(ws_message_latency_seconds_bucket[5m]))",
        "Time within which a node has handled 95 % of messages.",
    ),
)

_FLEET: Final = (
    Recording(
        "colour:ws_connections_active:sum",
        "sum by (colour) (ws_connections_active * on (instance) group_left (colour) "
        "max by (instance, colour) (ws_build_info))",
        "Connections of each deploy group.",
    ),
    Recording("fleet:ws_connections_active:sum", "sum(ws_connections_active)", "Connections of all nodes."),
    Recording(
        "fleet:ws_connections_max:sum",
        "sum(ws_connections_max unless ws_draining == 1)",
        "Connections that all nodes take which are not draining.",
    ),
    Recording(
        "fleet:ws_connections:rate5m",
        "sum(rate(ws_connections_total[5m]))",
        "Connections opened per second on all nodes.",
    ),
)


def slo(settings: MonitorSettings) -> tuple[Recording, ...]:
    """Good and bad events of the two objectives, and the share of bad ones, for each window.

    Where a relay stands before the nodes, it counts handshakes, for it tries a second node when the first one fails,
    and it is there when a node is not. Else the nodes and a balancer that steers count.

    Args:
        settings: the limit of a delivery.
    """
    limit = next(repr(bound) for bound in LATENCY_BUCKETS if bound == settings.slo_delivery_ms / 1000)
    return tuple(each for window in WINDOWS for each in (*_handshakes(window), *_deliveries(window, limit)))


def _handshakes(window: str) -> tuple[Recording, ...]:
    relayed = f"rate(ws_balancer_handshakes_total[{window}]) and on (instance) {_RELAYING}"
    refused = f'rate(ws_balancer_refusals_total{{reason=~"{EDGE_FAULTS}"}}[{window}])'
    by_relay = f"sum({refused} and on (instance) {_RELAYING})"
    by_nodes = (
        f'(sum(rate(ws_connections_failed_total{{reason=~"{NODE_FAULTS}"}}[{window}])) or vector(0)) + '
        f"(sum({refused} and on (instance) {_STEERING}) or vector(0))"
    )
    bad = f"fleet:ws_handshake_faults:rate{window}"
    good = f"fleet:ws_handshakes_opened:rate{window}"
    return (
        Recording(
            good,
            f"sum({relayed}) or sum(rate(ws_connections_total[{window}]))",
            f"Handshakes that succeeded, per second over {window}.",
        ),
        Recording(
            bad,
            f"({by_relay} or 0 * sum({relayed})) or ({by_nodes})",
            f"Handshakes that failed through the fleet's fault, per second over {window}.",
        ),
        Recording(
            f"fleet:ws_handshake_faults:ratio_rate{window}",
            f"{bad} / ({bad} + {good} > 0)",
            f"Share of handshakes over {window} that failed through the fleet's fault.",
        ),
    )


def _deliveries(window: str, limit: str) -> tuple[Recording, ...]:
    all_of_them = f"fleet:ws_deliveries:rate{window}"
    late = f"fleet:ws_deliveries_late:rate{window}"
    return (
        Recording(
            all_of_them,
            f"sum(rate(ws_delivery_latency_seconds_count[{window}]))",
            f"Publications delivered, per second over {window}.",
        ),
        Recording(
            late,
            f'{all_of_them} - sum(rate(ws_delivery_latency_seconds_bucket{{le="{limit}"}}[{window}]))',
            f"Publications delivered after the limit, per second over {window}.",
        ),
        Recording(
            f"fleet:ws_deliveries_late:ratio_rate{window}",
            f"{late} / ({all_of_them} > 0)",
            f"Share of publications over {window} that were delivered after the limit.",
        ),
    )


def declare(*recordings: Recording) -> None:
    """Let expressions use these recordings, once what they are made from was checked."""
    for each in recordings:
        rule.check(each.expr, f"recording {each.name}")
        rule.RECORDED.add(each.name)


def group(settings: MonitorSettings) -> Group:
    """The recordings that are not of the objectives; those stand before their alerts in `alerts_slo`.

    Args:
        settings: not needed here; every group is made in the same way.
    """
    return Group("recording", (*_NODES, *_FLEET))


declare(*_NODES, *_FLEET, *slo(MonitorSettings()))
