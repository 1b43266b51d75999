"""Alerts on what stands before the nodes: backends, picks that come to nothing, refusals, balance. Pure.

Rule: a backend that drains, or is full, is out on purpose and no failure.
"""

from __future__ import annotations

from typing import Final

from trunkline.monitor.rules.recording import EDGE_FAULTS
from trunkline.monitor.rules.rule import Alert, Case, Group
from trunkline.monitor.rules.samples import AT_BALANCER, BALANCER, NODE, lasting, node, of_balancer
from trunkline.settings.monitor import MonitorSettings

_BACKEND: Final = f"http://{NODE}"
_OTHER: Final = "http://10.0.0.2:3001"
_AT: Final = {**AT_BALANCER, "backend": _BACKEND}
# A backend's URL and a node's instance are of one address where the balancer and Prometheus reach nodes the same way.
_DRAINS: Final = 'label_replace(ws_draining == 1, "backend", "http://$1", "instance", "(.*)")'
_FULL: Final = (
    "sum by (instance, backend) (ws_balancer_backend_connections) "
    ">= on (instance, backend) ws_balancer_backend_capacity"
)


def _up(first: str, second: str) -> dict[str, str]:
    return of_balancer("ws_balancer_backend_up", first, backend=_BACKEND) | of_balancer(
        "ws_balancer_backend_up", second, backend=_OTHER
    )


def _placed(name: str, values: str, backend: str = _BACKEND) -> dict[str, str]:
    return of_balancer(name, values, backend=backend, group="blue", pool="")


