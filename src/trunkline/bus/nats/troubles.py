"""Why a bus that is connected does not store what it is given, by stream, for errors, `/health` and people. Pure.

Rules:

- A stream that NATS refuses to make is in trouble until it is made. One whose publications are not acknowledged, while
  NATS answers otherwise, is in trouble from the third in a row on: NATS is silent about a write that failed.
- Silence is forgotten after `FORGET_S` seconds without a publication: only the next one can show whether it lasts.
- A stream that got less room than it should have is no trouble, and is mentioned.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SILENCES: Final = 3
FORGET_S: Final = 60.0


class _Silence(NamedTuple):
    times: int
    at: float


class Troubles:
    """The troubles of all streams of one bus; `now` is in seconds of a clock that is not set."""

    def __init__(self) -> None:
        self._refused: dict[str, str] = {}
        self._silent: dict[str, _Silence] = {}
        self._smaller: dict[str, str] = {}

    @property
    def refused(self) -> frozenset[str]:
        """Streams that NATS does not provide."""
        return frozenset(self._refused)

    def refuse(self, stream: str, why: str) -> bool:
        """NATS does not provide the stream; returns whether that is new."""
        new = self._refused.get(stream) != why
        self._refused[stream] = why
        return new

    def provided(self, stream: str, *, wanted: int, got: int) -> bool:
        """NATS provides it, with room for `got` of the `wanted` bytes; returns whether too little room is news."""
        self._refused.pop(stream, None)
        if got >= wanted:
            self._smaller.pop(stream, None)
            return False
        text = f"stream {stream} may hold {got:,} bytes, less than bus.max_bytes ({wanted:,}): NATS has no more room"
        new = self._smaller.get(stream) != text
        self._smaller[stream] = text
        return new

    def unanswered(self, stream: str, now: float) -> tuple[str, bool]:
        """A publication was not acknowledged; returns the trouble (empty: it may be chance), and whether it is new."""
        before = self._silent.get(stream)
        count = before.times + 1 if before is not None and now - before.at <= FORGET_S else 1
        self._silent[stream] = _Silence(count, now)
        return self._silence(stream, now), count == SILENCES

    def stored(self, stream: str) -> None:
        """A publication was acknowledged."""
        if self._silent:
            self._silent.pop(stream, None)

    def problem(self, now: float) -> str:
        """What keeps publications from being stored, empty for nothing."""
        texts = [*self._refused.values(), *(self._silence(stream, now) for stream in self._silent)]
        return "; ".join(text for text in texts if text)

    @property
    def warning(self) -> str:
        """What is stored for a shorter time than it should be, empty for nothing."""
        return "; ".join(self._smaller.values())

    def _silence(self, stream: str, now: float) -> str:
        silence = self._silent[stream]
        if silence.times < SILENCES or now - silence.at > FORGET_S:
            return ""
        return (
            f"NATS answers, but does not acknowledge what stream {stream} is given; its disk may be full, see its log"
        )
