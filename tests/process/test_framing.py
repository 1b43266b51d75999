"""Messages in a stream between two processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunkline.process.framing import Framing, head


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(min_value=1, max_value=50))
def test_messages_survive_any_cut(messages: list[bytes], step: int) -> None:
    """However the stream is cut, the same messages come out in order."""
    stream = b"".join(head(len(each)) + each for each in messages)
    framing = Framing(40)
    found = [each for at in range(0, len(stream), step) for each in framing.feed(stream[at : at + step])]
    assert (found, framing.too_long) == (messages, None)


def test_a_message_that_is_too_long_ends_the_stream() -> None:
    """What came before it is handed out, nothing after it."""
    framing = Framing(5)
    assert framing.feed(head(1) + b"a" + head(6) + b"bbbbbb" + head(1) + b"c") == [b"a"]
    assert framing.too_long == 6
    assert framing.feed(head(1) + b"d") == []
