"""Flows in Python: what they can do, and what becomes of their mistakes."""

from __future__ import annotations

import asyncio
import textwrap
import time

import pytest

from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.patience import patient
from trunkline.errors import StartError
from trunkline.load.client.generator import Generator
from trunkline.load.client.protocols.flow import load_flow
from trunkline.load.model.messages import Begin, Done, Job, Settle
from trunkline.load.model.plan import Scenario, Stage, Target
from trunkline.load.model.tally import Sum

ROUND_TRIP = """
    async def flow(session):
        with session.timed():
            await session.send(f"hello {session.number} {session.round} {session.run}")
            heard = await session.receive()
        if heard != f"hello {session.number} {session.round} {session.run}":
            session.error("not mine")
        await session.pause(0.05)
"""


async def run(
    url: str, source: str, *, connections: int = 1, lasts: float = 0.6, settle_s: float = 0.3
) -> tuple[Sum, Done]:
    """A whole run of one worker with this flow; what it counted, and what it told at the end."""
    scenario = Scenario(
        "test", (Stage(0, connections), Stage(lasts, connections)), protocol="python", flow="my_flow.py"
    )
    total = Sum()
    job = Job("abc", Target(url), scenario, 0, 1, 1, settle_s=patient(settle_s), flow_source=textwrap.dedent(source))
    generator = Generator(job, total.add)
    await generator.prepare()
    sent = await generator.run(Begin(time.monotonic()))
    done = await generator.settle(Settle(sent.ends))
    assert [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_run"] == []  # type: ignore[union-attr]
    return total, done


async def test_a_flow_runs_again_and_again_on_every_connection() -> None:
    """Each round is one round trip; number, round and run are the connection's own."""
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), ROUND_TRIP, connections=5)
        assert server.received == total.totals.sent
    totals = total.totals
    assert 30 <= sum(total.latencies["round_trip"].values()) == totals.received == totals.sent <= 65
    assert totals.errors == totals.unanswered == totals.abandoned == 0
    assert totals.lost == 0


async def test_pauses_do_not_drift() -> None:
    """Answers that take 40 ms of 50 do not make the rounds longer."""
    flow = """
    import asyncio
    async def flow(session):
        await session.send("x")
        await asyncio.sleep(0.04)
        await session.pause(0.05)
    """
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=1.0)
    # With drift it would be eleven.
    assert 15 <= total.totals.sent <= 21


async def test_expect_passes_over_other_messages() -> None:
    """By type or by expression, in text or bytes; what comes too late is an error that names it."""
    flow = """
    async def flow(session):
        await session.expect("connection_established")
        await session.send('{"type":"subscribe","id":5,"channels":["room"]}')
        await session.send('{"type":"heartbeat"}')
        pong = await session.expect("pong")
        await session.send('{"type":"publish","id":"x","channel":"room","data":{"word":"grün"}}')
        assert "grün" in await session.expect("/gr.n/")
        await session.send(b'{"type":"heartbeat","id":8}')
        assert '"id":8' in await session.expect('/"id":8/', timeout=30)
        with session.timed():
            await session.expect("never", timeout=0.05)
    """
    async with FaultyServer() as server:
        total, _ = await run(server.url(), flow)
    assert total.reasons == {"no answer: never within 0.05 s": 1}
    assert total.totals.deliveries == 1
    assert not total.latencies["round_trip"]


async def test_mistakes_are_counted_with_their_line_and_rest_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """The type and line, never the text; the flow starts again after a second."""
    flow = """
    async def flow(session):
        await session.send("x")
        secret = await session.receive()
        raise KeyError("a secret" + secret)
    """
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), flow, connections=3, lasts=1.5)
        assert server.received == 6
    assert total.reasons == {"flow: KeyError in line 5": 6}
    assert total.totals.errors == 6


async def test_exit_in_a_flow_does_not_end_the_worker() -> None:
    """It is a mistake as any other."""
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), "async def flow(session):\n    raise SystemExit(3)\n")
    assert total.reasons == {"flow: SystemExit in line 2": 1}


