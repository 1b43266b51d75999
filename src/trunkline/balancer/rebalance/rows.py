"""A backend as rebalancing sees it, and what it orders. Pure."""

from __future__ import annotations

import msgspec

GroupKey = tuple[str, str]
"""Pool and group."""


class Row(msgspec.Struct, frozen=True):
    """A backend as rebalancing sees it.

    Attributes:
        node: the name under which a node of ours takes orders, empty for a foreign backend.
        connections: its estimated connections, reservations included.
        share: weight x capacity as placement reckons at the moment.
        weight: by which affinity gives it keys.
        room: whether others' clients may be sent there: it was heard from lately, and is not on trial.
    """

    url: str
    node: str
    connections: float
    share: float
    pool: str = ""
    group: str = ""
    weight: float = 1.0
    capacity: int | None = None
    usable: bool = True
    draining: bool = False
    room: bool = True


class Move(msgspec.Struct, frozen=True):
    """An order for one node.

    Attributes:
        over_ms: time to spread them over.
        reason: `over_full` or `key_elsewhere`.
        fair: what it would have if all were even.
        affinity: which clients: those that this keeps together (`values`), or with no values those it does not.
        values: the keys to move whole.
        rested_ms: clients that connected less than so long ago may have been asked lately, and are left alone.
    """

    url: str
    node: str
    pool: str
    group: str
    count: int
    over_ms: int
    reason: str
    connections: int
    fair: int
    dry_run: bool = False
    affinity: str | None = None
    values: tuple[str, ...] = ()
    rested_ms: int = 0