def _backends() -> tuple[Alert, ...]:
    known = of_balancer("ws_balancer_build_info", "1x60", version="1", mode="relay")
    return (
        Alert(
            name="TrunklineBackendDown",
            expr=f"ws_balancer_backend_up == 0 unless on (backend) {_DRAINS} unless on (instance, backend) {_FULL}",
            severity="warning",
            lasts="2m",
            summary="Balancer {{ $labels.instance }} sends nobody to {{ $labels.backend }} (up: {{ $value }})",
            description="Its checks fail, or connections to it did; the others carry its share. The balancer's own "
            "page says why.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "3m",
                    Case(
                        _up("1x4 0x60", "1x60"),
                        "6m",
                        _AT,
                        f"Balancer {BALANCER} sends nobody to {_BACKEND} (up: 0)",
                    ),
                ),
                # It drains; it is full; it was replaced; all is well.
                Case(_up("1x4 0x60", "1x60") | node(ws_draining="1x60"), "6m"),
                Case(
                    _up("1x4 0x60", "1x60")
                    | _placed("ws_balancer_backend_connections", "100x60")
                    | of_balancer("ws_balancer_backend_capacity", "100x60", backend=_BACKEND),
                    "6m",
                ),
                Case(_up("1x4 0x4 stale", "1x60"), "6m"),
                Case(_up("1x60", "1x60"), "6m"),
            ),
        ),
        Alert(
            name="TrunklineNoBackendUp",
            # A balancer that knows no backend has no series of one.
            expr="0 * sum by (job, instance) (ws_balancer_build_info) unless on (instance) ws_balancer_backend_up > 0",
            severity="critical",
            lasts="30s",
            summary="Balancer {{ $labels.instance }} has {{ $value }} backends that take connections",
            description="New clients get 503. Connections that are open go on, while their nodes do.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "90s",
                    Case(
                        known | _up("1x4 0x60", "1x4 0x60"),
                        "3m",
                        AT_BALANCER,
                        f"Balancer {BALANCER} has 0 backends that take connections",
                    ),
                ),
                # None is known.
                Case(known, "3m", AT_BALANCER, f"Balancer {BALANCER} has 0 backends that take connections"),
                Case(known | _up("0x60", "1x60"), "3m"),
                # It has just started and looks for them.
                Case(
                    known | of_balancer("ws_balancer_backend_up", "_ 1x60", backend=_BACKEND),
                    "3m",
                ),
            ),
        ),
        Alert(
            name="TrunklineBackendFlapping",
            expr="sum without (state) (increase(ws_balancer_ejections_total[15m])) >= 3",
            severity="warning",
            lasts="0s",
            summary="Balancer {{ $labels.instance }} took {{ $labels.backend }} out {{ $value | humanize }} times "
            "within 15 minutes",
            description="It works and fails by turns. Each time its clients are sent elsewhere, and each pause is "
            "longer.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                Case(
                    of_balancer("ws_balancer_ejections_total", "0x70 1x10 2x10 4x30", backend=_BACKEND, state="down"),
                    "25m",
                    _AT,
                    f"Balancer {BALANCER} took {_BACKEND} out 4 times within 15 minutes",
                ),
                # Once, in a deploy; and a balancer that began anew.
                Case(of_balancer("ws_balancer_ejections_total", "0x70 1x50", backend=_BACKEND, state="down"), "25m"),
                Case(of_balancer("ws_balancer_ejections_total", "90x70 0x50", backend=_BACKEND, state="down"), "25m"),
            ),
        ),
        Alert(
            name="TrunklineBackendFailures",
            expr="sum by (job, instance, backend) (rate(ws_balancer_failures_total[5m])) "
            "/ (sum by (job, instance, backend) (rate(ws_balancer_picks_total[5m])) > 0.1) > 0.1",
            severity="warning",
            lasts="2m",
            summary="{{ $value | humanizePercentage }} of the clients that balancer {{ $labels.instance }} sent to "
            "{{ $labels.backend }} did not get through",
            description="It answers its checks and fails its clients. Most of them were tried at another backend.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "150s",
                    Case(
                        of_balancer("ws_balancer_failures_total", "0+3x40", backend=_BACKEND, why="handshake_timeout")
                        | of_balancer("ws_balancer_picks_total", "0+9x40", backend=_BACKEND, reason="policy")
                        | of_balancer("ws_balancer_picks_total", "0+3x40", backend=_BACKEND, reason="sticky"),
                        "9m",
                        _AT,
                        f"25% of the clients that balancer {BALANCER} sent to {_BACKEND} did not get through",
                    ),
                ),
                Case(
                    of_balancer("ws_balancer_failures_total", "0+3x40", backend=_BACKEND, why="connect")
                    | of_balancer("ws_balancer_picks_total", "0+300x40", backend=_BACKEND, reason="policy"),
                    "9m",
                ),
                # Hardly anybody came.
                Case(
                    of_balancer("ws_balancer_failures_total", "0x4 1x40", backend=_BACKEND, why="connect")
                    | of_balancer("ws_balancer_picks_total", "0x4 1x40", backend=_BACKEND, reason="policy"),
                    "5m",
                ),
            ),
        ),
    )


