"""Figures and how they are got: contenders in turn, medians, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.servers import Server


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Attributes:
        quick: a smoke run of a few seconds, whose figures mean little.
        runs: how often each contender is measured.
        base: a checkout of an earlier version with a `.venv`, for benchmarks that compare with it.
    """

    quick: bool = False
    runs: int = 5
    base: Path | None = None


@dataclass(frozen=True)
class Row:
    """One line of a result.

    Attributes:
        what: what was measured.
        ours: our figure.
        unit: its unit.
        peer: whom it is compared with; empty: nobody, then `target` bounds `ours` itself.
        theirs: the peer's figure of the same run.
        target: what the ratio ours/peer (or `ours`) may be at most.
        spread: least and greatest ratio of the single rounds.
        note: what else a reader should know.
    """

    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    target: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        return None if not self.theirs else self.ours / self.theirs

    @property
    def judged(self) -> float | None:
        """What the target is held against."""
        return self.ratio if self.peer else self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None when there is none."""
        judged = self.judged
        return None if self.target is None or judged is None else round(judged, 2) <= self.target

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        rows: its lines.
        notes: sentences below the table.
    """

    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def in_turn(names: list[str], runs: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """Measure each name `runs` times, in turn."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            figures[name].append(measure(name))
    return figures


def compare(
    what: str,
    figures: Mapping[str, list[float]],
    unit: str,
    targets: Mapping[str, float | None],
    ours: str = "trunkline",
    note: str = "",
) -> list[Row]:
    """A row for each peer of `targets` that was measured.

    Args:
        what: what was measured.
        figures: of each contender, one number a round.
        unit: their unit.
        targets: at most this ratio to that peer.
        ours: the contender that is ours.
        note: for each row.
    """
    mine = statistics.median(figures[ours])
    rows = []
    for name, target in targets.items():
        if name in figures:
            ratios = [a / b for a, b in zip(figures[ours], figures[name], strict=True) if b]
            spread = (min(ratios), max(ratios)) if ratios else None
            rows.append(Row(what, mine, unit, name, statistics.median(figures[name]), target, spread, note))
    return rows or [Row(what, mine, unit, note=note)]


class CpuMeter:
    """CPU seconds a server used within a `with` block.

    Args:
        server: whose.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.used_s = 0.0

    def __enter__(self) -> CpuMeter:
        self._before = self._server.cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.used_s = self._server.cpu_s() - self._before
