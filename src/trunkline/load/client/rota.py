"""Sessions that may send take turns; one that is no longer ready leaves in constant time. Pure."""

from __future__ import annotations

from trunkline.load.client.session import Session


class Rota:
    """The sessions among which messages of the schedule are shared out."""

    __slots__ = ("_sessions", "_turn")

    def __init__(self) -> None:
        self._sessions: list[Session] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Let a session take part, if it does not already."""
        if session.place < 0:
            session.place = len(self._sessions)
            self._sessions.append(session)

    def remove(self, session: Session) -> None:
        """Let a session take part no more; the last one takes its place."""
        if session.place >= 0:
            last = self._sessions.pop()
            if last is not session:
                self._sessions[session.place] = last
                last.place = session.place
            session.place = -1

    def next(self) -> Session | None:
        """The session whose turn it is; None when none is ready."""
        if not self._sessions:
            return None
        self._turn += 1
        return self._sessions[self._turn % len(self._sessions)]
