"""A fleet of true backends in simulated time: everything between them and the balancers takes a while, as drawn."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import msgspec

from trunkline.placement.backend import BackendSpec
from trunkline.placement.fleet import Fleet
from trunkline.placement.pick import place
from trunkline.placement.placing import Ask, Pick
from trunkline.protocol.control import LoadReport, PickNotice
from trunkline.settings.balancer import BalancerSettings


class TrueBackend:
    """One backend as it really is."""

    def __init__(self, url: str, *, ours: bool, others: int) -> None:
        self.url = url
        self.ours = ours
        self.others = others
        self.open: dict[int, str] = {}
        self.log: list[str] = []
        self.told = 0
        self.run = "run-1"
        self.heard_until = 0.0

    @property
    def count(self) -> int:
        return self.others + len(self.open)

    def report(self, after: int) -> LoadReport:
        if not self.ours:
            return LoadReport(self.count)
        return LoadReport(self.count, run=self.run, opened=len(self.log), keys=tuple(self.log[after:]))


class Balancer:
    """A fleet and what is on its way to it."""

    def __init__(self, settings: BalancerSettings, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fleet = Fleet(settings, self.rng)
        self.name = f"b{seed}"
        self.heard_until = 0.0


class World:
    """Backends, balancers and a queue of what happens when."""

    def __init__(
        self,
        *,
        backends: int,
        balancers: int,
        ours: bool,
        mode: str,
        others: int,
        delay: Callable[[float], float],
        seed: int = 0,
        share: bool = True,
    ) -> None:
        self.now = 1000.0
        self.mode = mode
        self.delay = delay
        self.share = share
        self.rng = random.Random(seed)
        settings = msgspec.structs.replace(BalancerSettings(), mode=mode)
        self.backends = {
            url: TrueBackend(url, ours=ours, others=others) for url in (f"http://10.0.0.{i}:1" for i in range(backends))
        }
        self.balancers = [Balancer(settings, seed + i) for i in range(balancers)]
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = 0
        self._asked: set[tuple[str, str]] = set()
        self.live: list[tuple[Balancer, Pick, int]] = []
        for balancer in self.balancers:
            self.start(balancer)

    def start(self, balancer: Balancer) -> None:
        """Give a balancer its backends and one report of each."""
        balancer.fleet.set_backends([BackendSpec(url) for url in self.backends], self.now)
        for url, backend in self.backends.items():
            balancer.fleet.take_report(url, backend.report(len(backend.log)), asked_at=self.now, now=self.now)

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._ids += 1
        heapq.heappush(self._queue, (when, self._ids, what))

    def run(self, until: float = float("inf")) -> None:
        """Let happen what is due."""
        while self._queue and self._queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self._queue)
            what()
            for balancer in self.balancers:
                balancer.fleet.expire(self.now)
        if until != float("inf"):
            self.now = max(self.now, until)

    # --- what happens -------------------------------------------------------------------------------------------------

    def connect(self, balancer: Balancer, *, key: str | None = None, fails: bool = False) -> None:
        """A client asks, is placed, and arrives some time later."""
        self._ids += 1
        number = self._ids
        key = key or f"key{number}"
        answer = place(balancer.fleet, Ask(key), self.now, balancer.rng)
        assert isinstance(answer, Pick)
        self.tell(balancer, PickNotice("p", answer.url, key))
        backend = self.backends[answer.url]
        arrives = self.now + self.delay(0.5)
        if fails:
            self.at(arrives, lambda: self._fail(balancer, answer, key))
            return

        def arrive() -> None:
            backend.open[number] = key
            backend.log.append(key)
            if self.mode == "relay":
                self.at(self.now + self.delay(0.2), seen)
            else:
                self.live.append((balancer, answer, number))

        def seen() -> None:
            balancer.fleet.opened(answer.reservation, self.now)
            self.live.append((balancer, answer, number))

        self.at(arrives, arrive)

    def _fail(self, balancer: Balancer, answer: Pick, key: str) -> None:
        self.tell(balancer, PickNotice("f", answer.url, key))
        balancer.fleet.dropped(answer.reservation, self.now)

    def close(self, index: int) -> None:
        """An open connection ends at its relay, and a little earlier or later at its backend."""
        if not self.live:
            return
        balancer, answer, number = self.live.pop(index % len(self.live))
        key = self.backends[answer.url].open[number]

        def at_relay() -> None:
            self.tell(balancer, PickNotice("c", answer.url, key))
            balancer.fleet.closed(answer.reservation, self.now)

        self.at(self.now + self.delay(0.1), at_relay)
        self.at(self.now + self.delay(0.1), lambda: self.backends[answer.url].open.pop(number, None))

    def tell(self, sender: Balancer, notice: PickNotice) -> None:
        """The other balancers hear of it, in order, some time later."""
        if not self.share:
            return
        for other in self.balancers:
            if other is not sender:
                other.heard_until = max(other.heard_until, self.now + self.delay(0.2))
                self.at(
                    other.heard_until,
                    lambda other=other: other.fleet.take_notice(sender.name, notice, self.now),  # type: ignore[misc]
                )

    def poll(self, balancer: Balancer, url: str) -> None:
        """A balancer asks a backend, which answers some time later, which arrives some time later."""
        if (balancer.name, url) in self._asked:
            return
        self._asked.add((balancer.name, url))
        asked_at = self.now
        known = balancer.fleet.backends[url].known_opened
        backend = self.backends[url]

        def answer() -> None:
            report = backend.report(known[1] if known else 0)
            arrives = self.now + self.delay(0.5)
            self.at(arrives, lambda: take(report))

        def take(report: LoadReport) -> None:
            self._asked.discard((balancer.name, url))
            self._take(balancer, url, report, asked_at)

        self.at(self.now + self.delay(0.5), answer)

    def push(self, url: str) -> None:
        """A node tells all balancers, with the keys since it last told them."""
        backend = self.backends[url]
        if not backend.ours:
            return
        report = backend.report(backend.told)
        backend.told = len(backend.log)
        for balancer in self.balancers:
            backend.heard_until = max(backend.heard_until, self.now + self.delay(0.2))
            self.at(
                backend.heard_until,
                lambda balancer=balancer: self._take(balancer, url, report, self.now),  # type: ignore[misc]
            )

    def _take(self, balancer: Balancer, url: str, report: LoadReport, asked_at: float) -> None:
        balancer.fleet.take_report(url, report, asked_at=asked_at, now=self.now)

    # --- what came of it ----------------------------------------------------------------------------------------------

    @property
    def counts(self) -> list[int]:
        return [backend.count for backend in self.backends.values()]

    @property
    def spread(self) -> int:
        return max(self.counts) - min(self.counts)

    def estimates(self, balancer: Balancer) -> list[int]:
        return [balancer.fleet.backends[url].estimate for url in self.backends]


def urls(world: World) -> Sequence[str]:
    """Its backends' URLs."""
    return list(world.backends)
