"""The generator against real servers, well and ill: what it counts, what it finds, how it comes back."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import NamedTuple

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.support.load.faulty_server import TEXT, Channel, Faults, FaultyProcess, FaultyServer, Peer, frame
from tests.support.patience import patient
from tests.support.server.live_node import settings_with
from trunkline.errors import StartError
from trunkline.load.client.dial import MAX_FRAME
from trunkline.load.client.generator import Generator
from trunkline.load.judge import missing
from trunkline.load.judge.verdict import claim_crossed
from trunkline.load.model import histogram
from trunkline.load.model.messages import Begin, ChannelEpoch, Done, Job, Settle
from trunkline.load.model.plan import Disturbance, Protocol, Scenario, Stage, Step, Target, Traffic
from trunkline.load.model.tally import Beat, Finding, Sum
from trunkline.protocol import wire
from trunkline.server.app import stock
from trunkline.server.node.node import Node


class Ran(NamedTuple):
    """What a run of one worker gave."""

    sum: Sum
    done: Done
    beats: list[Beat]
    offsets: dict[ChannelEpoch, list[int]]

    def lost(self) -> int:
        return missing.count(self.done.holes, self.offsets)


async def generate(
    url: str,
    protocol: Protocol,
    *stages: Stage,
    traffic: Traffic | None = None,
    disturbances: tuple[Disturbance, ...] = (),
    settle_s: float = patient(1.0),
    expected_errors: tuple[str, ...] = (),
    reconnect: bool = True,
) -> Ran:
    """One worker does a whole run in this process."""
    scenario = Scenario(
        "test",
        stages,
        protocol,
        traffic or Traffic(),
        disturbances=disturbances,
        expected_errors=expected_errors,
        reconnect=reconnect,
    )
    beats: list[Beat] = []
    job = Job(f"{random.getrandbits(32):08x}", Target(url), scenario, 0, 1, 7, settle_s=patient(settle_s))
    generator = Generator(job, beats.append)
    await generator.prepare()
    sent = await generator.run(Begin(time.monotonic()))
    done = await generator.settle(Settle(sent.ends))
    total = Sum()
    for beat in beats:
        total.add(beat)
    offsets = {hole.of: generator.offsets(hole.channel).get(hole.epoch, []) for hole in done.holes}
    return Ran(total, done, beats, offsets)


OPEN = Stage(0.1, 10)


async def test_every_echo_is_counted() -> None:
    """Each message at its rate, each with its answer and its latency; connections are closed at the end."""
    async with FaultyServer() as server:
        ran = await generate(server.url("/echo"), "echo", OPEN, Stage(1, 10), traffic=Traffic(rate=500))
    totals = ran.sum.totals
    assert totals.attempts == totals.opened == 10
    assert 450 <= totals.sent <= 550
    assert totals.received == totals.sent
    assert totals.bytes_sent == totals.bytes_received == totals.sent * 64
    assert sum(ran.sum.latencies["round_trip"].values()) == totals.sent
    for name in ("dial", "handshake", "connect"):
        assert sum(ran.sum.latencies[name].values()) == 10
    assert (totals.lost, totals.duplicates, totals.reordered, totals.unanswered, totals.errors) == (0, 0, 0, 0, 0)
    assert ran.beats[-1].open == 0


@pytest.mark.parametrize(
    ("faults", "kind"),
    [(Faults(drop=50), "lost"), (Faults(duplicate=50), "duplicate"), (Faults(reorder=50), "reordered"),
     (Faults(corrupt=50), "corrupt")],
)  # fmt: skip
async def test_a_faulty_echo_is_found(faults: Faults, kind: str) -> None:
    """A missing, a double and a late echo are each found as what they are, by connection and number."""
    async with FaultyServer(faults) as server:
        ran = await generate(server.url("/echo"), "echo", Stage(0, 1), Stage(1, 1), traffic=Traffic(rate=400))
        did = [(each.connection, each.offset) for each in server.did]
    assert len(did) >= 5
    found = [(finding.connection, finding.offset) for finding in ran.sum.findings if finding.kind == kind]
    totals = ran.sum.totals
    counted = {
        "lost": totals.lost, "duplicate": totals.duplicates, "reordered": totals.reordered, "corrupt": totals.corrupt,
    }  # fmt: skip
    assert counted.pop(kind) == len(did)
    assert set(counted.values()) == {0}
    assert set(found) == set(did)


async def test_an_echo_that_came_to_another_connection() -> None:
    """It is crossed, with the one that sent it, and neither double there nor, in the report, lost here."""
    async with FaultyServer(Faults(cross=50)) as server:
        ran = await generate(server.url("/echo"), "echo", Stage(0, 2), Stage(1, 2), traffic=Traffic(rate=400))
        did = sorted((each.connection, each.offset) for each in server.did)
    totals = ran.sum.totals
    assert len(did) >= 5
    crossed = [each for each in ran.sum.findings if each.kind == "crossed"]
    assert sorted((each.owner, each.offset) for each in crossed) == did
    assert (totals.crossed, totals.duplicates, totals.reordered) == (len(did), 0, 0)
    assert all(each.connection != each.owner for each in crossed)
    claim_crossed(ran.sum)
    assert (ran.sum.totals.lost, ran.sum.totals.unanswered) == (0, 0)
    assert [each.kind for each in ran.sum.findings if each.kind == "lost"] == []


def test_a_message_that_both_got_hides_no_loss() -> None:
    """Only what its own connection missed is taken from the lost ones."""
    total = Sum()
    total.totals.crossed, total.totals.lost = 3, 4
    total.findings = [
        *(Finding("crossed", "", 2, number, owner=1) for number in (3, 7, 8)),
        Finding("lost", "", 1, 8, after=6),
        Finding("lost", "", 1, 11, after=9),
    ]
    claim_crossed(total)
    assert total.totals.lost == 2
    assert [each.offset for each in total.findings if each.kind == "lost"] == [11]


async def test_messages_without_an_answer_are_lost() -> None:
    """Once the last wait is over, on a connection that is open: lost, with their numbers and the reason."""
    async with FaultyServer(Faults(drop=1)) as server:
        ran = await generate(server.url("/echo"), "echo", OPEN, Stage(0.5, 10), traffic=Traffic(rate=40), settle_s=0.2)
    totals = ran.sum.totals
    assert totals.lost == totals.unanswered == totals.sent > 5
    lost = [each for each in ran.sum.findings if each.kind == "lost"]
    assert (
        sum(each.offset - (each.after if each.after is not None else each.offset - 1) for each in lost) == totals.lost
    )
    assert ran.sum.reasons == {
        f"no answer within {patient(0.2):g} s after the last message of the run": totals.lost
    }  # fmt: skip


@pytest.mark.parametrize("code", [1001, 1012])
async def test_a_planned_end_is_no_error(code: int) -> None:
    """A server that leaves or is restarted says so by its close code alone where it has no goodbye."""
    async with FaultyServer(Faults(close=code)) as server:
        ran = await generate(server.url("/echo"), "echo", Stage(0, 5), Stage(0.2, 5), reconnect=False)
    totals = ran.sum.totals
    assert totals.closed == totals.goodbyes == 5
    assert (totals.unplanned, totals.error_rate) == (0, 0.0)


async def test_the_feed_delivers_everything() -> None:
    """Over one connection for each subscriber, every publication reaches every subscriber of its channel once."""
    async with FaultyServer() as server:
        ran = await generate(server.url(), "feed", OPEN, Stage(1, 10), traffic=Traffic(rate=200, channels=2))
    totals = ran.sum.totals
    assert totals.published == totals.acknowledged > 150
    # Those subscribed from the first publication on get it, and nobody a publication from before.
    assert totals.published * 4 < totals.deliveries <= totals.published * 5
    assert sum(ran.sum.latencies["delivery"].values()) == totals.deliveries
    assert sum(ran.sum.latencies["first_message"].values()) == 10
    assert (totals.lost, totals.duplicates, totals.reordered, totals.errors, ran.done.holes) == (0, 0, 0, 0, ())


async def test_lost_publications_are_named() -> None:
    """Each publication that one subscriber did not get is known by channel, offset and connection."""
    async with FaultyServer(Faults(drop=100)) as server:
        ran = await generate(server.url(), "feed", OPEN, Stage(1, 10), traffic=Traffic(rate=200, channels=2))
        did = {(each.channel, each.offset) for each in server.did if each.kind == "drop"}
    assert len(did) >= 5
    assert ran.lost() == sum(1 for each in server.did if each.kind == "drop")
    found = {(finding.channel, finding.offset) for finding in missing.findings(ran.done.holes, ran.offsets, 0.0)}
    assert found == did
    assert ran.sum.totals.duplicates == ran.sum.totals.reordered == 0


async def test_losses_on_both_sides_of_a_new_epoch() -> None:
    """A channel that started again in the run: what was lost before and after it is counted and named apart."""

    async def reached(offset: int) -> Channel:
        async with asyncio.timeout(patient(20)):
            while True:
                for channel in server.channels.values():
                    if channel.last >= offset:
                        return channel
                await asyncio.sleep(0.01)

    async with FaultyServer() as server:
        traffic = Traffic(rate=200, channels=1)
        running = asyncio.create_task(generate(server.url(), "feed", Stage(0.1, 4), Stage(4, 4), traffic=traffic))
        await reached(20)
        server.faults.drop = 37
        await reached(120)
        server.faults.drop = 0
        channel = await reached(130)
        before = {(channel.epoch, each.offset) for each in server.did}
        channel.epoch, channel.last = "anew", 0
        channel.kept.clear()
        await reached(20)
        server.faults.drop = 37
        await reached(120)
        server.faults.drop = 0
        ran = await running
    after = {("anew", each.offset) for each in server.did[len(before) :]}
    assert min(len(before), len(after)) >= 5
    named = missing.findings(ran.done.holes, ran.offsets, 0.0)
    assert {(each.epoch, each.offset) for each in named} == before | after
    assert ran.lost() == len(server.did)


@pytest.mark.parametrize(("faults", "kind"), [(Faults(duplicate=100), "duplicate"), (Faults(reorder=100), "reordered")])
async def test_double_and_late_publications_are_named(faults: Faults, kind: str) -> None:
    """A publication that comes twice or behind a later one is named by channel and offset, and nothing is lost."""
    async with FaultyServer(faults) as server:
        ran = await generate(server.url(), "feed", OPEN, Stage(1, 10), traffic=Traffic(rate=200, channels=2))
        did = [(each.channel, each.offset) for each in server.did]
    assert len(did) >= 5
    assert sorted((each.channel, each.offset) for each in ran.sum.findings if each.kind == kind) == sorted(did)
    assert ran.done.holes == ()


async def test_announced_gaps_are_drops_and_not_losses() -> None:
    """What the server says it will not deliver is accounted for."""
    async with FaultyServer(Faults(gap=50)) as server:
        ran = await generate(server.url(), "feed", OPEN, Stage(1, 10), traffic=Traffic(rate=200, channels=2))
        made = len(server.did)
    assert made >= 3
    assert ran.sum.totals.dropped == made
    assert ran.done.holes == ()


async def test_a_stalling_server_shows_in_the_latency() -> None:
    """Messages meant for the moment of a stall count from then: no coordinated omission."""
    async with FaultyProcess("stall:0.4/1") as server:
        ran = await generate(server.url("/echo"), "echo", Stage(0, 2), Stage(2.2, 2), traffic=Traffic(rate=200))
    p90 = histogram.quantile(ran.sum.latencies["round_trip"], 90)
    # Of each second, 0.4 s stand still: a tenth of all messages waits over 0.2 s, however few were answered meanwhile.
    assert p90 > 150
    assert ran.sum.totals.received == ran.sum.totals.sent


async def test_cut_connections_come_back_and_recover() -> None:
    """After a drop each client recovers what it missed, each publication once; how long that took is counted."""
    async with FaultyServer() as server:
        ran = await generate(
            server.url(), "feed", OPEN, Stage(patient(2.5), 10), traffic=Traffic(rate=100, channels=1),
            # Those of the first are back before the second, also where this process is late.
            disturbances=(
                Disturbance(0.5, share=0.5, away_s=0.3),
                Disturbance(patient(1.7), share=1.0, action="close"),
            ),
        )  # fmt: skip
    totals = ran.sum.totals
    assert totals.cut == 15
    assert totals.opened == 25
    assert totals.closed == totals.errors == 0
    assert totals.recovered > 50
    assert sum(ran.sum.latencies["reconnect"].values()) == 15
    assert (ran.done.holes, totals.duplicates, totals.reordered) == ((), 0, 0)


async def test_what_cannot_be_recovered_is_an_error() -> None:
    """A server that has lost the history is not taken for one that had nothing to deliver."""
    async with FaultyServer(Faults(lose_history=True)) as server:
        ran = await generate(
            server.url(), "feed", OPEN, Stage(1, 10), traffic=Traffic(rate=100, channels=1),
            disturbances=(Disturbance(0.4, share=1.0, away_s=0.1),),
        )  # fmt: skip
    assert ran.sum.totals.unrecovered == 10
    assert ran.sum.reasons["feed: not recovered (expired)"] == 10


async def test_a_goodbye_is_obeyed() -> None:
    """Clients of a draining server come back when it said, and their coming back is no error."""
    async with FaultyServer(Faults(drain_at=0.6, reconnect_after_ms=200)) as server:
        ran = await generate(server.url(), "feed", OPEN, Stage(1.5, 10), traffic=Traffic(rate=50, channels=1))
    totals = ran.sum.totals
    assert totals.closed == totals.goodbyes == 10
    assert ran.sum.closes == {1012: 10}
    assert totals.opened == 20
    assert 190 <= histogram.quantile(ran.sum.latencies["reconnect"], 50) < 1000
    assert totals.error_rate == 0


async def test_a_goodbye_that_is_repeated_is_no_storm() -> None:
    """A server that lets nobody stay and says to come back at once is obeyed once; then the back-off counts."""

    async def go_away(connection: ServerConnection) -> None:
        await connection.send(msgspec.json.encode(wire.Goodbye(1012, "draining", True, 0, 0)).decode())
        await connection.close(1012)

    async with serve(go_away, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        ran = await generate(f"ws://127.0.0.1:{port}/", "feed", Stage(0.1, 1), Stage(1.4, 1))
    assert 2 <= ran.sum.totals.opened <= 3


async def test_refused_handshakes_are_counted_and_tried_again() -> None:
    """A server that refuses half of the handshakes gets them all in the end; a refusal shows its own words."""
    async with FaultyServer(Faults(refuse=503, refuse_share=0.5)) as server:
        ran = await generate(server.url("/echo"), "echo", OPEN, Stage(2.5, 10))
    totals = ran.sum.totals
    assert totals.failed == ran.sum.reasons["handshake: answered 503 Service Unavailable: refused on purpose"] >= 5
    assert totals.attempts == totals.opened + totals.failed
    assert 0 < totals.success < 1


@pytest.mark.parametrize(("limit", "advice"), [(260, "Use --processes"), (1, "Raise the limit")])
async def test_a_number_of_processes_is_advised_where_one_would_do(
    monkeypatch: pytest.MonkeyPatch, limit: int, advice: str
) -> None:
    """With a limit of open files below what a process needs for itself, only a higher limit helps."""
    monkeypatch.setattr("trunkline.load.client.generator.open_files.limit", lambda: limit)
    scenario = Scenario("test", (Stage(0, 1000),), "echo")
    with pytest.raises(StartError) as raised:
        await Generator(Job("r", Target("ws://127.0.0.1:1/"), scenario, 0, 1, 7), lambda beat: None).prepare()
    assert raised.value.next_step.startswith(advice)


async def test_a_server_that_closes_at_once() -> None:
    """Each connection that ends by itself counts, with code and reason."""
    async with FaultyServer(Faults(close=1011)) as server:
        ran = await generate(server.url("/echo"), "echo", OPEN, Stage(0.4, 10))
    assert ran.sum.closes == {1011: ran.sum.totals.closed}
    assert ran.sum.totals.closed >= 10
    assert ran.sum.totals.error_rate > 0.4


async def test_stages_go_down_too() -> None:
    """A falling stage closes the surplus in order, and none of them comes back."""
    async with FaultyServer() as server:
        ran = await generate(server.url("/echo"), "echo", Stage(0.2, 20), Stage(0.3, 5), Stage(0.8, 5))
    assert ran.sum.totals.opened == 20
    assert ran.sum.totals.cut == 15
    assert ran.sum.totals.closed == 0


async def test_over_the_rate_limit() -> None:
    """Abusers get their errors, which are expected; the others lose nothing."""
    async with FaultyServer(Faults(rate=20)) as server:
        ran = await generate(
            server.url(), "feed", OPEN, Stage(1, 10),
            traffic=Traffic(rate=20, channels=2, abuse_share=0.2, abuse_rate_each=100),
            expected_errors=("RATE_LIMIT_EXCEEDED",),
        )  # fmt: skip
    totals = ran.sum.totals
    assert totals.expected_errors > 50
    assert totals.refused == totals.errors == totals.unanswered == 0
    assert ran.done.holes == ()


async def test_slow_readers_do_not_hold_up_the_others() -> None:
    """A share reads slowly; the rest have their latencies as if nothing were."""
    async with FaultyProcess() as server:
        ran = await generate(
            server.url(), "feed", OPEN, Stage(1.5, 10), settle_s=3,
            traffic=Traffic(rate=50, channels=1, message_bytes=4096, slow_share=0.2, slow_bytes_per_s=100_000),
        )  # fmt: skip
    deliveries = ran.sum.latencies["delivery"]
    assert histogram.quantile(deliveries, 95) < 100
    # Those of the slow ones are counted, and say nothing of the server's latency.
    assert sum(deliveries.values()) * 10 > ran.sum.totals.published * 8 * 9
    assert ran.sum.totals.deliveries > sum(deliveries.values())
    assert ran.sum.totals.unanswered == 0
    assert ran.done.holes == ()


async def test_stop_ends_early_with_what_was_seen() -> None:
    """A run that is stopped settles and tells its counts like any other."""
    async with FaultyServer() as server:
        scenario = Scenario("test", (OPEN, Stage(60, 10)), "echo", Traffic(rate=100))
        beats: list[Beat] = []
        generator = Generator(Job("r", Target(server.url("/echo")), scenario, 0, 1, 7), beats.append)
        await generator.prepare()
        running = asyncio.create_task(generator.run(Begin(time.monotonic())))
        while sum(beat.totals.received for beat in beats) < 10:
            await asyncio.sleep(0.02)
        generator.stop()
        sent = await running
        await generator.settle(Settle(sent.ends))
    assert sum(beat.totals.received for beat in beats) == sum(beat.totals.sent for beat in beats)


async def test_what_is_still_dialled_at_the_end_is_counted() -> None:
    """A connection under way when the stages end is waited for; one that hangs has failed, with a reason."""
    async with FaultyServer(Faults(accept_delay=0.3)) as server:
        late = await generate(server.url("/echo"), "echo", Stage(0, 5), Stage(0.1, 5))
        server.faults = Faults(silent=True)
        hung = await generate(server.url("/echo"), "echo", Stage(0, 5), Stage(0.1, 5), settle_s=0.3)
    assert (late.sum.totals.attempts, late.sum.totals.opened, late.sum.totals.failed) == (5, 5, 0)
    assert (hung.sum.totals.attempts, hung.sum.totals.opened, hung.sum.totals.failed) == (5, 0, 5)
    assert hung.sum.reasons == {"connect: not open when the run ended": 5}


async def test_a_subscription_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was never subscribed has sent nothing and got nothing, which is no success."""
    monkeypatch.setattr(Peer, "subscribe", lambda self, request: None)
    async with FaultyServer() as server:
        ran = await generate(server.url(), "feed", Stage(0, 5), Stage(0.2, 5), settle_s=0.2)
    assert ran.sum.totals.unanswered == 5


