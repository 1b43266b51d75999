"""Replay on request: publications of a subscribed channel once more, in pieces that the client takes."""

from __future__ import annotations

from trunkline.protocol import wire
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.publications import first_piece, joined
from trunkline.server.channels.subscribing import Room
from trunkline.server.connections.ports import Subscriber
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import OPEN


async def replay(hub: Hub, runtime: Runtime, room: Room, subscriber: Subscriber, request: wire.Replay) -> None:
    """Write what is kept of the requested range, then what is missing of it; raises BusUnavailable."""
    clock, meter = runtime.clock, runtime.meter

    def incomplete(epoch: str | None, sent: int, missing: tuple[int, int | None], reason: str) -> None:
        meter.replay_requests.add(reason)
        subscriber.send_message(
            wire.ReplayIncomplete(request.id, request.channel, epoch, sent, *missing, reason, clock.wall_ms)
        )

    channel = await hub.attach(request.channel)
    start = request.start if request.start is not None else (request.since or 0) + 1
    if channel.epoch is None:
        incomplete(None, 0, (start, request.to), "no_history")
        return
    window = await hub.window(channel)
    # The history may have begun again while it was read, and may while it is written: what is read stays.
    epoch = channel.epoch
    if request.epoch is not None and request.epoch != epoch:
        incomplete(epoch, 0, (start, request.to), "epoch_changed")
        return
    to = channel.last if request.to is None else min(request.to, channel.last)
    sent = 0
    at = max(start, 1)  # offsets begin at 1, so nothing can be missing below
    missing: tuple[int, int] | None = None
    while subscriber.state == OPEN:
        if at <= min(window.floor, to):
            # Gone before it was requested, or while the client took what came before it.
            missing = (at if missing is None else missing[0], min(window.floor, to))
            at = window.floor + 1
        piece = first_piece(window.between(at, to))
        if not piece:
            break
        subscriber.send_bytes(joined(piece))
        meter.messages_sent += len(piece)
        sent += len(piece)
        at = (piece[-1].publication.offset or at) + 1
        await room(subscriber)
    if missing is not None:
        incomplete(epoch, sent, missing, "expired")
        return
    meter.replay_requests.add("complete")
    end = max(to, start - 1)
    subscriber.send_message(wire.ReplayComplete(request.id, request.channel, epoch, start, end, sent, clock.wall_ms))
