"""Flows of steps: their texts and expectations, and sessions that go through them against a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.load.faulty_server import Faults, FaultyServer
from tests.support.patience import patient
from trunkline.load.client.generator import Generator
from trunkline.load.client.protocols.templates import Template
from trunkline.load.model.expectations import Expectation, message_type
from trunkline.load.model.messages import Begin, Done, Job, Settle
from trunkline.load.model.plan import Scenario, Stage, Step, Target
from trunkline.load.model.tally import Sum
from trunkline.server.app import stock
from trunkline.server.node.node import Node
from trunkline.settings.sections import Settings

SUBSCRIBE = '{"type":"subscribe","id":1,"channels":["room"]}'
PUBLISH = '{"type":"publish","id":{n},"channel":"room","data":{"t":{stamp},"c":{connection}}}'
ECHO = (Step(send="hello {n}", expect="/^hello/", pause_s=0.05),)


async def run(
    url: str,
    *steps: Step,
    connections: int = 1,
    lasts: float = 1.0,
    expected_errors: tuple[str, ...] = (),
    timeout_s: float = 0.3,
) -> tuple[Sum, Done]:
    """A whole run of one worker; what it counted, and what it told at the end."""
    scenario = Scenario(
        "test",
        (Stage(0, connections), Stage(lasts, connections)),
        protocol="steps",
        steps=steps,
        expected_errors=expected_errors,
    )
    total = Sum()
    generator = Generator(Job("abc", Target(url), scenario, 0, 1, 1, settle_s=patient(timeout_s)), total.add)
    await generator.prepare()
    sent = await generator.run(Begin(time.monotonic()))
    done = await generator.settle(Settle(sent.ends))
    return total, done


# --- pure -------------------------------------------------------------------------------------------------------------


def test_places_are_filled_in() -> None:
    """Number of the round, connection, run and intended moment; JSON is written as it is."""
    template = Template('{"n":{n},"c":{connection},"r":"{run}","t":{stamp}}', 7, "ab")
    assert json.loads(template.fill(3, 1.5)) == {"n": 3, "c": 7, "r": "ab", "t": 1_500_000}
    assert Template("no places, ü", 0, "").fill(1, 0.0) == "no places, ü".encode()


@pytest.mark.parametrize(
    ("text", "sent"), [("{{n}}", "{n}"), ("{{n}", "{2"), ("{what}{}", "{what}{}"), ("{{run}}{run}", "{run}ab")]
)
def test_braces_stand_for_themselves(text: str, sent: str) -> None:
    """Only the names of places are places, and doubled braces take even these as they are."""
    assert Template(text, 0, "ab").fill(2, 0.0).decode() == sent


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_can_be_sent(text: str) -> None:
    """Doubling the braces of places gives every text back."""
    places = r"\{(n|connection|run|stamp)\}"
    assert Template(re.sub(places, r"{{\1}}", text), 0, "").fill(0, 0.0) == text.encode()


def test_an_answer_is_known_by_type_or_by_expression() -> None:
    """A word is the value of `type`; between slashes it is searched for in the text."""
    payload = '{"type":"pong","text":"grün"}'.encode()
    assert message_type(payload) == "pong"
    assert Expectation("pong").matches("pong", payload)
    assert not Expectation("pon").matches("pong", payload)
    assert Expectation("/gr.n\\b/").matches("pong", payload)
    assert not Expectation("/red/").matches(None, payload)
    assert [message_type(other) for other in (b"", b"[1]", b'{"type":1}', b"\xff", b"{}")] == [None] * 5
    with pytest.raises(ValueError, match=r"/\(/ is no regular expression"):
        Expectation("/(/")


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_steps_follow_each_other_again_and_again() -> None:
    """Each round sends its own number; each answer is one round trip."""
    async with FaultyServer() as server:
        total, _ = await run(
            server.url(),
            Step(send=SUBSCRIBE, expect="subscription_ack", pause_s=0.02),
            Step(send=PUBLISH, expect="publish_ack", pause_s=0.08),
        )
        room = server.channels["room"]
        assert 5 <= room.last <= 11
        assert [json.loads(bytes(each.data))["c"] for each in room.kept] == [0] * room.last
    totals = total.totals
    assert totals.errors == totals.lost == totals.duplicates == totals.unanswered == 0
    assert totals.deliveries == room.last
    assert sum(total.latencies["round_trip"].values()) == totals.sent
    assert max(total.latencies["round_trip"]) < 500_000


async def test_latency_counts_from_the_intended_moment_through_a_stall() -> None:
    """While the server stands still for 0.5 s, the steps that should have begun meanwhile are late too."""
    async with FaultyServer(Faults(stall=0.5, stall_every=0.7)) as server:
        total, _ = await run(server.url("/ws/echo"), *ECHO, lasts=1.3)
    late = [us for us, times in total.latencies["round_trip"].items() for _ in range(times) if us > 100_000]
    assert len(late) >= 5
    assert total.totals.errors == 0


async def test_a_missing_answer_is_an_error_and_the_flow_goes_on() -> None:
    """Every second echo is dropped: the time-out is counted, and later rounds are answered."""
    step = Step(send="hello {n}", expect="/^hello/", timeout_s=0.05, pause_s=0.1)
    async with FaultyServer(Faults(drop=2)) as server:
        total, _ = await run(server.url("/ws/echo"), step)
    missing = total.reasons["no answer: /^hello/ within 0.05 s"]
    assert missing == len(server.done("drop")) >= 3
    assert total.totals.errors == missing
    assert sum(total.latencies["round_trip"].values()) == total.totals.sent - missing


async def test_a_lost_publication_is_found_in_a_flow_of_steps() -> None:
    """The holes that it tells at the end are those that the server made."""
    async with FaultyServer(Faults(drop=7)) as server:
        total, done = await run(
            server.url(),
            Step(send=SUBSCRIBE, expect="subscription_ack", pause_s=0.01),
            *(Step(send=PUBLISH, pause_s=0.01) for _ in range(9)),
            lasts=0.7,
        )
        dropped = [did.offset for did in server.done("drop")]
    assert dropped
    # A later subscribe starts at the channel's last position, and a hole before it stays.
    assert {hole.upto for hole in done.holes} <= set(dropped)
    assert done.holes
    assert total.totals.duplicates == 0


async def test_duplicates_and_late_ones_are_named() -> None:
    """Findings carry channel and offset, as the server noted them."""
    subscribe_once = Step(send=SUBSCRIBE, expect="subscription_ack", pause_s=0)
    # Awaited, so that the server does nothing more after the end.
    publish = [Step(send=PUBLISH, expect="publish_ack", pause_s=0.01, timeout_s=patient(5)) for _ in range(200)]
    async with FaultyServer(Faults(duplicate=10, reorder=13)) as server:
        total, done = await run(server.url(), subscribe_once, *publish, lasts=0.8, timeout_s=patient(5))
        expected = sorted(("duplicate" if did.kind == "duplicate" else "reordered", did.offset) for did in server.did)
    assert sorted((finding.kind, finding.offset) for finding in total.findings) == expected
    assert len({kind for kind, _ in expected}) == 2
    assert done.holes == ()


async def test_errors_of_the_server_are_counted_by_their_code() -> None:
    """A code that the scenario expects is no error."""
    # Each answer is awaited, the last one too: an error that is still under way at the end would not be counted.
    beat = Step(send='{"type":"heartbeat"}', expect="/pong|RATE_LIMIT/", pause_s=0.01, timeout_s=patient(5))
    async with FaultyServer(Faults(rate=20)) as server:
        total, _ = await run(server.url(), beat, lasts=0.8, timeout_s=patient(5))
        refused = len(server.done("rate"))
        assert refused > 10
        assert total.reasons["server: RATE_LIMIT_EXCEEDED"] == total.totals.errors == refused
        server.did.clear()
        codes = ("RATE_LIMIT_EXCEEDED",)
        total, _ = await run(server.url(), beat, lasts=0.5, expected_errors=codes, timeout_s=patient(5))
        assert total.totals.errors == 0
        assert total.totals.expected_errors == len(server.done("rate")) > 0


async def test_after_a_drain_it_comes_back_when_the_goodbye_says() -> None:
    """The goodbye is counted, the reconnect is timed, and the rounds go on."""
    async with FaultyServer(Faults(drain_at=0.3, reconnect_after_ms=100)) as server:
        beat = Step(send='{"type":"heartbeat"}', expect="pong", pause_s=0.02)
        total, _ = await run(server.url(), beat, connections=5, lasts=1.0)
    totals = total.totals
    assert (totals.opened, totals.closed, totals.goodbyes, totals.errors) == (10, 5, 5, 0)
    assert all(90_000 < us < 800_000 for us in total.latencies["reconnect"])
    assert sum(total.latencies["round_trip"].values()) > 50


async def test_rounds_begin_at_different_moments() -> None:
    """Of many sessions that connect at once, no more than a few send in the same tenth of the pause."""
    stamps: list[int] = []
    async with FaultyServer() as server:
        await run(server.url(), Step(send=PUBLISH, expect="publish_ack", pause_s=2), connections=100, lasts=2.4)
        stamps = [json.loads(bytes(each.data))["t"] for each in server.channels["room"].kept]
    first = min(stamps)
    tenths = [0] * 20
    for stamp in stamps:
        tenths[min(19, (stamp - first) // 200_000)] += 1
    assert len(stamps) >= 75
    assert max(tenths) < 30


async def test_an_answer_awaited_when_the_connection_ends_is_given_up() -> None:
    """It is abandoned and no error; at the end of the run it would be unanswered."""
    async with FaultyServer() as server:

        async def cut() -> None:
            await asyncio.sleep(0.4)
            server.cut()

        cutting = asyncio.create_task(cut())
        step = Step(send='{"type":"heartbeat"}', expect="never", pause_s=0.01)
        total, _ = await run(server.url(), step, lasts=0.6)
        await cutting
        assert (total.totals.abandoned, total.totals.unanswered, total.totals.errors) == (1, 0, 0)
        total, _ = await run(server.url(), step, lasts=0.3)
        assert (total.totals.abandoned, total.totals.unanswered, total.totals.errors) == (0, 1, 0)


@pytest.fixture
async def node_url() -> AsyncIterator[str]:
    """A real node."""
    settings = Settings()
    for section, changes in (
        ("server", {"host": "127.0.0.1", "port": 0, "drain_ms": 0}),
        ("admin", {"port": 0}),
        ("log", {"access": False}),
    ):
        changed = msgspec.structs.replace(getattr(settings, section), **changes)
        settings = msgspec.structs.replace(settings, **{section: changed})
    node = Node(settings, stock.create())
    await node.start()
    yield f"ws://127.0.0.1:{node.port}"
    await node.stop(drain_ms=0, deadline_ms=300)


async def test_what_a_flow_asks_again_is_no_duplicate(node_url: str) -> None:
    """A replay sends publications a second time because it was asked to."""
    publish = '{"type":"publish","id":{n},"channel":"public.room","data":{n}}'
    total, done = await run(
        f"{node_url}/ws",
        Step(send='{"type":"subscribe","id":1,"channels":["public.room"]}', expect="subscription_ack", pause_s=0),
        Step(send=publish, expect="publish_ack", pause_s=0.1),
        Step(send='{"type":"replay","channel":"public.room","since":0}', expect="replay_complete", pause_s=0.4),
        lasts=0.9,
    )
    assert (total.totals.duplicates, total.totals.reordered, total.totals.errors, done.holes) == (0, 0, 0, ())
    assert total.totals.deliveries >= 1


@pytest.mark.parametrize(
    ("path", "step", "others"),
    [
        ("/ws/chat/me", Step(send='{"type":"message","text":"{n}"}', expect="message_response", pause_s=0.3), 1),
        ("/api/game?matchId=m", Step(send='{"id":{n},"x":1}', expect="publish_ack", pause_s=0.3), 0),
    ],
)
async def test_chat_and_match_are_followed(node_url: str, path: str, step: Step, others: int) -> None:
    """Every line reaches everyone, a move everyone but its player, whose ack stands in its place; nothing is odd."""
    total, done = await run(node_url + path, step, connections=3, lasts=1.0)
    totals = total.totals
    assert totals.sent >= 6
    # A session that joined later has not seen the first ones.
    assert totals.sent * (1 + others) <= totals.deliveries <= totals.sent * (2 + others)
    assert (totals.duplicates, totals.reordered, totals.errors, done.holes) == (0, 0, 0, ())


async def test_the_end_of_a_channel_is_awaited() -> None:
    """A subscriber that is behind the last publication of the run has a hole up to it."""
    async with FaultyServer(Faults(drop=1)) as server:
        subscribe = Step(send=SUBSCRIBE, expect="subscription_ack", pause_s=0.05)
        publish = Step(send=PUBLISH, expect="publish_ack", pause_s=60)
        total, done = await run(server.url(), subscribe, publish, lasts=0.3)
        last = server.channels["room"].last
    assert last == 1
    assert [(hole.channel, hole.after, hole.upto) for hole in done.holes] == [("room", 0, 1)]
    assert total.totals.deliveries == 0
