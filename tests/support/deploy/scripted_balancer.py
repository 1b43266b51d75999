"""The admin port of a balancer whose answers a test chooses, for what a real one does not say on demand."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from tests.support.free_ports import free_port

PIECE: Final = 1024


class ScriptedBalancer:
    """Answers `answers[(method, path)]`: a status and an ASCII body, in pieces, or nothing at all for None."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, str] | None] = {}
        self.heard: list[tuple[str, str, str, str | None]] = []
        self.port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> ScriptedBalancer:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def requests(self, method: str) -> list[str]:
        """Paths that were asked with it."""
        return [path for asked, path, _, _ in self.heard if asked == method]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        self.heard.append((request.method, request.path, body, request.headers.get("Authorization")))
        answer = self.answers.get((request.method, request.path), (404, "404: Not Found"))
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(status=answer[0])
        response.content_length = len(answer[1])
        await response.prepare(request)
        for begin in range(0, len(answer[1]), PIECE):
            await response.write(answer[1][begin : begin + PIECE].encode())
            await asyncio.sleep(0)  # a piece of its own, as it comes over a network
        return response
