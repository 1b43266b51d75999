"""Which groups get new connections, in what shares: by the traffic table, by the setting while there is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from trunkline.protocol.traffic import TrafficTable
from trunkline.settings.balancer import GroupEntry


class Shares(msgspec.Struct, frozen=True):
    """The shares in force.

    Attributes:
        weights: by group.
        closed: whether a group without a weight is held; else it comes last, when no other can take a connection.
    """

    weights: Mapping[str, float]
    closed: bool = False

    @property
    def split(self) -> bool:
        """Whether groups are told apart at all."""
        return self.closed or bool(self.weights)

    def holds(self, group: str) -> bool:
        """Whether a group gets no new connections."""
        weight = self.weights.get(group)
        return self.closed if weight is None else weight <= 0


def by_setting(groups: Sequence[GroupEntry]) -> Shares:
    """The shares of `balancer.groups`."""
    return Shares({entry.name: entry.weight for entry in groups})


def by_table(table: TrafficTable) -> Shares:
    """The shares of a traffic table."""
    return Shares(table.weights, closed=True)
