"""Placement alone: picks a second by policy, and how even a burst ends on reports that are 30 s old."""

from __future__ import annotations

import random
import statistics
import time

from bench.rows import Options, Result, Row, in_turn
from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick
from trunkline.protocol.control import LoadReport, PickNotice
from trunkline.settings.balancer import BalancerSettings

POLICIES = ("least_connections", "affinity", "p2c", "round_robin", "random")
TO_REACH = {"least_connections": 20_000}
"""Picks a second with 100 backends."""

BURST = 300
REPORT_AGE_S = 30.0
NOTICE_S = 0.002
"""A pick's way to the other balancer, over NATS on one machine; the burst takes 1 s."""


def run(options: Options) -> Result:
    """Measure it; CPU time of this process, reservation included."""
    picks = 2_000 if options.quick else 20_000
    rows: list[Row] = []
    for count in (10, 100):
        figures = in_turn(list(POLICIES), options.runs, lambda policy, count=count: _cpu_us(policy, count, picks))  # type: ignore[misc]
        for policy in POLICIES:
            us = statistics.median(figures[policy])
            target = 1e6 / TO_REACH[policy] if count == 100 and policy in TO_REACH else None
            note = f"{1e6 / us:,.0f} picks a second on one core"
            rows.append(
                Row(f"pick and reservation, {policy}, {count} backends", us, "us CPU", target=target, note=note)
            )
    bursts = 20 if options.quick else 200
    for balancers, target in ((1, 1.0), (2, 2.0)):
        for count in (3, 5, 8):
            spreads = [_spread(count, balancers, seed) for seed in range(bursts)]
            what = f"burst of {BURST} over {count} backends, {balancers} balancer{'s' if balancers > 1 else ''}"
            mean = f"worst of {bursts} bursts, mean {statistics.mean(spreads):.2f}"
            rows.append(Row(what, max(spreads), "max - min", target=target, note=mean))
    return Result(rows, ["Reports are 30 s old in the bursts, and no new one comes; two balancers tell each other."])


def _fleet(count: int, seed: int, now: float) -> Fleet:
    fleet = Fleet(BalancerSettings(mode="steer"), random.Random(seed))
    urls = [f"http://10.0.{i // 250}.{i % 250}:3001" for i in range(count)]
    fleet.set_backends([BackendSpec(url) for url in urls], now)
    for url in urls:
        fleet.take_report(url, LoadReport(40, capacity=100_000), asked_at=now, now=now)
    return fleet


def _cpu_us(policy: str, count: int, picks: int) -> float:
    rng = random.Random(1)
    fleet = _fleet(count, 1, 0.0)
    asks = [Ask(f"key{i}", policy=policy, affinity=f"match{i % 1000}") for i in range(picks)]  # type: ignore[arg-type]
    began = time.process_time()
    for number, ask in enumerate(asks):
        place(fleet, ask, number * 5e-5, rng)
    return (time.process_time() - began) / picks * 1e6


def _spread(count: int, balancers: int, seed: int) -> int:
    rng = random.Random(seed)
    fleets = [_fleet(count, seed + i, 0.0) for i in range(balancers)]
    on_the_way: list[list[tuple[float, PickNotice]]] = [[] for _ in fleets]
    true = dict.fromkeys(fleets[0].backends, 40)
    for number in range(BURST):
        now = REPORT_AGE_S + number / BURST
        chosen = rng.randrange(balancers)
        while on_the_way[chosen] and on_the_way[chosen][0][0] <= now:
            fleets[chosen].take_notice("other", on_the_way[chosen].pop(0)[1], now)
        answer = place(fleets[chosen], Ask(f"key{number}"), now, rng)
        if isinstance(answer, Pick):
            true[answer.url] += 1
            for other in range(balancers):
                if other != chosen:
                    arrives = now + rng.random() * 2 * NOTICE_S
                    arrives = max(arrives, on_the_way[other][-1][0] if on_the_way[other] else 0.0)
                    on_the_way[other].append((arrives, PickNotice("p", answer.url, f"key{number}")))
    return max(true.values()) - min(true.values())
