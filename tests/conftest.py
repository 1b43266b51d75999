"""What all tests share: examples that do not change, limits that fit the machine, and nothing left running.

- Hypothesis draws the same examples on every run, so that a red build stays red.
- The time limit of a test is multiplied by the factor of `tests/support/patience.py`.
- Tests that start processes, or may, have the mark `process`; `make unit` leaves them out.
- Loggers are not kept at their first use, as they are in a program: one that a test configured would be deaf to the
  `capture_logs` of every later test.
- Compiled modules are kept, also where Python is told not to write them: every process of a test would compile all of
  them, and the tests' own are rewritten by pytest. They stand beside pytest's cache then.
- What a test starts ends with pytest, however pytest ends (`tests/support/reaper.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.support import ROOT, reaper
from tests.support.patience import FACTOR, patient
from tests.support.reach import reaches

if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(ROOT / ".pytest_cache" / "compiled")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and tests that press Ctrl-C would pass that on to what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.docker.fixtures"]

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, database=None, suppress_health_check=_QUIET
)
settings.register_profile("search", deadline=None, max_examples=5000, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_configure = structlog.configure


def _configure_uncached(**given: Any) -> None:
    _configure(**given | {"cache_logger_on_first_use": False})


structlog.configure = _configure_uncached

_reaper = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_configure(config: pytest.Config) -> None:
    """Have this process watched."""
    config.stash[_reaper] = reaper.watch()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is left, before the prompt comes back."""
    process = config.stash[_reaper]
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=patient(10))


def pytest_report_header() -> str:
    """The factor, beside the versions."""
    return f"patience: {FACTOR:.2f}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its time limit and the mark of those that start processes."""
    limit_s = float(config.getini("timeout"))
    for item in items:
        if isinstance(item, pytest.Function) and reaches(_functions(item)):
            item.add_marker("process")
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(patient(marker.args[0] if marker else limit_s)), append=False)


def _functions(item: pytest.Function) -> list[Callable[..., object]]:
    """The test and its fixtures."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    return [item.function, *(each.func for found in fixtures for each in found)]
