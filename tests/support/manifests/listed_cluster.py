"""An API server that lists fixed objects and never tells of a change: all that a Traefik needs to read its routes.

What client-go expects: a list names the kind of its items, and a watch with `sendInitialEvents` may be refused, upon
which it lists and watches as it ever did.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiohttp import web

from tests.support.manifests.objects import Object

_INVALID = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}


@contextlib.asynccontextmanager
async def listed(objects: Sequence[Object]) -> AsyncIterator[str]:
    """Serve the objects, whatever their namespace; the server's address."""

    async def serve(request: web.Request) -> web.StreamResponse:
        *_, plural = request.path.rstrip("/").split("/")
        group_version = "v1" if request.path.startswith("/api/") else "/".join(request.path.split("/")[2:4])
        if request.query.get("sendInitialEvents"):
            return web.json_response(_INVALID, status=422)
        if request.query.get("watch"):
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            await asyncio.Event().wait()
        items = [each for each in objects if plural_of(each) == plural and each["apiVersion"] == group_version]
        kind = items[0]["kind"] if items else KINDS.get(plural, "")
        body = {
            "kind": f"{kind}List",
            "apiVersion": group_version,
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }
        return web.json_response(body)

    async with answering(serve) as address:
        yield address


@contextlib.asynccontextmanager
async def answering(serve: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Answer every request on a port of loopback with `serve`; its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


KINDS = {
    kind.lower() + "s": kind
    for kind in (
        "Secret",
        "ConfigMap",
        "Service",
        "EndpointSlice",
        "IngressRoute",
        "IngressRouteTCP",
        "IngressRouteUDP",
        "Middleware",
        "MiddlewareTCP",
        "ServersTransport",
        "ServersTransportTCP",
        "TLSOption",
        "TLSStore",
        "TraefikService",
    )
}  # fmt: skip
"""The kinds that Traefik asks for, by their plurals."""


def plural_of(each: Object) -> str:
    """The plural of an object's kind."""
    return str(each["kind"]).lower() + "s"
