"""The coordinator and real worker processes: a run from end to end, and every way in which a worker can fail it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support import ROOT
from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.load.seen_seconds import Seen
from tests.support.patience import patient
from trunkline.errors import SettingsError, StartError
from trunkline.load.judge import missing
from trunkline.load.model.plan import Scenario, Stage, Target, Traffic
from trunkline.load.model.run_plan import AgentGroup, Outcome, Patience, RunPlan
from trunkline.load.token_file import TokenFile
from trunkline.load.workers.coordinator import Coordinator

COMMAND = (sys.executable, str(ROOT / "tests/support/load/small_worker.py"))
TARGET = Target("ws://127.0.0.1:9/")
ALL_IN_TIME = Patience(ready_s=20, silent_s=20, sent_s=20, done_s=20, offsets_s=20)


def workers(parent: int | None = None) -> list[psutil.Process]:
    """The worker processes below a process, by default this one."""
    return [child for child in psutil.Process(parent).children(recursive=True) if COMMAND[1] in child.cmdline()]


def plan(faults: str = "", *, workers: int = 2, seconds: float = 1.3, patience: Patience = ALL_IN_TIME) -> RunPlan:
    """A run of 100 connections; `faults` as small_worker.py reads them."""
    scenario = Scenario("test", (Stage(seconds, 100, "all"),), "echo", description=faults)
    return RunPlan(run="abcd1234", target=TARGET, scenario=scenario, workers=workers, settle_s=0.1, patience=patience)


async def run(a_plan: RunPlan) -> tuple[Outcome, Seen]:
    """Do a run to its end; no child is left behind."""
    seen = Seen()
    async with asyncio.timeout(patient(60)):
        outcome = await Coordinator(a_plan, seen.second, worker_command=COMMAND).run()
    assert not workers()
    return outcome, seen


async def test_beats_of_all_workers_become_seconds() -> None:
    """Every worker's beats are in the seconds, the seconds add up to the sum, and the end is in order."""
    outcome, seen = await run(plan())
    assert not outcome.failures
    assert not outcome.missing_workers
    assert not outcome.interrupted
    assert seen.seconds == outcome.seconds
    assert [second.at_s for second in seen.seconds] == [float(n + 1) for n in range(len(seen.seconds))]
    assert seen.seconds[0].open == 100
    assert seen.seconds[0].stage == "all"
    assert seen.seconds[0].generator_cpu == 0.5
    assert sum(second.totals.sent for second in seen.seconds) == outcome.sum.totals.sent > 100
    assert 1.3 <= outcome.lasted_s < 5


async def test_a_renewed_token_reaches_all_workers(tmp_path: Path) -> None:
    """The coordinator alone reads the file; what is new there goes to the workers while the run goes on."""
    file = tmp_path / "token"
    file.write_text("first")
    source = TokenFile(file)
    file.write_text("second")
    outcome, _ = await run(msgspec.structs.replace(plan(), token_file=source))
    assert not outcome.failures
    assert outcome.sum.reasons["token second"] == 2


async def test_what_a_worker_prints_is_kept() -> None:
    """What a flow of the user's own prints is in the outcome, with the worker's name."""
    outcome, _ = await run(plan("talk:1"))
    assert outcome.printed == ["worker 1: hello"]


async def test_ends_of_two_workers_are_merged() -> None:
    """Each worker settles for the greatest offset that any worker published."""
    outcome, _ = await run(plan())
    assert dict(outcome.sum.reasons) == {"ends 2, ch0 e 11": 2}


async def test_newest_epoch_counts() -> None:
    """Where workers name different epochs, the one acknowledged last is what everybody settles for."""
    outcome, _ = await run(plan("new-epoch:0"))
    assert dict(outcome.sum.reasons) == {"ends 2, ch0 new 10": 2}


async def test_many_channels_travel_in_pieces() -> None:
    """More channels than fit into one message arrive whole, both ways."""
    outcome, _ = await run(plan("many"))
    assert not outcome.failures
    assert dict(outcome.sum.reasons) == {"ends 5000, ch0 e 11": 2}


async def test_offsets_in_holes_are_asked_for() -> None:
    """For a hole the workers tell what they published, and what lies in the hole is kept."""
    outcome, _ = await run(plan("holes:1"))
    assert not outcome.failures
    assert [(hole.after, hole.upto) for hole in outcome.holes] == [(3, 9)]
    assert outcome.offsets == {("ch1", "e"): [4, 5, 6, 7, 8, 9]}