def _whole() -> tuple[Alert, ...]:
    refused = f'sum by (job, instance) (rate(ws_balancer_refusals_total{{reason=~"{EDGE_FAULTS}"}}[5m]))'
    placed = "sum by (job, instance) (rate(ws_balancer_picks_total[5m]))"
    even = _placed("ws_balancer_backend_connections", "30x80") | _placed(
        "ws_balancer_backend_connections", "10x80", _OTHER
    )
    crowded = _placed("ws_balancer_backend_connections", "300x80") | _placed(
        "ws_balancer_backend_connections", "100x80", _OTHER
    )
    return (
        Alert(
            name="TrunklineEdgeRefusals",
            # Without any pick the sum has no series, and all that came were refused.
            expr=f"{refused} / ({refused} + ({placed} or 0 * {refused}) > 0.1) > 0.05",
            severity="critical",
            lasts="2m",
            summary="Balancer {{ $labels.instance }} turns {{ $value | humanizePercentage }} of its clients away",
            description="No backend took them: none is up, all are full, or none answered. What clients are to blame "
            "for is not counted.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "2m",
                    Case(
                        of_balancer("ws_balancer_refusals_total", "0+30x40", reason="full")
                        | of_balancer("ws_balancer_picks_total", "0+30x40", backend=_BACKEND, reason="policy"),
                        "9m",
                        AT_BALANCER,
                        f"Balancer {BALANCER} turns 50% of its clients away",
                    ),
                ),
                Case(
                    of_balancer("ws_balancer_refusals_total", "0+30x40", reason="all_down"),
                    "9m",
                    AT_BALANCER,
                    f"Balancer {BALANCER} turns 100% of its clients away",
                ),
                Case(
                    of_balancer("ws_balancer_refusals_total", "0+30x40", reason="rate_limited")
                    | of_balancer("ws_balancer_picks_total", "0+30x40", backend=_BACKEND, reason="policy"),
                    "9m",
                ),
                Case(
                    of_balancer("ws_balancer_refusals_total", "0+1x40", reason="full")
                    | of_balancer("ws_balancer_picks_total", "0+300x40", backend=_BACKEND, reason="policy"),
                    "9m",
                ),
                Case(of_balancer("ws_balancer_refusals_total", "0+1x40", reason="all_down"), "9m"),
                Case(
                    of_balancer("ws_balancer_refusals_total", "900x20 0x20", reason="full")
                    | of_balancer("ws_balancer_picks_total", "900x20 0x20", backend=_BACKEND, reason="policy"),
                    "8m",
                ),
            ),
        ),
        Alert(
            name="TrunklineImbalance",
            # Small numbers are never even.
            expr="ws_balancer_imbalance_ratio > 1.5 and on (instance, group, pool) "
            "avg by (instance, group, pool) (ws_balancer_backend_connections) >= 50",
            severity="warning",
            lasts="15m",
            summary="The fullest backend of group {{ $labels.group }} has {{ $value | humanize }} times the mean, "
            "says balancer {{ $labels.instance }}",
            description="Long-lived connections stay where they are: after a deploy or a failure the node that came "
            "last stays empty until clients are asked to move.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "885s",
                    Case(
                        crowded | of_balancer("ws_balancer_imbalance_ratio", "1.75x80", group="blue", pool=""),
                        "17m",
                        {**AT_BALANCER, "group": "blue"},
                        f"The fullest backend of group blue has 1.75 times the mean, says balancer {BALANCER}",
                    ),
                ),
                Case(even | of_balancer("ws_balancer_imbalance_ratio", "1.75x80", group="blue", pool=""), "17m"),
                Case(crowded | of_balancer("ws_balancer_imbalance_ratio", "1.2x80", group="blue", pool=""), "17m"),
                # A deploy, evened out within minutes.
                Case(
                    crowded | of_balancer("ws_balancer_imbalance_ratio", "1x20 1.9x20 1.1x40", group="blue", pool=""),
                    "17m",
                ),
            ),
        ),
        Alert(
            name="TrunklineBackendReportsStale",
            expr="ws_balancer_backend_report_age_seconds > 120 and on (instance, backend) ws_balancer_backend_up == 1",
            severity="warning",
            lasts="2m",
            summary="Balancer {{ $labels.instance }} heard {{ $value | humanizeDuration }} ago how full "
            "{{ $labels.backend }} is",
            description="It goes by its own count, which does not hold what other balancers and direct clients do.",
            dashboard="trunkline-edge",
            labels={"scope": "edge"},
            cases=(
                *lasting(
                    "4m",
                    Case(
                        of_balancer("ws_balancer_backend_report_age_seconds", "0+15x40", backend=_BACKEND)
                        | _up("1x40", "1x40"),
                        "6m",
                        _AT,
                        f"Balancer {BALANCER} heard 6m 0s ago how full {_BACKEND} is",
                    ),
                ),
                Case(
                    of_balancer("ws_balancer_backend_report_age_seconds", "0+15x40", backend=_BACKEND)
                    | _up("0x40", "1x40"),
                    "6m",
                ),
                Case(
                    of_balancer("ws_balancer_backend_report_age_seconds", "30x40", backend=_BACKEND)
                    | _up("1x40", "1x40"),
                    "6m",
                ),
            ),
        ),
    )


def group(settings: MonitorSettings) -> Group:
    """All of them.

    Args:
        settings: not needed here; every group is made in the same way.
    """
    return Group("edge", (*_backends(), *_whole()))
