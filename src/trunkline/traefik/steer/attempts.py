"""Which handshakes are tried again because their backend could not be reached. Pure.

Traefik's retry requests a new pick at every attempt, and nothing in the request numbers the attempts: each starts from
the request as the client sent it (seen with Traefik 3.7). So the same key, client and target within the time of a dial
are taken for one handshake.

Rules:

- A client may use a key twice, by mistake or to harm: then a backend that did nothing wrong looks as if it had failed.
  So a repetition is a suspicion (`retry`), to be followed by a check of the backend and not by its ejection; and after
  as many attempts as Traefik makes, the next one counts as a new handshake.
- The table is bounded in number and time, and keeps no text of the client.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from trunkline.placement.placing import Pick

MOST: Final = 16_384
"""Handshakes remembered at once; the oldest leave first."""


class _Handshake(NamedTuple):
    picks: tuple[Pick, ...]
    until: float


class Attempts:
    """The newest handshakes with their picks.

    Args:
        window_s: seconds after a pick within which its retry comes.
        per_handshake: attempts that Traefik makes in all; with less than 2 there are no retries.
    """

    def __init__(self, window_s: float, per_handshake: int) -> None:
        self._window_s = window_s
        self._per_handshake = per_handshake
        self._handshakes: OrderedDict[int, _Handshake] = OrderedDict()

    def __len__(self) -> int:
        return len(self._handshakes)

    def earlier(self, handshake: int, now: float) -> tuple[Pick, ...]:
        """The picks that failed this handshake, oldest first."""
        known = self._handshakes.get(handshake)
        if known is None or known.until < now or len(known.picks) >= self._per_handshake:
            return ()
        return known.picks

    def picked(self, handshake: int, picks: tuple[Pick, ...], now: float) -> None:
        """Remember the picks of a handshake, the newest last."""
        if self._per_handshake < 2:
            return
        table = self._handshakes
        table[handshake] = _Handshake(picks, now + self._window_s)
        table.move_to_end(handshake)
        while table and (len(table) > MOST or next(iter(table.values())).until < now):
            table.popitem(last=False)
