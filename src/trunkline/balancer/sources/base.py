"""Where backends come from: what a source is, and how the lists of several become one. `merge` is. Pure.

Rules of every source:

- It tells its whole current list, never a difference: first when its first attempt is over (an empty list when nothing
  could be learned), then at each change.
- A failure never empties a list. The last good one stays, one log line says why, one says when it is over. Whether a
  backend of a stale list still answers is for the health checks to find out.
- It runs until it is cancelled and recovers by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from trunkline.placement.backend import BackendSpec

Tell = Callable[[Sequence[BackendSpec]], None]

ORDER = ("list", "file", "nats", "docker", "dns")
"""Which source is believed when two name the same URL: what the operator wrote, then what a node says of itself, then
labels, and last DNS, which knows nothing but the address."""

# What two sources may say differently without contradicting each other.
_NO_CONFLICT = frozenset({"url", "source", "name", "draining", "server_name"})


class Source(Protocol):
    """One origin of backends."""

    async def run(self, tell: Tell) -> None:
        """Tell the list at each change, until cancelled.

        Args:
            tell: gets the whole list; it must not block, and must not raise.
        """


class Conflict(msgspec.Struct, frozen=True):
    """Two entries of one URL that say different things.

    Attributes:
        kept: the source whose entry holds.
        ignored: the source whose entry does not.
        fields: what they differ in, e.g. `weight`.
    """

    url: str
    kept: str
    ignored: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        what = " and ".join(self.fields)
        if self.kept == self.ignored:
            return f"{self.url} is in {self.kept} twice with different {what}; the first entry holds"
        return f"{self.url}: {self.ignored} has different {what} than {self.kept}; {self.kept} holds"


class Merged(msgspec.Struct, frozen=True):
    """The one list.

    Attributes:
        specs: each URL once, in the order of the sources.
        conflicts: where entries of one URL differ.
    """

    specs: tuple[BackendSpec, ...]
    conflicts: tuple[Conflict, ...]


def merge(lists: Mapping[str, Sequence[BackendSpec]]) -> Merged:
    """Unite the lists of all sources; of a URL that several name, the entry of the first in `ORDER` holds.

    Draining is the exception: it is true as soon as any source says so. That a container was told to stop is a fact
    beside which the operator's list is merely older.

    Args:
        lists: the last list that each source told, by the source's kind; kinds that `ORDER` does not have come last.
    """
    known = [kind for kind in ORDER if kind in lists]
    kept: dict[str, tuple[str, BackendSpec]] = {}
    conflicts: dict[Conflict, None] = {}
    for kind in (*known, *(kind for kind in lists if kind not in ORDER)):
        for spec in lists[kind]:
            if spec.url not in kept:
                kept[spec.url] = (kind, spec)
                continue
            holder, first = kept[spec.url]
            fields = tuple(
                name
                for name in BackendSpec.__struct_fields__
                if name not in _NO_CONFLICT and getattr(first, name) != getattr(spec, name)
            )
            if fields:
                conflicts[Conflict(spec.url, holder, kind, fields)] = None
            if spec.draining and not first.draining:
                kept[spec.url] = (holder, msgspec.structs.replace(first, draining=True))
    return Merged(tuple(spec for _, spec in kept.values()), tuple(conflicts))
