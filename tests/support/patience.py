"""How long tests wait: one factor that every upper bound on a wait is multiplied by.

Rules:

- The factor is at least 1 and the same for a whole run. It comes from `TRUNKLINE_TEST_PATIENCE`, else from a
  calibration of some 0.1 s at the start: how fast this machine is, and how many processes compete for its processors.
- It scales waits that end with an event, so a larger factor makes nothing slower but a failure. Lower bounds on
  durations, and waits after which nothing must have happened, stay as they are.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "TRUNKLINE_TEST_PATIENCE"

_HANDED_ON: Final = "TESTS_PATIENCE"
"""How the workers of pytest get the factor: commands under test refuse a `TRUNKLINE_` name that is no setting."""

_TURNS: Final = 200_000
_REFERENCE_S: Final = 0.008
"""CPU time of the loop below on a machine on which the suite's waits are known to be long enough."""

_LOOKS: Final = 10
_LOOK_EVERY_S: Final = 0.01
_MOST: Final = 20.0


def factor_of(loop_s: float, busy: float, processors: int) -> float:
    """The factor for a machine.

    Args:
        loop_s: CPU time of the calibration's loop.
        busy: processes that want a processor, without this one.
        processors: how many there are.
    """
    slowness = max(1.0, loop_s / _REFERENCE_S)
    # Twice the share that the others take: whatever a test starts competes with them too, one step after the other.
    crowding = 1.0 + 2.0 * busy / processors
    return min(slowness * crowding, _MOST)


def patient(seconds: float) -> float:
    """An upper bound on a wait that holds on this machine as it is now.

    Args:
        seconds: enough on a quiet machine.
    """
    return seconds * FACTOR


def patient_ms(milliseconds: int) -> int:
    """A limit in a setting of a node or balancer under test, which must not expire because the machine is busy."""
    return round(milliseconds * FACTOR)


def _factor() -> float:
    given = os.environ.pop(VARIABLE, "") or os.environ.get(_HANDED_ON, "")
    factor = max(float(given), 1.0) if given else factor_of(_loop_s(), _busy(), os.cpu_count() or 1)
    os.environ[_HANDED_ON] = f"{factor:.2f}"
    return factor


def _loop_s() -> float:
    """The better of three, so that the first use of memory and a change of clock speed do not count."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        total = 0
        for number in range(_TURNS):
            total += number & 7
        best = min(best, time.process_time() - began)
    return best


def _busy() -> float:
    """Processes that were running or waiting for a processor over a tenth of a second, without this one."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return max(os.getloadavg()[0] - 1.0, 0.0)
    seen = 0
    for _ in range(_LOOKS):
        for line in stat.read_text().splitlines():
            if line.startswith("procs_running "):
                seen += int(line.split()[1]) - 1
        time.sleep(_LOOK_EVERY_S)
    return seen / _LOOKS


FACTOR: Final = _factor()
