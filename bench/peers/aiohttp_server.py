"""aiohttp's `web.WebSocketResponse` on uvloop: echo, and a set of subscribers for /subscribe.

Usage: aiohttp_server.py PORT
"""

import sys

import uvloop
from aiohttp import WSMsgType, web

subscribers: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    subscribers.add(socket)
    await socket.send_str("subscribed")
    try:
        async for _ in socket:
            pass
    finally:
        subscribers.discard(socket)
    return socket


def main() -> None:
    app = web.Application()
    app.add_routes([web.get("/echo", echo), web.get("/subscribe", subscribe)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
