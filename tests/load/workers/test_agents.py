"""Agents on a real NATS: hired, refused, lost, and ended with whoever gave them work."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import nats
import psutil
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support import ROOT
from tests.support.load.faulty_server import FaultyServer
from tests.support.load.seen_seconds import Seen
from tests.support.patience import patient
from trunkline.errors import SettingsError, StartError
from trunkline.fleet.children.nats_server import NatsServer
from trunkline.load.model.histogram import quantiles
from trunkline.load.model.messages import MAX_BYTES, Job
from trunkline.load.model.plan import Scenario, Stage, Step, Target, Traffic
from trunkline.load.model.run_plan import AgentGroup, Outcome, Patience, RunPlan
from trunkline.load.workers import local
from trunkline.load.workers.agent import refusal
from trunkline.load.workers.allowed_targets import parse_allowed
from trunkline.load.workers.coordinator import Coordinator
from trunkline.load.workers.hiring import Alive, Hire, Subjects
from trunkline.load.workers.parcels import Incoming, Parcel
from trunkline.load.workers.pipe import BadMessage, ChannelClosed
from trunkline.load.workers.remote import clock_offset
from trunkline.version import __version__

COMMAND = (sys.executable, str(ROOT / "tests/support/load/small_worker.py"))
PREFIX = "test"
GONE_S = 3.0

AGENT = """
import asyncio, sys
from trunkline.process import lifecycle
from trunkline.load.workers.agent import run_agent
url, name, command, gone_s, *allow = sys.argv[1:]
print("up", flush=True)
try:
    code = lifecycle.run(lambda: run_agent(url, "test", name, allow, command=command.split("|"), gone_s=float(gone_s)))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.exit(code)
"""

COORDINATOR = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from tests.load.workers.test_agents import Coordinator, Seen, plan
class Said(Seen):
    def second(self, second, so_far, /):
        print("second", flush=True)
asyncio.run(Coordinator(plan(sys.argv[1], ("one",), seconds=60), Said().second).run())
"""


class AgentProcess:
    """A running agent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._more = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, url: str, name: str, *allow: str, command: tuple[str, ...] = COMMAND) -> AgentProcess:
        """Start an agent."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", AGENT, url, name, "|".join(command), str(GONE_S), *allow,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return cls(process)

    async def hear(self, what: str) -> None:
        """Wait until it has said something."""
        async with asyncio.timeout(patient(20)):
            while what not in self.said:
                assert not self._reader.done(), f"it ended and has said: {self.said}"
                self._more.clear()
                await self._more.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said += line.decode()
            self._more.set()
        self._more.set()

    def workers(self) -> list[psutil.Process]:
        """Its worker processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def end(self) -> int:
        """Its exit code, once it has ended and all it said was read."""
        code = await asyncio.wait_for(self.process.wait(), patient(10))
        await self._reader
        return code

    async def close(self) -> None:
        """End it, if it has not."""
        if self.process.returncode is None:
            self.process.kill()
        await self.end()


class Scene:
    """A NATS server and the agents that a test starts."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.agents: list[AgentProcess] = []

    async def agent(self, name: str, *allow: str, command: tuple[str, ...] = COMMAND) -> AgentProcess:
        """Start an agent and wait until it answers."""
        agent = await AgentProcess.start(self.server.url, name, *(allow or ("127.0.0.1",)), command=command)
        self.agents.append(agent)
        await agent.hear("agent_ready")
        return agent

    async def run(self, *agents: str, faults: str = "", seconds: float = 1.3, workers: int = 0) -> Outcome:
        a_plan = plan(self.server.url, agents, faults, seconds=seconds, workers=workers)
        async with asyncio.timeout(patient(40)):
            return await Coordinator(a_plan, Seen().second, worker_command=COMMAND).run()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A NATS server; the agents of the test end with it."""
    server = await NatsServer.start(tmp_path / "nats")
    scene = Scene(server)
    yield scene
    for agent in scene.agents:
        await agent.close()
    await scene.server.stop()


def plan(
    url: str, agents: tuple[str, ...], faults: str = "", *, seconds: float = 1.3, workers: int = 0, each: int = 1
) -> RunPlan:
    """A run on agents; `faults` as small_worker.py reads them."""
    scenario = Scenario("test", (Stage(seconds, 100, "all"),), "echo", description=faults)
    patience = Patience(20, 20, 20, 20, 20)
    return RunPlan(
        run="abcd1234", target=Target("ws://127.0.0.1:9/"), scenario=scenario, workers=workers,
        agents=AgentGroup(agents, url, PREFIX), workers_each=each, settle_s=0.1, patience=patience,
    )  # fmt: skip


async def all_end(workers: list[psutil.Process], seconds: float) -> bool:
    """Whether processes end within a time."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, patient(seconds))
    return not alive


