"""HTTP servers for tests of what watches them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from tests.support.load.exposition import Answer


@pytest.fixture
async def answering() -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Start an HTTP server that answers as told; gives its port."""
    runners: list[web.AppRunner] = []

    async def start(answer: Answer, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    yield start
    for runner in runners:
        await runner.cleanup()
