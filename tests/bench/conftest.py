"""Benchmarks have all the time they need: a limit is only there to end one that hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

LIMIT_S = 900


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
