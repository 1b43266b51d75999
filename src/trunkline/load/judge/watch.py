"""Watches the servers during a run: how they are, and what they have counted.

Rules: only URLs that the user named get the token; those that a balancer or the target named do not. What is wrong with
an answer is noted for the reader of the report, and the numbers are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Final

from trunkline.load.judge.scrape import Course, Scrape, Snapshot
from trunkline.load.judge.scraper import ANSWER_S, Scraper, scraper
from trunkline.load.model.report import ServerSample
from trunkline.load.output.formatting import plain

INTERVAL_S: Final = 1.0
FRESH_S: Final = INTERVAL_S + ANSWER_S + 0.5  # an answer older than this does not show how a server is now
_QUIET_S: Final = 0.2


@contextlib.asynccontextmanager
async def watching(
    urls: Sequence[str], token: str = "", *, tls: ssl.SSLContext | bool = True, interval_s: float = INTERVAL_S
) -> AsyncIterator[ServerWatch]:
    """Ask the `/metrics` of every server at an interval in seconds, for as long as the context is open."""
    async with scraper(token, tls) as fetching:
        watch = ServerWatch(urls, fetching)
        polling = asyncio.create_task(watch.poll(interval_s)) if watch.urls else None
        try:
            yield watch
        finally:
            if polling is not None:
                polling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await polling


class ServerWatch:
    """The servers of a run; made by `watching`."""

    def __init__(self, urls: Sequence[str], fetching: Scraper) -> None:
        self.urls = tuple(dict.fromkeys(urls))
        self._scraper = fetching
        self._courses = {url: Course() for url in self.urls}
        self._heard: dict[str, float] = {}
        # One round at a time: an answer that overtakes an older one would look like a restart.
        self._round = asyncio.Lock()

    def sample(self, at_s: float) -> ServerSample | None:
        """How the servers are, by their newest answers; None when none has answered lately."""
        now = asyncio.get_running_loop().time()
        fresh: list[Scrape] = [
            course.newest
            for url, course in self._courses.items()
            if course.newest is not None and not course.mixed and now - self._heard[url] <= FRESH_S
        ]
        if not fresh:
            return None
        return ServerSample(
            at_s,
            len(fresh),
            connections=sum(scrape.counters.active for scrape in fresh),
            cpu_percent=max(scrape.cpu_percent for scrape in fresh),
            memory_bytes=sum(scrape.memory_bytes for scrape in fresh),
            outbox_bytes=sum(scrape.outbox_bytes for scrape in fresh),
            loop_lag_s=max(scrape.loop_lag_s for scrape in fresh),
            draining=sum(scrape.draining for scrape in fresh),
        )

    async def snapshot(self, settle_s: float = 0.0, left: int | None = None) -> Snapshot:
        """Ask every server now, and again for at most `settle_s` seconds until two answers in a row are the same.

        A server needs a moment to read the last messages and to notice that connections have ended: with more than
        `left` of them open, those of others included, it has not settled.
        """
        until = asyncio.get_running_loop().time() + settle_s
        snapshot = await self._ask_all()
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_QUIET_S)
            earlier, snapshot = snapshot, await self._ask_all()
            active = sum(counters.active for counters in snapshot.servers.values())
            if snapshot == earlier and (left is None or active <= left):
                break
        return snapshot

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, as sentences without full stops."""
        notes = []
        for url, course in self._courses.items():
            if course.mixed:
                notes.append(
                    f"several servers answer at {url} in turn; name the `/metrics` of each with --metrics, so that "
                    "what they count can be compared"
                )
                continue
            if course.newest is None:
                notes.append(f"{url} has not answered as a Trunkline server does")
            for name in course.restarted:
                notes.append(f"the server {plain(name)} was replaced by a new process at {url}")
        return notes

    async def poll(self, interval_s: float) -> None:
        """Ask every server again and again."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._ask_all()
            # Rounds that a slow one has delayed are left out.
            due = max(due + interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _ask_all(self) -> Snapshot:
        async with self._round:
            return self._take(await self._scraper.scrape(self.urls))

    def _take(self, answers: dict[str, Scrape | None]) -> Snapshot:
        now = asyncio.get_running_loop().time()
        servers = {}
        for url, scrape in answers.items():
            course = self._courses[url]
            if scrape is not None:
                course.add(scrape)
                self._heard[url] = now
            counters = course.counters
            if counters is not None:
                servers[url] = counters
        return Snapshot(
            servers,
            tuple(url for url, scrape in answers.items() if scrape is None),
            tuple(plain(name) for course in self._courses.values() for name in course.restarted),
            tuple(url for url, course in self._courses.items() if course.mixed),
        )
