"""What fuzz tests of entrances share: servers in a loop of their own, a watch over what must never happen, odd bytes.

By default the examples are few and always the same; `HYPOTHESIS_PROFILE=search` looks for new ones, for much longer.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import uvloop
from hypothesis import strategies as st

from tests.support.patience import patient
from trunkline.logs import configure
from trunkline.settings.sections import LogSettings

T = TypeVar("T")

WAIT_S: Final = patient(10.0)


class _Out(io.StringIO):
    """Where the log goes; what no UTF-8 stream could take is a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self._faults = faults

    def write(self, text: str, /) -> int:
        try:
            text.encode()
        except UnicodeEncodeError:
            self._faults.append(f"a log line that cannot be written: {text!r}")
        return super().write(text)


class Stage:
    """A loop in a thread for the servers under test, and everything that went wrong there.

    Faults are errors in the log, lines of the log that cannot be written, and exceptions that nobody awaited.
    """

    def __init__(self, log_format: Literal["json", "console"]) -> None:
        self._found: list[str] = []
        self._json = log_format == "json"
        self._out = _Out(self._found)
        configure.configure(LogSettings(level="debug", format=log_format), stream=self._out)
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self._found.append(f"in the loop: {context}"))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something there and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def settle(self) -> None:
        """Let what has been read there be handled."""
        self.run(asyncio.sleep(0))

    def check(self) -> None:
        """Fail with what went wrong since the last time."""
        self.settle()
        written = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        found, self._found[:] = list(self._found), []
        for line in written.split("\n")[:-1] if self._json else ():
            event = json.loads(line)
            if event["level"] in ("error", "critical") or "exception" in event:
                found.append(line)
        if "Traceback" in written and not found:
            found.append(written)
        assert not found, "\n".join(found)

    def close(self) -> None:
        """End the loop; the servers were stopped before."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
        configure.close()


@contextmanager
def stage(log_format: Literal["json", "console"] = "json") -> Iterator[Stage]:
    """A stage that is closed afterwards."""
    made = Stage(log_format)
    try:
        yield made
    finally:
        made.close()


def ask(port: int, request: bytes, *, whole: bool = True) -> bytes:
    """What a server answers, as far as the end of its head; b"" when it closes the connection without a word.

    A request that may not be `whole` is followed by the end of the stream, so that the server need not wait for more.
    """
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
        answer = b""
        try:
            sock.sendall(request)
            if not whole:
                sock.shutdown(socket.SHUT_WR)
            while b"\r\n\r\n" not in answer:
                piece = sock.recv(65_536)
                if not piece:
                    break
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def status_of(answer: bytes) -> int:
    """The status of an HTTP answer, 0 without one."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0


# --- odd bytes --------------------------------------------------------------------------------------------------------

NOT_UTF8: Final = (b"\xff\xfe", b"\x80", b"\xc3", b"\xed\xa0\x80", b"\xed\xb3\xbf", b"\xf5\x80\x80\x80", b"\xe9")
ODD: Final = (
    *NOT_UTF8, b"", b" ", b",", b";", b"=", b":", b"::", b"[", b"]", b"*", b"%", b"%ff", b"%ed%a0%80", b"%00",
    b"\x7f", b"\t",
    b"0", b"-1", b"1e999", b"nan", b"9" * 400, b"null", b"unknown", b"a" * 3000, "é€😀".encode(), "١٢".encode(),
    b"fe80::1%\xff", b"::1%\xe9", b"::ffff:1.2.3.4", b"[::1]:99999", b"127.0.0.1:x", b"for=\"[::1%\xff]\"",
    b"http://[", b"http://[::1%25",
    b"\"", b"\\", b"\"\\\"", b"bearer.", b"bearer", b"trunkline", b"a, b",
)  # fmt: skip
"""Pieces that have broken some parser of some program."""

odd = st.one_of(st.sampled_from(ODD), st.binary(max_size=24))
odd_lines = st.lists(odd, max_size=4).map(b"".join).map(lambda text: text.translate(None, b"\r\n\0"))
"""A line of odd bytes that ends no head."""

HEADERS: Final = (
    b"Accept", b"Accept-Encoding", b"Authorization", b"Connection", b"Content-Length", b"Cookie", b"Expect",
    b"Forwarded", b"Host",
    b"If-None-Match", b"Origin", b"Range", b"Referer", b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Version", b"TE", b"Transfer-Encoding", b"Upgrade", b"User-Agent",
    b"Via",
    b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-Uri", b"X-Real-IP", b"X-Request-ID",
)  # fmt: skip
bodyless = tuple(name for name in HEADERS if name not in (b"Content-Length", b"Transfer-Encoding"))
values = st.one_of(
    odd_lines,
    st.builds(
        lambda scheme, rest: scheme + rest, st.sampled_from((b"Bearer ", b"bearer ", b"Basic ", b"Bearer")), odd_lines
    ),
    st.lists(odd_lines, max_size=4).map(b", ".join),
)
header_lists = st.lists(st.tuples(st.sampled_from(bodyless), values), max_size=5)
queries = st.lists(
    st.tuples(
        st.sampled_from(
            (b"token", b"session", b"room", b"matchId", b"player", b"after", b"by", b"format", b"refresh", b"x")
        ),
        odd,
    ),
    max_size=4,
).map(lambda pairs: b"&".join(name + b"=" + value for name, value in pairs))


def head(target: bytes, headers: list[tuple[bytes, bytes]], *, upgrade: bool, method: bytes = b"GET") -> bytes:
    """A request's head; a header that is named replaces the usual one of a handshake."""
    usual = {b"Host": b"127.0.0.1"}
    if upgrade:
        usual |= {
            b"Connection": b"Upgrade",
            b"Upgrade": b"websocket",
            b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version": b"13",
        }
    named = {name for name, _ in headers}
    fields = [*((name, value) for name, value in usual.items() if name not in named), *headers]
    return method + b" " + target + b" HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
