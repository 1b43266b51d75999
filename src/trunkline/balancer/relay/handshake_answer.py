"""A backend's answer to a handshake, read from bytes as they come over any kind of connection. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from trunkline.http1.bodies import BodyReader
from trunkline.http1.heads import UNTIL_CLOSE, AnswerHead, BadHead, check_answer_beginning, find_end, read_answer

MAX_ANSWER_BODY: Final = 1 << 16
"""Most bytes of a backend's answer that refuses a handshake; a longer one is cut, and says so."""

_NOTE: Final = f"[cut by the balancer: the answer is longer than {MAX_ANSWER_BODY} bytes]\n".encode()
_PLAIN: Final = "text/plain; charset=utf-8"
_OF_THE_WHOLE: Final = frozenset(
    {"accept-ranges", "content-digest", "content-md5", "content-range", "digest", "etag", "repr-digest"}
)
"""Headers that hold for the whole body alone."""


class Failure(Exception):
    """A backend could not take a connection; `why` is a label of `Placer.failed`."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Accepted(NamedTuple):
    """A backend's 101, and the bytes that came behind it."""

    head: AnswerHead
    behind: bytes


class Refused(NamedTuple):
    """A backend's answer other than 101."""

    head: AnswerHead
    body: bytes


Answer = Accepted | Refused


class AnswerReader:
    """Reads one answer whose head, with interim answers before it, has at most `limit` bytes."""

    __slots__ = ("_body", "_buffer", "_content", "_head", "_limit", "_scanned")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = b""
        self._scanned = 0
        self._head: AnswerHead | None = None
        self._body: BodyReader | None = None
        self._content = b""

    def feed(self, data: bytes) -> Answer | None:
        """Take the next bytes; returns the answer once it is complete. After a 101 nothing more is to be fed.

        Raises Failure `bad_answer` for what cannot be understood, or a head that is too long.
        """
        try:
            return self._read(data)
        except BadHead:
            raise Failure("bad_answer") from None

    def ended(self) -> Answer:
        """The end of the connection, and perhaps of the answer's body; raises Failure `closed` for half an answer."""
        if self._head is not None and self._head.length == UNTIL_CLOSE:
            return Refused(self._head, self._content)
        raise Failure("closed")

    def _read(self, data: bytes) -> Answer | None:
        head, body = self._head, self._body
        if head is None or body is None:
            self._buffer += data
            while True:
                end = find_end(self._buffer, self._limit, self._scanned)
                if end < 0:
                    check_answer_beginning(self._buffer, self._scanned)
                    self._scanned = len(self._buffer)
                    return None
                head = read_answer(self._buffer[:end])
                data = self._buffer[end:]
                if head.status == 101:
                    return Accepted(head, data)
                if head.status >= 200:
                    break
                # An interim answer: what counts comes behind it, and all together are bounded.
                self._limit -= end
                self._buffer, self._scanned = data, 0
            self._buffer = b""
            self._head = head
            self._body = body = BodyReader(head.length, 1 << 62)
        content, _ = body.feed(data)
        self._content += content
        if len(self._content) > MAX_ANSWER_BODY:
            return _cut(head, self._content[:MAX_ANSWER_BODY])
        return Refused(head, self._content) if body.done else None


def _cut(head: AnswerHead, content: bytes) -> Refused:
    """An answer of which `content` is the beginning; what is no plain text is left out, since half of it is nothing."""
    dropped = _OF_THE_WHOLE
    kept = "content-encoding" not in head.headers and head.headers.get("content-type", "").startswith("text/plain")
    if not kept:
        dropped = dropped | {"content-encoding", "content-type"}
    fields = [field for field in head.fields if field[1] not in dropped]
    if not kept:
        fields.append(("Content-Type", "content-type", _PLAIN))
    headers = {name: value for name, value in head.headers.items() if name not in dropped}
    cut = AnswerHead(head.status, head.phrase, fields, headers, len(content))
    return Refused(cut, content + b"\n" + _NOTE if kept else _NOTE)
