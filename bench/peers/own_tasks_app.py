"""An application for our node whose every client has a task and a channel of its own."""

from trunkline import App, Client

app = App("own-tasks")
app.channels("own.**", subscribe="anyone")


@app.websocket("/own")
async def own(client: Client) -> None:
    """Follow the client's channel until it goes."""
    await client.join(f"own.{client.id}")
    async for _ in client:
        pass