async def test_dead_worker_is_told_and_the_others_go_on() -> None:
    """A worker that ends during the run is named with its exit code and last words; the run is done by the other."""
    outcome, seen = await run(plan("die:1", seconds=2.3))
    assert outcome.failures == ["worker 1 ended with exit code 7; its last output: no more memory"]
    assert outcome.missing_workers == (1,)
    assert len(seen.seconds) >= 2
    assert seen.seconds[1].open == 50
    assert outcome.sum.totals.sent > 80


async def test_killed_worker_is_told() -> None:
    """A worker that the system kills is named with the signal."""
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(seconds=2.3), seen.second, worker_command=COMMAND).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    victim = min(workers(), key=lambda child: child.pid)
    os.kill(victim.pid, signal.SIGKILL)
    outcome = await asyncio.wait_for(running, patient(20))
    assert outcome.failures == ["worker 0 was ended by SIGKILL"]


async def test_all_workers_dead_ends_the_run() -> None:
    """With nobody left the run ends, with what was seen."""
    begun = time.monotonic()
    outcome, _ = await run(plan("die", seconds=30))
    assert time.monotonic() - begun < patient(15)
    assert outcome.missing_workers == (0, 1)
    assert len(outcome.failures) == 2
    assert outcome.sum.totals.sent > 0


@pytest.mark.parametrize(
    ("fault", "patience", "says"),
    [
        ("freeze:0", Patience(silent_s=1.5), "worker 0 has sent nothing for 1.5 s"),
        ("no-sent:0", Patience(sent_s=0.5, silent_s=20), "worker 0 did not come to the end of its stages"),
        ("hang:0", Patience(done_s=0.1, silent_s=20), "worker 0 did not settle in time"),
    ],
)
async def test_hanging_worker_is_ended(fault: str, patience: Patience, says: str) -> None:
    """A worker that does not go on is waited for as long as it is said, and no longer."""
    outcome, _ = await run(plan(fault, patience=patience, seconds=1.3 if "freeze" not in fault else 3))
    assert outcome.failures == [says]
    assert outcome.missing_workers == (0,)
    assert outcome.sum.reasons.total() == 1
    # The stages lasted as long as those of the other worker, however long this one was waited for.
    assert outcome.lasted_s < (1.3 if "freeze" not in fault else 3) + 0.4


async def test_worker_with_impossible_counts_is_ended() -> None:
    """What it told is in no sum, so that the report stays readable."""
    outcome, _ = await run(plan("odd:0"))
    assert outcome.failures == ["worker 0 was lost: a beat holds numbers that cannot be"]
    assert outcome.missing_workers == (0,)
    assert outcome.sum.totals.sent > 0
    assert all(math.isfinite(second.generator_cpu) for second in outcome.seconds)


async def test_fault_before_the_start_is_an_error() -> None:
    """A worker that cannot do its job ends the run before it begins, with its reason and the next step."""
    with pytest.raises(StartError, match=r"worker 1 failed: it cannot\. Do something else\."):
        await run(plan("unable:1"))


async def test_worker_that_is_never_ready() -> None:
    """A worker that does not get ready ends the start."""
    with pytest.raises(StartError, match="worker 0 was not ready in time"):
        await run(plan("never-ready:0", patience=Patience(ready_s=2)))


async def test_program_that_cannot_be_run() -> None:
    """A missing program is an error of one line."""
    with pytest.raises(StartError, match="cannot be started"):
        await Coordinator(plan(), Seen().second, worker_command=("/nowhere/python",)).run()


async def test_program_that_is_no_worker() -> None:
    """What the process said before it ended is in the error."""
    command = (sys.executable, "-c", "import sys; sys.exit('what is this?')")
    with pytest.raises(StartError, match=r"ended with exit code 1; its last output: what is this\?"):
        await Coordinator(plan(), Seen().second, worker_command=command).run()


async def test_stop_ends_in_order() -> None:
    """The first Ctrl-C ends the stages, and everything is settled and told all the same."""
    outcome = await _while_running(lambda coordinator: coordinator.stop())
    assert outcome.interrupted
    assert not outcome.failures
    assert not outcome.missing_workers
    assert outcome.sum.reasons.total() == 2
    assert outcome.lasted_s < 10


