"""Series of a real fleet, scraped each second, as promtool's unit tests have them: every rule is asked about them.

Before the first scrape and after the last one the fleet is taken to have stood still, for longer than any alert waits.
A small fleet stands for a large one: each client of it counts as many.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Collection
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.monitor.watchers import laid_out
from tests.support.patience import patient
from trunkline.monitor.rules import load, promql, render
from trunkline.settings.monitor import MonitorSettings

BEFORE_S = 1_500
AFTER_S = 1_100
EACH_CLIENT = 100
OF_CLIENTS = ("ws_connections_active", "ws_connections_max", "ws_balancer_backend_connections", "ws_slow_clients")
"""Gauges that count clients; counters and histograms do anyway."""


class Target(NamedTuple):
    """What is scraped."""

    job: str
    instance: str
    url: str


Targets = Callable[[], Awaitable[Collection[Target]]]
Labels = tuple[tuple[str, str], ...]


class Recording:
    """What was scraped; `async with` scrapes until the end of the block.

    Args:
        targets: those that there are now, asked before each scrape.
    """

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._wanted = frozenset(
            name
            for group in load.groups(MonitorSettings())
            for rule in group.rules
            for name in promql.names_in(rule.expr)
        )
        self._values: dict[tuple[str, Labels], dict[int, float]] = {}
        self._began = time.time()
        self._scrapes = 0
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Recording:
        await self._scrape()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
            if not self._running.cancelled() and (fault := self._running.exception()) is not None:
                raise fault

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += 1.0
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._scrape()

    async def _scrape(self) -> None:
        targets = await self._targets()
        async with aiohttp.ClientSession() as http:
            texts = await asyncio.gather(*(_text(http, target.url) for target in targets))
        for target, text in zip(targets, texts, strict=True):
            about = (("instance", target.instance), ("job", target.job))
            self._keep("up", about, float(text is not None))
            for family in text_string_to_metric_families(text or ""):
                for sample in family.samples:
                    if sample.name in self._wanted:
                        counts = family.type in ("counter", "histogram") or sample.name in OF_CLIENTS
                        value = sample.value * EACH_CLIENT if counts else sample.value
                        self._keep(sample.name, (*about, *sorted(sample.labels.items())), value)
        self._scrapes += 1

    def _keep(self, name: str, labels: Labels, value: float) -> None:
        if name == "ws_start_time_seconds":
            # promtool's clock begins at 0.
            value = BEFORE_S + value - self._began
        self._values.setdefault((name, labels), {})[self._scrapes] = value

    def firing(self, directory: Path, *, without: Collection[str] = ()) -> set[str]:
        """Alerts that fire at any moment, the watchdog apart.

        Args:
            directory: for promtool's files.
            without: names of series to leave out.
        """
        rules = load.groups(MonitorSettings())
        ends = f"{BEFORE_S + self._scrapes + AFTER_S}s"
        fired = f'ALERTS{{alertstate="firing",alertname!="TrunklineWatchdog"}}[{ends}]'
        test = {
            "interval": "1s",
            "input_series": [
                {"series": _series(name, labels), "values": self._written(seen)}
                for (name, labels), seen in self._values.items()
                if name not in without
            ],
            "promql_expr_test": [
                {"expr": f"count by (alertname) (count_over_time({fired}))", "eval_time": ends, "exp_samples": []}
            ],
        }
        whole = {
            "rule_files": [render.rules_path(group.name) for group in rules],
            # Half as often as a real Prometheus does, in half the time; what fires once stays for the whole time after.
            "evaluation_interval": "30s",
            "group_eval_order": [group.name for group in rules],
            "tests": [test],
        }
        laid_out(directory, {render.rules_path(group.name): render.rules_yaml(group) for group in rules})
        (directory / "replay.yml").write_text(json.dumps(whole))
        done = subprocess.run(
            ["promtool", "test", "rules", str(directory / "replay.yml")],
            capture_output=True, text=True, timeout=patient(120), check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return set()
        found = set(re.findall(r'alertname="(\w+)"\}\s+\d', done.stdout + done.stderr))
        assert found, done.stdout + done.stderr
        return found

    def _written(self, seen: dict[int, float]) -> str:
        """The values of a series, run by run."""
        values: list[float | None] = [seen.get(second) for second in range(self._scrapes)]
        runs: list[tuple[str, int]] = [(_value(values[0]), BEFORE_S)]
        runs += [(_value(value), len(list(same))) for value, same in groupby(values)]
        runs.append((_value(values[-1]), AFTER_S))
        words = []
        for before, (value, times) in pairwise([("_", 0), *runs]):
            gone = value == "_" and before[0] != "_"
            left = times - gone
            words += ["stale"] if gone else []
            words += [f"_x{left}" if value == "_" else f"{value}x{left - 1}"] if left else []
        return " ".join(words)


def _value(value: float | None) -> str:
    return "_" if value is None or math.isnan(value) else repr(value)


def _series(name: str, labels: Labels) -> str:
    return name + "{" + ",".join(f"{label}={json.dumps(value)}" for label, value in labels) + "}"


async def _text(http: aiohttp.ClientSession, url: str) -> str | None:
    try:
        async with http.get(url) as answer:
            return await answer.text() if answer.status == 200 else None
    except aiohttp.ClientError:
        return None
