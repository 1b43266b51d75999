"""A worker process with a tiny generator: no connections, known counts, and faults on demand; for tests.

The scenario's description says what goes wrong, as words: `<what>:<worker>`.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable

from trunkline.errors import StartError
from trunkline.load.model.messages import Begin, Done, Hole, Job, Position, Sent, Settle
from trunkline.load.model.tally import Beat, Tally
from trunkline.load.workers.process import run_worker

EACH_TICK = 5
TICK_S = 0.1


class SmallGenerator:
    """Counts five messages every tenth of a second."""

    def __init__(self, job: Job, tell: Callable[[Beat], None]) -> None:
        self.job = job
        self.tell = tell
        self.tally = Tally()
        self.over = asyncio.Event()
        self.faults = {
            word.partition(":")[0]
            for word in job.scenario.description.split()
            if word.partition(":")[2] in ("", str(job.worker))
        }

    def take_token(self, token: str) -> None:
        self.tally.because(f"token {token}")

    async def prepare(self) -> int:
        if "unable" in self.faults:
            raise StartError("it cannot", "Do something else.")
        if "never-ready" in self.faults:
            await asyncio.sleep(60)
        return 1000

    async def run(self, begin: Begin) -> Sent:
        self.begin = begin.at - self.job.clock_offset_s
        self.tally.open = self.job.scenario.peak // self.job.workers
        beats = asyncio.create_task(self.beat())
        try:
            async with asyncio.timeout(max(0.0, self.begin - time.monotonic()) + self.job.scenario.duration_s):
                await self.over.wait()
        except TimeoutError:
            pass
        if "no-sent" in self.faults:
            await asyncio.sleep(60)
        beats.cancel()
        epoch = "new" if "new-epoch" in self.faults else "e"
        # Said last, whatever the order of the workers.
        at = self.begin + ("new-epoch" in self.faults)
        names = 5000 if "many" in self.faults else 2
        ends = {f"ch{i}": Position(epoch, 10 + self.job.worker, at) for i in range(names)}
        return Sent(self.job.worker, ends)

    async def beat(self) -> None:
        second = 0
        while True:
            await asyncio.sleep(TICK_S)
            self.tally.totals.sent += EACH_TICK
            now = time.monotonic() - self.begin
            if int(now) > second:
                self.tell(self.tally.beat(self.job.worker, second, math.nan if "odd" in self.faults else 0.5))
                second = int(now)
                await asyncio.sleep(0.05)  # the beat goes out
                if "die" in self.faults:
                    print("no more memory", file=sys.stderr, flush=True)
                    os._exit(7)
                if "freeze" in self.faults:
                    time.sleep(60)

    def stop(self) -> None:
        self.over.set()

    async def settle(self, settle: Settle) -> Done:
        if "hang" in self.faults:
            time.sleep(60)
        if "talk" in self.faults:
            print("hello", flush=True)
        self.tally.open = 0
        # What the coordinator said is counted, for the test to see.
        self.tally.reasons[f"ends {len(settle.ends)}, ch0 {settle.ends['ch0'].epoch} {settle.ends['ch0'].offset}"] += 1
        self.tell(self.tally.beat(self.job.worker, int(time.monotonic() - self.begin), 0.1))
        holes = (Hole("ch1", "e", 3, 9, 1),) if "holes" in self.faults else ()
        return Done(self.job.worker, holes)

    def offsets(self, channel: str) -> dict[str, list[int]]:
        return {"e": list(range(1 + self.job.worker, 100_000, self.job.workers))}


if __name__ == "__main__":
    raise SystemExit(run_worker(int(sys.argv[1]), SmallGenerator))
