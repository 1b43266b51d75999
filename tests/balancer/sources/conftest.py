"""What the tests of sources share: the log lines that they write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.patience import patient

Lines = list[Any]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Log lines as dicts, in order."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture
def logged(lines: Lines) -> Callable[[str], Awaitable[Any]]:
    """Wait for a log line of an event's name and return the first one."""

    async def wait(event: str, *, within_s: float = 10.0) -> Any:
        async with asyncio.timeout(patient(within_s)):
            while True:
                for line in lines:
                    if line["event"] == event:
                        return line
                await asyncio.sleep(0.01)

    return wait
