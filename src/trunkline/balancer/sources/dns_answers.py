"""What answers of DNS mean: SRV weights and priorities, addresses of no use, and answers that hold a part alone. Pure.

An item (an address, an SRV record) that an answer lacks:

answers of the name                                           while its checks are good      once they are bad
------------------------------------------------------------  -----------------------------  -----------------
complete, as far as is known                                  stays for `PATIENCE` answers   goes
partial: an item that was missing came back lately            stays                          goes
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

PARTIAL_S: Final = 600.0
"""A name whose missing item came back is taken to give parts for so long; each return begins the time again."""

PATIENCE: Final = 3
MOST: Final = 1_000
"""Items kept that the newest answer lacks."""

Item = TypeVar("Item", bound=Hashable)


class Target(msgspec.Struct, frozen=True):
    """One SRV record."""

    priority: int
    weight: int
    port: int
    host: str


class Weighed(NamedTuple):
    """One SRV record with its weight as a backend's, and its tier: 0 before 1, which is for when no 0 can be used."""

    target: Target
    weight: float
    tier: int


def weigh(targets: Sequence[Target]) -> list[Weighed]:
    """The records by priority, each weight beside the mean of its priority, which is 1.0."""
    found = []
    for tier, priority in enumerate(sorted({target.priority for target in targets})):
        used = sorted({each for each in targets if each.priority == priority}, key=lambda one: (one.host, one.port))
        raw = [target.weight or 0.1 for target in used]
        # Three digits: a weight is for people to read, and must not differ for a bit of rounding.
        found += [
            Weighed(target, max(round(one * len(raw) / sum(raw), 3), 0.001), tier)
            for target, one in zip(used, raw, strict=True)
        ]
    return found


def is_usable(address: str) -> bool:
    """Whether a backend can have it: not an unspecified one, as sinkholes answer, a group, or one with a zone."""
    if "%" in address:
        return False
    found = ipaddress.ip_address(address)
    plain = getattr(found, "ipv4_mapped", None) or found
    return not (plain.is_unspecified or plain.is_multicast or plain == ipaddress.IPv4Address("255.255.255.255"))


class Parts(Generic[Item]):
    """The items of a name over its answers: by it a resolver that gives a random part each time does not shift load."""

    def __init__(self) -> None:
        self._missed: dict[Item, int] = {}
        self._returned_at = -math.inf

    @property
    def items(self) -> list[Item]:
        """All that counted after the newest answer."""
        return list(self._missed)

    def take(self, answer: Sequence[Item], now: float, is_well: Callable[[Item], bool]) -> list[Item]:
        """All items that count after `answer`; `is_well` says whether the checks of an item are good."""
        for item in answer:
            if self._missed.get(item, 0):
                self._returned_at = now
            self._missed[item] = 0
        partial = now - self._returned_at < PARTIAL_S
        here = set(answer)
        for item in [item for item in self._missed if item not in here]:
            self._missed[item] += 1
            if not is_well(item) or (not partial and self._missed[item] >= PATIENCE):
                del self._missed[item]
        excess = len(self._missed) - len(here) - MOST
        for item in sorted(self._missed, key=lambda item: -self._missed[item])[: max(0, excess)]:
            del self._missed[item]
        return self.items
