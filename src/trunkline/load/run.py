"""One run from the first connection to the report: probe, watch the servers, generate, reconcile, judge.

Rules: a fault before the first second is an error that says what to do; a later one ends in a report of what was seen.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from math import ceil
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from trunkline.errors import TrunklineError
from trunkline.load.client.dial import shown_url, split_url, tls_context
from trunkline.load.client.probe import probe
from trunkline.load.judge.discovery import discover
from trunkline.load.judge.reconcile import reconcile
from trunkline.load.judge.verdict import Seen, make_report
from trunkline.load.judge.watch import ServerWatch, watching
from trunkline.load.model.plan import Scenario, Target
from trunkline.load.model.report import Balance, Machine, Report, Second
from trunkline.load.model.run_plan import AgentGroup, Outcome, RunPlan
from trunkline.load.model.tally import Sum
from trunkline.load.output.live import LiveView
from trunkline.load.scenario.comparison import Threshold
from trunkline.load.scenario.file import LoadedScenario
from trunkline.load.token_file import TokenFile
from trunkline.load.workers.coordinator import Coordinator
from trunkline.net.addresses import is_loopback
from trunkline.process.lifecycle import Signals
from trunkline.protocol import wire
from trunkline.protocol.timestamps import utc

CONNECTIONS_PER_WORKER = 15_000
"""More in one process would need more than the 20,000 open files that are a common limit."""

_CONNECTIONS_PER_SOURCE = 1_000
_SETTLE_SERVERS_S = 3.0
_SETTLE_PROBE_S = 1.0


class Watch(msgspec.Struct, frozen=True):
    """How to watch the servers: URLs of their /metrics, found out when there are none, and the token for those."""

    urls: tuple[str, ...] = ()
    token: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    target: Target
    loaded: LoadedScenario  # the scenario, whose protocol may be `auto`
    thresholds: tuple[Threshold, ...] = ()  # of the user
    processes: int | None = None  # on each machine; None: as many as the connections need
    agents: AgentGroup = AgentGroup()  # machines that generate instead of this one
    watch: Watch | None = Watch()  # None: the servers are not watched
    seed: int = 0
    token_file: TokenFile | None = None  # whose token the target has

    @property
    def workers_each(self) -> int:
        """Processes on each machine."""
        peak = self.loaded.scenario.peak
        machines = max(1, len(self.agents.names))
        wanted = self.processes or ceil(peak / machines / CONNECTIONS_PER_WORKER)
        # One without a connection would still plan its share of the messages.
        return max(1, min(wanted, peak // machines))


async def run_load(todo: Run, live: LiveView) -> Report:
    """Do a run until its end or the first Ctrl-C, after which it settles; a second one ends it at once.

    Raises StartError when the target or an agent cannot be used, SettingsError when the parts of the run do not fit
    together.
    """
    signals = Signals()
    shown, agents = shown_url(todo.target.url), todo.agents
    probed = await _unless_stopped(probe(todo.target, todo.loaded.scenario.protocol), signals)
    scenario = replace(todo.loaded.scenario, protocol=probed.protocol)
    warnings = _too_fast(scenario, probed.limits)
    started = utc(time.time())
    plan = RunPlan(
        run=secrets.token_hex(4), target=todo.target, scenario=scenario, flow_source=todo.loaded.flow_source,
        workers=0 if agents.names else todo.workers_each, agents=agents, workers_each=todo.workers_each, seed=todo.seed,
        token_file=todo.token_file,
    )  # fmt: skip
    live.begin(scenario, shown, plan.workers_in_all, agents.names)
    async with AsyncExitStack() as stack:
        watch = await _watch(todo, stack, warnings)
        before = await watch.snapshot(_SETTLE_PROBE_S) if watch else None

        def show(second: Second, so_far: Sum) -> None:
            if watch is not None:
                second.server = watch.sample(second.at_s)
            live.second(second, so_far)

        outcome = await _generate(Coordinator(plan, show, live.phase), signals, live)
        balances: list[Balance] = []
        if watch and before is not None:
            live.phase("asking the servers what they counted")
            left = sum(counters.active for counters in before.servers.values())
            after = await watch.snapshot(_SETTLE_SERVERS_S, left)
            slow = round(scenario.traffic.slow_share * scenario.peak)
            answered = scenario.protocol in ("echo", "feed")
            balances = reconcile(outcome.sum.totals, before, after, slow=slow, answered=answered)
            warnings += watch.notes
    machine = Machine(os.cpu_count() or 1, platform.python_version(), platform.platform(terse=True))
    seen = Seen(url=shown, started=started, machine=machine, balances=balances, warnings=warnings)
    return make_report(plan, outcome, seen, todo.thresholds)


def sources_for(url: str, peak: int) -> int:
    """How many source addresses a target on loopback needs; 0 for any other target, and for few connections."""
    return min(250 * 250, peak // _CONNECTIONS_PER_SOURCE) if is_loopback(split_url(url).hostname or "") else 0


def _too_fast(scenario: Scenario, limits: wire.ClientLimits | None) -> list[str]:
    """A warning when the plan itself exceeds the server's limits for one client."""
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


async def _watch(todo: Run, stack: AsyncExitStack, warnings: list[str]) -> ServerWatch | None:
    if todo.watch is None:
        return None
    target = todo.target
    tls = tls_context(target)
    found = await discover(target.url, todo.watch.urls, tls)
    if not found.urls:
        warnings.append(f"the servers' own numbers are not known: {found.note}")
        return None
    token = todo.watch.token if found.named else ""
    return await stack.enter_async_context(watching(found.urls, token, tls=tls))


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
    """Ctrl-C came before the run had begun."""


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
