"""What is measured while a deploy runs, from which its facts are made. Pure.

Rules:

- Nodes count since their start. Of each process the newest counts are kept, and what was added since is added up by
  colour; so nothing is lost when the process that records is replaced, as long as it goes on from what was kept.
- A node that was seen before and has started again counts from 0: all that it counts belongs to the deploy.
- Foreign nodes and those of an older release do not count. What only a node knows is unknown as soon as one of those
  that had to count it had clients and does not.
- What is kept is one value of the store: of many nodes it has fewer samples, of a node that starts again and again its
  newest processes.
- A second of the deploy is one sample. Above `MOST_KEPT` every other one is dropped, and from then on every other kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from trunkline.deploy.drive.tally import NOTHING, Tally, less, more, tally
from trunkline.deploy.machine.plan import Deploy
from trunkline.deploy.verdict.facts import (
    ClientFacts,
    DeployFacts,
    RateFacts,
    Sample,
    StateSpan,
    WitnessFacts,
    turned_back,
)
from trunkline.deploy.world.base import FleetView, NodeView
from trunkline.protocol.deploys import DeployState
from trunkline.protocol.goodbyes import MoveCounts

RECORD_KEY: Final = "deploy-record"
"""Where what is kept of the running deploy is in the fleet's store."""

MOST_KEPT: Final = 1_200
MOVES: Final[frozenset[DeployState]] = frozenset({"moving", "finishing", "returning"})
"""States in which clients are asked to move."""

BACK: Final[frozenset[DeployState]] = frozenset({"returning", "rolled_back", "stuck"})
"""States in which the old colour may have got clients back."""

CALM: Final[frozenset[DeployState]] = frozenset({"planned", "starting", "gating", "switching", "verifying"})
"""States in which clients leave the old colour for reasons of their own. (Smoking connects to it, and leaves.)"""

RUNS: Final = 4
"""Processes of one node that are remembered."""

LONGEST_BYTES: Final = 448 * 1024
"""How long what is kept may be; less than a value of the store."""


class Kept(msgspec.Struct, frozen=True):
    """All that is recorded of one deploy.

    Attributes:
        tracked: newest counts by node and run; `totals` is what was added in the deploy, by colour.
        colours: of the nodes that had clients, by name; by URL those without one.
        moving: clients that a node said it would ask when it was ordered to, by name.
        samples: so far; `every` second is one.
        peak_per_s: most connections opened on the new colour in one second while clients moved.
        calm_s: seconds in which nobody was asked to move; meanwhile `departed` clients left the old colour.
        refused_before: handshakes refused, by label, when clients began to be moved; None before.
        witnesses: of the processes before this one.
        last_lines: what nodes of the new colour wrote before they were removed, by name.
    """

    id: str
    tracked: dict[str, Tally] = {}
    totals: dict[str, Tally] = {}
    colours: dict[str, str] = {}
    moving: dict[str, int] = {}
    samples: tuple[Sample, ...] = ()
    every: int = 1
    peak_per_s: float = 0.0
    calm_s: float = 0.0
    departed: int = 0
    refused_before: dict[str, int] | None = None
    refused_moving: dict[str, int] = {}
    witnesses: WitnessFacts | None = None
    last_lines: dict[str, tuple[str, ...]] = {}


