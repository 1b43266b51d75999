"""What the tests of the buses share: a subscriber that can be waited for, and a bus with its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.patience import patient
from trunkline.bus.base import Bus, Publication, Retention
from trunkline.settings.sections import BusSettings

PATIENCE_S = patient(10.0)
"""How long a test waits for what must come; far more than it takes, so that a slow machine fails nothing."""


def retention_of(channel: str) -> Retention:
    """The first token of a channel's name chooses its retention."""
    return {
        "few": Retention(3, 300.0),
        "one": Retention(1, 300.0),
        "brief": Retention(1000, 0.6),
        "none": Retention(0, 0.0),
    }.get(channel.partition(".")[0], Retention(1000, 300.0))


def settings(url: str, prefix: str, **changes: float) -> BusSettings:
    """Settings of a NATS bus for a test; little disk, since NATS reserves it."""
    return BusSettings(url=url, prefix=prefix, max_bytes=16 << 20, **changes)  # type: ignore[arg-type]


class Inbox:
    """A subscriber that keeps what it gets and can be waited for."""

    def __init__(self) -> None:
        self.got: list[Publication] = []
        self._more = asyncio.Event()

    def __call__(self, publication: Publication) -> None:
        self.got.append(publication)
        self._more.set()

    async def wait(self, count: int) -> list[Publication]:
        """Return what came, once there are at least `count`."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.got) < count:
                self._more.clear()
                await self._more.wait()
        return self.got

    @property
    def data(self) -> list[bytes]:
        return [publication.data for publication in self.got]


class States:
    """Keeps what a bus says about its server, and can be waited for."""

    def __init__(self) -> None:
        self.told: list[bool] = []
        self._more = asyncio.Event()

    def __call__(self, connected: bool) -> None:
        self.told.append(connected)
        self._more.set()

    async def wait(self, *wanted: bool) -> None:
        """Return once exactly these states, or more, were told."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.told) < len(wanted):
                self._more.clear()
                await self._more.wait()
        assert self.told[: len(wanted)] == list(wanted)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nobody announces."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


class BusUnderTest:
    """The instances of one bus: `bus` is one node's, `node()` another's (the same for a bus of one process)."""

    def __init__(self, kind: str, make: Callable[[], Bus]) -> None:
        self.kind = kind
        self._make = make
        self._nodes: list[Bus] = []
        self.bus: Bus

    async def open(self) -> None:
        self.bus = await self._start()

    async def node(self) -> Bus:
        return self.bus if self.kind == "memory" else await self._start()

    async def close(self) -> None:
        for bus in self._nodes:
            await bus.close()

    async def _start(self) -> Bus:
        bus = self._make()
        self._nodes.append(bus)
        await bus.start(lambda _: None)
        assert bus.connected
        return bus
