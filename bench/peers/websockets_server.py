"""`websockets` (its asyncio server, on uvloop): echo, and broadcast to whoever came by /subscribe.

Usage: websockets_server.py PORT [none|deflate]
"""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request is not None else "/"
    try:
        if path == "/subscribe":
            subscribers.add(connection)
            await connection.send("subscribed")
            await connection.wait_closed()
        elif path == "/publish":
            async for message in connection:
                broadcast(subscribers, message)
        else:
            async for message in connection:
                await connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        subscribers.discard(connection)


async def main() -> None:
    compression = "deflate" if sys.argv[2:] == ["deflate"] else None
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=compression) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(), loop_factory=uvloop.new_event_loop) if sys.version_info >= (3, 12) else uvloop.run(main())