class Recorder:
    """Takes what is observed; `at_s` is always seconds since the deploy began."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._sampled_at = -1.0
        self._opened: dict[str, tuple[float, int]] = {}
        self._refused: tuple[float, int] | None = None
        self._calm: tuple[float, int] | None = None
        self._seconds = 0

    def take(
        self, at_s: float, deploy: Deploy, fleet: FleetView, counts: Iterable[MoveCounts], witnesses: int
    ) -> Sample | None:
        """Take one look; returns the sample that it makes once a second. `witnesses` are those connected now."""
        answered = tuple(counts)
        self._track(answered)
        plan, kept = deploy.plan, self.kept
        theirs = {
            node.name or node.url: node.colour
            for node in fleet.nodes
            if node.connections and node.colour in (plan.from_colour, plan.to_colour)
        }
        kept = msgspec.structs.replace(kept, colours={**kept.colours, **theirs})
        if deploy.state in MOVES:
            now = self._total().refused
            before = kept.refused_before if kept.refused_before is not None else now
            moving = {label: count - before.get(label, 0) for label, count in now.items()}
            refused_moving = {label: count for label, count in moving.items() if count > 0}
            kept = msgspec.structs.replace(kept, refused_before=before, refused_moving=refused_moving)
        calm = (at_s, self._total(plan.from_colour).closed) if deploy.state in CALM else None
        if calm is not None and self._calm is not None:
            calm_s, departed = kept.calm_s + calm[0] - self._calm[0], kept.departed + calm[1] - self._calm[1]
            kept = msgspec.structs.replace(kept, calm_s=round(calm_s, 3), departed=departed)
        self.kept, self._calm = kept, calm
        if self._sampled_at >= 0 and at_s - self._sampled_at < 1.0:
            return None
        self._sampled_at = at_s
        receiver = plan.from_colour if deploy.state == "returning" else plan.to_colour
        return self._sample(at_s, deploy, fleet, [each for each in answered if each.colour == receiver], witnesses)

    def ordered(self, node: NodeView, moving: int) -> None:
        """A node has been ordered to move clients, and asks so many."""
        so_far = self.kept.moving
        total = so_far.get(node.name, 0) + moving
        self.kept = msgspec.structs.replace(self.kept, moving={**so_far, node.name: total})

    def _opened_per_s(self, at_s: float, receivers: Iterable[MoveCounts]) -> float:
        """Connections opened a second, of each node since it answered last: what it had not said is no burst."""
        total = 0.0
        for each in receivers:
            key = f"{each.node} {each.run}"
            total += _rate(self._opened.get(key), at_s, each.opened)
            self._opened[key] = (at_s, each.opened)
        return total

    def _sample(
        self, at_s: float, deploy: Deploy, fleet: FleetView, receivers: Iterable[MoveCounts], witnesses: int
    ) -> Sample:
        opened_per_s = self._opened_per_s(at_s, receivers)
        refused = sum(self._total().refused.values())
        refused_per_s = _rate(self._refused, at_s, refused)
        self._refused = (at_s, refused)
        away = away_quantiles(self._total().returned)
        colours = Counter[str]()
        for node in fleet.nodes:
            colours[node.colour] += node.connections
        sample = Sample(
            at_s=round(at_s, 2),
            state=deploy.state,
            clients=dict(colours),
            opened_per_s=round(opened_per_s, 1),
            limit_per_s=round(deploy.accepts_per_s or 0.0, 1),
            refused_per_s=round(refused_per_s, 1),
            witnesses=witnesses,
            away_p50_s=away.get("p50", 0.0),
            away_p99_s=away.get("p99", 0.0),
            lag_ms=max((node.lag_ms for node in fleet.nodes if node.lag_ms is not None), default=0.0),
        )
        kept = self.kept
        self._seconds += 1
        if self._seconds % kept.every == 0:
            samples, every = (*kept.samples, sample), kept.every
            if len(samples) > MOST_KEPT:
                samples, every = samples[::2], every * 2
            kept = msgspec.structs.replace(kept, samples=samples, every=every)
        if deploy.state in MOVES:
            kept = msgspec.structs.replace(kept, peak_per_s=max(kept.peak_per_s, opened_per_s))
        self.kept = kept
        return sample

    def _track(self, answered: Iterable[MoveCounts]) -> None:
        """Add what processes have counted since each was seen last."""
        tracked, totals = dict(self.kept.tracked), dict(self.kept.totals)
        for counts in answered:
            key, now = f"{counts.node} {counts.run}", tally(counts)
            before = tracked.get(key)
            if before is None:
                runs = [each for each in tracked if each.partition(" ")[0] == counts.node]
                before = NOTHING if runs else now
                if len(runs) >= RUNS:
                    del tracked[runs[0]]
            tracked[key] = now
            if now != before:
                totals[counts.colour] = more(totals.get(counts.colour, NOTHING), less(now, before))
        self.kept = msgspec.structs.replace(self.kept, tracked=tracked, totals=totals)

    def _total(self, colour: str | None = None) -> Tally:
        """What was counted since the deploy began."""
        total = NOTHING
        for name, each in self.kept.totals.items():
            if colour is None or name == colour:
                total = more(total, each)
        return total

    def encoded(self) -> bytes:
        """All that is kept, as it is stored."""
        data, kept = msgspec.json.encode(self.kept), self.kept
        while len(data) > LONGEST_BYTES and kept.samples:
            kept = msgspec.structs.replace(kept, samples=kept.samples[1::2], every=kept.every * 2)
            data = msgspec.json.encode(kept)
        return data

    def away(self) -> int | None:
        """Clients that were asked to move and have not come back yet; None where a node does not count them."""
        if not self.kept.tracked or self._uncounted():
            return None
        total = self._total()
        return max(0, total.asked - total.nameless - total.resumed)

    def _uncounted(self) -> dict[str, str]:
        """Colours of the nodes that had clients and do not count, by name."""
        counted = {key.partition(" ")[0] for key in self.kept.tracked}
        return {name: colour for name, colour in self.kept.colours.items() if name not in counted}

    def facts(self, deploy: Deploy, at_s: float, started_at: str, witnesses: WitnessFacts | None) -> DeployFacts:
        """All that is known at `at_s`; `witnesses` are those of this process."""
        plan, kept = deploy.plan, self.kept
        total, uncounted = self._total(), self._uncounted()
        receiving = {plan.to_colour} if deploy.state not in BACK else {plan.to_colour, plan.from_colour}
        known = bool(kept.tracked) and not uncounted
        # Nodes tell each other over the bus whom they ask: who was asked around an outage comes back unnoticed.
        noticed = known and deploy.outage_at < 0
        received = bool(kept.tracked) and not receiving.intersection(uncounted.values())
        moving_s = deploy.moving_s + (at_s - deploy.since if deploy.state == "moving" else 0.0)
        clients = ClientFacts(
            at_switch=deploy.at_switch,
            asked=total.asked + sum(kept.moving.get(name, 0) for name in uncounted),
            returned=total.resumed if noticed else None,
            recovered=total.recovered if received else None,
            gaps=total.gaps if known else None,
            forced=max(total.cut, deploy.left),
            never_back=self.away() if noticed else None,
            usual_departures=round(kept.departed / kept.calm_s * moving_s, 2) if kept.calm_s else 0.0,
            refused=kept.refused_moving if received else None,
            away_s=away_quantiles(total.returned),
        )
        rates = RateFacts(
            peak_per_s=round(kept.peak_per_s, 1) if received else None,
            accepts_per_s=round(deploy.accepts_per_s or 0.0, 1),
            accepts_from=deploy.accepts_from,
            chosen_per_s=round(deploy.rate, 1),
        )
        spans = (*deploy.spans, StateSpan(deploy.state, deploy.since, at_s, deploy.why))
        turned = turned_back(spans)
        return DeployFacts(
            id=plan.id,
            from_colour=plan.from_colour,
            to_colour=plan.to_colour,
            version=plan.what.version,
            started_at=started_at,
            lasted_s=round(at_s, 2),
            ended=deploy.state,
            why=deploy.why or (turned.why if turned is not None else ""),
            witnesses=together(kept.witnesses, witnesses),
            clients=clients,
            rates=rates,
            spans=spans,
            samples=kept.samples,
            moving_s=round(moving_s, 2),
            waited_s=round(deploy.waited_s, 2),
            notes=deploy.notes,
            last_lines=kept.last_lines,
        )


def together(before: WitnessFacts | None, now: WitnessFacts | None) -> WitnessFacts | None:
    """Witnesses of two processes that drove the same deploy after each other, which are different sessions."""
    if before is None or now is None:
        return now if before is None else before
    return WitnessFacts(
        count=before.count + now.count,
        published=before.published + now.published,
        expected=before.expected + now.expected,
        lost=before.lost + now.lost,
        duplicated=before.duplicated + now.duplicated,
        gaps=before.gaps + now.gaps,
        moved=before.moved + now.moved,
        away_ms={name: max(before.away_ms.get(name, 0.0), now.away_ms.get(name, 0.0))
                 for name in {**before.away_ms, **now.away_ms}},
        why=before.why or now.why,
        reordered=before.reordered + now.reordered,
        absent=before.absent + now.absent,
        refused=before.refused + now.refused,
        unanswered=before.unanswered + now.unanswered,
    )  # fmt: skip


def away_quantiles(returned: Mapping[str, int]) -> dict[str, float]:
    """Quantiles of a histogram of cumulative counts by upper bound, seconds; empty without a return.

    Each is the upper bound of the bucket that it falls into, so never less than it was; beyond the last bound it is
    that bound.
    """
    bounds = sorted((float(bound.replace("+Inf", "inf")), count) for bound, count in returned.items())
    total = bounds[-1][1] if bounds else 0
    if total <= 0:
        return {}
    largest = max((bound for bound, _ in bounds if bound != float("inf")), default=0.0)

    def at(share: float) -> float:
        return min(largest, next(bound for bound, count in bounds if count >= share * total and count > 0))

    return {"p50": at(0.50), "p99": at(0.99), "max": at(1.0)}


def _rate(before: tuple[float, int] | None, at_s: float, count: int) -> float:
    """Per second since the last sample; 0 for the first one, and when a process began again."""
    return max(0.0, (count - before[1]) / max(at_s - before[0], 0.001)) if before is not None else 0.0
