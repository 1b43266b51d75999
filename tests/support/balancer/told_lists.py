"""Runs a source and holds the lists that it tells, so that a test can wait for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from tests.support.patience import patient
from trunkline.balancer.sources.base import Source
from trunkline.placement.backend import BackendSpec

Specs = tuple[BackendSpec, ...]


class ToldLists:
    """Every list that a source told, in order."""

    def __init__(self) -> None:
        self.all: list[Specs] = []
        self._news = asyncio.Event()

    def tell(self, specs: Sequence[BackendSpec]) -> None:
        self.all.append(tuple(specs))
        self._news.set()

    @property
    def last(self) -> Specs:
        return self.all[-1]

    @property
    def urls(self) -> list[str]:
        return [spec.url for spec in self.last]

    async def until(self, holds: Callable[[Specs], bool], *, within_s: float = 10.0) -> Specs:
        """Wait until a told list is as wanted, and return it."""
        try:
            async with asyncio.timeout(patient(within_s)):
                while not (self.all and holds(self.all[-1])):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not told within {within_s} s; last: {self.all[-1:]}") from None
        return self.all[-1]

    async def until_urls(self, *urls: str, within_s: float = 10.0) -> Specs:
        return await self.until(lambda specs: [spec.url for spec in specs] == list(urls), within_s=within_s)


@contextlib.asynccontextmanager
async def running(source: Source) -> AsyncIterator[ToldLists]:
    """Run `source` for the length of the block; an error of its own fails the test."""
    lists = ToldLists()
    task = asyncio.create_task(source.run(lists.tell))
    try:
        yield lists
        assert not task.done(), "the source ended by itself"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