async def test_a_flow_that_awaits_nothing_leaves_others_their_turn() -> None:
    """An empty flow is run no more than a thousand times a second."""
    flow = """
    async def flow(session):
        await session.send("x")
    """
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=0.3)
    assert 50 < total.totals.sent <= 400


async def test_a_lost_connection_ends_the_flow_quietly_until_it_is_back() -> None:
    """Nothing but an abandoned answer is counted, even for a flow that catches every Exception, and rounds go on."""
    flow = """
    rounds = []
    async def flow(session):
        rounds.append(session.round)
        assert rounds == list(range(len(rounds)))
        while True:
            try:
                await session.send("x")
                await session.receive()
                await session.pause(0.02)
            except Exception:
                session.error("caught")
    """
    async with FaultyServer(Faults(drain_at=0.3, reconnect_after_ms=100)) as server:
        total, _ = await run(server.url("/ws/feed"), flow.replace('"x"', '\'{"type":"heartbeat"}\''), lasts=0.9)
    totals = total.totals
    assert (totals.opened, totals.closed, totals.goodbyes, totals.errors) == (2, 1, 1, 0)
    assert totals.sent > 20
    assert sum(total.latencies["reconnect"].values()) == 1


async def test_a_flow_asleep_elsewhere_is_ended_too() -> None:
    """A flow that waits for something of its own does not go on beside its successor."""
    flow = """
    import asyncio
    async def flow(session):
        await session.send("x")
        await asyncio.sleep(100)
    """
    async with FaultyServer(Faults(drain_at=0.2)) as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=1.6)
    assert (total.totals.opened, total.totals.sent, total.totals.errors) == (2, 2, 0)


async def test_what_nobody_receives_is_bounded() -> None:
    """The oldest are dropped, and that is said once a connection."""
    flow = """
    async def flow(session):
        for number in range(1500):
            await session.send(str(number))
        await session.pause(0.4)
        first = await session.receive()
        if first != "500":
            session.error(f"got {first}")
        await session.pause(100)
    """
    async with FaultyServer() as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=0.8)
    assert total.reasons == {"flow: more than 1000 messages wait to be received; the oldest are dropped": 1}


async def test_the_end_of_the_run_lets_an_answer_come_and_counts_one_that_does_not() -> None:
    """A slow answer is awaited while it may come; one that never comes is unanswered."""
    flow = """
    async def flow(session):
        await session.pause(0.15)
        with session.timed():
            await session.send("x")
            await session.receive(timeout=30)
        await session.pause(30)
    """
    async with FaultyServer(Faults(stall=0.6, stall_every=0.1)) as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=0.3, settle_s=2)
    assert sum(total.latencies["round_trip"].values()) == 1
    assert total.totals.unanswered == 0
    async with FaultyServer(Faults(drop=1)) as server:
        total, _ = await run(server.url("/ws/echo"), flow, lasts=0.3)
    assert (total.totals.unanswered, total.totals.errors) == (1, 0)


async def test_channels_are_followed_in_a_flow() -> None:
    """A publication that comes twice is found, with channel and offset."""
    flow = """
    async def flow(session):
        await session.send('{"type":"subscribe","channels":["room"]}')
        await session.expect("subscription_ack")
        for _ in range(20):
            await session.send('{"type":"publish","channel":"room","data":1}')
        await session.pause(30)
    """
    async with FaultyServer(Faults(duplicate=8)) as server:
        total, _ = await run(server.url(), flow, lasts=0.3)
    assert [(each.kind, each.channel, each.offset) for each in total.findings] == [
        ("duplicate", "room", offset) for offset in (2, 10, 18)
    ]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("async def flow(session:\n", "my.py, line 1: "),
        ("\n1 / 0\n", "my.py, line 2: ZeroDivisionError"),
        ("raise SystemExit\n", "my.py, line 1: SystemExit"),
        ("def flow(session): pass\n", "has no `async def flow"),
        ("", "has no `async def flow"),
    ],
)
def test_a_file_that_is_no_flow_stops_the_start(source: str, says: str) -> None:
    """One line says where."""
    with pytest.raises(StartError) as caught:
        load_flow(source, "my.py")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
