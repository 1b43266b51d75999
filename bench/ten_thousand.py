"""10,000 subscribers of one channel on one node, 10 publications a second: nothing lost, and how late it comes.

Every delivery is checked: its `prev` has to be the offset that this subscriber saw last. Send and receive times are of
one clock in this process, so the latency holds the generator's own share, which is reported beside it.
"""

from __future__ import annotations

import http.client
import os
import re
import statistics
import threading
import time
from collections import Counter

import psutil

from bench.errors import BenchError
from bench.nats_child import NatsChild
from bench.rows import CpuMeter, Options, Result, Row
from bench.servers import Server, ours
from bench.swarm import PATIENCE_S, READ_BYTES, Publisher, Swarm, frame, frames

PER_S = 10
BATCH = 256
_PUBLICATION = re.compile(rb'"offset":(\d+),"prev":(\d+),"data":\{"n":(\d+),[^}]*\}')


def run(options: Options) -> Result:
    """Measure it with the memory bus and over NATS."""
    with Server(ours()) as server:
        rows, notes = _measure(server, "memory bus", options)
    with NatsChild() as nats, Server(ours(TRUNKLINE_BUS_URL=nats.url)) as server:
        more, more_notes = _measure(server, "NATS", options)
    return Result(rows + more, notes + more_notes)


