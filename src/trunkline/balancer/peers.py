"""The other balancers of the fleet, as one of them hears them. Pure.

Rules:

- Each sends a sign of life every two seconds, with the generation of the traffic table that it applies.
- One that is silent for `GONE_S` leads no more. It stays listed, for it may be cut off and go on by an old table, until
  it says goodbye, is heard again, or was silent for `forget_s`.
- A silent one whose place another one has taken is gone: it was killed and started again. While both are heard, as in
  a take-over, both are listed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

GONE_S: Final = 6.0
"""Seconds after which a balancer counts as gone: three signs of life."""

MOST: Final = 1_000
"""Balancers there can be; more are a mistake or an attack."""


class Peer(NamedTuple):
    """One other balancer.

    Attributes:
        at: when it was heard last.
        generation: that it said then.
        place: machine and port, empty when it does not say.
        replaced: whether another one was first heard at its place later.
    """

    at: float
    generation: int
    place: str = ""
    replaced: bool = False


class Peers:
    """Those that were heard; times are in seconds of one clock.

    Args:
        own: the id of the balancer that hears them.
        forget_s: after so long a silent one is forgotten.
    """

    def __init__(self, own: str, forget_s: float) -> None:
        self._own = own
        self._forget_s = max(forget_s, GONE_S)
        self._known: dict[str, Peer] = {}

    def heard(self, balancer: str, generation: int, now: float, place: str = "") -> bool:
        """Take a sign of life; returns whether it is the first one of this balancer.

        Raises ValueError when there are too many.
        """
        known = self._known.get(balancer)
        if known is None:
            if len(self.listed(now)) >= MOST and not self._make_room(now):
                raise ValueError(f"more than {MOST} balancers talk here")
            for name, peer in self._known.items() if place else ():
                if peer.place == place:
                    self._known[name] = peer._replace(replaced=True)
        self._known[balancer] = Peer(now, generation, place, known is not None and known.replaced)
        return known is None

    def left(self, balancer: str) -> None:
        """It said goodbye."""
        self._known.pop(balancer, None)

    def listed(self, now: float) -> dict[str, Peer]:
        """All that are heard, or fell silent without a goodbye."""
        self._known = {
            name: peer
            for name, peer in self._known.items()
            if now - peer.at <= (GONE_S if peer.replaced else self._forget_s)
        }
        return self._known

    def none_before(self, now: float) -> bool:
        """Whether no balancer that is heard comes before this one; the first by id acts for the fleet."""
        return all(name > self._own or now - peer.at > GONE_S for name, peer in self._known.items())

    def _make_room(self, now: float) -> bool:
        """Forget the one that has been silent for longest; false when all are heard."""
        oldest = min(self._known, key=lambda name: self._known[name].at)
        if now - self._known[oldest].at <= GONE_S:
            return False
        del self._known[oldest]
        return True
