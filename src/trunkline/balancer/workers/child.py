"""One worker of a balancer: accepts from the shared socket, relays, and requests every pick from the first process.

Started by `supervisor.py` as `python -m trunkline.balancer.workers.child LINK_FD LISTENING_FD...`; of no use by
itself. It ends on a signal, and at once when the first process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from trunkline.balancer.event_log import EventLog
from trunkline.balancer.measures import counts_of
from trunkline.balancer.own_pages import OwnPages
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.workers.link import LinkLost, RemotePlacer
from trunkline.balancer.workers.worker_settings import decode_settings
from trunkline.errors import SettingsError, StartError
from trunkline.logs import configure as log_setup
from trunkline.process import lifecycle

COUNT_EVERY_S: Final = 1.0
LINK_LOST: Final = 3


async def run(link: int, listening: Sequence[int]) -> int:
    """Relay until stopped; returns the exit code."""
    signals = lifecycle.Signals()
    placer = RemotePlacer(on_lost=lambda: os._exit(LINK_LOST))
    sock = socket.socket(fileno=link)
    sock.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: placer.link, sock=sock)
    try:
        settings = decode_settings(await placer.welcome)
    except LinkLost:
        return LINK_LOST
    log_setup.configure(settings.log, service="trunkline-balancer")
    events = EventLog() if settings.log.access else None
    if events is not None:
        events.start()
    edge = Edge(
        settings.balancer,
        placer,
        asked=placer.asked,
        pages=OwnPages(settings.balancer, placer.page).answer,
        on_event=events.add if events is not None else None,
    )
    await edge.start([socket.socket(fileno=descriptor) for descriptor in listening])
    counting = asyncio.create_task(_count(edge, placer))
    lifecycle.spare_collector()

    async def stop() -> None:
        await edge.stop(settings.balancer.drain_ms / 1000)

    await lifecycle.serve_until_stopped(signals, stop)
    counting.cancel()
    if events is not None:
        await events.stop()
    return 0


async def _count(edge: Edge, placer: RemotePlacer) -> None:
    while True:
        placer.count(msgspec.msgpack.encode(counts_of(edge.meter, edge.connections)))
        await asyncio.sleep(COUNT_EVERY_S)


def main() -> int:
    """Entry point."""
    link, *listening = map(int, sys.argv[1:])
    try:
        return lifecycle.run(lambda: run(link, listening))
    except (SettingsError, StartError) as error:
        print(f"trunkline: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
