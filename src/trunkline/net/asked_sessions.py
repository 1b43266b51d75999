"""Sessions that were asked to move: whose next handshake is not held against its address, and who is back. Pure.

A whole office moves at once, behind one address. So who was asked to come back is let in whatever the limits of its
address say; whoever was not asked meets them as ever.

Rules:

- A session counts as asked for `ASKED_S`, and is let past once: who is back is forgotten.
- One try at a time. A try that came to nothing does not cost the session its place, and there are `TRIES` in all, so
  that nobody knocks for ever with a session that is refused for another reason.
- One that does not say how it ended is over after `TRY_S`.
- Memory is bounded: beyond `SESSIONS_KEPT` the oldest are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final, NamedTuple

import msgspec

from trunkline.protocol.goodbyes import ASKED_S, SESSIONS_AT_ONCE, SESSIONS_KEPT, Goodbyes

TRIES: Final = 5
TRY_S: Final = 2.0


class Returned(NamedTuple):
    """A session that came back: the colour that it left, and the seconds since the goodbye."""

    colour: str
    away_s: float


class _Asked(msgspec.Struct, gc=False):
    colour: str
    said_at: float
    tries: int = 0
    busy_until: float = float("-inf")


class AskedSessions:
    """The sessions that one process knows as asked; times are seconds of any steady clock.

    Args:
        kept_s: how long one that does not come back is remembered; from `ASKED_S` on its return is only seen.
        most: how many are remembered.
    """

    __slots__ = ("_kept_s", "_most", "_sessions")

    def __init__(self, kept_s: float = ASKED_S, most: int = SESSIONS_KEPT) -> None:
        self._kept_s = kept_s
        self._most = most
        # Oldest first: a dict keeps insertion order, and who is asked again is inserted again.
        self._sessions: dict[str, _Asked] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def hear(self, said: Goodbyes, now: float) -> None:
        """Take what a node says: whom it asks, and who is back at it."""
        sessions = self._sessions
        said_at = now + said.in_ms / 1000
        for session in said.asked:
            sessions.pop(session, None)
            sessions[session] = _Asked(said.colour, said_at)
        for session in said.back:
            sessions.pop(session, None)
        self._forget(now)

    def let(self, session: str, now: float) -> bool:
        """Whether a handshake with this session is let past the limits of its address; counts the try."""
        asked = self._sessions.get(session)
        if asked is None or now - asked.said_at > ASKED_S or now < asked.busy_until or asked.tries >= TRIES:
            return False
        asked.tries += 1
        asked.busy_until = now + TRY_S
        return True

    def gave_up(self, session: str) -> None:
        """A try that was let past came to nothing."""
        asked = self._sessions.get(session)
        if asked is not None:
            asked.busy_until = float("-inf")

    def back(self, session: str, now: float) -> Returned | None:
        """The session is back: forget it. None when it was not asked, or too long ago."""
        asked = self._sessions.pop(session, None)
        if asked is None or now - asked.said_at > self._kept_s:
            return None
        return Returned(asked.colour, max(now - asked.said_at, 0.0))

    def all(self, now: float) -> Iterator[Goodbyes]:
        """All that still count as asked, for a process that begins."""
        for (colour, said_at), group in groupby(self._sessions.items(), lambda each: (each[1].colour, each[1].said_at)):
            if now - said_at > ASKED_S:
                continue
            asked = tuple(session for session, _ in group)
            for begin in range(0, len(asked), SESSIONS_AT_ONCE):
                yield Goodbyes("", colour, asked[begin : begin + SESSIONS_AT_ONCE], in_ms=int((said_at - now) * 1000))

    def _forget(self, now: float) -> None:
        sessions = self._sessions
        while sessions:
            oldest = next(iter(sessions))
            if len(sessions) <= self._most and now - sessions[oldest].said_at <= self._kept_s:
                return
            del sessions[oldest]