async def test_run_on_two_agents_and_here(scene: Scene) -> None:
    """Workers on agents and on this machine do one run together, and the agents are free afterwards."""
    first, second = await scene.agent("one"), await scene.agent("two.example")
    outcome = await scene.run("one", "two.example", faults="holes:1 many", workers=1)
    assert not outcome.failures
    assert not outcome.missing_workers
    assert outcome.sum.reasons == {"ends 5000, ch0 e 12": 3}
    assert outcome.seconds[0].open == 99
    assert outcome.offsets == {("ch1", "e"): [4, 5, 6, 7, 8, 9]}
    assert 0 < outcome.clock_error_s < 1
    await first.hear("run_ended")
    await second.hear("run_ended")
    assert not first.workers()
    outcome = await scene.run("one")
    assert not outcome.failures


async def test_real_workers_on_an_agent(scene: Scene) -> None:
    """The real generator on an agent and on this machine: deliveries between them take no strange time."""
    await scene.agent("one", command=local.COMMAND)
    stages = (Stage(0.1, 8), Stage(1.5, 8))
    async with FaultyServer() as server:
        scenario = Scenario("test", stages, "feed", Traffic(rate=100, channels=2))
        a_plan = RunPlan(
            run="abcd1234",
            target=Target(server.url()),
            scenario=scenario,
            agents=AgentGroup(("one",), scene.server.url, PREFIX),
        )
        outcome = await asyncio.wait_for(Coordinator(a_plan, Seen().second).run(), patient(30))
    assert not outcome.failures
    totals = outcome.sum.totals
    assert totals.opened == 8
    assert totals.published == totals.acknowledged > 100
    assert totals.deliveries > totals.published * 2
    assert (totals.lost, outcome.holes, totals.errors) == (0, [], 0)
    assert quantiles(outcome.sum.latencies["delivery"]).p50 < 100


async def test_missing_agents_are_named(scene: Scene) -> None:
    """Agents that do not answer are named, with the command that starts one."""
    await scene.agent("one")
    with pytest.raises(
        StartError, match=r"from agents ghost, spirit\. Start it there: trunkline load agent --bus nats"
    ):
        await scene.run("ghost", "one", "spirit")


async def test_unreachable_nats_is_an_error() -> None:
    """Without NATS neither side starts."""
    url = "nats://127.0.0.1:1"
    with pytest.raises(StartError, match=r"NATS at nats://127\.0\.0\.1:1 cannot be reached"):
        await Coordinator(plan(url, ("one",)), Seen().second).run()
    agent = await AgentProcess.start(url, "one", "127.0.0.1")
    assert await agent.end() == 1
    assert "StartError: NATS at nats://127.0.0.1:1 cannot be reached" in agent.said


async def test_target_that_is_not_allowed(scene: Scene) -> None:
    """A target that the agent's operator did not name is refused with the way to allow it, and the agent goes on."""
    agent = await scene.agent("one", "other.example:80")
    with pytest.raises(StartError, match=r"not one that this agent may load \(allowed: other.example:80\)\. Start the"):
        await scene.run("one")
    await agent.hear("run_ended")
    assert not agent.workers()


def test_python_is_never_run() -> None:
    """Code that comes over NATS is refused, whatever the scenario calls itself."""
    allowed = parse_allowed(["h"])
    target = Target("ws://h/")
    stages = (Stage(1, 1),)
    python = Job("r", target, Scenario("x", stages, "python"), 0, 1, 0)
    hidden = Job("r", target, Scenario("x", stages, "steps", steps=(Step(),)), 0, 1, 0, flow_source="import os")
    for job in (python, hidden):
        refused = refusal(job, 0, allowed)
        assert refused is not None
        assert "code from the network" in refused.what
    assert refusal(Job("r", target, Scenario("x", stages, "echo"), 0, 1, 0), 0, allowed) is None


