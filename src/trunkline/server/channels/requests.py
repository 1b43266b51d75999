"""Channels as a client uses them: subscribe with recovery, unsubscribe, publish, replay.

Shape is checked before permission, permission before subscription state. A request is served whole or not at all.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TypeAlias

from trunkline.errors import MessageError
from trunkline.protocol import wire
from trunkline.server.channels.hub import Hub
from trunkline.server.channels.replaying import replay
from trunkline.server.channels.rules import RuleSet, check_channel_name
from trunkline.server.channels.subscribing import Room, Subscribing
from trunkline.server.connections.identity import Claims
from trunkline.server.connections.ports import Subscriber
from trunkline.server.connections.runtime import Runtime

Work: TypeAlias = Coroutine[object, object, None]


class Requests:
    """Serves channel requests.

    `room` waits until everything written to a subscriber has left; one client may follow `max_channels`.
    """

    def __init__(self, hub: Hub, rules: RuleSet, runtime: Runtime, room: Room, max_channels: int) -> None:
        self._hub = hub
        self._rules = rules
        self._runtime = runtime
        self._room = room
        self._max_channels = max_channels
        self._subscribing = Subscribing(hub, runtime, room)

    def reload(self, rules: RuleSet, max_channels: int) -> None:
        """Decide by these rules and this bound from now on; subscriptions that exist stay."""
        self._rules = rules
        self._max_channels = max_channels

    def handle(self, subscriber: Subscriber, request: wire.ChannelRequest) -> Work | None:
        """Serve a request at once, or return the work that has to be awaited. Raises MessageError."""
        match request:
            case wire.Subscribe():
                self._check_subscribe(subscriber, request, check_rules=True)
                if self._subscribing.at_once(subscriber, request):
                    return None
                return self._subscribing.subscribe(subscriber, request)
            case wire.Unsubscribe():
                self._unsubscribe(subscriber, request)
                return None
            case wire.Publish():
                self._check_names([request.channel])
                if not self._rules.may_publish(request.channel, subscriber.identity.claims):
                    raise MessageError(wire.FORBIDDEN, f"publishing to {request.channel!r} is not allowed")
                return self._publish(subscriber, request)
            case wire.Replay():
                self._check_replay(subscriber, request)
                return replay(self._hub, self._runtime, self._room, subscriber, request)

    def check_again(self, subscriber: Subscriber, before: Claims) -> None:
        """The client's claims are others than `before`: end what they allowed and those of now do not.

        What neither allow the application has subscribed, whose matter it is.
        """
        may = self._rules.may_subscribe
        now = subscriber.identity.claims
        for name in [channel.name for channel in subscriber.channels]:
            channel = self._hub.channels.get(name)
            if channel is None or may(name, now) or not may(name, before):
                continue
            self._hub.remove(channel, subscriber)
            reason = f"subscribing to {name!r} is not allowed with the fresh token"
            subscriber.send_message(wire.Unsubscribed(name, wire.FORBIDDEN, reason, self._runtime.clock.wall_ms))

    async def join(self, subscriber: Subscriber, channel: str, since: wire.Position | None) -> None:
        """Subscribe in the application's name, whatever the rules; raises MessageError and BusUnavailable."""
        request = wire.Subscribe([channel], recover={channel: since} if since is not None else None)
        self._check_subscribe(subscriber, request, check_rules=False)
        await self._subscribing.subscribe(subscriber, request)

    def _check_names(self, names: list[str]) -> None:
        if not names:
            raise MessageError(wire.INVALID_MESSAGE, "channels is empty; name at least one")
        for name in names:
            problem = check_channel_name(name, self._rules.max_name_bytes)
            if problem is not None:
                raise MessageError(wire.INVALID_MESSAGE, problem)

    def _check_subscribe(self, subscriber: Subscriber, request: wire.Subscribe, *, check_rules: bool) -> None:
        self._check_names(request.channels)
        request.channels = list(dict.fromkeys(request.channels))
        for name in request.recover or ():
            if name not in request.channels:
                raise MessageError(wire.INVALID_MESSAGE, f"recover names {name!r}, which is not in channels")
        if check_rules:
            for name in request.channels:
                if not self._rules.may_subscribe(name, subscriber.identity.claims):
                    raise MessageError(wire.FORBIDDEN, f"subscribing to {name!r} is not allowed")
        count = len({channel.name for channel in subscriber.channels}.union(request.channels))
        if count > (limit := self._max_channels):
            raise MessageError(
                wire.CHANNEL_LIMIT, f"channels: {count} would exceed the limit of {limit} for one client"
            )

    def _check_replay(self, subscriber: Subscriber, request: wire.Replay) -> None:
        self._check_names([request.channel])
        start, to = request.start, request.to
        ranged = start is not None and to is not None and request.since is None
        after = request.since is not None and start is None and to is None
        if not ranged and not after:
            raise MessageError(wire.INVALID_MESSAGE, "replay takes either from and to, or since")
        if start is not None and to is not None and start > to:
            raise MessageError(wire.INVALID_MESSAGE, f"from: {start} is greater than to: {to}")
        if not self._rules.may_subscribe(request.channel, subscriber.identity.claims):
            raise MessageError(wire.FORBIDDEN, f"reading {request.channel!r} is not allowed")
        if not self._hub.is_subscribed(subscriber, request.channel):
            raise MessageError(wire.NOT_SUBSCRIBED, f"channel {request.channel!r} is not subscribed")

    def _unsubscribe(self, subscriber: Subscriber, request: wire.Unsubscribe) -> None:
        """End subscriptions; channels that were not subscribed are left out of the answer."""
        self._check_names(request.channels)
        left = []
        for name in dict.fromkeys(request.channels):
            channel = self._hub.channels.get(name)
            if channel is not None and subscriber in channel.subscribers:
                self._hub.remove(channel, subscriber)
                left.append(name)
        subscriber.send_message(
            wire.UnsubscriptionAck(request.id, left, len(subscriber.channels), self._runtime.clock.wall_ms)
        )

    async def _publish(self, subscriber: Subscriber, request: wire.Publish) -> None:
        position = await self._hub.publish(request.channel, bytes(request.data))
        epoch, offset = (position.epoch, position.offset) if position is not None else (None, None)
        subscriber.send_message(
            wire.PublishAck(request.id, request.channel, epoch, offset, self._runtime.clock.wall_ms)
        )
