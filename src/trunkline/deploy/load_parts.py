"""What the load tester does for a deploy: it smokes new nodes, and watches with witnesses, in the deploy's own words.

A node without a name is a foreign backend: nothing is known of its protocol, so only its handshakes are tried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from trunkline.deploy.machine.seen import Smoke, SmokeSeen, WitnessSeen
from trunkline.deploy.verdict.facts import WitnessFacts
from trunkline.deploy.world.base import NodeView
from trunkline.load.deploys.smoke import SmokeTarget, smoke
from trunkline.load.deploys.witnesses import BACK_S, Witnesses
from trunkline.load.output.formatting import counted

CONNECTS: Final = 50
BRIEF_CONNECTS: Final = 3
"""Again and again while users are there: so few that they are not refused by the limit of this address."""

MEASURE_S: Final = 2.0
MEASURE_ALL_S: Final = 20.0
"""Most time that is spent on measuring all nodes together."""


class LoadWitnesses:
    """Witnesses of the load tester, through the edge at `url` (ws:// or wss://, with the path of the feed).

    `renewed` returns a token that replaces `token` once there is one; it is asked at each look.
    """

    def __init__(
        self, url: str, count: int, *, token: str = "", renewed: Callable[[], str | None] = lambda: None,
        verify_tls: bool = True, ca_file: str = "",
    ) -> None:  # fmt: skip
        self._renewed = renewed
        self._witnesses = Witnesses(url, count, token=token, verify_tls=verify_tls, ca_file=ca_file)

    async def start(self) -> None:
        """Have all of them connected; raises StartError."""
        await self._witnesses.start()

    def now(self) -> WitnessSeen:
        """How they are."""
        if token := self._renewed():
            self._witnesses.take_token(token)
        now = self._witnesses.now()
        return WitnessSeen(
            connected=now.connected, count=now.count, lost=now.lost, duplicated=now.duplicated, late=now.late,
            gaps=now.gaps, moved=now.moved, why=now.why,
        )  # fmt: skip

    async def finish(self, back_s: float = BACK_S) -> WitnessFacts:
        """Stop publishing, wait `back_s` for those that are away, and say what became of all messages."""
        counts = await self._witnesses.finish(back_s)
        why = counts.why
        if counts.absent:
            why = f"{counted(counts.absent, 'witness', 'witnesses')} did not come back; {why}".removesuffix("; ")
        return WitnessFacts(
            count=counts.count, published=counts.published, expected=counts.expected, lost=counts.lost,
            duplicated=counts.duplicated, gaps=counts.gaps, moved=counts.moved, away_ms=counts.away_ms, why=why,
            reordered=counts.reordered, absent=counts.absent, refused=counts.refused, unanswered=counts.unanswered,
        )  # fmt: skip


def smoking(
    path: str = "/ws", *, token: str = "", verify_tls: bool = True, ca_file: str = ""
) -> Callable[[Smoke], Awaitable[SmokeSeen]]:
    """Smokes nodes, one after the other so that none is measured beside another; ends at the first that fails.

    Args:
        path: of the feed at each node.
        token: bearer token of the feed.
        verify_tls: whether certificates of nodes have to be valid.
        ca_file: certificates to trust instead of the system's.
    """

    def target(node: NodeView) -> SmokeTarget:
        return SmokeTarget(node.name, feed_url(node.url, path), bool(node.name), verify_tls, ca_file)

    async def smoke_all(order: Smoke) -> SmokeSeen:
        others = [target(node) for node in sorted(order.others, key=lambda node: not node.usable) if node.name]
        measure_s = 0.0 if order.briefly else min(MEASURE_S, MEASURE_ALL_S / max(1, len(order.nodes)))
        connects = BRIEF_CONNECTS if order.briefly else CONNECTS
        accepts: dict[str, float] = {}
        for node in order.nodes:
            smoked = await smoke(target(node), others, token=token, connects=connects, measure_s=measure_s)
            if not smoked.passed:
                return SmokeSeen(f"{node.name or node.url}: {smoked.why}", accepts)
            if smoked.accepts_per_s is not None:
                accepts[node.url] = smoked.accepts_per_s
        return SmokeSeen("", accepts)

    return smoke_all


def feed_url(url: str, path: str) -> str:
    """The WebSocket of a backend whose URL is for HTTP."""
    parts = urlsplit(url)
    return parts._replace(scheme="wss" if parts.scheme in ("https", "wss") else "ws", path=path).geturl()
