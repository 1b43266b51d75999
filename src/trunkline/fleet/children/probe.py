"""How a part of the fleet is, over HTTP: short time limits, never an exception."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from typing import Final, TypeVar

import msgspec

from trunkline.fleet.plan.parts import NodePlan, PartPlan, TraefikPlan
from trunkline.fleet.status import Sample
from trunkline.http1.get import Answer, get
from trunkline.http1.heads import BadHead
from trunkline.protocol.control import Health, LoadReport, Stats

ANSWER_S: Final = 2.0
LONGEST_ANSWER: Final = 65_536

T = TypeVar("T")


async def is_ready(part: PartPlan) -> bool:
    """Whether the part wants traffic."""
    answer = await _get(part.ready_url)
    if answer is None:
        return False
    if isinstance(part, TraefikPlan):
        # An authentication service may refuse us; 404 is a Traefik without routes, 503 one without servers.
        return 200 <= answer.status < 500 and answer.status != 404
    return answer.status == 200


async def sample(node: NodePlan) -> Sample | None:
    """What the node reports, None when it does not answer as a node does."""
    report, stats, health = await asyncio.gather(
        _read(node, "/metric", LoadReport), _read(node, "/api/stats", Stats), _read(node, "/health", Health, (200, 503))
    )
    if report is None or stats is None:
        return None
    problem = next((check.why for check in health.checks.values() if check.why), "") if health is not None else ""
    return Sample(report.state, report.agentsConnections, stats.messages_received + stats.messages_sent, problem or "")


async def _read(node: NodePlan, path: str, kind: type[T], statuses: Container[int] = (200,)) -> T | None:
    answer = await _get(f"{node.page_url}{path}")
    if answer is None or answer.status not in statuses:
        return None
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError:
        return None


async def _get(url: str) -> Answer | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await get(url, LONGEST_ANSWER)
    except (OSError, BadHead):  # TimeoutError is an OSError
        return None
