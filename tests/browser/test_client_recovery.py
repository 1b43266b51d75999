"""What the browser client does about positions: recover, duplicates, gaps, replay, implicit channels."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.scripted_peer import Client, Peer, publication, subscription_ack

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_reconnect_recovers_all_channels_with_one_message(client: Client, peer: Peer) -> None:
    """After a cut, one subscribe names every channel and a position for each that has one."""
    wire = await client.opened(session="s7")
    await client.do("c.subscribe('news', handlers()); c.subscribe('fire', handlers())")
    asked = await wire.acknowledge({"news": {"offset": 5}, "fire": {"epoch": None, "offset": None}})
    assert asked["channels"] == ["news", "fire"]
    assert "recover" not in asked
    await wire.send(publication(6))
    await client.seen(3)

    wire.cut()
    wire = await peer.accept()
    assert parse_qs(urlsplit(wire.path).query)["session"] == ["s7"]
    await wire.establish()
    again = await wire.expect("subscribe")

    assert again["channels"] == ["news", "fire"]
    assert again["recover"] == {"news": {"epoch": "e1", "offset": 6}}


@pytest.mark.parametrize("ack_offset", [8, 6])
async def test_recovered_publications_arrive_once_and_in_order(client: Client, peer: Peer, ack_offset: int) -> None:
    """What was missed is delivered before what is live, whether the ack names the head or the old position."""
    wire = await client.subscribed(offset=5)
    await wire.send(publication(6))
    await client.seen(2)
    wire.cut()
    wire = await peer.accept()
    await wire.establish()
    await wire.acknowledge({"news": {"offset": ack_offset, "recovered": True, "replayed": 2}})
    await wire.send(publication(7), publication(8), publication(9))

    seen = await client.seen(6)

    assert seen == ["sub 5", "pub p6", f"sub {ack_offset}", "pub p7", "pub p8", "pub p9"]


async def test_a_failed_recovery_is_a_gap_with_the_reason_and_goes_on(client: Client, peer: Peer) -> None:
    """`recovered: false` reports a gap after the old position; publications of the new epoch are delivered."""
    wire = await client.subscribed(offset=5)
    wire.cut()
    wire = await peer.accept()
    await wire.establish()
    await wire.acknowledge({"news": {"epoch": "e2", "offset": 2, "reason": "epoch_changed"}})
    await wire.send(publication(3, epoch="e2"))

    assert await client.seen(4) == ["sub 5", "sub 2", "gap epoch_changed 5 null", "pub p3"]


async def test_a_duplicate_is_dropped_and_a_hole_is_a_gap(client: Client) -> None:
    """An offset already seen is ignored; a `prev` beyond the position is a gap named missed."""
    wire = await client.subscribed(offset=5)
    await wire.send(publication(6), publication(6), publication(4), publication(9, prev=8), publication(12, prev=9))

    assert await client.seen(5) == ["sub 5", "pub p6", "gap missed 6 9", "pub p9", "pub p12"]
    assert await client.run("sub.position") == {"epoch": "e1", "offset": 12}


async def test_a_gap_of_the_server_moves_the_position(client: Client) -> None:
    """After a `gap` up to 10 the publication 10 is no second gap."""
    wire = await client.subscribed(offset=5)
    gap = {"type": "gap", "channel": "news", "epoch": "e1", "after": 5, "before": 10, "reason": "slow"}
    await wire.send(gap, publication(10, prev=9))

    assert await client.seen(3) == ["sub 5", "gap slow 5 10", "pub p10"]


async def test_a_channel_without_history_is_not_checked(client: Client) -> None:
    """With null offsets every publication is delivered and nothing is a gap."""
    wire = await client.opened()
    await client.do("c.subscribe('fire', handlers())")
    await wire.acknowledge({"fire": {"epoch": None, "offset": None, "reason": "no_history"}})
    line = publication(None, channel="fire", epoch=None, data="x")
    await wire.send(line, line)

    assert await client.seen(3) == ["sub null", "pub x", "pub x"]


async def test_a_replay_gets_old_publications_and_the_subscription_does_not(client: Client) -> None:
    """Replayed publications go to the result only; a live one in between goes to the subscription."""
    wire = await client.subscribed(offset=5)
    await client.do("window.r = c.replay('news', { from: 3, to: 4 })")
    asked = await wire.expect("replay")
    assert (asked["from"], asked["to"], asked["epoch"]) == (3, 4, "e1")
    done = {
        "type": "replay_complete",
        "id": asked["id"],
        "channel": "news",
        "epoch": "e1",
        "from": 3,
        "to": 4,
        "sent": 2,
    }
    other = publication(4, channel="other")
    await wire.send(publication(3), other, publication(6), publication(4), publication(2), done)

    result = await client.run("r")

    assert [(p["channel"], p["offset"]) for p in result["publications"]] == [("news", 3), ("news", 4)]
    assert result["complete"] is True
    assert await client.run("seen") == ["sub 5", "pub p6"]


async def test_an_incomplete_replay_says_so(client: Client) -> None:
    """`replay_incomplete` resolves with complete false and the server's reason."""
    wire = await client.subscribed(offset=5)
    await client.do("window.r = c.replay('news', { since: 0 })")
    asked = await wire.expect("replay")
    assert asked["since"] == 0
    await wire.send(
        publication(5),
        {
            "type": "replay_incomplete",
            "id": asked["id"],
            "channel": "news",
            "epoch": "e1",
            "sent": 1,
            "missing_from": 1,
            "missing_to": 4,
            "reason": "expired",
        },
    )

    result = await client.run("r")

    assert result["complete"] is False
    assert result["answer"]["reason"] == "expired"
    assert [p["offset"] for p in result["publications"]] == [5]