class Lag(threading.Thread):
    """Reads `/metrics` of a node once a second while it is under load.

    Args:
        server: the node.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self.samples: list[float] = []

    def run(self) -> None:
        while not self._over.wait(1.0):
            self.samples.append(_series(self._server)["ws_event_loop_lag_seconds"])

    def end(self) -> None:
        """Stop reading."""
        self._over.set()
        self.join(10)


def _series(server: Server) -> Counter[str]:
    """The node's series, those with labels added up."""
    connection = http.client.HTTPConnection(*server.address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    return found


class Receipts:
    """What each subscriber got, and when.

    All subscribers get the same bytes, so a publication is taken apart when it comes first and compared afterwards: the
    generator has a few microseconds for a delivery.

    Args:
        positions: offset at which each connection (by file descriptor) began.
    """

    def __init__(self, positions: dict[int, int]) -> None:
        self.last = positions
        self.count = dict.fromkeys(positions, 0)
        self.sent_at: list[float] = []
        self.tenths_ms: Counter[int] = Counter()
        self.lost = self.repeated = self.joined = 0
        self._known: dict[bytes, tuple[int, int, int]] = {}
        self._tail: dict[int, bytes] = {}

    def take(self, fd: int, data: bytes, now: float) -> int:
        """Check one read; returns how many publications it held."""
        known = self._known.get(data)
        if known is not None and not self._tail:
            prev, offset, number = known
            if self.last[fd] == prev:
                self.last[fd] = offset
                self.count[fd] += 1
                self.tenths_ms[int((now - self.sent_at[number]) * 10_000)] += 1
                return 1
        return self._take_apart(fd, data, now)

    def _take_apart(self, fd: int, data: bytes, now: float) -> int:
        received = data
        data = self._tail.pop(fd, b"") + data
        messages, rest = frames(data)
        if rest:
            self._tail[fd] = rest
        count = 0
        for _, payload in messages:
            match = _PUBLICATION.search(payload)
            if match is None:
                continue
            offset, prev, number = int(match[1]), int(match[2]), int(match[3])
            last = self.last[fd]
            if offset <= last:
                self.repeated += 1
            elif prev != last:
                self.lost += 1
            self.last[fd] = offset
            self.tenths_ms[int((now - self.sent_at[number]) * 10_000)] += 1
            count += 1
            if len(messages) == 1 and not rest and data == received:
                self._known[received] = (prev, offset, number)
        self.joined += count if count > 1 else 0
        self.count[fd] += count
        return count

    def quantile_ms(self, q: float) -> float:
        """The latency below which a share `q` of the deliveries stays."""
        wanted = q * self.tenths_ms.total()
        seen = 0
        for tenths in sorted(self.tenths_ms):
            seen += self.tenths_ms[tenths]
            if seen >= wanted:
                return (tenths + 1) / 10
        return 0.0


def _measure(server: Server, bus: str, options: Options) -> tuple[list[Row], list[str]]:
    subscribers, publications = (200, 10) if options.quick else (10_000, 150)
    contender = server.contender
    with (
        Swarm(server, "/ws", subscribers, subscribe=contender.subscribe, until=contender.subscribed) as swarm,
        Publisher(server) as publisher,
    ):
        receipts = Receipts({fd: offset for fd, (_, offset) in swarm.positions().items()})
        before = _series(server)
        lag = Lag(server)
        lag.start()
        try:
            own_s = time.process_time()
            psutil.cpu_percent()
            with CpuMeter(server) as cpu:
                took_s, late_s, batch_s = _run(swarm, publisher, receipts, publications)
            own_s = time.process_time() - own_s
            busy = psutil.cpu_percent()
        finally:
            lag.end()
        after = _series(server)
    expected = subscribers * publications
    delivered = sum(receipts.count.values())
    short = sum(publications - count for count in receipts.count.values())
    sent = after["ws_messages_sent_total"] - before["ws_messages_sent_total"]
    heartbeats = int(sent) - delivered - publications
    what = f"{subscribers:,} subscribers, {PER_S}/s, {bus}"
    rows = [
        Row(f"{what}: deliveries missing", short + receipts.lost, f"of {expected:,}", target=0),
        Row(f"{what}: deliveries twice or out of order", receipts.repeated, f"of {expected:,}", target=0),
        Row(f"{what}: latency p50", receipts.quantile_ms(0.5), "ms"),
        Row(f"{what}: latency p99", receipts.quantile_ms(0.99), "ms"),
        Row(f"{what}: CPU a delivery", cpu.used_s / delivered * 1e6, "us CPU"),
        Row(f"{what}: event loop lag, median of samples", statistics.median(lag.samples or [0]) * 1000, "ms"),
        Row(f"{what}: event loop lag, greatest sample", max(lag.samples, default=0) * 1000, "ms"),
    ]
    notes = [
        f"{what}: the node counts {int(sent):,} messages sent in that time: {delivered:,} deliveries, {publications} "
        f"acknowledgements and {heartbeats:,} heartbeats; it dropped "
        f"{int(after['ws_publications_dropped_total'] - before['ws_publications_dropped_total'])}. It used "
        f"{cpu.used_s / took_s * 100:.0f} % of one core; the whole machine was {busy:.0f} % busy "
        "(near 100 %, latency says more about the machine than about the node).",
        f"{what}: the generator published at most {late_s * 1000:.1f} ms late and let a ready socket wait for "
        f"at most {batch_s * 1000:.1f} ms; it used {own_s / took_s * 100:.0f} % of one core, and {receipts.joined:,} "
        "deliveries came two or more in one read (then it was behind).",
    ]
    return rows, notes


def _run(swarm: Swarm, publisher: Publisher, receipts: Receipts, publications: int) -> tuple[float, float, float]:
    """Publish and receive; returns seconds in all, the greatest lateness of a publish, the longest batch of reads."""
    monotonic, read, take, poll = time.monotonic, os.read, receipts.take, swarm.epoll.poll
    left = publications * len(swarm.sockets)
    began = monotonic()
    late_s = batch_s = 0.0
    number = 0
    deadline = began + publications / PER_S + PATIENCE_S
    while left > 0:
        now = monotonic()
        due = began + number / PER_S
        if number < publications and now >= due:
            late_s = max(late_s, now - due)
            data = b'{"n":%d,"text":"%b"}' % (number, b"x" * 40)
            receipts.sent_at.append(monotonic())
            publisher.send(frame(b'{"type":"publish","channel":"public.bench","data":%b}' % data))
            number += 1
            continue
        if now > deadline:
            break
        ready = poll(max(due - now, 0.001) if number < publications else 1.0, BATCH)
        woke = monotonic()
        for fd, _ in ready:
            data = read(fd, READ_BYTES)
            if not data:
                raise BenchError("the node closed a subscriber")
            left -= take(fd, data, monotonic())
        batch_s = max(batch_s, monotonic() - woke)
    publisher.wait_acknowledged(publications)
    return monotonic() - began, late_s, batch_s