async def test_one_run_at_a_time(scene: Scene) -> None:
    """An agent that works for one run declines another, and too many workers."""
    await scene.agent("one")
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(scene.server.url, ("one",), seconds=30), seen.second).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    with pytest.raises(StartError, match=r"agent one declined: it is busy with another run"):
        await scene.run("one")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(StartError, match="500 workers are asked for"):
        await Coordinator(plan(scene.server.url, ("one",), each=500), seen.second).run()


async def test_stop_reaches_the_agents(scene: Scene) -> None:
    """The first Ctrl-C ends the stages on all machines, in order."""
    await scene.agent("one")
    seen = Seen()
    coordinator = Coordinator(plan(scene.server.url, ("one",), seconds=60), seen.second)
    running = asyncio.create_task(coordinator.run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    coordinator.stop()
    outcome = await asyncio.wait_for(running, patient(10))
    assert outcome.interrupted
    assert not outcome.failures


async def test_hanging_worker_is_ended_on_its_agent(scene: Scene) -> None:
    """A worker on an agent that says nothing any more is ended there, while the others go on."""
    agent = await scene.agent("one")
    a_plan = plan(scene.server.url, ("one",), "freeze:1", workers=1, seconds=4)
    a_plan = msgspec.structs.replace(a_plan, patience=Patience(silent_s=1.5))
    seen = Seen()
    running = asyncio.create_task(Coordinator(a_plan, seen.second, worker_command=COMMAND).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    assert await all_end(agent.workers(), 3)
    assert not running.done()
    outcome = await asyncio.wait_for(running, patient(20))
    assert outcome.failures == ["worker 1 on one has sent nothing for 1.5 s"]


async def test_killed_agent_is_told(scene: Scene) -> None:
    """An agent that is killed is noticed within seconds; the run goes on with the others, and its workers end."""
    first = await scene.agent("one")
    await scene.agent("two")
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(scene.server.url, ("one", "two"), seconds=7), seen.second).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    workers = first.workers()
    first.process.kill()
    outcome = await asyncio.wait_for(running, patient(20))
    assert outcome.failures == ["worker 0 on one was lost: agent one is gone"]
    assert outcome.missing_workers == (0,)
    assert len(outcome.seconds) >= 7
    assert await all_end(workers, 1)


async def test_stopped_agent_ends_in_order(scene: Scene) -> None:
    """An agent that is told to stop ends its workers and says so to the coordinator; its exit code is 0."""
    agent = await scene.agent("one")
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(scene.server.url, ("one",), seconds=60), seen.second).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    workers = agent.workers()
    agent.process.send_signal(signal.SIGINT)
    outcome = await asyncio.wait_for(running, patient(10))
    assert outcome.failures == ["worker 0 on one ended: its agent was told to stop"]
    assert await agent.end() == 0
    assert await all_end(workers, 1)


async def test_dead_worker_on_an_agent(scene: Scene) -> None:
    """A worker that dies on an agent is told with its exit code and last words."""
    await scene.agent("one")
    outcome = await scene.run("one", faults="die:0", seconds=20)
    assert outcome.failures == ["worker 0 on one ended with exit code 7; its last output: no more memory"]


async def test_workers_end_when_the_coordinator_is_killed(scene: Scene) -> None:
    """An agent that hears nothing from its coordinator ends the workers and is free again."""
    agent = await scene.agent("one")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COORDINATOR, scene.server.url, str(ROOT), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), patient(30)) == b"second\n"
    workers = agent.workers()
    assert len(workers) == 1
    process.kill()
    await process.wait()
    await agent.hear("coordinator_gone")
    await agent.hear("run_ended")
    assert await all_end(workers, 1)
    assert agent.process.returncode is None


async def test_nats_gone_mid_run(scene: Scene) -> None:
    """When NATS is lost the run ends with that as its fault, the agent ends the workers and comes back by itself."""
    agent = await scene.agent("one")
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(scene.server.url, ("one",), seconds=60), seen.second).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    workers = agent.workers()
    port, store = scene.server.port, scene.server.store_dir
    await scene.server.stop()
    outcome = await asyncio.wait_for(running, patient(15))
    (failure,) = outcome.failures
    assert failure.startswith(f"worker 0 on one was lost: the connection to NATS at nats://127.0.0.1:{port} ended")
    await agent.hear("run_ended")
    assert await all_end(workers, 1)
    agent.said = ""
    scene.server = await NatsServer.start(store, port=port)
    await agent.hear("agent_ready")
    assert not (await scene.run("one")).failures