async def test_an_implicit_channel_recovers_through_the_url(client: Client, peer: Peer) -> None:
    """A channel that the endpoint subscribes is never asked for; its position travels in the next URL."""
    await client.connect("/api/game?matchId=m1&player=ann")
    await client.do("c.listen('match.m1', handlers())")
    wire = await peer.accept()
    await wire.establish()
    await wire.send(subscription_ack({"match.m1": {"offset": 3}}), publication(4, channel="match.m1"))
    await client.seen(2)

    wire.cut()
    wire = await peer.accept()
    query = parse_qs(urlsplit(wire.path).query)
    await wire.establish()
    await wire.send(subscription_ack({"match.m1": {"offset": 5, "recovered": True, "replayed": 1}}))
    await wire.send(publication(5, channel="match.m1"))

    assert (query["epoch"], query["offset"], query["matchId"]) == (["e1"], ["4"], ["m1"])
    assert await client.seen(4) == ["sub 3", "pub p4", "sub 5", "pub p5"]
    assert wire.received.empty()


async def test_a_channel_nobody_asked_for_is_implicit(client: Client, peer: Peer) -> None:
    """An unasked ack makes the channel the endpoint's: a later subscribe sends nothing, and the URL recovers it."""
    wire = await client.opened("/ws/chat/ann?room=tea")
    await wire.send(subscription_ack({"chat.tea": {"offset": 3}}))
    await client.do("c.on('settled', () => seen.push('settled'))")
    await wire.send({"type": "settled"})
    await client.until("seen.includes('settled')")
    await client.do("c.subscribe('chat.tea', handlers())")
    await client.until("seen.includes('sub 3')")

    wire.cut()
    wire = await peer.accept()
    query = parse_qs(urlsplit(wire.path).query)
    await wire.establish()
    await client.until("c.state === 'open'")
    await client.do("c.send({ type: 'first' })")

    assert (query["epoch"], query["offset"]) == (["e1"], ["3"])
    await wire.expect("first")


async def test_an_ack_with_prev_stands_for_the_own_publication(client: Client, peer: Peer) -> None:
    """The sender's ack advances its position, so the next move is no gap; an ack without prev does not."""
    await client.connect("/api/game?matchId=m1")
    await client.do("c.listen('match.m1', handlers())")
    wire = await peer.accept()
    await wire.establish()
    await wire.send(subscription_ack({"match.m1": {"offset": 3}}))
    await client.seen(1)
    await client.do("window.m = c.request({ type: 'move', data: 1 })")
    move = await wire.expect("move")
    ack = {"type": "publish_ack", "id": move["id"], "channel": "match.m1", "epoch": "e1"}
    await wire.send({**ack, "offset": 4, "prev": 3}, publication(5, channel="match.m1"))
    await wire.send({**ack, "id": None, "offset": 9}, publication(6, channel="match.m1"))

    assert await client.seen(3) == ["sub 3", "pub p5", "pub p6"]
    assert (await client.run("m"))["offset"] == 4


async def test_a_position_kept_from_an_earlier_page_is_recovered(client: Client) -> None:
    """`subscribe` with a position asks for recovery on the first connection."""
    wire = await client.opened()
    await client.do("c.subscribe('news', handlers(), { recover: { epoch: 'e1', offset: 2 } })")
    asked = await wire.acknowledge({"news": {"offset": 3, "recovered": True, "replayed": 1}})
    await wire.send(publication(3))

    assert asked["recover"] == {"news": {"epoch": "e1", "offset": 2}}
    assert await client.seen(2) == ["sub 3", "pub p3"]


async def test_a_server_that_went_on_without_recovery_is_a_gap(client: Client, peer: Peer) -> None:
    """An ack past our position with neither recovery nor reason still reports the loss."""
    wire = await client.subscribed(offset=5)
    wire.cut()
    wire = await peer.accept()
    await wire.establish()
    await wire.acknowledge({"news": {"offset": 8}})

    assert await client.seen(3) == ["sub 5", "sub 8", "gap not_recovered 5 null"]
