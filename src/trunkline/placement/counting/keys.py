"""Multisets of Sec-WebSocket-Keys, in which clients may repeat themselves as often as they like. Pure.

Rules: every operation takes constant time however often one key occurs, and memory is bounded by what is put in, or
by a cap.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

KEY_CHARS = 64
"""Of a key no more is kept; a proper one has 24."""


class Keyed(Protocol):
    """Something with a key that is not its own alone, and a number that is."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def number(self) -> int:
        """Its number."""


Item = TypeVar("Item", bound=Keyed)


class KeyTable(Generic[Item]):
    """Items by key. One item of a key is held as it is; only a repeated key costs a dict."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, Item | dict[int, Item]] = {}

    def add(self, item: Item) -> None:
        """Put it in."""
        found = self._found
        there = found.get(item.key)
        if there is None:
            found[item.key] = item
        elif isinstance(there, dict):
            there[item.number] = item
        else:
            found[item.key] = {there.number: there, item.number: item}

    def remove(self, item: Item) -> None:
        """Take it out, if it is there."""
        there = self._found.get(item.key)
        if there is item:
            del self._found[item.key]
        elif isinstance(there, dict):
            there.pop(item.number, None)
            if not there:
                del self._found[item.key]

    def first(self, key: str) -> Item | None:
        """The oldest item of this key, which stays in."""
        there = self._found.get(key)
        return next(iter(there.values())) if isinstance(there, dict) else there


class SeenKeys:
    """Keys that came before their pick, each until it is taken or too old; beyond `limit` the oldest goes."""

    __slots__ = ("_keep_s", "_limit", "_seen")

    def __init__(self, keep_s: float, limit: int) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: str, now: float) -> None:
        """Remember one more of this key."""
        count, _ = self._seen.pop(key, (0, 0.0))
        self._seen[key] = (count + 1, now)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)

    def take(self, key: str, now: float) -> bool:
        """Take one of this key out; false when there is none that is young enough."""
        found = self._seen.get(key)
        if found is None:
            return False
        count, at = found
        if at + self._keep_s < now:
            del self._seen[key]
            return False
        if count > 1:
            self._seen[key] = (count - 1, at)
        else:
            del self._seen[key]
        return True

    def clear(self) -> None:
        """Let go of all."""
        self._seen.clear()

    def forget(self, now: float) -> None:
        """Let go of what is too old; amortised by what was added."""
        while self._seen:
            key, (_, at) = next(iter(self._seen.items()))
            if at + self._keep_s >= now:
                return
            del self._seen[key]
