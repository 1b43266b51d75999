"""What a watcher was given of the store, and what it has to be given next. Pure.

Rules:

- An entry is news when its revision is another one than the watcher has: a store that lost its content begins with low
  revisions again.
- Of one key a watcher also hears that nothing is there; of all keys below a prefix it hears what is there.
- Entries are given in the order of their revisions, after those that are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trunkline.bus.base import Entry
from trunkline.bus.store.keys import meant, whole_key

_NOTHING = 0
"""In the place of a revision: the watcher knows that the key is not there."""


class Watched:
    """What one watcher knows; a prefix that ends with a dot, or is empty, means all keys below."""

    __slots__ = ("_known", "prefix")

    def __init__(self, prefix: str) -> None:
        self._known: dict[str, int] = {}
        self.prefix = prefix

    def means(self, key: str) -> bool:
        """Whether the watcher is given this key."""
        return meant(self.prefix, key)

    def news(self, found: Iterable[Entry], read: Collection[str] | None = None) -> list[tuple[str, Entry | None]]:
        """What to give to the watcher, which counts as given from then on.

        Args:
            found: the entries that were read.
            read: the keys that were looked for; None: all there are.
        """
        there = {entry.key: entry for entry in found if self.means(entry.key)}
        missing = {key for key in self._known if read is None or key in read} - there.keys()
        if whole_key(self.prefix) and not there and (read is None or self.prefix in read):
            missing.add(self.prefix)
        gone = sorted(key for key in missing if self._known.get(key) != _NOTHING)
        changed = sorted(
            (entry for entry in there.values() if self._known.get(entry.key) != entry.revision),
            key=lambda entry: entry.revision,
        )
        for key in gone:
            if whole_key(self.prefix):
                self._known[key] = _NOTHING
            else:
                del self._known[key]
        self._known.update((entry.key, entry.revision) for entry in changed)
        return [*((key, None) for key in gone), *((entry.key, entry) for entry in changed)]
