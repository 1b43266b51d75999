"""What all tests share: examples that do not change, limits that fit the machine, and nothing left running.

- Hypothesis draws the same examples on every run, so that a red build stays red.
- The time limit of a test is multiplied by the factor of `tests/support/patience.py`.
- What a test starts ends with pytest, however pytest ends (`tests/support/reaper.py`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest
from hypothesis import HealthCheck, settings

from tests.support import reaper
from tests.support.patience import FACTOR, patient

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=100, database=None, suppress_health_check=_QUIET
)
settings.register_profile("search", deadline=None, max_examples=5000, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


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
    """Give each test its time limit."""
    limit_s = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(patient(marker.args[0] if marker else limit_s)), append=False)