async def test_kill_ends_at_once() -> None:
    """The second Ctrl-C ends everything at once; what was told until then is kept."""
    outcome = await _while_running(lambda coordinator: (coordinator.stop(), coordinator.kill()))
    assert outcome.interrupted
    assert not outcome.failures
    assert outcome.sum.totals.sent > 0


async def _while_running(action: Callable[[Coordinator], object]) -> Outcome:
    seen = Seen()
    coordinator = Coordinator(plan(seconds=60), seen.second, worker_command=COMMAND)
    running = asyncio.create_task(coordinator.run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    action(coordinator)
    outcome = await asyncio.wait_for(running, patient(5))
    assert not workers()
    return outcome


async def test_stop_before_the_start() -> None:
    """Ctrl-C while workers get ready ends the run at once, with an empty outcome."""
    coordinator = Coordinator(plan("never-ready"), Seen().second, worker_command=COMMAND)
    running = asyncio.create_task(coordinator.run())
    await asyncio.sleep(0.2)
    coordinator.stop()
    outcome = await asyncio.wait_for(running, patient(10))
    assert outcome.interrupted
    assert outcome.seconds == []
    assert outcome.missing_workers == ()
    assert not workers()


async def test_workers_end_with_their_coordinator(tmp_path: Path) -> None:
    """Workers end when the coordinator is killed."""
    program = (
        "import asyncio, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.load.workers.test_coordinator import COMMAND, Coordinator, Seen, plan\n"
        "class Said(Seen):\n"
        "    def second(self, second, so_far, /):\n"
        "        print('second', flush=True)\n"
        "async def main():\n"
        "    await Coordinator(plan(seconds=60), Said().second, worker_command=COMMAND).run()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), patient(30)) == b"second\n"
    left = workers(process.pid)
    assert len(left) == 2
    process.kill()
    await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, left, patient(5))
    assert not alive


async def test_real_workers_find_every_loss() -> None:
    """Two workers with the real generator: each finds what the server dropped of both workers' messages."""
    stages = (Stage(0.1, 8), Stage(1.5, 8))
    async with FaultyServer(Faults(drop=100)) as server:
        scenario = Scenario("test", stages, "feed", Traffic(rate=200, channels=2))
        a_plan = RunPlan(run="abcd1234", target=Target(server.url()), scenario=scenario, workers=2, settle_s=1.0)
        outcome = await asyncio.wait_for(Coordinator(a_plan, Seen().second).run(), patient(30))
        dropped = sorted((each.channel, each.offset) for each in server.did)
    assert not outcome.failures
    assert outcome.seconds[1].open == 8
    assert len(dropped) >= 5
    found = missing.findings(outcome.holes, outcome.offsets, 0.0)
    assert sorted((each.channel, each.offset) for each in found) == dropped


@pytest.mark.parametrize("drop", [0, 3])
async def test_a_last_wait_is_shown_with_its_bounds(drop: int) -> None:
    """Who watches a run that waits for answers after its stages sees that it does, and for how long at most."""
    said: list[str] = []
    async with FaultyServer(Faults(drop=drop)) as server:
        scenario = Scenario("test", (Stage(0.6, 2),), "echo", Traffic(rate=20, message_bytes=100))
        target = Target(server.url("/echo"))
        a_plan = RunPlan(run="abcd1234", target=target, scenario=scenario, settle_s=1.5)
        outcome = await asyncio.wait_for(Coordinator(a_plan, Seen().second, said.append).run(), patient(30))
    assert (outcome.sum.totals.lost > 0) == (drop > 0)
    wait = "waiting for what has not come yet: until nothing comes for 1.5 s, 18 s at most"
    assert said == ([wait] if drop else [])


async def test_python_flow_goes_to_no_agent() -> None:
    """Code is never sent to another machine."""
    scenario = Scenario("test", (Stage(1, 1),), "python")
    a_plan = RunPlan(
        run="abcd1234", target=TARGET, scenario=scenario, workers=0, flow_source="pass",
        agents=AgentGroup(("one",), "nats://127.0.0.1:9"),
    )  # fmt: skip
    with pytest.raises(SettingsError, match="this machine alone"):
        await Coordinator(a_plan, Seen().second).run()


@pytest.fixture(autouse=True)
async def _no_tasks_left() -> object:
    """No test leaves a task behind."""
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*left, return_exceptions=True)
    assert not [task for task in left if "trunkline" in repr(task)]
