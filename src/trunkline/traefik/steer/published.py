"""Which servers are published to Traefik, and in which text. Pure.

Rules:

- A reload makes Traefik forget its counts and who was down, so the text changes only with its content: servers are in
  the order of their URLs, and equal servers give equal bytes.
- Down, ejected and draining servers take no part where Traefik balances by itself, for after a reload it would count
  them as up. When none is left in a pool, those that are down come back: whoever calls all of them down may be cut off
  itself, and Traefik has its own checks.
- Of the rest, backups take part where no other can be used.
- A held group takes no part there, whatever else is left. The others have their shares, so that a canary does not get
  half of all clients while the balancer is away.
- Every server, in whatever state, can be picked: one that recovers is used at the next pick, with no reload between.
- The address to which Traefik sends its question carries the marks of the servers that can be picked. So each question
  says what that Traefik has loaded, whoever published it and however many Traefiks there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from trunkline.placement.backend import short_id
from trunkline.traefik.render import dynamic_model as model
from trunkline.traefik.render.dynamic import ServerView, encode_json


class Candidate(ServerView, frozen=True):
    """A backend as the balancer sees it now.

    Attributes:
        usable: false while it is known to be down, ejected, or behind an open circuit breaker.
        draining: it takes no new connections.
        tier: as `BackendSpec.tier`.
        held: its group gets no new connections.
        share: what its group gets beside the others, None where groups are not told apart, and of one without a share.
    """

    usable: bool = True
    draining: bool = False
    tier: int = 0
    held: bool = False
    share: float | None = None


class Servers(NamedTuple):
    """What is published.

    Attributes:
        pickable: every server, which a pick may name.
        open: those between which Traefik balances by itself.
    """

    pickable: tuple[ServerView, ...]
    open: tuple[ServerView, ...]


def chosen(candidates: Sequence[Candidate]) -> Servers:
    """The servers to publish, by pool and URL."""
    ordered = sorted(candidates, key=lambda candidate: (candidate.pool, candidate.url))
    takers: list[Candidate] = []
    for pool in dict.fromkeys(candidate.pool for candidate in ordered):
        members = [candidate for candidate in ordered if candidate.pool == pool and not candidate.held]
        staying = [candidate for candidate in members if not candidate.draining]
        usable = _first_tier([candidate for candidate in staying if candidate.usable])
        takers += _shared(usable or staying or members)
    return Servers(tuple(map(_view, ordered)), tuple(map(_view, takers)))


def _first_tier(candidates: Sequence[Candidate]) -> list[Candidate]:
    lowest = min((candidate.tier for candidate in candidates), default=0)
    return [candidate for candidate in candidates if candidate.tier == lowest]


def _shared(candidates: list[Candidate]) -> list[Candidate]:
    """Those whose groups have a share, with weights that make it so; all as they are when none has one."""
    named = [candidate for candidate in candidates if candidate.share is not None]
    if not named:
        return candidates
    totals: dict[str, float] = {}
    for each in named:
        totals[each.group] = totals.get(each.group, 0.0) + each.weight
    return [
        msgspec.structs.replace(each, weight=each.weight * (each.share or 0.0) / (totals[each.group] or 1.0))
        for each in named
    ]


def _view(candidate: Candidate) -> ServerView:
    return ServerView(candidate.url, candidate.weight, candidate.group, candidate.pool)


MARK_DIGITS: Final = 6
MOST_MARKED: Final = 1_000
"""Servers that are marked; with more the question would be longer than the balancer reads."""


def mark(url: str) -> str:
    """A server's mark in the question that Traefik asks: enough to tell the servers of a fleet apart."""
    return short_id(url)[:MARK_DIGITS]


def marks(servers: Sequence[ServerView]) -> str:
    """The marks of what a configuration holds, as text; empty when there are too many."""
    return ".".join(sorted(mark(server.url) for server in servers)) if len(servers) <= MOST_MARKED else ""


@functools.lru_cache(maxsize=64)
def marked(text: str) -> frozenset[str]:
    """The marks in a question; the same few texts come again and again."""
    return frozenset(text.split("."))


class Publication:
    """The text that Traefik fetches, made again only when the servers changed.

    Attributes:
        body: the newest text, empty before the first.
        urls: the servers that a pick may name by it.
    """

    def __init__(self, render: Callable[[Servers], model.Dynamic]) -> None:
        self._render = render
        self._servers: Servers | None = None
        self.body = b""
        self.urls: frozenset[str] = frozenset()

    def update(self, candidates: Sequence[Candidate]) -> bool:
        """Bring the text up to date; returns whether it changed."""
        servers = chosen(candidates)
        if servers == self._servers:
            return False
        body = encode_json(self._render(servers))
        self._servers = servers
        self.urls = frozenset(server.url for server in servers.pickable)
        changed = body != self.body
        self.body = body
        return changed
