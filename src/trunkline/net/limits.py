"""Rate limits: a token bucket, and one such bucket for each address in bounded memory. Pure.

Rules:

- A bucket never lets more than `burst + per_s * t` through in any stretch of `t` seconds.
- Its whole state is one number, the time at which it will be full again; an idle bucket needs no timer.
- Memory is bounded whatever addresses turn up: full buckets are forgotten, because a new one is full too, and above the
  cap the one that was quiet longest goes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from trunkline.net.addresses import networks, within

MAX_ADDRESSES = 50_000
_SWEEP = 2
"""Entries looked at for each one that may be added, so that forgetting outpaces remembering."""

# Absorbs float rounding: after waiting exactly as long as returned, a caller is let through.
_EPSILON = 1e-6


class Bucket:
    """A token bucket, full at first.

    At most `burst` (at least 1) can be taken at once, and `per_s` come back each second; 0 or less means no limit.
    Times are seconds of any steady clock.
    """

    __slots__ = ("burst", "full_at", "per_s")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self.burst = burst
        self.per_s = per_s
        self.full_at = now

    def take(self, now: float, n: float = 1.0) -> float:
        """Take `n`; returns 0.0 when they were taken, else the seconds until they can be, and takes nothing.

        More than the burst can never be had; such an `n` is taken from a full bucket as if it were the burst.
        """
        if self.per_s <= 0:
            return 0.0
        self.full_at, wait_s = draw(self.full_at, now, n, self.burst, self.per_s)
        return wait_s


def draw(full_at: float, now: float, n: float, burst: float, per_s: float) -> tuple[float, float]:
    """A bucket's one number when `n` are wanted, for who keeps nothing but that number; see `Bucket`.

    Returns the time at which it will be full again, and the seconds until `n` can be had, 0.0 when they were taken.
    """
    filled_at = max(full_at, now) + min(n, burst) / per_s
    over_s = filled_at - now - burst / per_s
    return (filled_at, 0.0) if over_s <= _EPSILON else (full_at, over_s)


class AddressLimiter:
    """A token bucket for each address.

    An IPv6 client usually holds a whole /64 network, so that is what gets the bucket; IPv4 addresses mapped into IPv6
    share the bucket of the plain address.

    Args:
        burst: how many an address can take at once.
        per_s: how many it gets back each second; 0: no limit.
        exempt: addresses and networks without a limit; ValueError when one is neither.
        max_addresses: the most that are remembered.
    """

    __slots__ = ("_burst", "_exempt", "_full_at", "_max", "_per_s")

    def __init__(
        self, burst: float, per_s: float, exempt: Sequence[str] = (), *, max_addresses: int = MAX_ADDRESSES
    ) -> None:
        self.change(burst, per_s, exempt)
        self._max = max_addresses
        # Least recently used first: a dict keeps insertion order, and each use inserts again.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def change(self, burst: float, per_s: float, exempt: Sequence[str] = ()) -> None:
        """Have other limits from now on; what addresses have taken stays taken."""
        self._burst = burst
        self._per_s = per_s
        self._exempt = networks(exempt)

    def take(self, address: str, now: float, n: float = 1.0) -> float:
        """Take `n` for `address`; returns 0.0 when they were taken, else the seconds until they can be."""
        if self._per_s <= 0:
            return 0.0
        key = address_key(address)
        known = self._full_at.pop(key, None)
        if known is None and within(address, self._exempt):
            return 0.0
        full_at, wait_s = draw(now if known is None else known, now, n, self._burst, self._per_s)
        self._forget(now)
        self._full_at[key] = full_at
        return wait_s

    def _forget(self, now: float) -> None:
        for _ in range(_SWEEP):
            oldest = next(iter(self._full_at), None)
            if oldest is None or (self._full_at[oldest] > now and len(self._full_at) < self._max):
                return
            del self._full_at[oldest]


def address_key(address: str) -> str:
    """What of an address gets one bucket: an IPv4 address, or the /64 of an IPv6 address; other text is its own key."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> 64:x}/64"
