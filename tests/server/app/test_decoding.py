"""From a client's bytes to a message: every way to get it wrong has its error, and none costs much."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.patience import patient
from trunkline.errors import MessageError
from trunkline.protocol import wire
from trunkline.server.app import decoding
from trunkline.server.app.decoding import MAX_DEPTH, MAX_TYPE_SHOWN, too_deep

FEED = msgspec.json.Decoder(wire.ChannelRequest | wire.Heartbeat)
CHAT = msgspec.json.Decoder(wire.ChannelRequest | wire.Heartbeat | wire.ChatMessage)
ANY = msgspec.json.Decoder(msgspec.Raw)


def error_of(payload: bytes, decoder: msgspec.json.Decoder[Any] = CHAT) -> MessageError:
    """The error that a message is answered with."""
    with pytest.raises(MessageError) as caught:
        decoding.decode(decoder, payload)
    assert not caught.value.temporary
    return caught.value


GOOD = {
    "subscribe": {"channels": ["a"], "id": 1, "recover": {"a": {"epoch": "e", "offset": 0}}},
    "unsubscribe": {"channels": ["a", "b"], "id": "x"},
    "publish": {"channel": "a", "data": {"x": [1, None]}, "id": None},
    "replay": {"channel": "a", "from": 1, "to": 2, "since": 3, "epoch": "e", "id": 7},
    "heartbeat": {"id": 1},
    "message": {"text": "hi", "id": 1},
}


def test_good_messages() -> None:
    """Each message of the protocol is read, with all fields and with fields nobody knows."""
    for type_, fields in GOOD.items():
        payload = json.dumps({"type": type_, **fields, "unknown": [{}]}).encode()
        message = decoding.decode(CHAT, payload)
        assert message.__struct_config__.tag == type_
        assert message.id == fields["id"]
        assert decoding.message_id(payload) == fields["id"]
        assert decoding.message_type(payload) == type_


def test_minimal_messages() -> None:
    """Optional fields may be missing, and `type` may stand anywhere."""
    assert decoding.decode(FEED, b'{"channels":[],"type":"subscribe"}') == wire.Subscribe([])
    assert decoding.decode(FEED, b' \n{"type":"heartbeat"}\t') == wire.Heartbeat()
    assert decoding.decode(FEED, b'{"type":"replay","channel":"a"}') == wire.Replay("a")


NOT_TEXT = (None, True, 1, 1.5, [], {})
NOT_OFFSET = (True, "1", 1.5, -1, 2**53, 10**400, [], {})
NOT_ID = (True, 1.5, [], {})
WRONG: list[tuple[str, str, Any]] = [
    *(("subscribe", "channels", value) for value in (None, True, 1, "a", {}, [1], [None], ["a", ["b"]])),
    *(("subscribe", "recover", value) for value in (True, 1, "a", [], {"a": None}, {"a": 1}, {"a": []}, {"a": {}})),
    *(("subscribe", "recover", {"a": {"epoch": value, "offset": 1}}) for value in (*NOT_TEXT, "e" * 65)),
    *(("subscribe", "recover", {"a": {"epoch": "e", "offset": value}}) for value in (None, *NOT_OFFSET)),
    *(("unsubscribe", "channels", value) for value in (None, True, 1, "a", {}, [1])),
    *(("publish", "channel", value) for value in NOT_TEXT),
    *(("replay", "channel", value) for value in NOT_TEXT),
    *(("replay", field, value) for field in ("from", "to", "since") for value in NOT_OFFSET),
    *(("replay", "epoch", value) for value in (True, 1, 1.5, [], {}, "e" * 65)),
    *(("message", "text", value) for value in (*NOT_TEXT, "x" * 32_769)),
    *((type_, "id", value) for type_ in GOOD for value in NOT_ID),
]


@pytest.mark.parametrize(("type_", "field", "value"), WRONG)
def test_wrong_fields(type_: str, field: str, value: Any) -> None:
    """A field of the wrong type or range is INVALID_MESSAGE, and the text names the field."""
    error = error_of(json.dumps({"type": type_, **GOOD[type_], field: value}).encode())
    assert error.code == wire.INVALID_MESSAGE
    assert f"$.{field}" in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize(
    ("type_", "field"),
    [("subscribe", "channels"), ("unsubscribe", "channels"), ("publish", "channel"), ("publish", "data"),
     ("replay", "channel"), ("message", "text")],
)  # fmt: skip
def test_missing_fields(type_: str, field: str) -> None:
    """A field that is missing is INVALID_MESSAGE, and the text names it."""
    fields = {name: value for name, value in GOOD[type_].items() if name != field}
    error = error_of(json.dumps({"type": type_, **fields}).encode())
    assert error.code == wire.INVALID_MESSAGE
    assert f"`{field}`" in error.message


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"5", b'"x"', b"null", b"true", b'{"type":5}', b'{"type":null}'])
def test_no_type(payload: bytes) -> None:
    """JSON that is no object with a type is INVALID_MESSAGE."""
    assert error_of(payload).code == wire.INVALID_MESSAGE
    assert decoding.message_type(payload) is None


def test_unknown_types() -> None:
    """A type nobody knows is UNKNOWN_TYPE and named; one this endpoint does not take is unknown to it."""
    error = error_of(b'{"type":"dance","id":1}')
    assert (error.code, error.message) == (wire.UNKNOWN_TYPE, "unknown message type: 'dance'")
    assert error_of(b'{"type":"message","text":"hi"}', FEED).code == wire.UNKNOWN_TYPE
    assert error_of(b'{"type":"","id":1}').code == wire.UNKNOWN_TYPE
    assert "'a - at b'" in error_of(b'{"type":"a - at b"}').message


def test_a_long_type_is_not_repeated_whole() -> None:
    """An error does not send back what a client made up at length."""
    error = error_of(b'{"type":"%b"}' % (b"x" * 60_000))
    assert error.code == wire.UNKNOWN_TYPE
    assert len(error.message) < MAX_TYPE_SHOWN + 40


@pytest.mark.parametrize(
    "payload",
    [
        b"", b" ", b"{", b"}", b"nul", b"{'a':1}", b'{"a":1,}', b"[1,]", b"01", b"1.", b".5", b"+1", b"1e", b"NaN",
        b"Infinity", b'"\x01"', b'"\n"', b'"\\x"', b'"\\u12g4"', b'{"type":"heartbeat"} x', b'{"type":"heartbeat"}{}',
        b'\xef\xbb\xbf{"type":"heartbeat"}', b'{"type":"heartbeat"', b'{"type" "heartbeat"}',
    ],
)  # fmt: skip
def test_broken_json(payload: bytes) -> None:
    """What is no JSON is INVALID_JSON, for the message as for its type."""
    assert error_of(payload).code == wire.INVALID_JSON
    with pytest.raises(MessageError) as caught:
        decoding.message_type(payload)
    assert caught.value.code == wire.INVALID_JSON


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"replay","channel":5',
        b'{"type":"replay","channel":5,}',
        b'{"type":"replay","channel":5} trailing',
        b'{"type":"dance",',
        b'{"type":"dance","x":01}',
        b'{"type":5,"x":nul}',
        b"[1,2",
    ],
)
def test_broken_json_behind_a_wrong_field(payload: bytes) -> None:
    """That a field was wrong before the JSON broke does not make it JSON."""
    assert error_of(payload).code == wire.INVALID_JSON


def test_huge_numbers() -> None:
    """Numbers beyond all bounds are JSON: no offset, but no fault in data that nobody here looks into."""
    for number in (b"1" * 400, b"1" * 5000, b"1e999", b"-1e999", b"1" + b"0" * 400):
        error = error_of(b'{"type":"replay","channel":"c","from":%b}' % number)
        assert error.code == wire.INVALID_MESSAGE
        assert "$.from" in error.message
        message = decoding.decode(FEED, b'{"type":"publish","channel":"c","data":[%b]}' % number)
        assert bytes(message.data) == b"[%b]" % number
        assert decoding.decode(FEED, b'{"type":"heartbeat","x":%b}' % number) == wire.Heartbeat()


@pytest.mark.parametrize("id_", [0, -5, 2**60, "", "abc", "é"])
def test_id_is_carried(id_: str | int) -> None:
    """The `id` of a message that was refused is found, so that its error can carry it."""
    for message in ({"type": "dance", "id": id_}, {"type": "replay", "id": id_}, {"id": id_, "type": 5}):
        payload = json.dumps(message).encode()
        error_of(payload)
        assert decoding.message_id(payload) == id_


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"id":true}', b'{"id":[1]}', b'{"id":1', b'{"id":1.5}', b"{}"])
def test_no_usable_id(payload: bytes) -> None:
    """Where there is no id, or none of the right type, there is none."""
    assert decoding.message_id(payload) is None


# --- depth ------------------------------------------------------------------------------------------------------------


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """A JSON text of this depth."""
    return opening * depth + b"1" + closing * depth


def test_depth_limit_is_exact() -> None:
    """The deepest level allowed passes, the next one does not; siblings and strings do not count."""
    mixed = [b'[{"a":' * half + b"1" + b"}]" * half for half in (MAX_DEPTH // 2, MAX_DEPTH // 2 + 1)]
    assert [too_deep(text) for text in mixed] == [False, True]
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        assert not too_deep(nested(MAX_DEPTH, opening, closing))
        assert too_deep(nested(MAX_DEPTH + 1, opening, closing))
        wide = b"[" + b",".join([nested(MAX_DEPTH - 1, opening, closing)] * 9) + b"]"
        assert not too_deep(wide)
        assert too_deep(b"[%b,%b]" % (wide, wide))
    assert not too_deep(b'["%b","\\"%b"]' % (b"[" * 500, b"{" * 500))
    assert not too_deep(b"[" + b",".join([b"[]", b"{}"] * 500) + b"]")
    assert too_deep(b'["\\\\",%b]' % nested(MAX_DEPTH))


def test_too_deep_is_invalid_json() -> None:
    """A message that nests too deep is INVALID_JSON with the limit in its text, wherever it nests."""
    for payload in (
        nested(65),
        b'{"type":"publish","channel":"a","data":%b}' % nested(64),
        b'{"type":"heartbeat","unknown":%b}' % nested(64),
        b'{"type":"replay","channel":5,"unknown":%b}' % nested(64),
    ):
        error = error_of(payload)
        assert error.code == wire.INVALID_JSON
        assert str(MAX_DEPTH) in error.message
    assert decoding.decode(FEED, b'{"type":"publish","channel":"a","data":%b}' % nested(63))


BOMBS = {
    "openings": b"[" * 65536,
    "objects": b'{"a":' * 13000,
    "pairs": b"[" + b"[]," * 21000 + b"[]]",
    "pairs without commas": b"[]" * 32768,
    "closings": b"]" * 65536,
    "crossed": b"][}{" * 16384,
    "towers": (b"[" * 64 + b"]" * 64) * 512,
    "quotes in an open string": b"[" * 65 + b'"' + b'\\"' * 32000,
    "backslashes in an open string": b"[" * 65 + b'"' + b"\\\\" * 32000,
    "empty strings": b"[" * 65 + b'""' * 32000,
    "open string": b"[" * 65 + b'"' + b"[" * 65000,
}


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_are_cheap(payload: bytes) -> None:
    """64 KiB made to be hard to look at are refused in a time that grows with their size and not with its square."""

    def cost(part: bytes) -> float:
        best = 1e9
        for _ in range(3):
            started = time.process_time()
            with pytest.raises(MessageError):
                decoding.decode(FEED, part)
            best = min(best, time.process_time() - started)
        return best

    assert cost(payload) < patient(0.15), "a quadratic scan takes seconds here"


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def exact_depth(value: Any) -> int:
    """How deep a decoded JSON value nests."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(exact_depth, value), default=0) if isinstance(value, list) else 0


