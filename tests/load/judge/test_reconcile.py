"""Both sides' counts beside each other: what meets, what is accounted for, what is missing."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.load.counted_servers import CountingClient, ServerProcess
from tests.support.patience import patient
from trunkline.load.judge.discovery import discover
from trunkline.load.judge.reconcile import NOTHING, UNREAD_BYTES, reconcile
from trunkline.load.judge.scrape import Counters, Snapshot
from trunkline.load.judge.watch import watching
from trunkline.load.model.report import Balance
from trunkline.load.model.tally import Totals

URL = "http://10.0.0.1/metrics"
LINES = [
    "connections opened",
    "messages to the servers",
    "messages from the servers",
    "publications dropped",
    "connections ended",
]


def snapshot(**counts: object) -> Snapshot:
    return Snapshot({URL: Counters(**counts)})  # type: ignore[arg-type]


def lines(ours: Totals, before: Snapshot, after: Snapshot, **more: int) -> dict[str, Balance]:
    balances = reconcile(ours, before, after, **more)
    assert [balance.what for balance in balances] == LINES
    return {balance.what: balance for balance in balances}


QUIET = Totals(attempts=10, opened=10, sent=500, received=700, bytes_sent=50_000, bytes_received=70_000)
BEFORE = snapshot(connections=5, messages_sent=50, messages_received=40, disconnects={("normal", "client"): 5})
AFTER = snapshot(
    connections=15,
    messages_sent=750,
    messages_received=540,
    disconnects={("normal", "client"): 14, ("idle", "server"): 1},
)


def changed(after: Snapshot, **counts: object) -> Snapshot:
    return Snapshot({url: msgspec.structs.replace(counters, **counts) for url, counters in after.servers.items()})


def test_equal_counts_meet() -> None:
    """Differences of the servers' counts equal to ours: every line holds, and nothing needs explaining."""
    found = lines(QUIET, BEFORE, AFTER)
    assert all(line.holds and line.explained == 0 and line.ours == line.theirs for line in found.values())
    assert all(line.note.startswith(NOTHING) for line in found.values())
    assert found["connections ended"].note == f"{NOTHING}; ended by the servers: idle 1"


@pytest.mark.parametrize(
    ("what", "counts"),
    [
        ("connections opened", {"connections": 14}),
        ("messages to the servers", {"messages_received": 539}),
        ("messages from the servers", {"messages_sent": 751}),
        ("messages from the servers", {"messages_sent": 749}),
        ("publications dropped", {"publications_dropped": {"slow_client": 1}}),
        ("connections ended", {"disconnects": {("normal", "client"): 14}}),
    ],
)
def test_a_single_one_is_missing(what: str, counts: dict[str, object]) -> None:
    """With all connections ended in order, one more or less makes exactly its own line fail."""
    found = lines(QUIET, BEFORE, changed(AFTER, **counts))
    assert [line.what for line in found.values() if not line.holds] == [what]
    assert "1 missing" in found[what].note
    assert found[what].explained == 0


@given(
    opened=st.integers(1, 1000), sent=st.integers(0, 10**6), received=st.integers(0, 10**6), lost=st.integers(1, 10**6)
)
def test_no_loss_is_hidden_without_a_cut(opened: int, sent: int, received: int, lost: int) -> None:
    """Whatever the numbers, a message lost either way shows when no connection was cut and nobody else is there."""
    ours = Totals(attempts=opened, opened=opened, sent=sent, received=received, bytes_received=received * 100)
    nothing = snapshot()
    whole = snapshot(
        connections=opened, messages_sent=received, messages_received=sent, disconnects={("normal", "client"): opened}
    )
    assert all(line.holds for line in lines(ours, nothing, whole).values())
    down = lines(ours, nothing, changed(whole, messages_sent=received + lost))["messages from the servers"]
    assert (down.holds, down.theirs, down.explained) == (False, received + lost, 0)
    ours.sent += lost
    up = lines(ours, nothing, whole)["messages to the servers"]
    assert (up.holds, up.ours, up.explained) == (False, sent + lost, 0)


