"""Subscriptions, with the recovery of what a client missed.

A long replay is written in pieces that the client takes, so it can neither fill the outbox nor delay anyone else; the
client becomes a subscriber at the moment nothing is left to replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trunkline.errors import BusUnavailable
from trunkline.protocol import close_codes, wire
from trunkline.server.channels import recovery
from trunkline.server.channels.channel import Channel
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.publications import Outgoing, first_piece, joined
from trunkline.server.channels.recovery import Missed, Verdict
from trunkline.server.channels.window import Window
from trunkline.server.connections.ports import Subscriber
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import OPEN

Room = Callable[[Subscriber], Awaitable[None]]
"""Waits until everything written to a subscriber has left."""

_TRIES: Final = 5


class Subscribing:
    """Makes connections subscribers; `room` waits between the pieces of a replay."""

    def __init__(self, hub: Hub, runtime: Runtime, room: Room) -> None:
        self._hub = hub
        self._clock = runtime.clock
        self._meter = runtime.meter
        self._room = room

    def at_once(self, subscriber: Subscriber, request: wire.Subscribe) -> bool:
        """Subscribe without waiting; False when a channel is not live here or something is to be recovered."""
        if request.recover:
            return False
        channels = [channel for name in request.channels if (channel := self._hub.ready(name)) is not None]
        if len(channels) < len(request.channels):
            return False
        self._acknowledge(subscriber, request, [recovery.decide(channel, None, None) for channel in channels])
        return True

    async def subscribe(self, subscriber: Subscriber, request: wire.Subscribe) -> None:
        """Attach the channels, acknowledge, and write what was missed; raises BusUnavailable."""
        verdicts = await self._settle(request)
        if subscriber.state != OPEN:
            return
        late = self._acknowledge(subscriber, request, verdicts)
        for channel, _ in late:
            self._hub.hold(channel)
        try:
            for channel, missed in late:
                await self._replay_and_join(subscriber, channel, missed)
        finally:
            for channel, _ in late:
                self._hub.release(channel)

    async def _settle(self, request: wire.Subscribe) -> list[Verdict]:
        """Bring the channels and what was missed of them here, until all of it holds at the same moment."""
        hub = self._hub
        recover = request.recover or {}
        for _ in range(_TRIES):
            # Together: over NATS each takes several round trips. What is live here already needs no task.
            windows: dict[str, Window] = {}
            await asyncio.gather(
                *(
                    self._bring(name, recover.get(name), windows)
                    for name in request.channels
                    if name in recover or hub.ready(name) is None
                )
            )
            # While one channel was awaited, another may have lost its window or gone to catch up: look again.
            found = [(hub.ready(name), recover.get(name), windows.get(name)) for name in request.channels]
            live = [(channel, wanted, window) for channel, wanted, window in found if channel is not None]
            if len(live) == len(found) and all(recovery.settled(*each) for each in live):
                return [recovery.decide(*each) for each in live]
        raise BusUnavailable("channels did not settle")

    async def _bring(self, name: str, wanted: wire.Position | None, windows: dict[str, Window]) -> None:
        """Bring a channel here, and into `windows` what was missed of it since `wanted`."""
        hub = self._hub
        channel = await hub.attach(name)
        if wanted is None or channel.epoch is None or wanted.epoch != channel.epoch:
            return
        if wanted.offset > channel.top:
            await hub.reach(channel, wanted.offset)
        if recovery.behind(channel, wanted):
            windows[name] = await hub.window(channel)

    def _acknowledge(
        self, subscriber: Subscriber, request: wire.Subscribe, verdicts: Sequence[Verdict]
    ) -> list[tuple[Channel, Missed]]:
        """Write the ack and make the client live in every channel of which it missed little; returns the others."""
        hub = self._hub
        for verdict in verdicts:
            if verdict.outcome is not None:
                self._meter.replay_requests.add(verdict.outcome)
                self._meter.not_recovered += verdict.outcome != "recovered"
            if subscriber not in verdict.channel.subscribers:
                continue
            if verdict.outcome is None:
                # It goes on: what waits for it in this tick is part of the position in the ack.
                hub.fan_out.flush_one(verdict.channel)
                subscriber.announce_gap(verdict.channel.name)
            else:
                # It begins again from a place of its own.
                hub.remove(verdict.channel, subscriber)
        held = {channel.name for channel in subscriber.channels}.union(request.channels)
        positions = {verdict.channel.name: verdict.position for verdict in verdicts}
        subscriber.send_message(
            wire.SubscriptionAck(request.id, request.channels, len(held), positions, self._clock.wall_ms)
        )
        for verdict in verdicts:
            if verdict.missed is None:
                hub.add(verdict.channel, subscriber)
        late = []
        for channel, _, _, missed in verdicts:
            if missed is None:
                continue
            if subscriber.blocked or len(first_piece(missed.items)) < len(missed.items):
                late.append((channel, missed))
            else:
                self._write(subscriber, missed.items, missed.seen.offset)
                hub.add(channel, subscriber)
        return late

    def _write(self, subscriber: Subscriber, items: list[Outgoing], after: int) -> None:
        subscriber.send_bytes(joined(items, after))
        self._meter.messages_sent += len(items)

    async def _replay_and_join(self, subscriber: Subscriber, channel: Channel, missed: Missed) -> None:
        """Write what was missed piece by piece, and join the live stream at the moment nothing is left."""
        hub = self._hub
        # Not the channel's epoch: the history may have begun again while an earlier channel of the request was written.
        epoch, after, window = missed.seen.epoch, missed.seen.offset, missed.window
        while subscriber.state == OPEN:
            if hub.channels.get(channel.name) is not channel or channel.window is not window:
                try:
                    channel = await hub.attach(channel.name)
                    window = await hub.window(channel)
                except BusUnavailable:
                    if hub.channels.get(channel.name) is not channel:
                        # The node let go of the channel meanwhile: there is nothing live to go on with.
                        subscriber.end(close_codes.OVERLOADED.code, "the bus is not reachable", 1000)
                    elif subscriber.state == OPEN:
                        # The rest was promised and cannot be had.
                        self._skip(subscriber, channel, epoch, after, "unavailable")
                    return
                # Between the answer and here the window may have gone again.
                continue
            if channel.epoch != epoch:
                # It was no subscriber yet when the others got the gap.
                self._skip(subscriber, channel, epoch, after, "epoch_changed")
                return
            # A paced replay reads the window as it is now; publications that came meanwhile are in it.
            window.used_at = self._clock.now
            if not window.covers(after):
                self._meter.gaps += 1
                subscriber.send_message(
                    wire.Gap(channel.name, channel.epoch, after, window.floor + 1, "expired", self._clock.wall_ms)
                )
                after = window.floor
            piece = first_piece(window.since(after))
            if piece:
                self._write(subscriber, piece, after)
                after = piece[-1].publication.offset or after
            if not window.since(after):
                hub.add(channel, subscriber)
                return
            await self._room(subscriber)

    def _skip(self, subscriber: Subscriber, channel: Channel, epoch: str, after: int, reason: str) -> None:
        """Announce what the client will not get, and let it go on live where the channel stands."""
        gap = recovery.gap_to_live(channel, epoch, after, reason, self._clock.wall_ms)
        if gap is not None:
            self._meter.gaps += 1
            subscriber.send_message(gap)
        self._hub.add(channel, subscriber)
