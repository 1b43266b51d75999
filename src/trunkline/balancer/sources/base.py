"""Where backends come from: what a source is, and how the lists of several become one. `merge` is. Pure.

Rules of every source:

- It gives its whole current list, never a difference: first when its first attempt is over (an empty list when nothing
  could be learned), then at each change.
- A failure never empties a list. The last good one stays, and begin and end are logged. Whether a backend of a stale
  list still answers is for the health checks to find out.
- It runs until it is cancelled and recovers by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from trunkline.placement.backend import BackendSpec

Update = Callable[[Sequence[BackendSpec]], None]

ORDER = ("list", "file", "nats", "docker", "swarm", "kubernetes", "dns")
"""Whose entry holds when two name the same URL: what the operator wrote, then what a node announces, then labels, then
endpoints, and last DNS, which knows nothing but the address."""

# In these fields two sources may differ without a conflict.
_NO_CONFLICT = frozenset({"url", "source", "name", "draining", "server_name", "node_name", "silent", "tier"})


class Source(Protocol):
    """One origin of backends."""

    async def run(self, update: Update) -> None:
        """Give the list until cancelled; `update` gets all of it, must not block and must not raise."""


class Conflict(msgspec.Struct, frozen=True):
    """Two different entries of one URL."""

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
    """The one list."""

    specs: tuple[BackendSpec, ...]
    conflicts: tuple[Conflict, ...]


def merge(lists: Mapping[str, Sequence[BackendSpec]]) -> Merged:
    """Unite the lists of all sources; of a URL that several name, the entry of the first in `ORDER` holds.

    Draining is the exception: it is true as soon as it is in any source. A container that is being stopped is newer
    knowledge than the operator's list. Kinds of source that `ORDER` does not have come last.
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
