"""A feed as many run it: `websockets` on uvloop, broadcast to whoever came by /subscribe, a health check, SIGTERM.

Usage: websockets_feed.py PORT

What /publish gets goes to the subscribers of this process; with several, whoever publishes tells each of them, as a
Redis channel would. Nothing is kept. SIGTERM closes all connections with 1001, as its documentation shows it.
"""

import asyncio
import signal
import sys
from http import HTTPStatus

import uvloop
from websockets.asyncio.server import Request, Response, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

subscribers: set[ServerConnection] = set()


def health(connection: ServerConnection, request: Request) -> Response | None:
    if request.path in ("/health", "/healthz"):
        return connection.respond(HTTPStatus.OK, "OK\n")
    return None


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request is not None else "/"
    try:
        if path == "/subscribe":
            subscribers.add(connection)
            await connection.send("subscribed")
            await connection.wait_closed()
        else:
            async for message in connection:
                broadcast(subscribers, message)
    except ConnectionClosed:
        pass
    finally:
        subscribers.discard(connection)


async def main() -> None:
    options = {"process_request": health, "compression": None, "close_timeout": 5}
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), **options) as server:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(), loop_factory=uvloop.new_event_loop) if sys.version_info >= (3, 12) else uvloop.run(main())
