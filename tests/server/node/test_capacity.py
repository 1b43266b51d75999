from __future__ import annotations

import random

import pytest

from trunkline.server.node.capacity import Shedder, max_connections

MIB = 1 << 20
BASE, EACH = 128 * MIB, 180 * 1024


def decide(shedder: Shedder, now: float = 0.0, **changed: object) -> str | None:
    asked = {"connections": 0, "capacity": 10, "state": "up", "loop_lag_s": 0.0} | changed
    shed = shedder.decide(now, **asked)  # type: ignore[arg-type]
    return None if shed is None else shed.reason


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(512 * MIB, 2184), (None, 10_000), (64 * MIB, 100), (140 * MIB, 100), (64 << 30, 50_000), (1 << 30, 5097)],
)
def test_connections_from_memory(limit: int | None, expected: int) -> None:
    """The documented formula: 512 MiB gives 2184, the result stays between 100 and 50,000, no limit gives 10,000."""
    assert max_connections(limit, BASE, EACH) == expected


def test_a_node_that_is_well_takes_everyone() -> None:
    """Without a fixed rate only state, room and lag count."""
    shedder = Shedder(None, 0.5, random.Random(1))
    assert {decide(shedder, connections=9, loop_lag_s=0.5) for _ in range(10_000)} == {None}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"state": "starting"}, "starting"),
        ({"state": "draining"}, "draining"),
        ({"state": "stopped"}, "draining"),
        ({"connections": 10}, "full"),
        ({"loop_lag_s": 0.51}, "lag"),
        ({"state": "draining", "connections": 10, "loop_lag_s": 9.0}, "draining"),
    ],
)
def test_reasons(changed: dict[str, object], reason: str) -> None:
    """Each cause has its own reason, and the state comes first."""
    assert decide(Shedder(None, 0.5, random.Random(1)), **changed) == reason


def test_accept_rate() -> None:
    """With a fixed rate no more than that are let in per second, and refused ones do not count."""
    shedder = Shedder(10, 0.5, random.Random(1))
    taken = sum(decide(shedder, now=step / 1000, connections=0, capacity=10_000) is None for step in range(10_000))
    assert 100 <= taken <= 106
    full = Shedder(10, 0.5, random.Random(1))
    assert {decide(full, connections=10) for _ in range(100)} == {"full"}
    assert decide(full) is None


def test_retry_after_is_spread() -> None:
    """Those turned away together are told different times."""
    shedder = Shedder(None, 0.5, random.Random(1))
    told = [shedder.decide(0.0, connections=1, capacity=1, state="up", loop_lag_s=0.0) for _ in range(200)]
    seconds = [shed.retry_after_s for shed in told if shed is not None]
    assert len(seconds) == 200
    assert 5.0 <= min(seconds) < 7.0
    assert 18.0 < max(seconds) <= 20.0


def test_headroom() -> None:
    """The reported rate falls with the lag and is 0 where handshakes are shed."""
    shedder = Shedder(900, 0.5, random.Random(1))
    assert shedder.headroom(0.0) == 900.0
    assert shedder.headroom(0.25) == 450.0
    assert shedder.headroom(0.5) == 0.0
    assert shedder.headroom(3.0) == 0.0
