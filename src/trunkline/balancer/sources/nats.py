"""Backends that announce themselves: the nodes that report over NATS (see `announced`, which decides)."""

from __future__ import annotations

import asyncio
import time

import structlog

from trunkline.balancer.sources.announced import MOST, Announced
from trunkline.balancer.sources.base import Tell
from trunkline.protocol.control import NodeReport

log = structlog.get_logger("trunkline.balancer")

LOOK_EVERY_S = 0.5


class NatsSource:
    """The nodes that report over NATS.

    It is fed by whoever has the connection (`heard`, `connected`). A new node is told before `heard` returns, so that
    its report finds its backend.
    """

    def __init__(self) -> None:
        self._nodes = Announced()
        self._told_shared: frozenset[str] = frozenset()
        self._told_full = False
        self._tell: Tell | None = None

    def heard(self, said: NodeReport) -> None:
        """A node has reported."""
        if self._nodes.heard(said, time.monotonic()) and self._tell is not None:
            self._tell(self._nodes.specs)
        if self._nodes.turned_away and not self._told_full:
            self._told_full = True
            log.warning("too_many_nodes", limit=MOST, node=said.node, text="nodes beyond the limit are not taken")
        if self._nodes.shared != self._told_shared:
            for name in self._nodes.shared - self._told_shared:
                log.warning("node_name_shared", node=name, text="two nodes have this name: give each its server.name")
            self._told_shared = self._nodes.shared

    def connected(self, connected: bool) -> None:
        """NATS is back, or gone: while it is gone the list stays as it is."""
        self._nodes.connected(connected, time.monotonic())

    async def run(self, tell: Tell) -> None:
        """Tell the list at each change, until cancelled."""
        self._tell = tell
        try:
            tell(self._nodes.specs)
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                gone = self._nodes.expire(time.monotonic())
                if gone:
                    log.warning("nodes_silent", backends=gone, text="they have not reported for 7 s and are forgotten")
                    tell(self._nodes.specs)
        finally:
            self._tell = None
