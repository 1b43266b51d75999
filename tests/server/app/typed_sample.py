"""An application as a typed user writes it; mypy checks it, `test_typing.py` reads what it reveals. It is not run."""

from __future__ import annotations

import asyncio
from typing import Any, reveal_type

import msgspec

from trunkline import App, Client, Endpoint, Limits, Position, Publication, Refused, Request

app = App("sample")


class Line(msgspec.Struct, tag="line"):
    """What clients send."""

    text: str


@app.websocket("/chat/{room}", message=Line, limits=Limits(rate_per_s=5))
class Chat(Endpoint):
    """Async handlers, and a message of the declared type."""

    async def admit(self, request: Request) -> None:
        if request.query.get("plan") == "none":
            raise Refused(403, "no")

    async def on_connect(self, client: Client) -> None:
        client.state = 1
        client.state.room = client.params["room"]
        await client.join(f"chat.{client.params['room']}", Position("e", 1))

    async def on_message(self, client: Client, message: Line) -> None:
        await client.publish("chat.a", {"text": message.text}, to_others=True)


@app.websocket("/echo", envelope=False)
class Echo(Endpoint):
    """Plain handlers."""

    def on_message(self, client: Client, message: str | bytes) -> None:
        client.send(message)

    def on_disconnect(self, client: Client, code: int, reason: str) -> None: ...


@app.websocket("/feed")
async def feed(client: Client) -> None:
    """A function."""
    async for message in client:
        reveal_type(message)
        client.send([1, {"a": None}])


@app.every(1.0)
async def tick() -> None:
    """Periodic work."""
    await app.publish("prices", {"price": 42})


@app.on_startup
async def begin() -> None:
    """A hook."""
    await app.listen("prices", heard)
    app.spawn(begin())


def heard(publication: Publication) -> None:
    """A listener."""
    reveal_type(publication.data)


def look(client: Client, anything: Any) -> None:
    """What the API gives back."""
    reveal_type(Chat)
    reveal_type(feed)
    reveal_type(begin)
    reveal_type(client.state)
    reveal_type(client.state.room)
    reveal_type(app.spawn(asyncio.sleep(1, "done")))
    reveal_type(client.claims)
    reveal_type(client.params)
    reveal_type(app.publish)
    client.send(anything)


class NoEndpoint: ...


app.websocket("/x")(NoEndpoint)
app.on_startup(heard)
