"""The verdict of /health: measurements in, the message out. Pure.

Thresholds are strict: exactly at a threshold still counts as below it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from trunkline.protocol.control import Check, Health, HealthStatus

MIB = 1024 * 1024


class Threshold(NamedTuple):
    """Percentages above which a node is degraded and unhealthy."""

    degraded: float
    unhealthy: float


CAPACITY = Threshold(80.0, 95.0)
MEMORY = Threshold(80.0, 90.0)
CPU = Threshold(70.0, 90.0)
SLOW_CLIENTS_PERCENT = 10.0


def assess(
    *,
    bus_name: str,
    bus_connected: bool,
    connections: int,
    max_connections: int,
    memory_bytes: int,
    memory_limit_bytes: int | None,
    cpu_percent: float,
    slow_clients: int,
    draining: bool,
    uptime_s: float,
    bus_problem: str = "",
    bus_warning: str = "",
) -> Health:
    """Build the answer of /health; a memory limit of None is no limit.

    `bus_problem` is why a bus that is connected does not store, `bus_warning` what it cannot do in full.
    """
    warnings: list[str] = []
    errors: list[str] = []
    capacity = _percent(connections, max_connections)
    memory = None if memory_limit_bytes is None else _percent(memory_bytes, memory_limit_bytes)
    cpu = round(cpu_percent, 1)
    checks = {
        bus_name: Check(
            status="connected" if bus_connected else "disconnected",
            healthy=bus_connected and not bus_problem,
            why=bus_problem or msgspec.UNSET,
        ),
        "capacity": Check(
            current=connections,
            max=max_connections,
            percentage=capacity,
            healthy=_judge("capacity", capacity, CAPACITY, warnings, errors),
        ),
        "memory": Check(
            used_mb=round(memory_bytes / MIB, 1),
            limit_mb=None if memory_limit_bytes is None else round(memory_limit_bytes / MIB, 1),
            percentage=memory,
            healthy=memory is None or _judge("memory", memory, MEMORY, warnings, errors),
        ),
        "cpu": Check(percentage=cpu, healthy=_judge("cpu", cpu, CPU, warnings, errors)),
    }
    if not bus_connected:
        errors.append(f"bus {bus_name} is not connected")
    elif bus_problem:
        errors.append(f"bus {bus_name} does not store publications: {bus_problem}")
    status: HealthStatus = "unhealthy" if errors else "degraded" if warnings else "healthy"
    # These warnings do not change the status: slow readers are the clients' fault and no other node would be a better
    # place for them, all nodes share the bus, and a node that drains is well.
    slow = _percent(slow_clients, connections)
    if slow > SLOW_CLIENTS_PERCENT:
        warnings.append(f"{slow:g} % of the clients are slow, more than {SLOW_CLIENTS_PERCENT:g} %")
    if bus_warning:
        warnings.append(f"bus {bus_name}: {bus_warning}")
    if draining:
        warnings.append("the node is draining")
    return Health(status, not errors, checks, warnings, errors, round(uptime_s, 2))


def _percent(part: float, whole: float) -> float:
    return round(100.0 * part / whole, 1) if whole > 0 else 0.0


def _judge(name: str, percent: float, threshold: Threshold, warnings: list[str], errors: list[str]) -> bool:
    if percent > threshold.unhealthy:
        errors.append(f"{name} at {percent:g} %, more than {threshold.unhealthy:g} %")
        return False
    if percent > threshold.degraded:
        warnings.append(f"{name} at {percent:g} %, more than {threshold.degraded:g} %")
    return True
