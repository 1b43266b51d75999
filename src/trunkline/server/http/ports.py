"""What pages and the admin port need of their node, so that they need not know its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from trunkline.metrics.text import Family
from trunkline.protocol.control import DrainState, Health, Instance, KeyCounts, LoadReport, Moved, MoveOrder, Stats

Condition = Literal["starting", "up", "draining"]
"""A node's state as others see it."""


class Reports(Protocol):
    """What a node reports of itself."""

    @property
    def condition(self) -> Condition:
        """The state as others see it."""

    def load(self) -> LoadReport:
        """How full the node is, without keys."""

    def load_after(self, after: int, run: str | None) -> LoadReport:
        """The same, with the keys of connections opened behind the first `after` of a run."""

    def health(self) -> Health:
        """How the node is."""

    def instance(self) -> Instance:
        """Which process this is."""

    def stats(self) -> Stats:
        """Counts since the start."""

    def families(self) -> Iterator[Family]:
        """All series."""


class Drains(Protocol):
    """Moves all clients away."""

    def begin(self, over_ms: int) -> DrainState:
        """Take no new connections, and ask every client to move within `over_ms`."""

    def end(self) -> DrainState:
        """Take connections again, unless the node stops."""

    def now(self) -> DrainState:
        """How it stands."""


class Moves(Protocol):
    """Moves some clients away."""

    async def move(self, order: MoveOrder) -> Moved:
        """Begin to ask clients; raises ValueError for an order that makes no sense."""

    async def count_keys(self, by: str) -> KeyCounts:
        """How many clients there are of each value of `by`; raises ValueError."""
