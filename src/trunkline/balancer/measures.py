"""The balancer's series: what it and its edges count, and what is true at a scrape.

Edges count in their own process, which may be a worker; `EdgeCounts` is what they report, and several add up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from trunkline.balancer.relay.meter import EdgeMeter
from trunkline.balancer.traffic.rules import peers_by_state
from trunkline.metrics import exposition
from trunkline.metrics.series import BALANCER_SERIES, DURATION_BUCKETS, LATENCY_BUCKETS
from trunkline.metrics.text import Family
from trunkline.placement.states import OUT
from trunkline.version import __version__

if TYPE_CHECKING:
    from trunkline.balancer.core import Balancer

_BUCKETS = len(LATENCY_BUCKETS) + 1
_DURATIONS = len(DURATION_BUCKETS) + 1


class EdgeCounts(msgspec.Struct):
    """What one edge has counted since its start.

    Attributes:
        handshakes: answered with 101.
        handshake_counts: handshakes by bucket of their duration.
        duration_counts: ended connections by bucket of how long they lasted.
    """

    connections: int = 0
    handshakes: int = 0
    retries: int = 0
    http_requests: dict[str, int] = msgspec.field(default_factory=dict)
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    pending_dropped: dict[str, int] = msgspec.field(default_factory=dict)
    handshake_counts: list[int] = msgspec.field(default_factory=lambda: [0] * _BUCKETS)
    handshake_sum: float = 0.0
    duration_counts: list[int] = msgspec.field(default_factory=lambda: [0] * _DURATIONS)
    duration_sum: float = 0.0


def counts_of(meter: EdgeMeter, connections: int) -> EdgeCounts:
    """What an edge of this process has counted."""
    return EdgeCounts(
        connections=connections,
        handshakes=meter.opened,
        retries=meter.retries,
        http_requests={labels[0]: int(times) for labels, times in meter.requests.values.items()},
        refusals={labels[0]: int(times) for labels, times in meter.refusals.values.items()},
        pending_dropped={labels[0]: int(times) for labels, times in meter.pending_dropped.values.items()},
        handshake_counts=list(meter.connect_seconds.counts),
        handshake_sum=meter.connect_seconds.sum,
        duration_counts=list(meter.duration_seconds.counts),
        duration_sum=meter.duration_seconds.sum,
    )


def added(counts: Iterable[EdgeCounts]) -> EdgeCounts:
    """The sum of what several edges counted."""
    total = EdgeCounts()
    for one in counts:
        total.connections += one.connections
        total.handshakes += one.handshakes
        total.retries += one.retries
        for into, counted in (
            (total.refusals, one.refusals),
            (total.pending_dropped, one.pending_dropped),
            (total.http_requests, one.http_requests),
        ):
            for label, times in counted.items():
                into[label] = into.get(label, 0) + times
        total.handshake_counts = [a + b for a, b in zip(total.handshake_counts, one.handshake_counts, strict=True)]
        total.handshake_sum += one.handshake_sum
        total.duration_counts = [a + b for a, b in zip(total.duration_counts, one.duration_counts, strict=True)]
        total.duration_sum += one.duration_sum
    return total


def families(balancer: Balancer, edge: EdgeCounts) -> Iterator[Family]:
    """All series of a balancer in Prometheus' families."""
    meter = balancer.meter
    refusals, dropped, requests, ejections = (exposition.Labelled() for _ in range(4))
    refusals.values.update(meter.refusals.values)
    dropped.values.update(meter.pending_dropped.values)
    for port, times in edge.pending_dropped.items():
        dropped.add(port, times=times)
    for status, times in edge.http_requests.items():
        requests.add(status, times=times)
    for reason, times in edge.refusals.items():
        refusals.add(reason, times=times)
    handshake = exposition.Histogram(LATENCY_BUCKETS)
    handshake.counts, handshake.sum = list(edge.handshake_counts), edge.handshake_sum
    duration = exposition.Histogram(DURATION_BUCKETS)
    duration.counts, duration.sum = list(edge.duration_counts), edge.duration_sum
    connections, relayed, reserved, capacity, up, age, imbalance, build = (exposition.Labelled() for _ in range(8))
    deploy, lease = exposition.Labelled(), exposition.Labelled()
    found = balancer.overview()
    for service in found.services:
        # At 0 from the first scrape on, so that Prometheus sees the first one as a step.
        ejections.values.update(((service.url, state), 0) for state in OUT)
        connections.set(service.connections, service.url, service.group, service.pool)
        relayed.set(service.relayed, service.url)
        reserved.set(service.reserved, service.url)
        up.set(float(service.state == "up"), service.url)
        if service.capacity is not None:
            capacity.set(service.capacity, service.url)
        if service.report_age_s is not None:
            age.set(service.report_age_s, service.url)
    ejections.values.update(meter.ejections.values)
    weights, peers = exposition.Labelled(), exposition.Labelled()
    for colour, weight in (dict.fromkeys(found.traffic.held, 0.0) | found.traffic.weights).items():
        weights.set(weight, colour)
    for state, count in peers_by_state(found.traffic, balancer.id).items():
        peers.set(count, state)
    for (pool, group), ratio in balancer.fleet.imbalance().items():
        imbalance.set(ratio, group, pool)
    build.set(1, __version__, balancer.settings.mode)
    if (known := balancer.deploys.status) is not None:
        deploy.set(1, known.state)
    if (renewed_s := balancer.deploys.lease_age_s(time.monotonic())) is not None:
        lease.set(renewed_s)
    return exposition.exposition(
        BALANCER_SERIES,
        {
            "ws_balancer_picks_total": meter.picks,
            "ws_balancer_refusals_total": refusals,
            "ws_balancer_pending_dropped_total": dropped,
            "ws_balancer_failures_total": meter.failures,
            "ws_balancer_retries_total": edge.retries,
            "ws_balancer_ejections_total": ejections,
            "ws_balancer_reports_total": meter.reports,
            "ws_balancer_moves_total": meter.moves,
            "ws_balancer_handshakes_total": edge.handshakes,
            "ws_balancer_http_requests_total": requests,
            "ws_balancer_backend_connections": connections,
            "ws_balancer_backend_relayed": relayed,
            "ws_balancer_backend_reserved": reserved,
            "ws_balancer_backend_capacity": capacity,
            "ws_balancer_backend_up": up,
            "ws_balancer_backend_report_age_seconds": age,
            "ws_balancer_connections_active": edge.connections,
            "ws_balancer_imbalance_ratio": imbalance,
            "ws_balancer_traffic_weight": weights,
            "ws_balancer_traffic_generation": found.traffic.generation,
            "ws_balancer_peers": peers,
            "ws_balancer_nats_connected": float(balancer.nats_connected),
            "ws_balancer_reload_successful": float(balancer.reloads.succeeded),
            "ws_balancer_reload_success_time_seconds": balancer.reloads.succeeded_at,
            "ws_balancer_place_seconds": meter.place,
            "ws_balancer_handshake_seconds": handshake,
            "ws_balancer_connection_duration_seconds": duration,
            "ws_balancer_steering_answers_total": meter.steering_answers,
            "ws_balancer_steering_seconds": meter.steering,
            "ws_deploy_state": deploy,
            "ws_deploy_lease_age_seconds": lease,
            "ws_balancer_build_info": build,
        },
    )
