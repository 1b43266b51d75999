"""Fetches what servers report of themselves over HTTP; whatever fails is no answer.

Rule: a server's answer, or its silence, never ends or delays a run.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from trunkline.load.judge.scrape import Scrape, read

ANSWER_S: Final = 2.0
LONGEST_ANSWER: Final = 4 << 20
MOST_SERVERS: Final = 200
_ASKED_TOGETHER: Final = 32


class _Backend(msgspec.Struct):
    url: str


class _Overview(msgspec.Struct):
    services: list[_Backend]


_decode_overview = msgspec.json.Decoder(_Overview).decode


@asynccontextmanager
async def scraper(token: str = "", tls: ssl.SSLContext | bool = True) -> AsyncIterator[Scraper]:
    """A scraper with an HTTP client of its own."""
    # A connection for each request: one that a server closes just then would look like a server that is away, and
    # behind a balancer all would reach the same server. Proxies of the environment are for the way out.
    connector = aiohttp.TCPConnector(ssl=tls, force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield Scraper(session, {"Authorization": f"Bearer {token}"} if token else {})


class Scraper:
    """Made by `scraper`."""

    def __init__(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self._session = session
        self._headers = headers
        self._places = asyncio.Semaphore(_ASKED_TOGETHER)

    async def scrape(self, urls: Iterable[str]) -> dict[str, Scrape | None]:
        """The answers by URL; None where no Trunkline server answered."""
        asked = list(urls)
        bodies = await asyncio.gather(*(self._get(url, "text/plain; version=0.0.4", self._headers) for url in asked))
        return {
            url: None if body is None else read(body.decode(errors="replace"))
            for url, body in zip(asked, bodies, strict=True)
        }

    async def backends(self, page: str) -> list[str]:
        """The backends on a balancer's page, at most `MOST_SERVERS`; none when no balancer answers there."""
        body = await self._get(page, "application/json", {})
        if body is None:
            return []
        try:
            services = _decode_overview(body).services
        except msgspec.DecodeError:
            return []
        return [service.url for service in services if is_http(service.url)][:MOST_SERVERS]

    async def _get(self, url: str, accept: str, headers: dict[str, str]) -> bytes | None:
        async with self._places:
            try:
                async with self._session.get(
                    url, headers={"Accept": accept, **headers}, allow_redirects=False
                ) as answer:
                    if answer.status != 200:
                        return None
                    body = bytearray()
                    async for chunk in answer.content.iter_chunked(1 << 16):
                        body += chunk
                        if len(body) > LONGEST_ANSWER:
                            return None
                    return bytes(body)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                return None


def is_http(url: str) -> bool:
    """Whether a text is a URL for HTTP."""
    try:
        parts = urlsplit(url)
        # Reading the port validates it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
