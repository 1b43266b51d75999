"""Asks nodes over HTTP how they are: one client for the whole fleet, short time limits, never an exception."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
import msgspec

from trunkline.fleet.part_plans import NodePlan, PartPlan, TraefikPlan
from trunkline.fleet.status import Sample
from trunkline.protocol.control import LoadReport, Stats

ANSWER_S: Final = 2.0
LONGEST_ANSWER: Final = 65_536

T = TypeVar("T")


class Probe:
    """An HTTP client for nodes; an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Probe:
        # Without proxies from the environment: the nodes are on this machine.
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S), trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def is_ready(self, part: PartPlan) -> bool:
        """Whether the part wants traffic."""
        status, _ = await self._get(part.ready_url)
        if isinstance(part, TraefikPlan):
            # An authentication service may refuse us; 404 is a Traefik without routes, 503 one without servers.
            return 200 <= status < 500 and status != 404
        return status == 200

    async def sample(self, node: NodePlan) -> Sample | None:
        """What the node reports, None when it does not answer as a node does."""
        report, stats = await asyncio.gather(
            self._read(node, "/metric", LoadReport), self._read(node, "/api/stats", Stats)
        )
        if report is None or stats is None:
            return None
        return Sample(report.state, report.agentsConnections, stats.messages_received + stats.messages_sent)

    async def _read(self, node: NodePlan, path: str, kind: type[T]) -> T | None:
        status, body = await self._get(f"{node.page_url}{path}")
        if status != 200:
            return None
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError:
            return None

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and body; status 0 when there is no answer."""
        if self._session is None:
            raise RuntimeError("use the probe as a context manager")
        try:
            async with self._session.get(url, allow_redirects=False) as answer:
                return answer.status, await answer.content.read(LONGEST_ANSWER) if answer.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""
