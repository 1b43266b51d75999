"""A backend's answer read from pieces of any size, with no socket."""

from __future__ import annotations

import pytest

from trunkline.balancer.relay.handshake_answer import MAX_ANSWER_BODY, Accepted, Answer, AnswerReader, Failure, Refused

ACCEPTED = (
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nbehind"
)
REFUSED = b"HTTP/1.1 403\r\nContent-Length: 4\r\n\r\nno!\n"


def read(data: bytes, size: int, limit: int = 4096) -> Answer | None:
    """Feed `data` in pieces; returns the answer, None while it is incomplete."""
    reader = AnswerReader(limit)
    for start in range(0, len(data), size):
        found = reader.feed(data[start : start + size])
        if found is not None:
            return found
    return None


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_in_pieces(size: int) -> None:
    """However it is cut, an answer is read, and never refused before its end."""
    found = read(ACCEPTED, size)
    assert isinstance(found, Accepted)
    assert found.head.headers == {"upgrade": "websocket"}
    refused = read(REFUSED, size)
    assert isinstance(refused, Refused)
    assert (refused.head.status, refused.body) == (403, b"no!\n")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 101 Switching Protocols\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\n",
        b"HTTP/1.1 403 No\r\n\n",
        b"\n",
        b"SSH-2.0",
        b"HTTP/2",
        b"HTTP/1.1 101x\r\n",
        b"HTTP/1.1 099 Low\r\n",
        b"http/1.1 101 ",
        b"220 smtp.example.org\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_can_be_no_answer_is_bad_at_once(data: bytes, size: int) -> None:
    """A bare LF, or a first line of another protocol, is not waited out: the head would never end."""
    with pytest.raises(Failure) as failure:
        read(data, size)
    assert failure.value.why == "bad_answer"


def refusal(size: int, *headers: bytes) -> Refused:
    head = b"\r\n".join([b"HTTP/1.1 403 No", b"Content-Length: %d" % size, *headers])
    found = read(head + b"\r\n\r\n" + b"x" * size, 10_000)
    assert isinstance(found, Refused)
    return found


def test_a_refusal_of_the_longest_kind_passes_whole() -> None:
    """Up to the bound nothing is cut."""
    found = refusal(MAX_ANSWER_BODY, b"Content-Type: application/json", b'ETag: "x"')
    assert len(found.body) == MAX_ANSWER_BODY
    assert found.head.headers["etag"] == '"x"'


def test_a_longer_text_is_cut_with_a_note() -> None:
    """Plain text keeps its beginning, and its last line says what happened; headers of the whole are gone."""
    found = refusal(MAX_ANSWER_BODY + 1, b"Content-Type: text/plain", b'ETag: "x"', b"X-Why: none")
    assert found.body.startswith(b"x" * MAX_ANSWER_BODY + b"\n[cut by the balancer: ")
    assert {name for _, name, _ in found.head.fields} == {"content-length", "content-type", "x-why"}


@pytest.mark.parametrize("header", [b"Content-Type: application/json", b"Content-Encoding: gzip"])
def test_half_of_anything_else_is_left_out(header: bytes) -> None:
    """What a client could not read in half is replaced by the note, as plain text."""
    found = refusal(MAX_ANSWER_BODY + 1, header)
    assert found.body == b"[cut by the balancer: the answer is longer than 65536 bytes]\n"
    assert [value for _, name, value in found.head.fields if name.startswith("content-t")] == [
        "text/plain; charset=utf-8"
    ]
    assert "content-encoding" not in {name for _, name, _ in found.head.fields}
