"""1,000 subscribers lose their connections, 100 publications happen, all come back at once and recover.

Each has to get all of them, once and in order; and the node has to read history from the bus once, not once a client.
The reads are counted at NATS.
"""

from __future__ import annotations

import os
import re
import time

from bench.errors import BenchError
from bench.nats_child import NatsChild
from bench.rows import CpuMeter, Options, Result, Row
from bench.servers import Server, ours
from bench.swarm import PATIENCE_S, READ_BYTES, Publisher, Swarm, frame

_PUBLICATION = re.compile(rb'"offset":(\d+),"prev":(\d+),"data":\{"n":(\d+),[^}]*\}')
MISSED = 100
READS = ("DIRECT.GET", "STREAM.MSG", "STREAM.INFO")
"""Requests that read history or what bounds it."""


_NOTE = (
    "One reading of history is a batch request and those that bound it; a node that joins a channel also asks where it "
    "stands."
)


def run(options: Options) -> Result:
    """Measure it over NATS: on the node they were on, and on one that was started since and knows nothing yet."""
    clients = 100 if options.quick else 1_000
    rows: list[Row] = []
    for fresh in (False, True):
        with NatsChild() as nats:
            first = Server(ours(TRUNKLINE_BUS_URL=nats.url))
            second = None
            try:
                positions = _subscribe_and_leave(first, clients)
                _publish(first)
                if fresh:
                    second = Server(ours(TRUNKLINE_BUS_URL=nats.url))
                rows += _recover(second or first, nats, positions, "a new node" if fresh else "the same node")
            finally:
                first.stop()
                if second is not None:
                    second.stop()
    return Result(
        rows,
        [_NOTE],
    )


def _subscribe_and_leave(server: Server, clients: int) -> list[tuple[str, int]]:
    contender = server.contender
    with Swarm(server, "/ws", clients, subscribe=contender.subscribe, until=contender.subscribed) as swarm:
        positions = list(swarm.positions().values())
        swarm.close()
    return positions


def _publish(server: Server) -> None:
    with Publisher(server) as publisher:
        message = b'{"type":"publish","channel":"public.bench","data":{"n":%d,"text":"%b"}}'
        publisher.send(b"".join(frame(message % (number, b"x" * 40)) for number in range(MISSED)))
        publisher.wait_acknowledged(MISSED)


def _recover(server: Server, nats: NatsChild, positions: list[tuple[str, int]], where: str) -> list[Row]:
    clients = len(positions)
    before = nats.requests()
    began = time.monotonic()
    with CpuMeter(server) as cpu, Swarm(server, "/ws", clients, wave=500) as swarm:
        last: dict[int, int] = {}
        for fd, (epoch, offset) in zip(swarm.sockets, positions, strict=True):
            position = b'{"public.bench":{"epoch":"%b","offset":%d}}' % (epoch.encode(), offset)
            os.write(fd, frame(b'{"type":"subscribe","channels":["public.bench"],"recover":%b}' % position))
            last[fd] = offset
        opened_s = time.monotonic() - began
        wrong, short = _collect(swarm, last)
        took_s = time.monotonic() - began
    after = nats.requests()
    asked = {verb: count - before.get(verb, 0) for verb, count in after.items() if count > before.get(verb, 0)}
    reads = sum(count for verb, count in asked.items() if verb in READS)
    what = f"{clients:,} clients recover {MISSED} at once, {where}"
    shown = ", ".join(f"{verb} {count}" for verb, count in sorted(asked.items())) or "none"
    return [
        Row(f"{what}: publications missing", short, f"of {clients * MISSED:,}", target=0),
        Row(f"{what}: twice or out of order", wrong, f"of {clients * MISSED:,}", target=0),
        Row(f"{what}: requests for history", reads, "to NATS", target=10, note=f"JetStream was asked: {shown}"),
        Row(f"{what}: time until all had all", took_s, "s", note=f"of it {opened_s:.2f} s to connect"),
        Row(f"{what}: CPU of the node", cpu.used_s / clients * 1e6, "us CPU/client"),
    ]


def _collect(swarm: Swarm, last: dict[int, int]) -> tuple[int, int]:
    """Read until everybody has everything; returns how many came wrong and how many did not come."""
    held = {fd: swarm.rest[fd] for fd in last}
    counts = dict.fromkeys(last, 0)
    wrong = 0
    waiting = set(last)
    deadline = time.monotonic() + PATIENCE_S
    refused = re.compile(rb'"recovered":false|"type":"(?:error|gap)"[^}]*')
    while waiting and time.monotonic() < deadline:
        for fd, _ in swarm.epoll.poll(1.0):
            data = os.read(fd, READ_BYTES)
            if not data:
                raise BenchError("the node closed a recovering client")
            held[fd] = data = held[fd] + data
            if found := refused.search(data):
                raise BenchError(f"the node did not recover a client: {found[0]!r}")
            end = 0
            for match in _PUBLICATION.finditer(data):
                offset, prev = int(match[1]), int(match[2])
                wrong += prev != last[fd] or int(match[3]) != counts[fd]
                last[fd] = offset
                counts[fd] += 1
                end = match.end()
            held[fd] = data[end:]
            if counts[fd] >= MISSED:
                waiting.discard(fd)
    return wrong, sum(max(MISSED - count, 0) for count in counts.values())
