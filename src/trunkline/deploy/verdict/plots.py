"""What the plots of a verdict show: one line of times, the states as stages, holes where nothing was measured. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from trunkline.deploy.verdict.facts import DeployFacts, Sample
from trunkline.deploy.verdict.samples import thinned
from trunkline.load.output.plots import MAX_POINTS, Line, Look, Mark, Plot, Plots

_OTHERS: Final[tuple[Look, ...]] = ("purple", "grey", "orange")
_BINNED: Final = "the greatest rate, lag and time away of them, and the fewest witnesses"


def plots(facts: DeployFacts) -> Plots:
    """What the page of a verdict draws."""
    samples = thinned(facts.samples, MAX_POINTS)
    step = max(1, -(-len(facts.samples) // MAX_POINTS))
    times = [round(sample.at_s, 3) for sample in samples]
    marks = [Mark(round(span.from_s, 3), span.state) for span in facts.spans]
    return Plots(times, step, marks, _over_time(facts, samples) if samples else [], None, _BINNED)


def _over_time(facts: DeployFacts, samples: Sequence[Sample]) -> list[Plot]:
    def line(name: str, look: Look, value: Callable[[Sample], float | None], *, dashed: bool = False) -> Line:
        return Line(name, [None if (v := value(sample)) is None else round(v, 4) for sample in samples], look, dashed)

    def clients_of(colour: str) -> Callable[[Sample], float | None]:
        return lambda sample: sample.clients.get(colour)

    clients = [line(colour, look, clients_of(colour)) for colour, look in _looks(facts, samples)]
    opened = [
        line(f"opened on {facts.to_colour}", "blue", lambda s: s.opened_per_s),
        line("what it accepts", "amber", lambda s: s.limit_per_s or None, dashed=True),
        line("refused on both", "orange", lambda s: s.refused_per_s),
    ]
    away = [
        line("p50", "green", lambda s: 1000 * s.away_p50_s or None),
        line("p99", "orange", lambda s: 1000 * s.away_p99_s or None),
    ]
    drawn = [
        Plot("Clients on each colour", "count", clients),
    ]
    # Where no node counts, the zeros of samples are unknown.
    if facts.rates.peak_per_s is not None:
        drawn.append(Plot("Reconnects", "per_s", opened, "connections opened, beside the limit"))
    if any(value is not None for each in away for value in each.values):
        drawn.append(Plot("Time away", "ms", away, "from goodbye to return, of the returns so far", "linear"))
    if facts.witnesses is not None:
        drawn.append(Plot("Witnesses", "count", [line("connected", "blue", lambda s: s.witnesses)]))
    if facts.rates.peak_per_s is not None:
        drawn.append(Plot("Event-loop lag", "ms", [line("greatest of all nodes", "blue", lambda s: s.lag_ms)]))
    return drawn


def _looks(facts: DeployFacts, samples: Sequence[Sample]) -> list[tuple[str, Look]]:
    """The colours there were, the two of the deploy first."""
    looks: dict[str, Look] = {facts.from_colour: "blue", facts.to_colour: "green"}
    looks.pop("", None)
    others = sorted({colour for sample in samples for colour in sample.clients} - set(looks))
    return [*looks.items(), *((colour, _OTHERS[at % len(_OTHERS)]) for at, colour in enumerate(others))]
