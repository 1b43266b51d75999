"""One run from the first connection to the report: probe, watch the servers, generate, reconcile, judge.

Rules: what goes wrong before the first second is an error that says what to do; what goes wrong later ends in a report
of what was seen. A run with a fault of its own (a dead worker, a lost agent) has not passed, whatever it measured.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from math import ceil
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from trunkline.errors import TrunklineError
from trunkline.load.client.dial import shown_url, split_url
from trunkline.load.client.probe import probe
from trunkline.load.judge import missing
from trunkline.load.judge.reconcile import reconcile
from trunkline.load.judge.watch import ServerWatch, discover
from trunkline.load.model import histogram
from trunkline.load.model.plan import Scenario, Target
from trunkline.load.model.report import FORMAT, Balance, Judged, Machine, Measured, Report, Second, Verdict
from trunkline.load.model.run_plan import Outcome, RunPlan
from trunkline.load.model.tally import Sum
from trunkline.load.output.live import LiveView
from trunkline.load.scenario.thresholds import Facts, Threshold, judge
from trunkline.load.workers.coordinator import Coordinator
from trunkline.net.addresses import is_loopback
from trunkline.process.lifecycle import Signals
from trunkline.protocol import wire
from trunkline.version import __version__

CONNECTIONS_PER_WORKER = 15_000
"""More than these in one process would need more than the 20,000 files that are common."""

_CONNECTIONS_PER_SOURCE = 1_000
_SETTLE_SERVERS_S = 3.0
_MOST_WORDS = 10
_SETTLE_PROBE_S = 1.0


class Run(msgspec.Struct, frozen=True):
    """What is to be done.

    Attributes:
        target: whom to load.
        scenario: how; its protocol may be `auto`.
        flow_source: for protocol python.
        thresholds: of the user.
        processes: on each machine; None: as many as the connections need.
        agents: machines that generate instead of this one.
        bus_url: where the agents are.
        prefix: of the agents' subjects.
        metrics: URLs of the servers' /metrics; none: found out.
        metrics_token: for those.
        watch: whether to look at the servers at all.
        seed: of random choices.
    """

    target: Target
    scenario: Scenario
    flow_source: str = ""
    thresholds: tuple[Threshold, ...] = ()
    processes: int | None = None
    agents: tuple[str, ...] = ()
    bus_url: str = ""
    prefix: str = "trunkline"
    metrics: tuple[str, ...] = ()
    metrics_token: str = ""
    watch: bool = True
    seed: int = 0

    @property
    def workers_each(self) -> int:
        """Processes on each machine."""
        machines = max(1, len(self.agents))
        wanted = self.processes or ceil(self.scenario.peak / machines / CONNECTIONS_PER_WORKER)
        # One without a connection would still plan its share of the messages.
        return max(1, min(wanted, self.scenario.peak // machines))


async def run_load(todo: Run, live: LiveView) -> Report:
    """Do a run until its end or the first Ctrl-C, after which it settles; a second one ends it at once.

    Args:
        todo: what.
        live: shows it meanwhile.

    Raises:
        StartError: the target or an agent cannot be used.
        SettingsError: the parts of the run do not fit together.
    """
    signals = Signals()
    shown = shown_url(todo.target.url)
    probed = await _unless_stopped(probe(todo.target, todo.scenario.protocol), signals)
    scenario = replace(todo.scenario, protocol=probed.protocol)
    warnings = _too_fast(scenario, probed.limits)
    live.begin(scenario, shown, todo.workers_each * max(1, len(todo.agents)), todo.agents)
    started = datetime.now(UTC)
    plan = RunPlan(
        run=secrets.token_hex(4), target=todo.target, scenario=scenario,
        workers=0 if todo.agents else todo.workers_each, agents=todo.agents, workers_each=todo.workers_each,
        seed=todo.seed, flow_source=todo.flow_source, bus_url=todo.bus_url, prefix=todo.prefix,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        watch = await _watch(todo, stack, warnings)
        before = await watch.snapshot(_SETTLE_PROBE_S) if watch else None
        outcome = await _generate(Coordinator(plan, _Shown(live, watch)), signals, live)
        balances: list[Balance] = []
        if watch and before is not None:
            live.phase("asking the servers what they counted")
            left = sum(counters.active for counters in before.servers.values())
            after = await watch.snapshot(_SETTLE_SERVERS_S, left)
            slow = round(scenario.traffic.slow_share * scenario.peak)
            answered = scenario.protocol in ("echo", "feed")
            balances = reconcile(outcome.sum.totals, before, after, slow=slow, answered=answered)
            warnings += watch.notes
    return make_report(todo, plan, outcome, balances, warnings, started.isoformat(timespec="seconds"), shown)


def make_report(
    todo: Run, plan: RunPlan, outcome: Outcome, balances: list[Balance], warnings: list[str], started: str, shown: str
) -> Report:
    """The report of what came out; pure."""
    total, scenario = outcome.sum, plan.scenario
    lost = missing.count(outcome.holes, outcome.offsets) + outcome.more_holes
    total.totals.lost += lost
    found = [*total.findings, *missing.findings(outcome.holes, outcome.offsets, round(outcome.lasted_s, 3))]
    peak = max((second.open for second in outcome.seconds), default=0)
    latencies: dict[str, histogram.Counts] = {"message": total.message}
    latencies.update(total.latencies.items())
    facts = Facts(total.totals, latencies, peak, outcome.lasted_s)
    judged = judge(todo.thresholds, facts)
    warnings += [*outcome.failures, *own_limits(outcome.seconds, total)]
    warnings += [f"a worker said: {line}" for line in outcome.words[:_MOST_WORDS]]
    return Report(
        format=FORMAT, version=__version__, scenario=scenario.name, description=scenario.description,
        protocol=scenario.protocol, url=shown, run=plan.run, started=started, planned_s=scenario.duration_s,
        lasted_s=round(outcome.lasted_s, 3), peak=peak, workers=plan.workers_in_all, agents=plan.agents,
        machine=Machine(os.cpu_count() or 1, platform.python_version(), platform.platform(terse=True)),
        verdict=verdict(outcome, judged, balances), totals=total.totals, success=total.totals.success,
        error_rate=total.totals.error_rate,
        latencies={
            name: Measured(histogram.quantiles(counts), histogram.encode(counts))
            for name, counts in total.latencies.items()
            if counts
        },
        message=histogram.quantiles(total.message), seconds=outcome.seconds, reasons=dict(total.reasons),
        closes=dict(total.closes), findings=found, thresholds=judged, balances=balances, warnings=warnings,
    )  # fmt: skip


def verdict(outcome: Outcome, judged: Sequence[Judged], balances: Sequence[Balance]) -> Verdict:
    """Whether the run proved what it was to prove.

    A reconciliation that does not hold fails it: messages are missing that no session could notice.
    """
    if outcome.failures or not all(each.passed for each in judged) or not all(each.holds for each in balances):
        return "failed"
    return "interrupted" if outcome.interrupted else "passed"


LAG_MS = 10.0
CPU_SHARE = 0.9
_TOO_OFTEN = 0.01


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


def sources_for(url: str, peak: int) -> int:
    """How many source addresses a target on loopback needs; 0 for any other target, and for few connections."""
    return min(250 * 250, peak // _CONNECTIONS_PER_SOURCE) if is_loopback(split_url(url).hostname or "") else 0


def _too_fast(scenario: Scenario, limits: wire.ClientLimits | None) -> list[str]:
    """A warning when the plan itself goes over what the server takes from one client."""
    traffic = scenario.traffic
    if limits is None or not scenario.peak or limits.rate_per_s <= 0:
        return []
    each = traffic.rate_each + traffic.rate / scenario.peak
    if each > limits.rate_per_s:
        return [
            f"each connection will send {each:.3g} messages/s, and the server takes {limits.rate_per_s:g}/s from one "
            "client: it will refuse some; use more --connections or a lower --rate"
        ]
    if traffic.message_bytes > limits.message_bytes:
        return [f"messages of {traffic.message_bytes} bytes are longer than the server takes ({limits.message_bytes})"]
    return []


class _Shown:
    """Hands each second on to the view, with what the servers said at that time."""

    def __init__(self, live: LiveView, watch: ServerWatch | None) -> None:
        self._live = live
        self._watch = watch

    def second(self, second: Second, so_far: Sum, /) -> None:
        if self._watch is not None:
            second.server = self._watch.sample(second.at_s)
        self._live.second(second, so_far)


async def _watch(todo: Run, stack: AsyncExitStack, warnings: list[str]) -> ServerWatch | None:
    if not todo.watch:
        return None
    target = todo.target
    found = await discover(target.url, todo.metrics, verify_tls=target.verify_tls, ca_file=target.ca_file)
    if not found.urls:
        warnings.append(f"the servers' own numbers are not known: {found.note}")
        return None
    token = todo.metrics_token if found.named else ""
    watch = ServerWatch(found.urls, token, verify_tls=target.verify_tls, ca_file=target.ca_file)
    return await stack.enter_async_context(watch)


async def _generate(coordinator: Coordinator, signals: Signals, live: LiveView) -> Outcome:
    running = asyncio.ensure_future(coordinator.run())
    await _either(running, signals.first)
    if not running.done():
        live.phase("stopping: what is still under way is waited for; Ctrl-C again ends at once")
        coordinator.stop()
        await _either(running, signals.second)
        if not running.done():
            coordinator.kill()
    return await running


class Interrupted(TrunklineError):
    """Ctrl-C came before anything had begun."""


T = TypeVar("T")


async def _unless_stopped(work: Coroutine[Any, Any, T], signals: Signals) -> T:
    task = asyncio.ensure_future(work)
    await _either(task, signals.first)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        raise Interrupted
    return task.result()


async def _either(one: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    await asyncio.wait({one, other}, return_when=asyncio.FIRST_COMPLETED)
