"""What a node reports at `/metrics` in tests, and servers that answer so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from trunkline.load.judge.scrape import Counters
from trunkline.metrics import exposition as metrics
from trunkline.metrics import text

GAUGES = metrics.Gauges(
    7, 100, 5_000_000, 0, 12.5, 3, True, 900, 1, 0.25, True, 2, 4, ("0.1.0", 'odd "name"\n', "blue")
)


def meter() -> metrics.Meter:
    """A node's counts, a different one in each place."""
    made = metrics.Meter()
    made.connections, made.messages_sent, made.messages_received = 11, 12, 13
    made.slow_clients_disconnected = 16
    made.disconnects.add("normal", "client", times=18)
    made.disconnects.add("too_slow", "server", times=19)
    made.publications_dropped.add("slow_client", times=20)
    return made


COUNTERS = Counters(
    connections=11,
    messages_sent=12,
    messages_received=13,
    disconnects={("normal", "client"): 18, ("too_slow", "server"): 19},
    publications_dropped={"slow_client": 20},
    slow_clients_disconnected=16,
    active=7,
)


def exposition(node: str = GAUGES.build[1], made: metrics.Meter | None = None) -> str:
    """What a node with these counts answers."""
    families = metrics.families(made or meter(), GAUGES._replace(build=("0.1.0", node, "blue")), ("websocket",))
    return text.render(families).decode()


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
StartAnswering = Callable[..., Awaitable[int]]


async def tell(request: web.Request) -> web.Response:
    """A well-behaved server's /metrics."""
    return web.Response(text=exposition("good")) if request.path == "/metrics" else web.Response(status=404)
