"""Messages that are well framed and wrong: each gets an `error` that names the field, and the connection goes on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.support.server.live_node import OpenPeer, StartNode
from trunkline.settings.channels import ChannelRule

LONG = "x" * 201


async def refused(peer: Any, message: Any, code: str) -> dict[str, Any]:
    """Send a message that is refused with `code`; the connection must still answer after it."""
    await peer.send(message)
    error: dict[str, Any] = await peer.expect("error")
    assert error["code"] == code, error
    assert isinstance(error["ts"], int)
    await peer.ask({"type": "heartbeat"}, "pong")
    return error


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="open brace"),
        pytest.param("nonsense", id="no JSON"),
        pytest.param('{"type":"heartbeat"} x', id="something behind it"),
        pytest.param('{"type":"heartbeat",}', id="trailing comma"),
        pytest.param("{'type':'heartbeat'}", id="single quotes"),
        pytest.param('{"type":"publish","channel":"public.a","data":NaN}', id="NaN"),
        pytest.param("[" * 30_000, id="open brackets"),
        pytest.param("[" * 65 + "]" * 65, id="65 arrays"),
        pytest.param('{"type":"publish","channel":"public.a","data":' + '{"a":' * 64 + "1" + "}" * 65, id="65 objects"),
        pytest.param('{"a":' * 6000 + "1" + "}" * 6000, id="6000 objects"),
    ],
)
async def test_what_is_no_json_is_invalid_json(start_node: StartNode, open_peer: OpenPeer, text: str) -> None:
    """What does not parse, or nests deeper than 64, is INVALID_JSON."""
    peer = await open_peer(await start_node())
    await refused(peer, text, "INVALID_JSON")


async def test_sixty_four_levels_are_taken(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The message itself is the first level, so data may nest 63 deep."""
    peer = await open_peer(await start_node())
    data = "[" * 63 + "]" * 63
    await peer.send(f'{{"type":"publish","channel":"public.a","data":{data}}}')
    await peer.expect("publish_ack")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ([], "object"),
        ("text", "object"),
        (1, "object"),
        ({}, "type"),
        ({"type": None}, "$.type"),
        ({"type": 5}, "$.type"),
        ({"type": "subscribe"}, "channels"),
        ({"type": "subscribe", "channels": "public.a"}, "$.channels"),
        ({"type": "subscribe", "channels": None}, "$.channels"),
        ({"type": "subscribe", "channels": {"public.a": 1}}, "$.channels"),
        ({"type": "subscribe", "channels": [1]}, "$.channels"),
        ({"type": "subscribe", "channels": ["public.a", None]}, "$.channels"),
        ({"type": "subscribe", "channels": []}, "channels"),
        ({"type": "subscribe", "channels": ["public.a"], "id": 1.5}, "$.id"),
        ({"type": "subscribe", "channels": ["public.a"], "id": True}, "$.id"),
        ({"type": "subscribe", "channels": ["public.a"], "id": {}}, "$.id"),
        ({"type": "subscribe", "channels": ["public.a"], "recover": []}, "$.recover"),
        ({"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": 7}}, "$.recover"),
        ({"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"epoch": "e"}}}, "offset"),
        ({"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"offset": 1}}}, "epoch"),
        ({"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"epoch": 1, "offset": 1}}}, "epoch"),
        (
            {"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"epoch": "e", "offset": -1}}},
            "offset",
        ),
        (
            {"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"epoch": "e", "offset": 2**53}}},
            "offset",
        ),
        (
            {"type": "subscribe", "channels": ["public.a"], "recover": {"public.a": {"epoch": "e" * 65, "offset": 1}}},
            "epoch",
        ),
        (
            {"type": "subscribe", "channels": ["public.a"], "recover": {"public.b": {"epoch": "e", "offset": 1}}},
            "recover",
        ),
        ({"type": "unsubscribe"}, "channels"),
        ({"type": "unsubscribe", "channels": []}, "channels"),
        ({"type": "unsubscribe", "channels": [[]]}, "$.channels"),
        ({"type": "publish", "channel": "public.a"}, "data"),
        ({"type": "publish", "data": 1}, "channel"),
        ({"type": "publish", "channel": ["public.a"], "data": 1}, "$.channel"),
        ({"type": "replay", "from": 1, "to": 2}, "channel"),
        ({"type": "replay", "channel": "public.a"}, "since"),
        ({"type": "replay", "channel": "public.a", "from": 1}, "to"),
        ({"type": "replay", "channel": "public.a", "to": 1}, "from"),
        ({"type": "replay", "channel": "public.a", "from": 1, "to": 2, "since": 1}, "since"),
        ({"type": "replay", "channel": "public.a", "from": 2, "to": 1}, "from"),
        ({"type": "replay", "channel": "public.a", "from": -1, "to": 1}, "$.from"),
        ({"type": "replay", "channel": "public.a", "since": -1}, "$.since"),
        ({"type": "replay", "channel": "public.a", "since": 1.5}, "$.since"),
        ({"type": "replay", "channel": "public.a", "since": "1"}, "$.since"),
        ({"type": "replay", "channel": "public.a", "since": 10**30}, "$.since"),
        ({"type": "replay", "channel": "public.a", "since": 1, "epoch": 1}, "$.epoch"),
        ({"type": "heartbeat", "id": []}, "$.id"),
    ],
    ids=lambda value: msgspec.json.encode(value).decode()[:80] if not isinstance(value, str) else "",
)
async def test_wrong_shape_is_invalid_message_and_names_the_field(
    start_node: StartNode, open_peer: OpenPeer, message: Any, named: str
) -> None:
    """What parses and has the wrong shape, type or order of numbers is INVALID_MESSAGE; the text names the field."""
    peer = await open_peer(await start_node())
    error = await refused(peer, msgspec.json.encode(message).decode(), "INVALID_MESSAGE")
    assert named in error["message"]
    assert error["temporary"] is False


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a/b", "public.*", "public.>", "ä", "a\n", "a\u0000", "{sub}", LONG]
)
async def test_malformed_channel_names_are_invalid_messages(
    start_node: StartNode, open_peer: OpenPeer, name: str
) -> None:
    """A name outside the grammar is refused before any rule is asked, in every message that carries one."""
    peer = await open_peer(await start_node())
    for number, message in enumerate(
        [
            {"type": "subscribe", "channels": ["public.a", name]},
            {"type": "unsubscribe", "channels": [name]},
            {"type": "publish", "channel": name, "data": 1},
            {"type": "replay", "channel": name, "since": 1},
        ]
    ):
        error = await refused(peer, {**message, "id": number}, "INVALID_MESSAGE")
        assert "channel" in error["message"]
        assert error["id"] == number


async def test_unknown_types_are_told_apart_and_shown_short(start_node: StartNode, open_peer: OpenPeer) -> None:
    """An unknown type is UNKNOWN_TYPE with the id; a long one is cut."""
    peer = await open_peer(await start_node())
    error = await refused(peer, {"type": "shout", "id": "a"}, "UNKNOWN_TYPE")
    assert (error["id"], "shout" in error["message"]) == ("a", True)
    error = await refused(peer, {"type": "y" * 5000}, "UNKNOWN_TYPE")
    assert len(error["message"]) < 200
    # What the server says is no message for it.
    await refused(peer, {"type": "publication", "channel": "public.a", "data": 1}, "UNKNOWN_TYPE")


async def test_errors_carry_the_id_of_the_message(start_node: StartNode, open_peer: OpenPeer) -> None:
    """The id comes back whenever it can be read, whatever else is wrong."""
    peer = await open_peer(await start_node())
    assert (await refused(peer, {"type": "subscribe", "id": 12, "channels": 3}, "INVALID_MESSAGE"))["id"] == 12
    assert (await refused(peer, {"type": "publish", "id": "x", "channel": "private.a", "data": 1}, "FORBIDDEN"))[
        "id"
    ] == "x"
    assert "id" not in await refused(peer, '{"type":"subscribe","id":1', "INVALID_JSON")


async def test_unknown_fields_are_ignored(start_node: StartNode, open_peer: OpenPeer) -> None:
    """A newer client may say more than this server understands."""
    peer = await open_peer(await start_node())
    await peer.ask({"type": "subscribe", "channels": ["public.a"], "mood": {"deep": [1]}}, "subscription_ack")


async def test_huge_numbers_in_data_travel_untouched(start_node: StartNode, open_peer: OpenPeer) -> None:
    """`data` is passed on as it was written: numbers beyond 64 bits and beyond doubles included."""
    node = await start_node()
    peer = await open_peer(node)
    await peer.ask({"type": "subscribe", "channels": ["public.a"]}, "subscription_ack")
    for number in ["1e400", "9" * 1000, "-0.0", "1.000000000000000000000000000001"]:
        await peer.send(f'{{"type":"publish","channel":"public.a","data":[{number}]}}')
        raw = [await peer.socket.recv() for _ in range(2)]
        assert any(f'"data":[{number}]' in str(text) for text in raw), raw


async def test_a_field_that_stands_twice_cannot_slip_past_the_rules(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Whichever of two equal fields counts, the same one is checked and used."""
    node = await start_node()
    peer = await open_peer(node)
    await peer.send('{"type":"publish","channel":"public.a","channel":"private.a","data":1}')
    await peer.send('{"type":"publish","channel":"private.a","channel":"public.a","data":1}')
    answers = [await peer.next(), await peer.next()]
    assert sorted(answer["type"] for answer in answers) == ["error", "publish_ack"]
    assert next(answer["channel"] for answer in answers if answer["type"] == "publish_ack") == "public.a"


async def test_forbidden_channels(start_node: StartNode, open_peer: OpenPeer) -> None:
    """What no rule allows is FORBIDDEN, and a request is served whole or not at all."""
    node = await start_node(channels__rules=(ChannelRule("news", subscribe="anyone"),))
    peer = await open_peer(node)
    for channel in ["private.a", "presence.x", "public", "user.7"]:
        error = await refused(peer, {"type": "subscribe", "channels": [channel]}, "FORBIDDEN")
        assert channel in error["message"]
        await refused(peer, {"type": "publish", "channel": channel, "data": 1}, "FORBIDDEN")
        await refused(peer, {"type": "replay", "channel": channel, "since": 0}, "FORBIDDEN")
    await refused(peer, {"type": "subscribe", "channels": ["public.a", "private.a"]}, "FORBIDDEN")
    await refused(peer, {"type": "replay", "channel": "public.a", "since": 0}, "NOT_SUBSCRIBED")
    await peer.ask({"type": "subscribe", "channels": ["news"]}, "subscription_ack")
    await refused(peer, {"type": "publish", "channel": "news", "data": 1}, "FORBIDDEN")


async def test_shape_is_checked_before_permission_and_permission_before_state(
    start_node: StartNode, open_peer: OpenPeer
) -> None:
    """The order of the checks is part of the contract, so a client learns the first reason."""
    peer = await open_peer(await start_node())
    await refused(peer, {"type": "replay", "channel": "private.a", "from": 2, "to": 1}, "INVALID_MESSAGE")
    await refused(peer, {"type": "replay", "channel": "private.a", "from": 1, "to": 2}, "FORBIDDEN")
    await refused(peer, {"type": "replay", "channel": "public.a", "from": 1, "to": 2}, "NOT_SUBSCRIBED")


async def test_channel_limit_counts_each_channel_once(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Over the limit nothing of the request is subscribed; repeating a channel costs nothing; leaving makes room."""
    peer = await open_peer(await start_node(limits__channels_per_client=3))
    ack = await peer.ask({"type": "subscribe", "channels": ["public.a", "public.a", "public.b"]}, "subscription_ack")
    assert (ack["subscribed"], ack["count"]) == (["public.a", "public.b"], 2)
    error = await refused(peer, {"type": "subscribe", "channels": ["public.c", "public.d"]}, "CHANNEL_LIMIT")
    assert "3" in error["message"]
    ack = await peer.ask({"type": "subscribe", "channels": ["public.a", "public.b", "public.c"]}, "subscription_ack")
    assert ack["count"] == 3
    await peer.ask({"type": "unsubscribe", "channels": ["public.a", "public.zzz"]}, "unsubscription_ack")
    assert (peer.seen[-1]["unsubscribed"], peer.seen[-1]["count"]) == (["public.a"], 2)
    await peer.ask({"type": "subscribe", "channels": ["public.d"]}, "subscription_ack")


async def test_replay_says_what_is_missing(start_node: StartNode, open_peer: OpenPeer) -> None:
    """Another epoch, offsets that expired and offsets that never were: each answer says how far it holds."""
    node = await start_node(
        channels__rules=(
            ChannelRule("short", "anyone", "anyone", history=3),
            ChannelRule("fast", "anyone", "anyone", history=0),
        )
    )
    peer = await open_peer(node)
    ack = await peer.ask({"type": "subscribe", "channels": ["short", "fast"]}, "subscription_ack")
    epoch = ack["positions"]["short"]["epoch"]
    assert ack["positions"]["fast"] == {"epoch": None, "offset": None, "recovered": False, "replayed": 0}
    offsets = []
    for number in range(6):
        await peer.send({"type": "publish", "channel": "short", "data": number})
        offsets.append((await peer.skip_to("publish_ack"))["offset"])
        if not any(message["type"] == "publication" and message["data"] == number for message in peer.seen):
            await peer.expect("publication")

    answer = await peer.ask({"type": "replay", "channel": "short", "epoch": "other", "since": 0}, "replay_incomplete")
    assert (answer["reason"], answer["sent"], answer["epoch"]) == ("epoch_changed", 0, epoch)
    answer = await peer.ask({"type": "replay", "channel": "fast", "since": 0}, "replay_incomplete")
    assert (answer["reason"], answer["sent"]) == ("no_history", 0)

    await peer.send(
        {"type": "replay", "id": 5, "channel": "short", "epoch": epoch, "from": offsets[4], "to": offsets[5]}
    )
    assert [(await peer.expect("publication"))["data"] for _ in range(2)] == [4, 5]
    answer = await peer.expect("replay_complete")
    assert (answer["id"], answer["from"], answer["to"], answer["sent"]) == (5, offsets[4], offsets[5], 2)

    await peer.send({"type": "replay", "channel": "short", "since": 0})
    answer = await peer.skip_to("replay_incomplete")
    assert answer["reason"] == "expired"
    assert answer["sent"] >= 3
    assert answer["missing_from"] == 1
    assert answer["missing_to"] < offsets[3]

    answer = await peer.ask({"type": "replay", "channel": "short", "since": offsets[5] + 1000}, "replay_complete")
    assert answer["sent"] == 0


async def test_fire_and_forget_channels_have_no_positions(start_node: StartNode, open_peer: OpenPeer) -> None:
    """With history 0, epoch, offset and prev are null, and recover says that there is none."""
    node = await start_node(channels__rules=(ChannelRule("fast", "anyone", "anyone", history=0),))
    peer = await open_peer(node)
    ack = await peer.ask(
        {"type": "subscribe", "channels": ["fast"], "recover": {"fast": {"epoch": "e", "offset": 4}}},
        "subscription_ack",
    )
    assert ack["positions"]["fast"] == {
        "epoch": None, "offset": None, "recovered": False, "replayed": 0, "reason": "no_history",
    }  # fmt: skip
    await peer.send({"type": "publish", "channel": "fast", "data": 1})
    got = {message["type"]: message for message in [await peer.next(), await peer.next()]}
    assert [got["publication"][name] for name in ("epoch", "offset", "prev")] == [None, None, None]
    assert (got["publish_ack"]["epoch"], got["publish_ack"]["offset"]) == (None, None)


async def test_debug_names_each_refusal_and_goodbye(start_node: StartNode, open_peer: OpenPeer) -> None:
    """An operator who looks finds which client was refused what, and who was asked to leave."""
    node = await start_node()
    peer = await open_peer(node)
    with capture_logs() as lines:
        await refused(peer, {"type": "subscribe", "channels": []}, "INVALID_MESSAGE")
        node.draining.begin(0)
        await peer.closed()
    found = {line["event"]: line for line in lines if line["log_level"] == "debug"}
    assert found["request_refused"]["code"] == "INVALID_MESSAGE"
    assert "channels is empty" in found["request_refused"]["why"]
    assert found["client_asked_to_move"]["connection"] == peer.seen[0]["connection_id"]