async def test_messages_that_were_never_sent_are_told() -> None:
    """A plan of more than this process can send ends in time, and what was left of it is counted."""
    async with FaultyServer() as server:
        traffic = Traffic(rate=1_000_000)
        ran = await generate(server.url("/echo"), "echo", Stage(0, 5), Stage(0.3, 5), traffic=traffic, settle_s=0.2)
    unsent = sum(times for reason, times in ran.sum.reasons.items() if reason.startswith("not sent: "))
    assert ran.sum.reasons["not sent: the generator was too late"] > 0
    assert abs(ran.sum.totals.sent + unsent - 300_000) <= 1_001


async def test_a_message_that_is_too_long(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It ends the connection with a reason, whether it comes in one frame or in several, and logs no trace."""
    answers: list[bytearray] = []
    monkeypatch.setattr(Peer, "message", lambda self, _, __: self.transport.write(answers.pop() if answers else b""))
    for pieces in (1, 2):
        size = (MAX_FRAME + 2) // pieces
        sent = bytearray().join(frame(0 if piece else TEXT, b"x" * size) for piece in range(pieces))
        if pieces > 1:
            sent[0] &= 0x7F  # not the last one
        answers.append(sent)
        async with FaultyServer() as server:
            traffic = Traffic(rate=2)
            ran = await generate(server.url("/echo"), "echo", Stage(0, 1), Stage(1.5, 1), traffic=traffic, settle_s=0.5)
        assert ran.sum.reasons["broken off: the server broke the protocol (1009)"] == 1
        assert ran.sum.totals.closed == 1
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_session_whose_time_is_over_does_not_come_back() -> None:
    """Nor does what it had planned dial a second time for the next session of its number."""
    async with FaultyServer(Faults(close=1006)) as server:

        def be_well() -> None:
            server.faults = Faults(accept_delay=1.0)

        asyncio.get_running_loop().call_later(0.3, be_well)
        # The first one would come back after 0.5 to 1 s; the second dials from 0.4 to 1.4 s.
        stages = (Stage(0, 1), Stage(0.2, 1), Stage(0, 0), Stage(0.2, 0), Stage(0, 1), Stage(0.8, 1))
        ran = await generate(server.url("/echo"), "echo", *stages)
    assert (ran.sum.totals.attempts, ran.sum.totals.opened, ran.sum.totals.closed) == (2, 2, 1)


@pytest.mark.parametrize(
    ("protocol", "steps"), [("feed", ()), ("steps", (Step(send='{"type":"heartbeat"}', expect="pong", pause_s=0.1),))]
)
async def test_a_client_that_comes_back_brings_its_session(protocol: Protocol, steps: tuple[Step, ...]) -> None:
    """A node knows those that it had before; else it would hold a move of them against the limits of their address."""
    node = Node(settings_with(), stock.create())
    await node.start()
    scenario = Scenario("t", (Stage(0, 5), Stage(60, 5)), protocol, steps=steps, disturbances=(Disturbance(0.4),))
    generator = Generator(Job("abc", Target(f"ws://127.0.0.1:{node.port}/ws"), scenario, 0, 1, 1), lambda beat: None)
    await generator.prepare()
    running = asyncio.create_task(generator.run(Begin(time.monotonic())))
    async with asyncio.timeout(patient(10)):
        while sum(each.identity.resumed for each in node.registry.connections) < 5:
            await asyncio.sleep(0.01)
    generator.stop()
    await generator.settle(Settle((await running).ends))
    await node.stop(drain_ms=0, deadline_ms=300)
