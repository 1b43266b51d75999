"""Backends that announce themselves: the nodes that report over NATS (see `announced`, which decides)."""

from __future__ import annotations

import asyncio
import time

import structlog

from trunkline.balancer.sources.announced import MOST, SILENT_S, Announced
from trunkline.balancer.sources.base import Update
from trunkline.protocol.control import NodeReport

log = structlog.get_logger("trunkline.balancer")

LOOK_EVERY_S = 0.5
STALL_S = 3.0
"""Without a look for so long this process stood still."""


class NatsSource:
    """The nodes that report over NATS.

    The link to NATS feeds it (`reported`, `connected`). A new node is given before `reported` returns, so that its
    report finds its backend. A silent node stays in the list, marked, until `forget_s` seconds after its last report.
    """

    def __init__(self, forget_s: float) -> None:
        self._nodes = Announced(forget_s)
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
            looked_at = time.monotonic()
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                now = time.monotonic()
                if now - looked_at > STALL_S:
                    self._nodes.stalled(now)
                looked_at = now
                silence = self._nodes.look(now)
                if silence.fell:
                    text = f"they have not reported for {SILENT_S:g} s and get no connections until they do"
                    log.warning("nodes_silent", backends=silence.fell, text=text)
                if silence.forgotten:
                    log.warning(
                        "nodes_forgotten", backends=silence.forgotten, text="silent for balancer.forget_after_ms"
                    )
                if silence.fell or silence.forgotten:
                    update(self._nodes.specs)
        finally:
            self._update = None
