"""Channels as a client uses them: subscribe with recovery, unsubscribe, publish, replay.

Rules:

- Shape is checked before permission, permission before subscription state. A request is served whole or not at all.
- Recovery is decided before the acknowledgement is written: `recovered: true` is a promise that everything missed
  follows, in order, before any live publication of that channel.
- A long replay is written in pieces that the client takes, so it can neither fill the outbox nor delay anyone else.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec

from trunkline.bus import BusUnavailable
from trunkline.errors import MessageError
from trunkline.protocol import close_codes, wire
from trunkline.server.channels.channel import Channel
from trunkline.server.channels.publications import Outgoing
from trunkline.server.channels.rules import check_channel_name
from trunkline.server.channels.window import Window

if TYPE_CHECKING:
    from trunkline.server.app.client import Client

PIECE_BYTES: Final = 1 << 17
"""Replays are written in pieces of about this size."""

_TRIES: Final = 5


def handle(client: Client, request: wire.ChannelRequest) -> Coroutine[Any, Any, None] | None:
    """Serve a channel request at once, or return the work that has to be awaited. Raises MessageError."""
    match request:
        case wire.Subscribe():
            return begin_subscribe(client, request)
        case wire.Unsubscribe():
            unsubscribe(client, request)
            return None
        case wire.Publish():
            return publish(client, request)
        case wire.Replay():
            return replay(client, request)


# --- subscribe --------------------------------------------------------------------------------------------------------


def begin_subscribe(client: Client, request: wire.Subscribe) -> Coroutine[Any, Any, None] | None:
    """Subscribe without waiting when every channel is live here and nothing is to be recovered."""
    _check_subscribe(client, request, check_rules=True)
    hub = client.route.hub
    if not request.recover and all(hub.ready(name) is not None for name in request.channels):
        _acknowledge(client, request, [hub.channels[name] for name in request.channels], {})
        return None
    return _subscribe(client, request)


async def subscribe(client: Client, request: wire.Subscribe, *, check_rules: bool) -> None:
    """Subscribe a client; raises MessageError and BusUnavailable."""
    _check_subscribe(client, request, check_rules=check_rules)
    await _subscribe(client, request)


def _check_subscribe(client: Client, request: wire.Subscribe, *, check_rules: bool) -> None:
    _check_names(client, request.channels)
    request.channels = list(dict.fromkeys(request.channels))
    for name in request.recover or ():
        if name not in request.channels:
            raise MessageError(wire.INVALID_MESSAGE, f"recover names {name!r}, which is not in channels")
    if check_rules:
        for name in request.channels:
            if not client.route.rules.may_subscribe(name, client.claims):
                raise MessageError(wire.FORBIDDEN, f"subscribing to {name!r} is not allowed")
    held = {channel.name for channel in client.connection.channels}
    count = len(held.union(request.channels))
    if count > client.route.max_channels:
        raise MessageError(
            wire.CHANNEL_LIMIT,
            f"channels: {count} would exceed the limit of {client.route.max_channels} for one client",
        )


async def _subscribe(client: Client, request: wire.Subscribe) -> None:
    hub = client.route.hub
    recover = request.recover or {}
    for _ in range(_TRIES):
        windows: dict[str, Window] = {}
        for name in request.channels:
            channel = await hub.attach(name)
            wanted = recover.get(name)
            if wanted is None or channel.epoch is None or wanted.epoch != channel.epoch:
                continue
            if wanted.offset > channel.top:
                await hub.reach(channel, wanted.offset)
            if _missed(channel, wanted):
                windows[name] = await hub.window(channel)
        # While one channel was awaited, another may have lost its window or gone to catch up: look again.
        channels = [hub.ready(name) for name in request.channels]
        live = [channel for channel in channels if channel is not None]
        if len(live) == len(channels) and all(
            _settled(channel, recover.get(channel.name), windows.get(channel.name)) for channel in live
        ):
            break
    else:
        raise BusUnavailable("channels did not settle")
    if not client.connected:
        return
    missed = _acknowledge(client, request, live, windows)
    for channel, _, _ in missed:
        hub.hold(channel)
    try:
        for channel, window, position in missed:
            await _replay_and_join(client, channel, window, position)
    finally:
        for channel, _, _ in missed:
            hub.release(channel)


def _missed(channel: Channel, wanted: wire.Position | None) -> bool:
    """Whether there is anything between a client's position and where the channel stands."""
    return wanted is not None and wanted.epoch == channel.epoch and wanted.offset < channel.last


def _settled(channel: Channel, wanted: wire.Position | None, window: Window | None) -> bool:
    """Whether what was found out about a channel still holds."""
    return not _missed(channel, wanted) if window is None else channel.window is window


