"""Witnesses of a deploy: sessions through the real edge that publish, move when asked, and account for every message.

Rules:

- They are clients of a load test: what one of them is owed shows by the chain of `prev` in each of its channels, and
  at the end by where each channel ended.
- A witness that is away at the end is owed everything up to the end, and what it did not get is lost.
- A channel that starts again voids no debt: what was acknowledged in the epoch before and did not come is lost, whether
  that was announced or not; where nobody announced it, that is a gap besides.
- Two acknowledgements with one offset are of two publications, of which only one can be had.
- A publication without an acknowledgement is nobody's loss: its publisher does not know whether there is one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from math import ceil
from typing import Final

import msgspec

from trunkline.errors import StartError
from trunkline.load.client.alarm import Moments
from trunkline.load.client.dial import shown_url
from trunkline.load.client.generator import Generator
from trunkline.load.client.order import ChannelOrder
from trunkline.load.client.protocols.feed import FeedSession
from trunkline.load.client.session import Session, Shared
from trunkline.load.judge import missing
from trunkline.load.model.histogram import quantiles
from trunkline.load.model.messages import Begin, ChannelEpoch, Hole, Job, Position, Sent, Settle
from trunkline.load.model.plan import Scenario, Stage, Target, Traffic
from trunkline.load.model.tally import RESTARTED, Beat, Finding, Sum
from trunkline.protocol import wire

EACH_PER_S: Final = 1.0
"""What each witness publishes a second."""

TOGETHER: Final = 5
"""Witnesses that share a channel, so that each publication is owed to so many."""

START_S: Final = 60.0
"""How long the witnesses may take to get their places; limits by address let them come one by one."""

BACK_S: Final = 30.0
"""How long `finish` waits for witnesses that are away."""

QUIET_S: Final = 10.0
"""After so long without a message to any of them, what did not come will not come."""

LATE_S: Final = 5.0
"""After this a publication that a connected witness does not have is late."""

_FOREVER_S: Final = 1_000_000.0
_OPEN_PER_S: Final = 50.0
_SETTLE_S: Final = 0.5
_POLL_S: Final = 0.05
_MOST_PLACES: Final = 1_000


class WitnessNow(msgspec.Struct, frozen=True):
    """The witnesses at this moment.

    Attributes:
        connected: of them with a connection and all subscriptions.
        nodes: how many of these each node has, by its name.
        published: publications that were acknowledged so far.
        deliveries: publications that came to a witness, each once.
        lost: publications that a witness did not get and later ones overtook.
        late: connected witnesses that do not have what was acknowledged `LATE_S` ago.
        gaps: times that they were told of a gap, that a recovery was refused, or that a channel started again.
        moved: witnesses that are, or were, at another node than at first.
        away_ms: quantiles of the time without a connection at each move so far, by name (`p50`, `p99`, `max`).
        why: of a loss, a double or a gap, the first in words; empty without.
    """

    count: int
    connected: int
    nodes: dict[str, int]
    published: int
    deliveries: int
    lost: int
    duplicated: int
    late: int
    gaps: int
    moved: int
    away_ms: dict[str, float]
    why: str = ""


class WitnessCounts(msgspec.Struct, frozen=True):
    """What the witnesses saw, from their start to their end.

    Attributes:
        published: publications that were acknowledged.
        unanswered: publications whose connection ended before their acknowledgement came.
        refused: publications that a node answered with an error.
        expected: deliveries that were owed to them; `lost` of these never came.
        duplicated: deliveries that came twice.
        reordered: deliveries that came behind later ones.
        gaps: times that they were told of a gap, that a recovery was refused, or that a channel started again.
        absent: witnesses that had no connection at the end.
        away_ms: quantiles of the time without a connection at each move, by name (`p50`, `p99`, `max`).
        places: of each witness the nodes that it was at, in order.
        why: of a loss, a double or a gap, the first in words; empty without.
        reasons: what else went wrong, in words, and how often.
    """

    count: int
    published: int
    unanswered: int
    refused: int
    expected: int
    lost: int
    duplicated: int
    reordered: int
    gaps: int
    absent: int
    away_ms: dict[str, float]
    places: tuple[tuple[str, ...], ...]
    why: str = ""
    reasons: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def moved(self) -> int:
        """Witnesses that were at another node than at first."""
        return sum(len(places) > 1 for places in self.places)

    def moved_to(self, nodes: frozenset[str]) -> int:
        """How many of them came to one of these nodes from another one."""
        return sum(any(node in nodes for node in places[1:]) and places[0] not in nodes for places in self.places)


class _Witness(FeedSession):
    __slots__ = ("places", "quiet")

    def __init__(self, number: int, shared: Shared, moments: Moments) -> None:
        super().__init__(number, shared, moments)
        self.places: list[str] = []
        self.quiet = True  # publishes nothing: others have no place yet, or all are about to end

    def due(self, intended: float) -> None:
        """Publish, unless it is to be quiet."""
        if not self.quiet:
            super().due(intended)

    def finish(self, ends: dict[str, Position]) -> list[Hole]:
        """The holes that are left, up to the end of each epoch also where it is away."""
        super().finish(ends)
        return self._holes({}, ()) + [hole for name, order in self._orders.items() for hole in self._owed(name, order)]

    def _owed(self, channel: str, order: ChannelOrder) -> list[Hole]:
        """What was acknowledged behind what it saw of each epoch: all of one that it never came to."""
        seen = order.seen()
        if not seen:
            return []
        owed: list[Hole] = []
        for epoch, published in self.shared.published.get(channel, {}).items():
            after, upto = seen.get(epoch, min(published.offsets) - 1), max(published.offsets)
            if upto > after:
                owed.append(Hole(channel, epoch, after, upto, self.number))
        return owed

    @property
    def channels(self) -> Collection[str]:
        """Those that it subscribes."""
        return self._orders.keys()

    def holes_now(self) -> list[Hole]:
        """The holes before what it has."""
        return self._holes({}, ())

    def has(self, ends: dict[str, Position]) -> bool:
        """Whether it has everything up to these positions."""
        return self._reached(ends, self._orders)

    def _greeted(self, greeting: wire.ConnectionEstablished) -> None:
        super()._greeted(greeting)
        if (not self.places or self.places[-1] != greeting.node) and len(self.places) < _MOST_PLACES:
            self.places.append(greeting.node)


class Witnesses:
    """Witnesses in this process: `start` gives them their places, `finish` counts and ends them."""

    def __init__(self, url: str, count: int, *, token: str = "", verify_tls: bool = True, ca_file: str = "") -> None:
        self._count = count
        self._sum = Sum()
        self._why = ""
        self._why_lost = ""
        self._restarts = 0  # channels that started again for a witness, without notice
        self._witnesses: list[_Witness] = []
        self._acknowledged: deque[tuple[float, dict[str, Position]]] = deque()
        self._running: asyncio.Task[Sent] | None = None
        self._url = url
        scenario = Scenario(
            "witnesses", (Stage(ceil(count / _OPEN_PER_S), count), Stage(_FOREVER_S, count)), "feed",
            Traffic(rate_each=EACH_PER_S, channels=max(1, count // TOGETHER)),
        )  # fmt: skip
        target = Target(url, token=token, verify_tls=verify_tls, ca_file=ca_file)
        job = Job(f"witness-{secrets.token_hex(6)}", target, scenario, 0, 1, secrets.randbits(32), settle_s=_SETTLE_S)
        self._generator = Generator(job, self._on_beat, self._make)

    async def start(self, timeout_s: float = START_S) -> None:
        """Connect and subscribe all of them; returns when each has a place, and a publication of each is acknowledged.

        Raises StartError when that takes longer; then nothing of them is left.
        """
        await self._generator.prepare()
        self._running = asyncio.create_task(self._generator.run(Begin(time.monotonic())))
        until = time.monotonic() + timeout_s
        while self._connected() < self._count or self._sum.totals.acknowledged < self._count:
            if time.monotonic() > until or self._running.done():
                connected, reasons = self._connected(), self._sum.reasons.most_common(1)
                await self.finish(0.0)
                why = f"; the most frequent cause is {reasons[0][0]}" if reasons else ""
                raise StartError(
                    f"of {self._count} witnesses {connected} got a place at {shown_url(self._url)} within "
                    f"{timeout_s:g} s{why}",
                    "Look at the edge, or take fewer witnesses.",
                )
            if self._connected() == self._count:
                self._be_quiet(False)
            await asyncio.sleep(_POLL_S)

    def take_token(self, token: str) -> None:
        """A newer token is there: for those that come back, and for those whose token expires."""
        self._generator.take_token(token)

    def now(self) -> WitnessNow:
        """What they see now."""
        totals = self._sum.totals
        holes = [hole for each in self._witnesses for hole in each.holes_now()]
        if holes and not self._why_lost:
            self._why_lost = self._first(holes)
        nodes = Counter(each.places[-1] for each in self._witnesses if each.ready and each.places)
        return WitnessNow(
            count=self._count, connected=self._connected(), nodes=dict(nodes), published=totals.acknowledged,
            deliveries=totals.deliveries, lost=self._lost(holes), duplicated=totals.duplicates, late=self._late(),
            gaps=self._gaps(), moved=sum(len(each.places) > 1 for each in self._witnesses), away_ms=self._away(),
            why=self._why or self._why_lost,
        )  # fmt: skip

    async def finish(self, back_s: float = BACK_S) -> WitnessCounts:
        """Wait at most `back_s` for those that are away, then for what is owed; count, and end them all."""
        if self._running is None:
            raise RuntimeError("finish before start")
        self._be_quiet(True)
        until = last_sign = time.monotonic()
        until += back_s
        seen = (-1, -1)
        # They still move, come back and recover meanwhile: one that is away for a moment has lost nothing.
        while not self._all_have_everything() and not self._running.done() and (now := time.monotonic()) < until:
            if seen != (seen := (self._connected(), self._sum.totals.received)):
                last_sign = now
            elif seen[0] == self._count and now - last_sign > QUIET_S:
                break
            await asyncio.sleep(_POLL_S)
        absent = self._count - self._connected()
        self._generator.stop()
        done = await self._generator.settle(Settle((await self._running).ends))
        totals = self._sum.totals
        overwritten, why = self._overwritten()
        lost = self._lost(done.holes) + done.more_holes + overwritten
        # A hole that was seen on the way may be closed by now.
        why = self._first(done.holes) if done.holes else why or self._why
        return WitnessCounts(
            count=self._count, published=totals.acknowledged, unanswered=totals.abandoned + totals.unanswered,
            refused=totals.refused, expected=totals.deliveries + lost, lost=lost, duplicated=totals.duplicates,
            reordered=totals.reordered, gaps=self._gaps(), absent=absent, away_ms=self._away(),
            places=tuple(tuple(each.places) for each in self._witnesses), why=why, reasons=dict(self._sum.reasons),
        )  # fmt: skip

    def _make(self, number: int, shared: Shared, moments: Moments) -> Session:
        witness = _Witness(number, shared, moments)
        self._witnesses.append(witness)
        return witness

    def _on_beat(self, beat: Beat) -> None:
        self._sum.add(beat)
        self._restarts += beat.reasons.get(RESTARTED, 0)
        if not self._why:
            named = [_in_words(finding) for finding in beat.findings if finding.kind in _KINDS]
            told = [reason for reason in beat.reasons if reason.startswith(_TOLD)]
            self._why = next(iter(named + told), "")
        now = time.monotonic()
        self._acknowledged.append((now, self._ends()))
        while len(self._acknowledged) > 1 and self._acknowledged[1][0] <= now - LATE_S:
            self._acknowledged.popleft()

    def _be_quiet(self, quiet: bool) -> None:
        for witness in self._witnesses:
            witness.quiet = quiet

    def _connected(self) -> int:
        return sum(witness.ready for witness in self._witnesses)

    def _all_have_everything(self) -> bool:
        ends = self._ends()
        return self._connected() == self._count and all(witness.settled(ends) for witness in self._witnesses)

    def _late(self) -> int:
        if not self._acknowledged or self._acknowledged[0][0] > time.monotonic() - LATE_S:
            return 0
        ends = self._acknowledged[0][1]
        return sum(witness.ready and not witness.has(ends) for witness in self._witnesses)

    def _ends(self) -> dict[str, Position]:
        """The position of each channel that was acknowledged last."""
        if not self._witnesses:
            return {}
        of_channels = self._witnesses[0].shared.published.items()
        last = {name: max(epochs.items(), key=lambda each: each[1].at) for name, epochs in of_channels}
        return {name: Position(epoch, published.offsets[-1], published.at) for name, (epoch, published) in last.items()}

    def _gaps(self) -> int:
        totals = self._sum.totals
        return totals.dropped + totals.unrecovered + self._restarts

    def _overwritten(self) -> tuple[int, str]:
        """Deliveries of publications whose offset another one has, and the first in words."""
        count, why = 0, ""
        for channel, epochs in self._witnesses[0].shared.published.items() if self._witnesses else ():
            for published in epochs.values():
                twice = [offset for offset, times in Counter(published.offsets).items() if times > 1]
                if not twice:
                    continue
                why = why or f"offset {min(twice)} of {channel} was acknowledged for two publications"
                readers = sum(channel in witness.channels for witness in self._witnesses)
                count += readers * (len(published.offsets) - len(set(published.offsets)))
        return count, why

    def _lost(self, holes: Sequence[Hole]) -> int:
        return missing.count(holes, self._offsets(holes)) if holes else 0

    def _first(self, holes: Sequence[Hole]) -> str:
        return _in_words(missing.findings(holes, self._offsets(holes), 0.0)[0])

    def _offsets(self, holes: Sequence[Hole]) -> dict[ChannelEpoch, list[int]]:
        by_channel = {hole.channel: self._generator.offsets(hole.channel) for hole in holes}
        return {hole.of: by_channel[hole.channel].get(hole.epoch, []) for hole in holes}

    def _away(self) -> dict[str, float]:
        found = quantiles(self._sum.latencies["reconnect"])
        return {"p50": found.p50, "p99": found.p99, "max": found.max} if found.count else {}


_KINDS: Final = frozenset({"lost", "duplicate", "reordered"})
_TOLD: Final = ("gap:", "feed: not recovered", RESTARTED)


def _in_words(finding: Finding) -> str:
    what = {"lost": "never came", "duplicate": "came twice", "reordered": "came behind later ones"}[finding.kind]
    when = f", noticed {finding.at_s:.1f} s after the start" if finding.at_s else ""
    return f"offset {finding.offset} of {finding.channel} {what} to witness {finding.connection}{when}"
