"""Backends that announce themselves: the nodes that report over NATS (see `announced`, which decides)."""

from __future__ import annotations

import asyncio
import time

import structlog

from trunkline.balancer.sources.announced import MOST, Announced
from trunkline.balancer.sources.base import Update
from trunkline.protocol.control import NodeReport

log = structlog.get_logger("trunkline.balancer")

LOOK_EVERY_S = 0.5


class NatsSource:
    """The nodes that report over NATS.

    The link to NATS feeds it (`reported`, `connected`). A new node is given before `reported` returns, so that its
    report finds its backend.
    """

    def __init__(self) -> None:
        self._nodes = Announced()
        self._named_shared: frozenset[str] = frozenset()
        self._full_logged = False
        self._update: Update | None = None

    def reported(self, report: NodeReport) -> None:
        """A node has reported."""
        if self._nodes.reported(report, time.monotonic()) and self._update is not None:
            self._update(self._nodes.specs)
        if self._nodes.turned_away and not self._full_logged:
            self._full_logged = True
            log.warning("too_many_nodes", limit=MOST, node=report.node, text="nodes beyond the limit are not taken")
        if self._nodes.shared != self._named_shared:
            for name in self._nodes.shared - self._named_shared:
                log.warning("node_name_shared", node=name, text="two nodes have this name: give each its server.name")
            self._named_shared = self._nodes.shared

    def connected(self, connected: bool) -> None:
        """NATS is back, or gone: while it is gone the list stays as it is."""
        self._nodes.connected(connected, time.monotonic())

    async def run(self, update: Update) -> None:
        """Give the list at each change, until cancelled."""
        self._update = update
        try:
            update(self._nodes.specs)
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                gone = self._nodes.expire(time.monotonic())
                if gone:
                    log.warning("nodes_silent", backends=gone, text="they have not reported for 7 s and are forgotten")
                    update(self._nodes.specs)
        finally:
            self._update = None