def _acknowledge(
    client: Client, request: wire.Subscribe, channels: list[Channel], windows: dict[str, Window]
) -> list[tuple[Channel, Window, wire.Position]]:
    """Write the ack and make the client live in every channel of which it missed little; returns the others."""
    connection = client.connection
    hub = client.route.hub
    recover = request.recover or {}
    positions: dict[str, wire.AckPosition] = {}
    missed: list[tuple[Channel, Window, list[Outgoing]]] = []
    for channel in channels:
        wanted = recover.get(channel.name)
        if connection in channel.subscribers:
            if wanted is None:
                # It goes on: what waits for it in this tick is part of the position that it is told.
                hub.settle(channel)
                connection.tell_gap(channel.name)
            else:
                # It asks to begin again from a place of its own.
                hub.remove(channel, connection)
        reason: wire.RecoverReason | None = None
        items: list[Outgoing] = []
        window = windows.get(channel.name)
        if wanted is not None:
            if channel.epoch is None:
                reason = "no_history"
            elif wanted.epoch != channel.epoch or wanted.offset > channel.top:
                reason = "epoch_changed"
            elif wanted.offset < channel.last:
                if window is None or not window.covers(wanted.offset):
                    reason = "expired"
                else:
                    items = window.since(wanted.offset)
            connection.runtime.meter.replay_requests.add("recovered" if reason is None else reason)
        if wanted is not None and reason is None:
            positions[channel.name] = wire.AckPosition(channel.epoch, wanted.offset, True, len(items))
            if items and window is not None:
                missed.append((channel, window, items))
        else:
            last = None if channel.epoch is None else channel.last
            positions[channel.name] = wire.AckPosition(channel.epoch, last, False, 0, reason or msgspec.UNSET)
    held = {channel.name for channel in connection.channels}.union(request.channels)
    connection.send_message(
        wire.SubscriptionAck(request.id, request.channels, len(held), positions, connection.runtime.clock.wall_ms)
    )
    late: list[tuple[Channel, Window, wire.Position]] = []
    waiting = {channel.name for channel, _, _ in missed}
    for channel in channels:
        if channel.name not in waiting:
            hub.add(channel, connection)
    for channel, window, items in missed:
        position = recover[channel.name]
        if not connection.blocked and sum(len(item.frame) for item in items) <= PIECE_BYTES:
            _write(client, items, position.offset)
            hub.add(channel, connection)
        else:
            late.append((channel, window, position))
    return late


async def _replay_and_join(client: Client, channel: Channel, window: Window, position: wire.Position) -> None:
    """Write what was missed piece by piece, and join the live stream at the moment nothing is left."""
    connection = client.connection
    hub = client.route.hub
    # Not the channel's: the history may have begun anew while an earlier channel of this request was written.
    epoch, after = position.epoch, position.offset
    while client.connected:
        if hub.channels.get(channel.name) is not channel or channel.window is not window:
            try:
                channel = await hub.attach(channel.name)
                window = await hub.window(channel)
            except BusUnavailable:
                if hub.channels.get(channel.name) is not channel:
                    # The node let go of the channel meanwhile: there is nothing live to go on with.
                    connection.end(close_codes.OVERLOADED.code, "the bus is not reachable", 1000)
                elif client.connected:
                    # The rest was promised and cannot be had: say so, and go on live.
                    _skip(client, channel, epoch, after, "unavailable")
                return
            # Between the answer and here the window may have gone again.
            continue
        if channel.epoch != epoch:
            # It was no subscriber yet when the others were told.
            _skip(client, channel, epoch, after, "epoch_changed")
            return
        # A paced replay reads the window as it is now; publications that came meanwhile are in it.
        window.used_at = connection.runtime.clock.now
        if not window.covers(after):
            connection.send_message(
                wire.Gap(
                    channel.name, channel.epoch, after, window.floor + 1, "expired", connection.runtime.clock.wall_ms
                )
            )
            after = window.floor
        piece = _cut(window.since(after))
        if piece:
            _write(client, piece, after)
            after = piece[-1].publication.offset or after
        if not window.since(after):
            hub.add(channel, connection)
            return
        await client.room()


def _skip(client: Client, channel: Channel, epoch: str, after: int, reason: str) -> None:
    """Tell a client what it will not get, and let it go on live where the channel stands."""
    connection = client.connection
    hub = client.route.hub
    same = channel.epoch == epoch
    if not same or after < channel.last:
        gap = wire.Gap(
            channel.name,
            channel.epoch,
            after if same else None,
            channel.last + 1,
            reason if same else "epoch_changed",
            connection.runtime.clock.wall_ms,
        )
        connection.send_message(gap)
    hub.add(channel, connection)


def _cut(items: list[Outgoing]) -> list[Outgoing]:
    size = 0
    for index, item in enumerate(items):
        size += len(item.frame)
        if size > PIECE_BYTES and index:
            return items[:index]
    return items


def _write(client: Client, items: list[Outgoing], after: int | None) -> None:
    """Write publications; the first one's `prev` is made the offset that this client stands at."""
    frames = [item.frame for item in items]
    if after is not None and items[0].prev != after:
        frames[0] = Outgoing(items[0].publication, after).frame
    client.connection.send_bytes(b"".join(frames))
    client.connection.runtime.meter.messages_sent += len(frames)


