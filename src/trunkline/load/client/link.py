"""One WebSocket of a session: frames of picows become whole messages, counted before the session sees them.

Rules: nothing is waited for. A message in one frame takes the short way; fragments are joined up to a limit. What comes
once this side has begun to close is counted and otherwise ignored. A slow link reads no more than it may, so that the
server notices: its receive buffer is small, and reading pauses.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

import picows
from picows import WSCloseCode, WSFrame, WSMsgType, WSTransport

from trunkline.load.client.dial import MAX_FRAME
from trunkline.load.client.session import Session
from trunkline.load.model.tally import Tally

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_CLOSE: Final = WSMsgType.CLOSE

ABNORMAL: Final = 1006
NO_STATUS: Final = 1005
_SLOW_BUFFER: Final = 32_768
"""Much smaller, and the kernel waits between pieces for longer than the rate says."""


class WebSocket(picows.WSListener):
    """The connection of a session, to which it hands messages.

    `up` is called when the 101 was read, `down` once at the end with code and reason (RFC 6455 section 7.1.5), the code
    being 1006 without a close frame. It reads at most `slow_bytes_per_s`; 0: as much as comes.
    """

    def __init__(
        self, session: Session, tally: Tally, up: Callable[[WebSocket], None],
        down: Callable[[WebSocket, int, str], None], slow_bytes_per_s: int = 0,
    ) -> None:  # fmt: skip
        self.session = session
        self._tally = tally
        self._up = up
        self._down = down
        self._slow = slow_bytes_per_s
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._parts_binary = False
        self._parts_size = 0
        self._code = ABNORMAL
        self._reason = ""
        self._resume: asyncio.TimerHandle | None = None
        self._may_read_at = 0.0
        self.ended_by_us = False

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        """Send one message; what the socket does not take now is buffered."""
        totals = self._tally.totals
        totals.sent += 1
        totals.bytes_sent += len(payload)
        if self._transport is not None:
            self._transport.send(_BINARY if binary else _TEXT, payload)

    def close(self) -> None:
        """Begin the closing handshake; `down` is called when it has ended."""
        self.ended_by_us = True
        if self._transport is not None:
            self._read_freely()
            self._transport.send_close(WSCloseCode.OK)

    def abort(self) -> None:
        """End it without a close frame."""
        self.ended_by_us = True
        if self._transport is not None:
            self._transport.underlying_transport.abort()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The 101 was read."""
        self._transport = transport
        if self._slow:
            sock = transport.underlying_transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        self._up(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame has come; picows has answered pings already."""
        kind = frame.msg_type
        if kind is _TEXT and frame.fin:
            self._deliver(frame.get_payload_as_bytes(), False)
        elif kind is _CLOSE:
            self._on_close(transport, frame)
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._on_part(frame, kind)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection has ended."""
        self._transport = None
        if self._resume is not None:
            self._resume.cancel()
        if not self.ended_by_us:
            asyncio.ensure_future(transport.wait_disconnected()).add_done_callback(self._count_cause)
        self._down(self, self._code, self._reason)

    def _deliver(self, payload: bytes, binary: bool) -> None:
        totals = self._tally.totals
        totals.received += 1
        totals.bytes_received += len(payload)
        if not self.ended_by_us:
            self.session.message(payload, binary)
        if self._slow:
            self._pause(len(payload))

    def _on_part(self, frame: WSFrame, kind: WSMsgType) -> None:
        if kind is not _CONTINUATION:
            self._parts_binary = kind is _BINARY
        payload = frame.get_payload_as_bytes()
        self._parts.append(payload)
        self._parts_size += len(payload)
        if self._parts_size > MAX_FRAME:
            self._parts, self._parts_size = [], 0
            raise picows.WSProtocolError(WSCloseCode.MESSAGE_TOO_BIG, "the message is too long")
        if frame.fin:
            message, self._parts, self._parts_size = b"".join(self._parts), [], 0
            self._deliver(message, self._parts_binary)

    def _on_close(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NO_STATUS
        self._reason = payload[2:].decode(errors="replace")
        if not self.ended_by_us:
            transport.send_close(frame.get_close_code() if len(payload) >= 2 else WSCloseCode.OK)
        transport.disconnect()

    def _count_cause(self, ended: asyncio.Future[None]) -> None:
        """Count why this side broke the connection off: the server's frames, or a fault of the generator."""
        error = None if ended.cancelled() else ended.exception()
        if isinstance(error, picows.WSProtocolError):
            # Its text may repeat a payload.
            self._tally.because(f"broken off: the server broke the protocol ({int(error.code)})")
        elif error is not None and not isinstance(error, OSError):
            self._tally.error(f"the generator failed on a message: {type(error).__name__}")
            asyncio.get_running_loop().call_exception_handler({"message": "in a session", "exception": error})

    def _pause(self, size: int) -> None:
        """Read no more until `size` bytes are due."""
        now = time.monotonic()
        self._may_read_at = max(self._may_read_at, now) + size / self._slow
        if self._resume is None and self._transport is not None and not self.ended_by_us:
            self._transport.underlying_transport.pause_reading()
            self._resume = asyncio.get_running_loop().call_later(self._may_read_at - now, self._read_again)

    def _read_again(self) -> None:
        self._resume = None
        wait = self._may_read_at - time.monotonic()
        if wait > 0:  # more frames were in the buffer
            self._resume = asyncio.get_running_loop().call_later(wait, self._read_again)
        else:
            self._read_freely()

    def _read_freely(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._slow and self._transport is not None:
            self._transport.underlying_transport.resume_reading()
