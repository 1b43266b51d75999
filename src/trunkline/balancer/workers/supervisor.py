"""Several processes that relay: the first one holds the port and the authoritative state, workers carry the bytes.

Rules:

- The first process has the port and never accepts; workers accept from the same socket, so the kernel hands each
  client to one of them, and a worker that is busy gets fewer.
- A worker that ends is started again after a pause that doubles; its clients reconnect to the others meanwhile.
- Settings go to a worker over its link, so all have the same ones whatever has become of the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from trunkline.balancer.core import Balancer
from trunkline.balancer.measures import EdgeCounts, added
from trunkline.balancer.pages import BalancerPages
from trunkline.balancer.workers.link import Asked, Counts, TakeOver, Welcome, WorkerSeat
from trunkline.balancer.workers.worker_settings import WorkerSettings, encode_settings
from trunkline.errors import SettingsError, StartError
from trunkline.process.ending import ended
from trunkline.process.lifecycle import Child
from trunkline.process.looks import LOOK_EVERY_S, look
from trunkline.process.progress import Silence, chance_s
from trunkline.protocol.goodbyes import Goodbyes
from trunkline.settings.sections import Settings

log = structlog.get_logger("trunkline.balancer")

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
SILENT_S: Final = 10.0
"""A worker reports its counts every second; one that was silent this long, though it had a processor, hangs, while the
kernel hands it clients."""
READY_S: Final = 20.0
PREPARE_S: Final = 10.0
"""Time that workers have to make other settings ready."""


class Workers:
    """The workers of one balancer."""

    def __init__(self, balancer: Balancer, settings: Settings) -> None:
        self._balancer = balancer
        self._settings = settings
        self._counts: dict[int, EdgeCounts] = {}
        self._ended = EdgeCounts()
        self._children: dict[int, Child] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_asked = asyncio.Event()
        self._listening: Sequence[socket.socket] = ()
        self._up: set[int] = set()
        self._seats: dict[int, WorkerSeat] = {}
        balancer.on_goodbyes = self._on_goodbyes
        self._silences: dict[int, Silence] = {}
        self._all_up = asyncio.Event()
        self._failed: StartError | None = None
        self.pages = BalancerPages(balancer, self.counts)

    def counts(self) -> EdgeCounts:
        """What all workers counted, those that have ended too."""
        return added([self._ended, *self._counts.values()])

    async def start(self, listening: Sequence[socket.socket]) -> None:
        """Start the workers, which accept from sockets that listen; raises StartError."""
        self._listening = listening
        self._tasks = [asyncio.create_task(self._keep(number)) for number in range(self._settings.balancer.workers)]
        await self._all_up.wait()
        if self._failed is not None:
            await self.stop(0.0)
            raise self._failed

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Have the workers make other settings ready, and return what has them taken over.

        Raises SettingsError when one of them cannot use them, or does not answer.
        """
        encoded = self._encoded(settings)
        asked = {seat: seat.prepare(encoded) for seat in self._seats.values()}
        try:
            answers = await asyncio.wait_for(asyncio.gather(*asked.values()), PREPARE_S)
        except TimeoutError:
            raise SettingsError("balancer.workers", allowed=f"a worker did not answer within {PREPARE_S:g} s") from None
        if whys := [why for why in answers if why]:
            raise SettingsError("balancer.workers", allowed=f"a worker cannot take the new settings: {whys[0]}")

        def take_over() -> None:
            self._settings = settings
            for seat in self._seats.values():
                if seat not in asked:
                    # It was started meanwhile, with those of before.
                    seat.prepare(encoded)
                seat.link.send(TakeOver())

        return take_over

    async def stop(self, drain_s: float) -> None:
        """Let the workers drain for `drain_s` seconds and end; they are killed a second later."""
        self._stop_asked.set()
        for sock in self._listening:
            sock.close()
        for child in self._children.values():
            child.terminate()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=drain_s + 1.0)
            for child in self._children.values():
                child.kill()
            for task in late:
                await task

    def kill(self) -> None:
        """End the workers at once."""
        self._stop_asked.set()
        for child in self._children.values():
            child.kill()

    async def _keep(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._stop_asked.is_set():
            began = loop.time()
            code: int | str
            try:
                code = await self._run(number)
                how = ended(code)
            except Exception as error:
                # No process could be made; that may pass, and without it the worker would be missed for good.
                log.exception("worker_not_started", worker=number)
                code, how = f"none: {type(error).__name__}", f"could not be started ({type(error).__name__})"
            if self._stop_asked.is_set():
                return
            if number not in self._up:
                self._failed = self._failed or StartError(f"worker {number} {how}", "See its output above.")
                self._all_up.set()
                return
            if loop.time() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            log.warning("worker_ended", worker=number, exit_code=code, again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_asked.wait(), pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _run(self, number: int) -> int:
        ours, theirs = socket.socketpair()
        listening = [sock.fileno() for sock in self._listening]
        seat = WorkerSeat(self._balancer, self.pages.render, lambda counts: self._take(number, counts))
        try:
            child = self._children[number] = await Child.start(
                [
                    sys.executable,
                    "-m",
                    "trunkline.balancer.workers.child",
                    str(theirs.fileno()),
                    *map(str, listening),
                ],
                os.environ,
                _pass_on,
                pass_fds=(theirs.fileno(), *listening),
            )
        except Exception:
            ours.close()
            raise
        finally:
            theirs.close()
        if self._stop_asked.is_set():
            child.kill()
        try:
            ours.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: seat.link, sock=ours)
        except Exception:
            # It would accept clients that it cannot place.
            child.kill()
            ours.close()
            raise
        seat.link.send(Welcome(self._encoded(self._settings)))
        for said in self._balancer.asked.all(time.monotonic()):
            seat.link.send(Asked(said))
        self._seats[number] = seat
        silence = self._silences[number] = Silence(SILENT_S, READY_S)
        watching = asyncio.create_task(self._watch(number, child, silence))
        try:
            code = await child.wait()
        finally:
            watching.cancel()
            del self._seats[number]
        seat.close()
        await seat.lost.wait()
        if number in self._counts:
            # Nothing that was counted is taken back; connections are those that are open, so it has none.
            last = self._counts.pop(number)
            last.connections = 0
            self._ended = added([self._ended, last])
        return code

    def _encoded(self, settings: Settings) -> bytes:
        return encode_settings(WorkerSettings(settings.balancer, settings.log))

    async def _watch(self, number: int, child: Child, silence: Silence) -> None:
        """Kill a worker that hangs, so that another takes its place."""
        loop = asyncio.get_running_loop()
        before = look(child.pid, loop.time())
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = look(child.pid, loop.time())
            if silence.passed(chance_s(before, now, now.at - before.at - LOOK_EVERY_S)):
                break
            before = now
        log.error("worker_hangs", worker=number, pid=child.pid, silent_s=round(silence.silent_s, 1))
        if number not in self._up:
            self._failed = StartError(f"worker {number} was not ready within {READY_S:g} s", "See its log.")
        child.kill()

    def _on_goodbyes(self, said: Goodbyes) -> None:
        for seat in self._seats.values():
            seat.link.send(Asked(said))

    def _take(self, number: int, counts: Counts) -> None:
        self._silences[number].heard()
        self._counts[number] = msgspec.msgpack.decode(counts.data, type=EdgeCounts)
        self._up.add(number)
        if len(self._up) == self._settings.balancer.workers:
            self._all_up.set()


def _pass_on(chunk: bytes, is_error: bool) -> None:
    stream = sys.stderr if is_error else sys.stdout
    stream.buffer.write(chunk)
    stream.flush()