def test_what_was_under_way_at_a_cut_is_accounted_for() -> None:
    """Awaited answers explain unread requests; socket buffers explain unread messages, but only what fits in them."""
    ours = msgspec.structs.replace(QUIET, cut=2, abandoned=7)
    found = lines(ours, BEFORE, changed(AFTER, messages_received=533, messages_sent=760))
    up, down = found["messages to the servers"], found["messages from the servers"]
    assert (up.holds, up.explained, up.note) == (
        True, 7, f"{NOTHING}; 7 unread by the servers when 2 connections ended",
    )  # fmt: skip
    assert (down.holds, down.explained, down.note) == (True, 10, f"{NOTHING}; 10 unread at the cut of 2 connections")
    found = lines(ours, BEFORE, changed(AFTER, messages_received=530, messages_sent=750 + 100_000))
    up, down = found["messages to the servers"], found["messages from the servers"]
    assert (up.holds, up.explained) == (False, 9)
    assert "1 missing" in up.note
    fitting = int(2 * UNREAD_BYTES / (100 + 2)) + 7
    assert (down.holds, down.explained) == (False, fitting)
    assert f"{100_000 - fitting:,} missing" in down.note


def test_unanswered_kinds_of_messages_may_fill_a_socket() -> None:
    """Where messages await no answer, a cut may leave as many unread by the server as fit in a socket's buffer."""
    ours = msgspec.structs.replace(QUIET, cut=1)
    after = changed(AFTER, messages_received=340)
    assert not lines(ours, BEFORE, after)["messages to the servers"].holds
    [_, line, *_] = reconcile(ours, BEFORE, after, answered=False)
    assert (line.holds, line.explained) == (True, 0 + 500 - 300)


def test_traffic_of_others_is_named_as_such() -> None:
    """More connections than ours: their messages explain what the servers have more, and cannot hide a deficit."""
    found = lines(QUIET, BEFORE, changed(AFTER, connections=18, messages_sent=900, messages_received=600))
    assert all(found[what].holds for what in LINES[:3])
    assert "150 of others' traffic (3 connections of theirs seen)" in found["messages from the servers"].note
    found = lines(QUIET, BEFORE, changed(AFTER, connections=18, messages_received=500))
    assert not found["messages to the servers"].holds


def test_a_connection_given_up_too_early_is_no_other() -> None:
    """A handshake that timed out here and succeeded there is said so, and its greeting is unread."""
    ours = msgspec.structs.replace(QUIET, attempts=12, failed=2)
    found = lines(ours, BEFORE, changed(AFTER, connections=16, messages_sent=751))
    assert all(line.holds for what, line in found.items() if what != "connections ended")
    assert "1 connection opened there after this side had given up" in found["connections opened"].note
    assert found["messages from the servers"].explained == 1


def test_drops_that_were_told_meet_and_others_need_a_reason() -> None:
    """Gaps may name more than was counted; fewer need a connection that ended before it was told."""
    dropped = changed(AFTER, publications_dropped={"slow_client": 20})
    assert lines(msgspec.structs.replace(QUIET, dropped=25), BEFORE, dropped)["publications dropped"].holds
    assert not lines(msgspec.structs.replace(QUIET, dropped=15), BEFORE, dropped)["publications dropped"].holds
    told = lines(msgspec.structs.replace(QUIET, dropped=15, cut=1), BEFORE, dropped)["publications dropped"]
    assert (told.holds, told.explained) == (True, 5)
    assert told.note.endswith("reasons of the servers: slow_client 20")


def test_a_server_that_ended_or_went_silent_is_the_reason() -> None:
    """What such a server may have counted is not called missing, and the note says whose counts are not whole."""
    less = changed(AFTER, messages_received=400)
    restarted = msgspec.structs.replace(less, restarted=("node-1",))
    line = lines(QUIET, BEFORE, restarted)["messages to the servers"]
    assert (line.holds, line.explained) == (True, 140)
    assert "140 not seen: node-1 ended" in line.note
    # One that had restarted before the first snapshot is in both.
    line = lines(QUIET, msgspec.structs.replace(BEFORE, restarted=("node-1",)), restarted)["messages to the servers"]
    assert not line.holds
    silent = msgspec.structs.replace(less, silent=(URL,))
    assert f"{URL} did not answer" in lines(QUIET, BEFORE, silent)["messages to the servers"].note


