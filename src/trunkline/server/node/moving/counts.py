"""What became of moved clients at one node, as deploys ask for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trunkline.metrics.exposition import Histogram, Meter
from trunkline.protocol import wire
from trunkline.protocol.control import LoadReport
from trunkline.protocol.goodbyes import MoveCounts

OF_THE_SERVER: Final = (wire.UNAVAILABLE, wire.TIMEOUT)
"""Errors that no client causes; an application's fault is counted where it is caught."""


def move_counts(node: str, load: LoadReport, meter: Meter) -> MoveCounts:
    """The counts of a node from its load report and its live counts."""
    return MoveCounts(
        node=node,
        run=load.run or "",
        colour=load.colour or "",
        version=load.version or "",
        connections=load.agentsConnections,
        opened=meter.connections,
        closed=meter.connections - load.agentsConnections,
        asked=meter.asked_to_move,
        cut=meter.cut,
        resumed=_whole(meter.resumed.values),
        returned=_cumulative(meter.reconnect),
        recovered=int(meter.replay_requests.values.get(("recovered",), 0)),
        not_recovered=meter.not_recovered,
        gaps=meter.gaps,
        refused=_whole(meter.connections_failed.values),
        failed=meter.faults + sum(int(meter.errors.values.get((code,), 0)) for code in OF_THE_SERVER),
        loop_lag_ms=load.loop_lag_ms or 0.0,
        nameless=meter.asked_nameless,
    )


def _whole(values: Mapping[tuple[str, ...], float]) -> dict[str, int]:
    return {labels[0]: int(count) for labels, count in values.items()}


def _cumulative(histogram: Histogram) -> dict[str, int]:
    return {bound: int(times) for bound, times in histogram.cumulative()}
