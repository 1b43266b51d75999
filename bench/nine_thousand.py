"""9,000 connections through one relay process that may open 20,000 files: all are held, and all carry messages."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil

from bench.backend import Backends
from bench.errors import BenchError
from bench.proxies import FILES, Proxy, relay
from bench.rows import CpuMeter, Options, Result, Row
from bench.swarm import PATIENCE_S, READ_BYTES, Swarm, frame

CONNECTIONS = 9_000
HOLD_S = 10.0
BACKENDS = 3
SLICES = 100
"""Parts in which the connections take their turns, so that messages flow all the time."""

ROUNDS = 2
MESSAGE = frame(b"a message of now and then, 40 bytes long")
ANSWER_BYTES = len(MESSAGE) - 4


def run(options: Options) -> Result:
    """Measure it."""
    count, hold_s = (600, 1.0) if options.quick else (CONNECTIONS, HOLD_S)
    _raise_own_limit(count + 200)
    with ExitStack() as stack:
        # Apart, so that no backend needs more files than it may have.
        backends = stack.enter_context(Backends(BACKENDS, apart=True))
        running = stack.enter_context(Proxy(relay(backends.urls, files=FILES)))
        before = running.private_dirty()
        began = time.monotonic()
        with CpuMeter(running) as opening:
            swarm = stack.enter_context(Swarm(running, "/ws/echo", count, wave=200))
        opened_s = time.monotonic() - began
        files = sum(psutil.Process(pid).num_fds() for pid in running.pids)
        missing, ended, late_s = _hold(swarm, hold_s)
        after = running.private_dirty()
        counts = backends.counts()
    messages = count * ROUNDS
    what = f"{count:,} connections through one relay"
    return Result(
        [
            Row(f"{what}: connections lost", count - sum(counts) + ended, f"of {count:,}", target=0),
            Row(f"{what}: answers missing", missing, f"of {messages:,}", target=0),
            Row(f"{what}: files open in its process", files, "files", target=FILES),
            Row(f"{what}: fullest backend minus emptiest", max(counts) - min(counts), "connections"),
            Row(f"{what}: time until all were open", opened_s, "s", note=f"{opening.used_s:.2f} s of its CPU"),
            Row(f"{what}: greatest time from a message to its answer", late_s * 1000, "ms"),
            Row(f"{what}: memory that they added", (after - before) / count / 1024, "KB/connection"),
        ],
        [f"Held {hold_s:g} s, {ROUNDS} messages each, spread evenly over that time, over {BACKENDS} backends."],
    )


def _raise_own_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < max(wanted, FILES):
        raise BenchError(f"this needs an open-file limit of {FILES}; the hard limit is {hard}")
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def _turns(fds: list[int], hold_s: float) -> Iterator[tuple[float, list[int]]]:
    """When which connections send, in seconds from the beginning."""
    pause_s = hold_s / (ROUNDS * SLICES)
    for turn in range(ROUNDS * SLICES):
        yield turn * pause_s, fds[turn % SLICES :: SLICES]


def _hold(swarm: Swarm, hold_s: float) -> tuple[int, int, float]:
    """Send and read for so long; returns answers that did not come, connections that ended, the longest wait."""
    awaited = dict.fromkeys(swarm.sockets, 0)
    sent_at: dict[int, float] = {}
    turns = _turns(list(swarm.sockets), hold_s)
    began = time.monotonic()
    left, late_s = ROUNDS * len(awaited), 0.0
    ended: set[int] = set()
    due = next(turns, None)
    deadline = began + hold_s + PATIENCE_S
    while (now := time.monotonic()) < deadline and (left or now < began + hold_s):
        if due is not None and now >= began + due[0]:
            for fd in due[1]:
                if fd not in ended:
                    os.write(fd, MESSAGE)
                    sent_at[fd] = time.monotonic()
            due = next(turns, None)
            continue
        next_at = began + (due[0] if due is not None else hold_s)
        for fd, _ in swarm.epoll.poll(min(max(next_at - now, 0.001), 1.0)):
            try:
                data = os.read(fd, READ_BYTES)
            except OSError:
                data = b""
            if not data:
                ended.add(fd)
                swarm.epoll.unregister(fd)
                continue
            awaited[fd] += len(data)
            if awaited[fd] >= ANSWER_BYTES:
                awaited[fd] -= ANSWER_BYTES
                left -= 1
                late_s = max(late_s, time.monotonic() - sent_at[fd])
    return left, len(ended), late_s