@given(st.lists(json_texts, min_size=1, max_size=40), st.integers(55, 66), st.integers(0, 2**66))
def test_depth_of_any_json(texts: list[bytes], around: int, kinds: int) -> None:
    """For valid JSON of any shape, objects and arrays mixed, the limit is exact."""
    payload = b"[" + b",".join(texts) + b"]"
    for level in range(around):
        payload = b'{"]":%b}' % payload if kinds >> level & 1 else b"[%b]" % payload
    assert too_deep(payload) is (exact_depth(json.loads(payload)) > MAX_DEPTH)


alphabet = st.sampled_from([bytes((byte,)) for byte in b'[]{}",:\\ 01e.-tnfu"a\x01\xc3\xa9'])


def reject(name: str) -> Any:
    """JSON has no such constants."""
    raise ValueError(name)


def is_json(payload: bytes) -> bool:
    """What another JSON parser says, with its two liberties taken away: NaN, and surrogates that stand alone."""
    try:
        json.dumps(json.loads(payload.decode(), parse_constant=reject), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


@settings(max_examples=500)
@given(st.lists(alphabet | json_texts, max_size=14).map(b"".join))
@example(b'"\\ud800"')
@example(b'["a\\u0000"]')
def test_another_parser_agrees(payload: bytes) -> None:
    """What passes as JSON, and so goes out as it is, is JSON to another parser; what is refused is none."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return  # the frame layer lets no such text through
    for text in (payload, b'{"type":"publish","channel":"a","data":%b}' % payload):
        try:
            decoding.check_json(text)
        except MessageError:
            assert not is_json(text)
        else:
            assert is_json(text)


@given(st.text(max_size=60).map(str.encode) | st.lists(alphabet, max_size=30).map(b"".join))
def test_nothing_else_is_raised(payload: bytes) -> None:
    """Whatever a client sends, it becomes a message or a MessageError."""
    for decoder in (FEED, CHAT, ANY):
        for text in (payload, b'{"type":"replay","channel":%b}' % payload, b'{"type":%b}' % payload):
            decoding.message_id(text)
            code = None
            try:
                decoding.decode(decoder, text)
            except MessageError as error:
                code = error.code
            assert code in (None, wire.INVALID_JSON, wire.INVALID_MESSAGE, wire.UNKNOWN_TYPE)
