"""The load report of a node, the same for who asks (`/metric`) and who is told (`announce.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trunkline.protocol.control import LoadReport

if TYPE_CHECKING:
    from trunkline.server.node.node import Node


def load_report(node: Node, keys: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET) -> LoadReport:
    """How full the node is now.

    Args:
        node: the node.
        keys: Sec-WebSocket-Key of newly opened connections, left out unless they are asked for.
    """
    server = node.settings.server
    return LoadReport(
        agentsConnections=len(node.registry.connections),
        podName=server.pod_name,
        podIP=server.pod_ip,
        nodeName=server.node_name,
        state="up" if node.condition == "up" else "draining",
        colour=server.colour,
        capacity=node.max_connections,
        accept_per_s=node.accept_headroom,
        loop_lag_ms=round(node.loop_lag_s * 1000, 3),
        run=node.arrivals.run,
        opened=node.arrivals.opened,
        keys=keys,
    )
