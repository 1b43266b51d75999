"""A listener of a run for tests."""

from __future__ import annotations

import asyncio

from trunkline.load.model.report import Second
from trunkline.load.model.tally import Sum


class Seen:
    """Keeps the seconds that the coordinator shows."""

    def __init__(self) -> None:
        self.seconds: list[Second] = []
        self.first = asyncio.Event()

    def second(self, second: Second, so_far: Sum, /) -> None:
        self.seconds.append(second)
        self.first.set()
