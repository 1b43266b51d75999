from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trunkline.protocol.control import Health, LoadReport
from trunkline.server.node.health import assess

MIB = 1 << 20


def found(**changed: Any) -> Health:
    well: dict[str, Any] = {
        "bus_name": "nats",
        "bus_connected": True,
        "connections": 0,
        "max_connections": 1000,
        "memory_bytes": int(12.4 * MIB),
        "memory_limit_bytes": 512 * MIB,
        "cpu_percent": 1.5,
        "slow_clients": 0,
        "draining": False,
        "uptime_s": 123.449,
    }
    return assess(**(well | changed))


def test_shape() -> None:
    """The answer has the documented shape, key by key and in order."""
    assert msgspec.json.encode(found(max_connections=2184)) == (
        b'{"status":"healthy","healthy":true,"checks":{'
        b'"nats":{"status":"connected","healthy":true},'
        b'"capacity":{"current":0,"max":2184,"percentage":0.0,"healthy":true},'
        b'"memory":{"used_mb":12.4,"limit_mb":512.0,"percentage":2.4,"healthy":true},'
        b'"cpu":{"percentage":1.5,"healthy":true}},'
        b'"warnings":[],"errors":[],"uptime":123.45}'
    )


def test_it_can_be_read_back() -> None:
    """Other processes decode the answer with the same struct."""
    assert msgspec.json.decode(msgspec.json.encode(found()), type=Health) == found()


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"connections": 800}, "healthy"),
        ({"connections": 801}, "degraded"),
        ({"connections": 950}, "degraded"),
        ({"connections": 951}, "unhealthy"),
        ({"memory_bytes": 409 * MIB}, "healthy"),
        ({"memory_bytes": 411 * MIB}, "degraded"),
        ({"memory_bytes": 462 * MIB}, "unhealthy"),
        ({"memory_bytes": 10**12, "memory_limit_bytes": None}, "healthy"),
        ({"cpu_percent": 70.0}, "healthy"),
        ({"cpu_percent": 70.1}, "degraded"),
        ({"cpu_percent": 90.1}, "unhealthy"),
        ({"bus_connected": False}, "unhealthy"),
        ({"connections": 801, "cpu_percent": 95.0}, "unhealthy"),
    ],
)
def test_thresholds(changed: dict[str, Any], status: str) -> None:
    """Each documented threshold turns the verdict, and `healthy` is false only when unhealthy."""
    health = found(**changed)
    assert health.status == status
    assert health.healthy is (status != "unhealthy")
    assert bool(health.errors) is (status == "unhealthy")
    if status == "degraded":
        assert health.warnings


def test_a_bus_that_does_not_store_is_unhealthy_and_says_why() -> None:
    """It is connected, its check has the reason, and so has the error; less room than wanted only warns."""
    full = found(bus_problem="no room on its disk")
    assert (full.status, full.errors) == ("unhealthy", ["bus nats does not store publications: no room on its disk"])
    assert msgspec.json.encode(full.checks["nats"]) == (
        b'{"status":"connected","healthy":false,"why":"no room on its disk"}'
    )
    assert found(bus_connected=False, bus_problem="").errors == ["bus nats is not connected"]
    small = found(bus_warning="less room")
    assert (small.status, small.warnings) == ("healthy", ["bus nats: less room"])


def test_slow_clients_and_draining_only_warn() -> None:
    """More than a tenth slow clients, and a drain, are said without changing the verdict."""
    health = found(connections=100, slow_clients=11, draining=True)
    assert health.status == "healthy"
    assert len(health.warnings) == 2
    assert found(connections=100, slow_clients=10).warnings == []


def test_a_foreign_load_report_needs_one_field() -> None:
    """`agentsConnections` alone is a report, unknown fields are ignored, and ours has the documented names."""
    report = msgspec.json.decode(b'{"agentsConnections":42,"zone":"x"}', type=LoadReport)
    assert (report.agentsConnections, report.state, report.capacity) == (42, "up", None)
    names = "agentsConnections,podName,podIP,nodeName,state,colour,capacity,accept_per_s,loop_lag_ms,version"
    assert ",".join(msgspec.to_builtins(report)) == names
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"agentsConnections":-1}', type=LoadReport)
