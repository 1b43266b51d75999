"""Who is in a match when its players sit on several nodes. Pure.

Each node knows its own players and announces them to the others: at every change, on request, and every few seconds. A
node that has been silent for `SILENCE_S` is taken for dead, and its players have left.
"""

from __future__ import annotations

from typing import Final, NamedTuple

REFRESH_S: Final = 10.0
SILENCE_S: Final = 35.0


class Change(NamedTuple):
    """What became different in a node's view: players that appeared and players that went."""

    joined: list[str]
    left: list[str]


class Roster:
    """One node's view of one match."""

    __slots__ = ("_heard", "_local", "_remote")

    def __init__(self) -> None:
        self._local: list[str] = []
        self._remote: dict[str, list[str]] = {}
        self._heard: dict[str, float] = {}

    @property
    def local(self) -> list[str]:
        """Players on this node."""
        return list(self._local)

    @property
    def players(self) -> list[str]:
        """All players, each once, those of this node first."""
        return list(dict.fromkeys([*self._local, *(name for names in self._remote.values() for name in names)]))

    def enter(self, player: str, tag: str) -> str:
        """A player joins here; returns the name to go by, with `tag` added when the name is taken."""
        taken = set(self.players)
        name, count = player, 1
        while name in taken:
            name = f"{player}-{tag}" if count == 1 else f"{player}-{tag}{count}"
            count += 1
        self._local.append(name)
        return name

    def leave(self, player: str) -> bool:
        """A player of this node leaves; False when it was not here."""
        if player not in self._local:
            return False
        self._local.remove(player)
        return True

    def hear(self, node: str, players: list[str], now: float) -> Change:
        """Another node has announced all its players of this match; `now` in seconds."""
        before = self.players
        if players:
            self._remote[node] = list(players)
            self._heard[node] = now
        else:
            self._remote.pop(node, None)
            self._heard.pop(node, None)
        return _difference(before, self.players)

    def expire(self, now: float) -> Change:
        """Take nodes that have been silent too long for dead."""
        before = self.players
        for node in [node for node, heard in self._heard.items() if now - heard > SILENCE_S]:
            del self._remote[node], self._heard[node]
        return _difference(before, self.players)


def _difference(before: list[str], after: list[str]) -> Change:
    old, new = set(before), set(after)
    return Change([name for name in after if name not in old], [name for name in before if name not in new])
