"""Whether a run proved what it was to prove, and the report that says so. Pure.

Rules: a run with a fault of its own (a dead worker, a lost agent) has not passed, whatever it measured; nor has one
whose counts differ from the servers', because messages are missing that no session could notice. Where the generator
itself was the limit, there is a warning.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from trunkline.load.judge import missing
from trunkline.load.model import histogram
from trunkline.load.model.report import FORMAT, Balance, Judged, Machine, Measured, Report, Second, Verdict
from trunkline.load.model.run_plan import Outcome, RunPlan
from trunkline.load.model.tally import Sum
from trunkline.load.scenario.comparison import Threshold
from trunkline.load.scenario.thresholds import Facts, judge
from trunkline.version import __version__

LAG_MS: Final = 10.0
CPU_SHARE: Final = 0.9
_TOO_OFTEN: Final = 0.01
_MOST_LINES: Final = 10


class Seen(msgspec.Struct, kw_only=True):
    """What a report needs beside the plan and its outcome; the URL is without anything secret."""

    url: str
    started: str
    machine: Machine
    balances: list[Balance]
    warnings: list[str]


def make_report(plan: RunPlan, outcome: Outcome, seen: Seen, thresholds: Iterable[Threshold]) -> Report:
    """The report of a run; adds what only now is known to be lost to the outcome's totals."""
    total, scenario = outcome.sum, plan.scenario
    total.totals.lost += missing.count(outcome.holes, outcome.offsets) + outcome.more_holes
    claim_crossed(total)
    peak = max((second.open for second in outcome.seconds), default=0)
    latencies: dict[str, histogram.Counts] = {"message": total.message}
    latencies.update(total.latencies.items())
    judged = judge(thresholds, Facts(total.totals, latencies, peak, outcome.lasted_s))
    lasted_s = round(outcome.lasted_s, 3)
    return Report(
        format=FORMAT, version=__version__, scenario=scenario.name, description=scenario.description,
        protocol=scenario.protocol, url=seen.url, run=plan.run, started=seen.started, planned_s=scenario.duration_s,
        lasted_s=lasted_s, peak=peak, workers=plan.workers_in_all, agents=plan.agents.names, machine=seen.machine,
        verdict=verdict(outcome, judged, seen.balances), totals=total.totals, success=total.totals.success,
        error_rate=total.totals.error_rate,
        latencies={
            name: Measured(histogram.quantiles(counts), histogram.encode(counts))
            for name, counts in total.latencies.items()
            if counts
        },
        message=histogram.quantiles(total.message), seconds=outcome.seconds, reasons=dict(total.reasons),
        closes=dict(total.closes),
        findings=[*total.findings, *missing.findings(outcome.holes, outcome.offsets, lasted_s)],
        thresholds=judged, balances=seen.balances,
        warnings=[
            *seen.warnings, *outcome.failures, *own_limits(outcome.seconds, total),
            *(f"a worker printed: {line}" for line in outcome.printed[:_MOST_LINES]),
        ],
    )  # fmt: skip


def verdict(outcome: Outcome, judged: Sequence[Judged], balances: Sequence[Balance]) -> Verdict:
    """Whether the run passed, failed, or was interrupted without a fault."""
    if outcome.failures or not all(each.passed for each in judged) or not all(each.holds for each in balances):
        return "failed"
    return "interrupted" if outcome.interrupted else "passed"


def claim_crossed(total: Sum) -> None:
    """A message that another connection got is not lost as well, though its own connection missed it.

    One that both got is crossed, and takes nothing from what is lost. When not all are named, each counts as missed.
    """
    crossed: dict[int | None, list[int]] = {}
    for each in total.findings:
        if each.kind == "crossed":
            insort(crossed.setdefault(each.owner, []), each.offset)
    left, named, claimed = [], 0, 0
    for each in total.findings:
        if each.kind == "lost":
            after = each.offset - 1 if each.after is None else each.after
            numbers = crossed.get(each.connection, [])
            inside = bisect_right(numbers, each.offset) - bisect_right(numbers, after)
            named, claimed = named + each.offset - after, claimed + inside
            if inside >= each.offset - after:
                continue
        left.append(each)
    totals = total.totals
    totals.lost = max(0, totals.lost - (claimed if named == totals.lost else totals.crossed))
    totals.unanswered = min(totals.unanswered, totals.lost)
    total.findings = left


def own_limits(seconds: Sequence[Second], total: Sum) -> list[str]:
    """Warnings that the generator and not the server was the limit; none when it kept up."""
    warnings = []
    done = sum(total.latencies["lag"].values())
    late = total.totals.late
    if done and late / done > _TOO_OFTEN:
        p99 = histogram.quantile(total.latencies["lag"], 99)
        warnings.append(
            f"the generator was the limit: {late / done:.0%} of what it had to do was more than {LAG_MS:g} ms late "
            f"(p99 {p99:.0f} ms), which stands in every latency; use more --processes, or fewer connections each"
        )
    busy = [second.at_s for second in seconds if second.generator_cpu > CPU_SHARE]
    if len(busy) > max(1, len(seconds) * 0.05):
        warnings.append(
            f"a generator process used over {CPU_SHARE:.0%} of a core in {len(busy)} of {len(seconds)} seconds (first "
            f"at {busy[0]:g} s): latencies of those seconds are partly its own; use more --processes"
        )
    return warnings