async def test_lost_messages_fail_the_run(scene: Scene) -> None:
    """A message that NATS lost is noticed by the number of the next one, and the worker's part ends with that."""
    await scene.agent("one")
    seen = Seen()
    running = asyncio.create_task(Coordinator(plan(scene.server.url, ("one",), seconds=60), seen.second).run())
    await asyncio.wait_for(seen.first.wait(), patient(20))
    stranger = await nats.connect(scene.server.url)
    ahead = msgspec.msgpack.encode(Parcel(1000, b""))
    await stranger.publish(Subjects(PREFIX, "one").of("abcd1234", 0), ahead)
    outcome = await asyncio.wait_for(running, patient(15))
    await stranger.close()
    (failure,) = outcome.failures
    assert "worker 0 on one was lost: messages were lost on NATS: number 1000 came where" in failure


async def test_name_is_taken_once(scene: Scene) -> None:
    """A second agent of the same name does not start."""
    await scene.agent("one")
    second = await AgentProcess.start(scene.server.url, "one", "127.0.0.1")
    assert await second.end() == 1
    assert "an agent named one is there already" in second.said


async def test_another_version_is_declined(scene: Scene) -> None:
    """An agent of another version says so before anything is started."""
    await scene.agent("one")
    stranger = await nats.connect(scene.server.url)
    hire = Hire("abcd1234", (0,), "0.0.0")
    answer = await _ask(stranger, hire)
    assert __version__.encode() in answer.data
    assert b"Install the same version" in answer.data
    await stranger.close()


async def test_nonsense_is_ignored(scene: Scene) -> None:
    """What is no question is not answered, and the agent goes on; a dead run's sign of life changes nothing."""
    agent = await scene.agent("one")
    stranger = await nats.connect(scene.server.url)
    subject = Subjects(PREFIX, "one").ask
    for data in (b"", b"\xc1", bytes(100_000), msgspec.msgpack.encode({"type": "hire", "run": "../x", "workers": [0]})):
        await stranger.publish(subject, data)
    answer = await _ask(stranger, Alive("nosuchrun"))
    assert b"here" in answer.data
    assert agent.said.count("message_ignored") == 4
    await stranger.close()


async def _ask(client: Client, question: msgspec.Struct) -> Msg:
    return await client.request(Subjects(PREFIX, "one").ask, msgspec.msgpack.encode(question), timeout=patient(5))


async def test_parcels_are_checked() -> None:
    """A parcel that is too long, that cannot be read or that comes out of turn is an error, after those before it."""
    good = msgspec.msgpack.encode(Parcel(0, b"x"))
    for bad, kind in (
        (bytes(MAX_BYTES + 1), BadMessage),
        (b"\xc1", BadMessage),
        (good, ChannelClosed),
        (msgspec.msgpack.encode(Parcel(2, b"")), ChannelClosed),
    ):
        incoming = Incoming()
        incoming.put(good)
        incoming.put(bad)
        assert (await incoming.next()).data == b"x"
        with pytest.raises(kind):
            await incoming.next()


def test_clock_of_the_shortest_round_trip_counts() -> None:
    """The offset comes from the answer with the least delay: half of it may be an error."""
    offset, error = clock_offset([(10.0, 10.4, 3.3), (11.0, 11.1, 4.05), (12.0, 13.0, 5.9)])
    assert (round(offset, 6), round(error, 6)) == (7.0, 0.05)


@pytest.mark.parametrize(("allow", "says"), [((), "at least one host"), (("ws://x",), "--allow")])
async def test_agent_without_targets(allow: tuple[str, ...], says: str) -> None:
    """An agent that may load nothing, or what is no host, does not start."""
    agent = await AgentProcess.start("nats://127.0.0.1:1", "one", *allow)
    assert await agent.end() == 1
    assert says in agent.said
    assert SettingsError.__name__ in agent.said
