"""Two runs beside each other: what got worse, and whether the two may be compared at all. Pure.

Rules:

- What makes two runs different experiments (scenario, protocol, connections, length, messages sent) comes before any
  number; the numbers are judged all the same, because a server that got much worse sends less, too.
- Noise is no regression: a quantile is worse when it grew by more than the ratio allowed and by a millisecond or more,
  and when both runs have at least ten samples beyond it: 20 for p50, 200 for p95, 1,000 for p99.
- Lost, double and reordered messages have no noise: one more is worse. Errors are worse when their share grew by more
  than the ratio and by a tenth of a percentage point.
- CPU and rates are shown and not judged: the first depends on the machine, the second is what the scenario requests.
  The generator's own lag is no property of the server; it is shown for the same reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from trunkline.errors import SettingsError
from trunkline.load.model.histogram import decode
from trunkline.load.model.tally import LATENCIES, Latency
from trunkline.load.output.formatting import (
    LATENCY_NAMES,
    NONE,
    count,
    fit,
    milliseconds,
    octets,
    per_second,
    percent,
    plain,
    seconds,
    significant,
)
from trunkline.load.output.summary import wrapped

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

    from trunkline.load.model.report import Report, ServerSample

RATIO: Final = 1.10
LEAST_MS: Final = 1.0
LEAST_ERROR_RATE: Final = 0.001
QUANTILES: Final = (50.0, 95.0, 99.0)
BEYOND: Final = 10  # samples that must lie beyond a quantile before it means anything: p99 needs 1,000 in all
_ALIKE: Final = 1.10
"""Ratio of lengths and of messages sent up to which two runs are taken for the same experiment."""

Outcome = Literal["worse", "better", "same", "few", "shown"]  # few: too few samples to say; shown: not judged
Unit = Literal["ms", "share", "per_s", "bytes", "count"]


class Change(msgspec.Struct, frozen=True):
    """One number of both runs; None where it was not measured.

    A share is from 0 to 1, of one core where it is CPU; the ratio is b/a, None when one is missing or a is 0.
    """

    what: str
    unit: Unit
    a: float | None
    b: float | None
    ratio: float | None
    outcome: Outcome


class Comparison(msgspec.Struct, frozen=True):
    """Two runs beside each other."""

    a: str
    b: str
    comparable: bool  # whether both are the same experiment
    differences: tuple[str, ...]  # why they are not, each a sentence
    cautions: tuple[str, ...]  # what else to know before believing the numbers
    ratio: float  # growth that is taken for noise
    latencies: tuple[Change, ...]
    numbers: tuple[Change, ...]
    regressed: bool


def compare(a: Report, b: Report, ratio: float = RATIO) -> Comparison:
    """Judge run b by run a; growth up to `ratio` is noise. Raises SettingsError when a histogram cannot be read."""
    latencies = tuple(_latencies(a, b, ratio))
    numbers = tuple(_numbers(a, b, ratio))
    differences = tuple(_differences(a, b))
    return Comparison(
        a=_title(a), b=_title(b), comparable=not differences, differences=differences, cautions=tuple(_cautions(a, b)),
        ratio=ratio, latencies=latencies, numbers=numbers,
        regressed=any(each.outcome == "worse" for each in (*latencies, *numbers)),
    )  # fmt: skip


def comparison_text(comparison: Comparison, encoding: str = "utf-8") -> str:
    """The comparison as lines of at most 100 columns, differences of the experiments first."""
    lines = [*wrapped("A  ", comparison.a), *wrapped("B  ", comparison.b)]
    if not comparison.comparable:
        lines.append("These runs are not the same experiment; what follows may come from that:")
        for each in comparison.differences:
            lines += wrapped("  ", each)
    for each in comparison.cautions:
        lines += wrapped("note: ", each)
    changes = (*comparison.latencies, *comparison.numbers)
    lines.append(f"{'':24}{'A':>14}{'B':>14}{'B/A':>9}")
    lines += map(_row, changes)
    lines.append(
        f"Worse: grown by more than {(comparison.ratio - 1) * 100:.4g} % and {LEAST_MS:g} ms; p99 is judged from "
        f"{count(_needed(99.0))} samples on."
    )
    if worse := [_named(each.what) for each in changes if each.outcome == "worse"]:
        lines += wrapped("REGRESSED: ", ", ".join(worse))
    else:
        lines.append("no regression")
    return "".join(f"{fit(line, encoding)}\n" for line in lines)


def _title(report: Report) -> str:
    return plain(f"{report.scenario}  run {report.run}  {report.started}  {report.url}  {report.verdict}")


def _needed(percentile: float) -> int:
    return round(BEYOND * 100 / (100 - percentile))


def _latencies(a: Report, b: Report, ratio: float) -> Iterator[Change]:
    for name in LATENCIES:
        before, after = _histogram(a, name), _histogram(b, name)
        if before is None and after is None:
            continue
        for percentile in QUANTILES:
            old, new = _value(before, percentile), _value(after, percentile)
            outcome: Outcome = "shown"
            if old is not None and new is not None and name != "lag":
                fewest = min(a.latencies[name].quantiles.count, b.latencies[name].quantiles.count)
                outcome = _judged(old, new, ratio, LEAST_MS) if fewest >= _needed(percentile) else "few"
            yield Change(f"{name}_p{percentile:g}", "ms", old, new, _divided(new, old), outcome)


def _histogram(report: Report, name: Latency) -> HdrHistogram | None:
    measured = report.latencies.get(name)
    if measured is None or not measured.quantiles.count:
        return None
    try:
        return decode(measured.hdr)
    except ValueError as error:
        raise SettingsError(
            "report", value=plain(report.run), allowed=f"the histogram of {name} cannot be read: {error}"
        ) from None


def _value(histogram: HdrHistogram | None, percentile: float) -> float | None:
    if histogram is None:
        return None
    us: int = histogram.get_value_at_percentile(percentile)
    return us / 1000


def _divided(new: float | None, old: float | None) -> float | None:
    return None if new is None or not old else round(new / old, 4)


def _judged(old: float, new: float, ratio: float, least: float) -> Outcome:
    if new - old >= least and new > old * ratio:
        return "worse"
    if old - new >= least and old > new * ratio:
        return "better"
    return "same"


class _Number(NamedTuple):
    """A number of a report; `least` is the smallest growth that is worse, None for one that is not judged."""

    what: str
    unit: Unit
    value: Callable[[Report], float | None]
    least: float | None = None


_NUMBERS: Final = (
    _Number("opened_per_s", "per_s", lambda run: max((each.totals.opened for each in run.seconds), default=None)),
    _Number("sent_per_s", "per_s", lambda run: run.per_second("sent")),
    _Number("received_per_s", "per_s", lambda run: run.per_second("received")),
    _Number("error_rate", "share", lambda run: run.error_rate, LEAST_ERROR_RATE),
    # Success is judged by its complement: 99 % to 98 % is twice as many failures, though a ratio of only 0.99.
    _Number("failed_connects", "share", lambda run: 1 - run.success, LEAST_ERROR_RATE),
    _Number("lost", "count", lambda run: float(run.totals.lost), 1.0),
    _Number("duplicates", "count", lambda run: float(run.totals.duplicates), 1.0),
    _Number("reordered", "count", lambda run: float(run.totals.reordered), 1.0),
    _Number("corrupt", "count", lambda run: float(run.totals.corrupt), 1.0),
    _Number("crossed", "count", lambda run: float(run.totals.crossed), 1.0),
    _Number("dropped", "count", lambda run: run.totals.dropped),
    _Number("generator_cpu", "share", lambda run: _mean([each.generator_cpu for each in run.seconds])),
    _Number("server_cpu", "share", lambda run: _mean([each.cpu_percent / 100 for each in _samples(run)])),
    _Number("server_memory", "bytes", lambda run: max((float(s.memory_bytes) for s in _samples(run)), default=None)),
)


def _numbers(a: Report, b: Report, ratio: float) -> Iterator[Change]:
    for what, unit, value, least in _NUMBERS:
        old, new = value(a), value(b)
        outcome: Outcome = "shown"
        if least is not None and old is not None and new is not None:
            outcome = _judged(old, new, 1.0 if unit == "count" else ratio, least)
        yield Change(what, unit, old, new, _divided(new, old), outcome)


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 4) if values else None


def _samples(report: Report) -> list[ServerSample]:
    return [each.server for each in report.seconds if each.server]


def _differences(a: Report, b: Report) -> Iterator[str]:
    if a.scenario != b.scenario:
        yield f"the scenario is {plain(a.scenario)} in A and {plain(b.scenario)} in B"
    if a.protocol != b.protocol:
        yield f"the protocol is {plain(a.protocol)} in A and {plain(b.protocol)} in B"
    if a.wanted != b.wanted:
        yield f"A wants {count(a.wanted)} connections and B {count(b.wanted)}"
    if not _alike(a.planned_s, b.planned_s):
        yield f"A is planned for {seconds(a.planned_s)} and B for {seconds(b.planned_s)}"
    elif not _alike(a.lasted_s, b.lasted_s):
        yield f"A lasted {seconds(a.lasted_s)} and B {seconds(b.lasted_s)}"
    for name in LATENCIES:
        counts = [each.latencies[name].quantiles.count if name in each.latencies else 0 for each in (a, b)]
        # Reconnects only happen where something broke, and the lag is the generator's own.
        if name not in ("reconnect", "lag") and (counts[0] > 0) != (counts[1] > 0):
            yield f"{LATENCY_NAMES[name]} was measured in {'A' if counts[0] else 'B'} only"
    sent_a, sent_b = a.per_second("sent"), b.per_second("sent")
    if not _alike(sent_a, sent_b):
        yield f"A sent {significant(sent_a)} messages a second and B {significant(sent_b)}"


def _alike(a: float, b: float) -> bool:
    return max(a, b) <= _ALIKE * min(a, b)


def _cautions(a: Report, b: Report) -> Iterator[str]:
    if a.machine != b.machine or a.agents != b.agents or a.workers != b.workers:
        yield "the load came from different machines, or from another number of processes"
    for name, report in (("A", a), ("B", b)):
        if report.verdict == "interrupted":
            yield f"{name} was interrupted after {seconds(report.lasted_s)}"
        if report.totals.late:
            yield f"in {name} the generator was late {count(report.totals.late)} times: its latencies hold its own lag"


def _named(what: str) -> str:
    for name, shown in LATENCY_NAMES.items():
        if what.startswith(f"{name}_p"):
            return f"{shown} {what.removeprefix(f'{name}_')}"
    return what.replace("_per_s", " per second").replace("_", " ")


def _amount(value: float | None, unit: Unit) -> str:
    if value is None:
        return NONE
    match unit:
        case "ms":
            return milliseconds(value)
        case "share":
            return percent(value)
        case "per_s":
            return per_second(value)
        case "bytes":
            return octets(value)
        case "count":
            return count(round(value))


def _row(change: Change) -> str:
    ratio = NONE if change.ratio is None else f"{change.ratio:.2f}"
    outcomes = {"worse": "WORSE", "better": "better", "same": "", "few": "too few samples", "shown": ""}
    return (
        f"{_named(change.what):24}{_amount(change.a, change.unit):>14}{_amount(change.b, change.unit):>14}{ratio:>9}"
        f"  {outcomes[change.outcome]}"
    ).rstrip()