def test_nothing_is_said_without_servers() -> None:
    """No server, or several behind one URL: no lines, no error."""
    assert reconcile(QUIET, Snapshot({}), Snapshot({})) == []
    assert reconcile(QUIET, BEFORE, Snapshot({}, mixed=(URL,))) == []
    assert reconcile(QUIET, Snapshot({}), AFTER) == []


# --- with real servers ------------------------------------------------------------------------------------------------

Serve = Callable[..., Awaitable[ServerProcess]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    servers: list[ServerProcess] = []

    async def start(nodes: int = 0, **environ: str) -> ServerProcess:
        server = await (ServerProcess.up(tmp_path, nodes) if nodes else ServerProcess.serve(tmp_path, **environ))
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


async def echo(client: CountingClient, count: int) -> None:
    for number in range(count):
        await client.send(f"message {number}")
    for number in range(count):
        assert await client.next() == f"message {number}"


async def test_every_message_of_a_node_is_found_again(serve: Serve) -> None:
    """Greetings, heartbeats, acks, publications, errors and echoes: both sides count the same, to the message."""
    server = await serve(TRUNKLINE_SERVER_HEARTBEAT_INTERVAL_MS="1000")
    ours = Totals()
    async with watching([f"{server.url}/metrics"]) as watch:
        before = await watch.snapshot()
        echoing = await CountingClient.open(ours, server.port, "/ws/echo")
        feeding = await CountingClient.open(ours, server.port, "/ws")
        await echo(echoing, 50)
        await feeding.until("connection_established")
        await feeding.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
        for number in range(20):
            await feeding.send(json.dumps({"type": "publish", "channel": "public.a", "data": number, "id": number}))
        for _ in range(20):
            await feeding.until("publication")
        await feeding.ask({"type": "no such type"}, "error")
        await feeding.until("heartbeat")
        await echoing.close()
        await feeding.close()
        after = await watch.snapshot(settle_s=patient(5), left=0)
    found = lines(ours, before, after)
    assert [line for line in found.values() if not line.holds or line.ours != line.theirs] == []
    assert ours.sent == 72


async def test_an_abrupt_cut_leaves_only_what_was_under_way(serve: Serve) -> None:
    """What the server wrote to a client that cuts off unread is accounted for; what was read still meets."""
    server = await serve()
    ours = Totals()
    async with watching([f"{server.url}/metrics"]) as watch:
        before = await watch.snapshot()
        staying, cutting = [await CountingClient.open(ours, server.port, "/ws/echo") for _ in range(2)]
        await echo(staying, 30)
        await echo(cutting, 30)
        for number in range(200):
            await cutting.send(f"unread {number}")
        for _ in range(5):
            assert await cutting.next() is not None
        ours.abandoned += 195
        await cutting.cut()
        await staying.close()
        after = await watch.snapshot(settle_s=patient(5), left=0)
    found = lines(ours, before, after)
    assert all(line.holds for line in found.values()), found
    down = found["messages from the servers"]
    assert down.theirs is not None
    assert down.ours == 65
    assert down.theirs - down.ours == down.explained <= 195
    assert found["connections ended"].ours == found["connections ended"].theirs == 2


async def test_publications_dropped_for_a_slow_client_meet_its_gap(serve: Serve) -> None:
    """A client that pauses is told a gap of exactly as many publications as the server says it dropped."""
    server = await serve(
        TRUNKLINE_LIMITS_OUTBOX_BYTES="200000",
        TRUNKLINE_LIMITS_OUTBOX_GRACE_MS="60000",
        TRUNKLINE_LIMITS_RATE_PER_S="0",
    )
    ours = Totals()
    async with watching([f"{server.url}/metrics"]) as watch:
        before = await watch.snapshot()
        slow = await CountingClient.open(ours, server.port, "/ws", receive_buffer=4096)
        await slow.until("connection_established")
        await slow.ask({"type": "subscribe", "channels": ["public.busy"]}, "subscription_ack")
        publisher = await CountingClient.open(ours, server.port, "/ws")
        await publisher.until("connection_established")
        for number in range(400):
            request = {"type": "publish", "channel": "public.busy", "data": [number, "x" * 40_000]}
            await publisher.ask(request, "publish_ack")
        await slow.until("gap")
        await publisher.close()
        await slow.close()
        after = await watch.snapshot(settle_s=patient(5), left=0)
    found = lines(ours, before, after)
    dropped = found.pop("publications dropped")
    assert dropped.ours == dropped.theirs > 0, dropped
    assert len(slow.gaps) == 1
    assert [line for line in found.values() if not line.holds or line.ours != line.theirs] == []


async def test_a_client_closed_as_too_slow_is_accounted_for(serve: Serve) -> None:
    """What the server threw away with the outbox of a client that it closes is explained, and the reason is named."""
    server = await serve(
        TRUNKLINE_LIMITS_OUTBOX_BYTES="200000",
        TRUNKLINE_LIMITS_OUTBOX_GRACE_MS="300",
        TRUNKLINE_LIMITS_RATE_PER_S="0",
    )
    ours = Totals()
    url = f"{server.url}/metrics"
    async with watching([url], interval_s=0.05) as watch:
        before = await watch.snapshot()
        slow = await CountingClient.open(ours, server.port, "/ws", receive_buffer=4096)
        await slow.until("connection_established")
        await slow.ask({"type": "subscribe", "channels": ["public.busy"]}, "subscription_ack")
        publisher = await CountingClient.open(ours, server.port, "/ws")
        await publisher.until("connection_established")
        async with asyncio.timeout(patient(20)):
            while not (await watch.snapshot()).servers[url].slow_clients_disconnected:
                request = {"type": "publish", "channel": "public.busy", "data": "x" * 40_000}
                await publisher.ask(request, "publish_ack")
        while await slow.next() is not None:
            pass
        ours.closed += 1
        await slow.close()
        await publisher.close()
        after = await watch.snapshot(settle_s=patient(5), left=0)
    found = lines(ours, before, after)
    assert all(line.holds for line in found.values()), found
    assert found["messages from the servers"].explained > 0
    assert found["publications dropped"].explained > 0
    assert found["connections ended"].note.endswith("ended by the servers: too_slow 1")


async def test_a_killed_server_is_named(serve: Serve, tmp_path: Path) -> None:
    """A server that dies and comes back on its port: its earlier counts stay in the sum and the notes say so."""
    server = await serve()
    ours = Totals()
    async with watching([f"{server.url}/metrics"]) as watch:
        before = await watch.snapshot()
        client = await CountingClient.open(ours, server.port, "/ws/echo")
        await echo(client, 40)
        await watch.snapshot()
        await server.stop(signal.SIGKILL)
        assert await client.next() is None
        ours.closed += 1
        await client.close()
        assert (await watch.snapshot()).silent == (f"{server.url}/metrics",)
        again = await ServerProcess.serve(tmp_path, server.port)
        try:
            client = await CountingClient.open(ours, again.port, "/ws/echo")
            await echo(client, 10)
            await client.close()
            after = await watch.snapshot(settle_s=patient(5), left=0)
        finally:
            await again.stop()
    found = lines(ours, before, after)
    assert all(line.holds for line in found.values()), found
    assert found["messages to the servers"].theirs == 50
    assert found["connections opened"].theirs == 2
    assert "one ended, and what it counted after it was last asked is unknown" in found["connections ended"].note
    assert watch.notes == [f"the server one was replaced by a new process at {server.url}/metrics"]


async def test_counts_meet_behind_a_relay(serve: Serve) -> None:
    """A fleet of two behind its relay: the nodes are found through the balancer, and their sums meet ours."""
    server = await serve(nodes=2)
    target = f"ws://127.0.0.1:{server.port}/ws"
    found = await discover(target)
    assert sorted(found.urls) == sorted(f"{page}/metrics" for page in server.nodes)
    assert found.note.startswith("2 backends of the balancer at")
    ours = Totals()
    async with watching(found.urls) as watch:
        before = await watch.snapshot()
        clients = [await CountingClient.open(ours, server.port, "/ws/echo") for _ in range(6)]
        await asyncio.gather(*(echo(client, 25) for client in clients))
        await clients[0].cut()
        for client in clients[1:]:
            await client.close()
        after = await watch.snapshot(settle_s=patient(10), left=0)
    balances = lines(ours, before, after)
    assert all(line.holds and line.ours == line.theirs for line in balances.values()), balances
    assert balances["messages to the servers"].ours == 150
    assert all(counters.connections for counters in after.servers.values())
