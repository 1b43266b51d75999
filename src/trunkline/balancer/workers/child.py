"""One worker of a balancer: accepts from the shared socket, relays, and requests every pick from the first process.

Started by `supervisor.py` as `python -m trunkline.balancer.workers.child LINK_FD LISTENING_FD...`; of no use by
itself. It ends on a signal, and at once when the first process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from trunkline.balancer.event_log import EventLog
from trunkline.balancer.measures import counts_of
from trunkline.balancer.own_pages import OwnPages
from trunkline.balancer.relay.edge import Edge
from trunkline.balancer.workers.link import LinkLost, RemotePlacer, TakeOver
from trunkline.balancer.workers.worker_settings import WorkerSettings, decode_settings
from trunkline.errors import SettingsError, StartError
from trunkline.logs import configure as log_setup
from trunkline.process import lifecycle
from trunkline.process.bounds import end_tasks

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
    pages = OwnPages(settings.balancer, placer.page)
    edge = Edge(
        settings.balancer,
        placer,
        asked=placer.asked,
        pages=pages.answer,
        on_event=events.add if events is not None else None,
    )
    await edge.start([socket.socket(fileno=descriptor) for descriptor in listening])
    running = [asyncio.create_task(work) for work in (_count(edge, placer), _reload(edge, pages, placer))]
    lifecycle.spare_collector()

    async def stop() -> None:
        await edge.stop(edge.settings.drain_ms / 1000)

    await lifecycle.serve_until_stopped(signals, stop)
    await end_tasks(running)
    if events is not None:
        await events.stop()
    return 0


async def _count(edge: Edge, placer: RemotePlacer) -> None:
    while True:
        placer.count(msgspec.msgpack.encode(counts_of(edge.meter, edge.connections)))
        await asyncio.sleep(COUNT_EVERY_S)


async def _reload(edge: Edge, pages: OwnPages, placer: RemotePlacer) -> None:
    """Make other settings ready, and take them over when all workers can."""
    take_over: Callable[[], None] | None = None
    while True:
        message = await placer.reloads.get()
        if isinstance(message, TakeOver):
            if take_over is not None:
                take_over()
            continue
        take_over = None
        try:
            take_over = _prepare(edge, pages, decode_settings(message.settings))
        except (SettingsError, StartError) as error:
            placer.prepared(message.id, str(error))
        else:
            placer.prepared(message.id, "")


def _prepare(edge: Edge, pages: OwnPages, settings: WorkerSettings) -> Callable[[], None]:
    take_over_edge = edge.prepare(settings.balancer)

    def take_over() -> None:
        take_over_edge()
        pages.reload(settings.balancer)
        log_setup.set_level(settings.log)

    return take_over


def main() -> int:
    """Entry point."""
    # Asked to reload by the first process alone, which has read the settings; a signal to all is for that one.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    link, *listening = map(int, sys.argv[1:])
    try:
        return lifecycle.run(lambda: run(link, listening))
    except (SettingsError, StartError) as error:
        print(f"trunkline: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