def unsubscribe(client: Client, request: wire.Unsubscribe) -> None:
    """End subscriptions; channels that were not subscribed are left out of the answer."""
    _check_names(client, request.channels)
    connection = client.connection
    hub = client.route.hub
    left = []
    for name in dict.fromkeys(request.channels):
        channel = hub.channels.get(name)
        if channel is not None and connection in channel.subscribers:
            hub.remove(channel, connection)
            left.append(name)
    connection.send_message(
        wire.UnsubscriptionAck(request.id, left, len(connection.channels), connection.runtime.clock.wall_ms)
    )


# --- publish and replay -----------------------------------------------------------------------------------------------


def publish(client: Client, request: wire.Publish) -> Coroutine[Any, Any, None]:
    """Check a publish and return the work of it; raises MessageError."""
    _check_names(client, [request.channel])
    if not client.route.rules.may_publish(request.channel, client.claims):
        raise MessageError(wire.FORBIDDEN, f"publishing to {request.channel!r} is not allowed")
    return _publish(client, request)


async def _publish(client: Client, request: wire.Publish) -> None:
    runtime = client.connection.runtime
    position = await client.route.hub.publish(request.channel, bytes(request.data))
    epoch, offset = (position.epoch, position.offset) if position is not None else (None, None)
    client.connection.send_message(wire.PublishAck(request.id, request.channel, epoch, offset, runtime.clock.wall_ms))


def replay(client: Client, request: wire.Replay) -> Coroutine[Any, Any, None]:
    """Check a replay and return the work of it; raises MessageError."""
    _check_names(client, [request.channel])
    ranged = request.start is not None and request.to is not None and request.since is None
    after = request.since is not None and request.start is None and request.to is None
    if not ranged and not after:
        raise MessageError(wire.INVALID_MESSAGE, "replay takes either from and to, or since")
    if request.start is not None and request.to is not None and request.start > request.to:
        raise MessageError(wire.INVALID_MESSAGE, f"from: {request.start} is greater than to: {request.to}")
    if not client.route.rules.may_subscribe(request.channel, client.claims):
        raise MessageError(wire.FORBIDDEN, f"reading {request.channel!r} is not allowed")
    if not client.route.hub.is_subscribed(client.connection, request.channel):
        raise MessageError(wire.NOT_SUBSCRIBED, f"channel {request.channel!r} is not subscribed")
    return _replay(client, request)


async def _replay(client: Client, request: wire.Replay) -> None:
    connection = client.connection
    runtime = connection.runtime
    channel = await client.route.hub.attach(request.channel)
    start = request.start if request.start is not None else (request.since or 0) + 1
    if channel.epoch is None:
        _incomplete(client, request, None, 0, start, request.to, "no_history")
        return
    window = await client.route.hub.window(channel)
    # The history may have begun anew while it was read, and may again while it is written: what is read stays.
    epoch = channel.epoch
    if request.epoch is not None and request.epoch != epoch:
        _incomplete(client, request, epoch, 0, start, request.to, "epoch_changed")
        return
    to = channel.last if request.to is None else min(request.to, channel.last)
    sent = 0
    at = max(start, 1)  # offsets begin at 1, so nothing can be missing below
    missing: tuple[int, int] | None = None
    while client.connected:
        if at <= min(window.floor, to):
            # Gone before it was asked for, or while the client took what came before it.
            missing = (at if missing is None else missing[0], min(window.floor, to))
            at = window.floor + 1
        piece = _cut(window.between(at, to))
        if not piece:
            break
        _write(client, piece, None)
        sent += len(piece)
        at = (piece[-1].publication.offset or at) + 1
        await client.room()
    if missing is not None:
        _incomplete(client, request, epoch, sent, missing[0], missing[1], "expired")
        return
    runtime.meter.replay_requests.add("complete")
    connection.send_message(
        wire.ReplayComplete(request.id, request.channel, epoch, start, max(to, start - 1), sent, runtime.clock.wall_ms)
    )


def _incomplete(
    client: Client,
    request: wire.Replay,
    epoch: str | None,
    sent: int,
    missing_from: int,
    missing_to: int | None,
    reason: str,
) -> None:
    runtime = client.connection.runtime
    runtime.meter.replay_requests.add(reason)
    client.connection.send_message(
        wire.ReplayIncomplete(
            request.id, request.channel, epoch, sent, missing_from, missing_to, reason, runtime.clock.wall_ms
        )
    )


def _check_names(client: Client, names: list[str]) -> None:
    if not names:
        raise MessageError(wire.INVALID_MESSAGE, "channels is empty; name at least one")
    for name in names:
        problem = check_channel_name(name, client.route.rules.max_name_bytes)
        if problem is not None:
            raise MessageError(wire.INVALID_MESSAGE, problem)
