"""The releases that a fleet runs, by their first announcement, as the fleet's store has them. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

VERSIONS_KEY: Final = "versions"
"""Where the order is in the fleet's store."""

MOST_VERSIONS: Final = 64
"""Most releases that are remembered; the oldest is forgotten first."""

VERSION_CHARS: Final = 128

Version = Annotated[str, msgspec.Meta(min_length=1, max_length=VERSION_CHARS)]


class VersionSeen(msgspec.Struct, frozen=True, omit_defaults=True):
    """One release.

    Attributes:
        version: `server.version` of its nodes.
        number: a later release has a higher one; those that were there before anybody looked have the same.
        announced_at: when it was first announced, UTC as RFC 3339 has it.
        gone: a balancer finds no node of it; it is forgotten unless another balancer does.
    """

    version: Version
    number: Annotated[int, msgspec.Meta(ge=1)]
    announced_at: str
    gone: bool = False


class VersionOrder(msgspec.Struct, frozen=True):
    """The value of `VERSIONS_KEY`."""

    seen: Annotated[tuple[VersionSeen, ...], msgspec.Meta(max_length=MOST_VERSIONS)] = ()
