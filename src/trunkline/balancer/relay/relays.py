"""The registry of relayed connections: how many there may be, of which addresses, and until when each may last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from trunkline.balancer.relay.meter import EdgeEvent, EdgeMeter, OnEvent
from trunkline.balancer.relay.splice.relay import Relay
from trunkline.net.addresses import networks, within
from trunkline.net.limits import address_key
from trunkline.placement.placing import Placer
from trunkline.settings.balancer import BalancerSettings


class Relays:
    """The relayed connections of one edge, and its handshakes under way; a `RelayOwner`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: BalancerSettings,
        limit: int,
        placer: Placer,
        meter: EdgeMeter,
        on_event: OnEvent | None,
        changed: asyncio.Event,
    ) -> None:
        self.handshaking = 0
        self._loop = loop
        self._placer = placer
        self._meter = meter
        self._on_event = on_event
        self._changed = changed
        self._per_address: dict[str, int] = {}
        self._relays: set[Relay] = set()
        self._ending: dict[Relay, float] = {}
        self._swept_idle_at = loop.time()
        self.reload(settings, limit)

    def reload(self, settings: BalancerSettings, limit: int) -> None:
        """Hold to these settings from now on, and to so many connections; those that are there stay."""
        self._limit = limit
        self._idle_s = settings.idle_timeout_ms / 1000
        self._per_address_limit = settings.connections_per_address
        self._exempt = networks(settings.exempt)

    def __len__(self) -> int:
        return len(self._relays)

    def __iter__(self) -> Iterator[Relay]:
        return iter(self._relays)

    @property
    def full(self) -> bool:
        """Whether there is no room for one more handshake."""
        return len(self._relays) + self.handshaking >= self._limit

    def enter_address(self, address: str, *, expected: bool = False) -> bool | None:
        """Count one more connection of `address`; False when it has too many, None when it is not counted.

        A client that was asked to move is expected: it is counted and let in, whatever the others of its address do.
        """
        if not self._per_address_limit or within(address, self._exempt):
            return None
        key = address_key(address)
        count = self._per_address.get(key, 0)
        if count >= self._per_address_limit and not expected:
            return False
        self._per_address[key] = count + 1
        return True

    def leave_address(self, address: str) -> None:
        """A counted connection of `address` has ended."""
        key = address_key(address)
        count = self._per_address.get(key, 0) - 1
        if count > 0:
            self._per_address[key] = count
        else:
            self._per_address.pop(key, None)

    def add(self, relay: Relay) -> None:
        """A connection is relayed from now on."""
        self._relays.add(relay)
        self._meter.opened += 1

    def end_by(self, relay: Relay, in_s: float) -> None:
        """Abort `relay` when it is still there in so many seconds; the earliest such deadline holds."""
        due = self._loop.time() + in_s
        if due < self._ending.get(relay, due + 1.0):
            self._ending[relay] = due

    def relay_closed(self, relay: Relay) -> None:
        """Both ends of a relay are gone."""
        self._relays.discard(relay)
        self._ending.pop(relay, None)
        if relay.limited:
            self.leave_address(relay.address)
        duration_s = self._loop.time() - relay.opened_at
        self._meter.duration_seconds.observe(duration_s)
        self._placer.closed(relay.pick)
        if self._on_event is not None:
            self._on_event(
                EdgeEvent("closed", relay.pick.url, relay.pick.reason, relay.address, relay.path, duration_s, 101)
            )
        self._changed.set()

    def sweep(self, now: float) -> None:
        """Abort the relays whose deadline has passed, and close the idle ones."""
        for relay in [relay for relay, due in self._ending.items() if due <= now]:
            del self._ending[relay]
            relay.abort()
        if self._idle_s and now - self._swept_idle_at >= min(self._idle_s / 4, 15.0):
            self._swept_idle_at = now
            self._close_idle(now)

    def abort(self) -> None:
        """Cut all off."""
        for relay in list(self._relays):
            relay.abort()

    def _close_idle(self, now: float) -> None:
        for relay in list(self._relays):
            if relay.spoke():
                relay.quiet_since = now
            elif now - relay.quiet_since >= self._idle_s:
                relay.quiet_since = now
                relay.close()
