"""Publications as they go out: spliced by hand, so they are compared with what an encoder would make."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.bus.base import Publication
from trunkline.server.channels.publications import Outgoing, json_of, payload
from trunkline.websocket.deflate import inflate

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def publication(data: bytes = b'{"x":1}', offset: int | None = 5, epoch: str | None = "e1") -> Publication:
    """A publication of channel `news`."""
    return Publication("news", data, epoch, offset, None if offset is None else offset - 1, 1234)


def test_payload() -> None:
    """The message has its fields in the documented order, `type` first and `data` as it was published."""
    assert payload(publication(b' {"x" : 1e999} '), 3) == (
        b'{"type":"publication","channel":"news","epoch":"e1","offset":5,"prev":3,"data": {"x" : 1e999} ,"ts":1234}'
    )


def test_channels_without_history() -> None:
    """Their publications have no place: epoch, offset and prev are null."""
    message = json.loads(payload(publication(offset=None, epoch=None), None))
    assert (message["epoch"], message["offset"], message["prev"]) == (None, None, None)
    assert message["data"] == {"x": 1}


def test_unknown_predecessor() -> None:
    """Where nothing came before, `prev` is 0."""
    assert json.loads(payload(publication(), None))["prev"] == 0


@given(texts, texts, st.integers(1, 2**53 - 1), st.integers(0, 2**53), st.recursive(texts | st.integers(), st.lists))
def test_any_names_and_data(channel: str, epoch: str, offset: int, prev: int, data: object) -> None:
    """Names with quotes, controls and any other character leave the message valid JSON."""
    item = Publication(channel, json.dumps(data).encode(), epoch, offset, prev, 99)
    assert json.loads(payload(item, prev)) == {
        "type": "publication", "channel": channel, "epoch": epoch, "offset": offset, "prev": prev, "data": data,
        "ts": 99,
    }  # fmt: skip


def test_frames() -> None:
    """The plain frame is a whole text frame; the compressed one carries RSV1 and the same message."""
    outgoing = Outgoing(publication(json.dumps("x" * 500).encode()), 4)
    body = payload(outgoing.publication, 4)
    assert outgoing.frame == b"\x81\x7e" + len(body).to_bytes(2, "big") + body
    packed = outgoing.deflated(100)
    assert packed[0] == 0xC1
    start = 2 if packed[1] < 126 else 4
    assert inflate(packed[start:], len(body)) == body
    assert len(packed) < len(outgoing.frame)


def test_compressed_once() -> None:
    """However many subscribers ask, the frame is compressed once."""
    outgoing = Outgoing(publication(json.dumps("x" * 500).encode()), 4)
    assert outgoing.deflated(100) is outgoing.deflated(100)


def test_small_frames_stay_plain() -> None:
    """Below the bound compression is not worth it, and plain frames may go to every client."""
    outgoing = Outgoing(publication(), 4)
    assert outgoing.deflated(1000) is outgoing.frame
    assert outgoing.deflated(len(outgoing.frame)) is not outgoing.frame


@pytest.mark.parametrize("data", [b"{}", b' [1, "a"] ', b"1", '"é😀"'.encode(), b"null"])
def test_json_stays_as_it_came(data: bytes) -> None:
    """To the byte: frames are made of it."""
    assert json_of(data) is data


@pytest.mark.parametrize("data", [b"", b"no JSON", b"{", b"1 2", b'"\xff"', b"[" * 5000, b"\xff"])
def test_what_is_no_json_becomes_null(data: bytes) -> None:
    """Other programs may publish where nodes listen; subscribers get JSON all the same."""
    assert json_of(data) == b"null"
