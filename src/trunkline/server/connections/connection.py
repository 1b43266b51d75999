"""One WebSocket: a thin asyncio Protocol between the frame layer and the handler that serves its client.

Rules of this hot path:

- No task, no timer, no future and no `await` belongs to a connection. Time-outs stand in the node's wheel.
- While the kernel takes our bytes, a frame goes straight to it with one `os.write`. The transport's buffer is used
  only for what the kernel left over; `blocked` means that it holds some, and what follows waits in the bounded outbox.
- Writes made while a read is being handled are joined and written once, after it.
- One turn of the event loop handles a bounded part of what a client sends (`websocket/frames.py`). What is left waits
  in the reader for the next turn, behind everybody else's, and nothing more is read meanwhile.
- The file descriptor is ours to write to until `connection_lost` or our own close, whichever is first; it is set to -1
  there, because the kernel gives the same number to the next connection.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import perf_counter
from typing import Final

import msgspec

from trunkline.net.limits import draw
from trunkline.protocol import close_codes, wire
from trunkline.server.connections.ended_transport import EndedTransport
from trunkline.server.connections.identity import ClientIdentity
from trunkline.server.connections.outbox import Dropped, Outbox
from trunkline.server.connections.ports import Followed, Handler, Owner
from trunkline.server.connections.runtime import Runtime
from trunkline.server.connections.states import CLOSED, OPEN, TRANSITIONS, Event
from trunkline.server.connections.token_life import TokenLife
from trunkline.websocket import frames

READ_PAUSE_BYTES: Final = 1 << 20
"""A client that has more than this waiting for it is not read from, so that answers cannot pile up."""

FLUSH_BYTES: Final = 1 << 18

LARGE_READ: Final = 1 << 16
"""A read of so many bytes ends the turn: an event loop would go on with the next at once, up to 8 MB a turn."""

_encode = msgspec.json.encode
_write = os.write


class Connection(asyncio.Protocol):
    """A WebSocket after its handshake; `serve` makes its handler.

    Args:
        reader: the frame reader, with this endpoint's limits.
        deflate_bits: window for compressed answers, 0 when permessage-deflate was not negotiated.
        outbox_bytes: the bound of the outbox.
        token: how long the client's token holds, None for ever.
    """

    __slots__ = (
        "_idle_frames_from", "_outbox", "_owner", "_reading", "_transport", "_waits", "beat_at", "blocked", "bytes_in",
        "bytes_out", "channels", "close_code", "close_reason", "corked", "deflate_bits", "due", "ended_by_us", "fd",
        "handler", "identity", "last_seen", "opened_at", "outbox_bytes", "reader", "runtime", "slot", "state", "token",
    )  # fmt: skip

    def __init__(
        self,
        runtime: Runtime,
        owner: Owner[Connection],
        transport: asyncio.Transport,
        reader: frames.FrameReader,
        *,
        identity: ClientIdentity,
        serve: Callable[[Connection], Handler],
        deflate_bits: int,
        outbox_bytes: int,
        token: TokenLife | None = None,
    ) -> None:
        now = runtime.clock.now
        self.runtime = runtime
        self.reader = reader
        self.identity = identity
        self.deflate_bits = deflate_bits
        self.outbox_bytes = outbox_bytes
        self.state = OPEN
        self.blocked = False
        self.bytes_in = 0
        self.bytes_out = 0
        self.channels: tuple[Followed, ...] = ()
        self.close_code = close_codes.ABNORMAL
        self.close_reason = ""
        self.ended_by_us = False
        self.opened_at = now
        self.last_seen = now
        self.beat_at = now + runtime.bounds.heartbeat_s
        self.token = token
        self.slot = -1
        self.due = 0.0
        self.corked: list[bytes] | None = None
        self._outbox: Outbox | None = None
        self._owner = owner
        # The transport reads while the client may be read from, and no turn is awaited.
        self._reading = True
        self._waits = False
        self._idle_frames_from = now
        self._transport = transport
        sock = transport.get_extra_info("socket")
        # A TLS transport has no descriptor that plain bytes may be written to.
        self.fd = sock.fileno() if transport.get_extra_info("ssl_object") is None else -1
        self.handler = serve(self)

    def open(self, response: bytes) -> None:
        """Answer the handshake with `response`, and write what the handler begins with by the same call."""
        self.corked = []
        self.handler.begin()
        greeting, self.corked = b"".join(self.corked or ()), None
        self.bytes_out += len(greeting)
        self.runtime.meter.bytes_sent += len(greeting)
        response += greeting
        if self._transport.get_write_buffer_size():
            # Answers to earlier requests on this connection still wait there.
            self.blocked = True
            self._transport.write(response)
        else:
            self._send_now(response)

    def data_received(self, data: bytes) -> None:
        """Handle one read; an empty one goes on with what is left of earlier ones."""
        if self.state == CLOSED:
            return
        if self._waits:
            # It was to be read no more in this turn, and came all the same.
            self.reader.put_off(data)
            return
        runtime = self.runtime
        meter = runtime.meter
        size = len(data)
        self.last_seen = runtime.clock.now
        self.bytes_in += size
        meter.bytes_received += size
        meter.reads += 1
        # Two clock readings would cost more than the read itself: one read in eight stands for all.
        started = 0.0 if meter.reads & 7 else perf_counter()
        cork: list[bytes] = []
        self.corked = cork
        count = 0
        receive = self.handler.receive
        reader = self.reader
        for opcode, payload in reader.feed(data):
            if opcode <= 2:
                if self.state == OPEN:
                    count += 1
                    receive(opcode, payload)
            else:
                self._control(opcode, payload)
        meter.messages_received += count
        if reader.notable:
            self._look()
        if size >= LARGE_READ:
            self._wait_for_turn()
        if self.corked is not cork:
            cork = self.corked or []
        self.corked = None
        if cork:
            self._put(cork[0] if len(cork) == 1 else b"".join(cork))
        if started and count:
            meter.message_latency.observe((perf_counter() - started) / count, count * 8)

    def _look(self) -> None:
        """See to what one read brought besides messages."""
        reader = self.reader
        reader.notable = False
        idle, reader.idle_frames = reader.idle_frames, 0
        if self.state == OPEN:
            if idle:
                self._count_idle(idle)
            if reader.violation is not None:
                self.end(reader.violation.code, reader.violation.reason)
        if reader.left:
            self._wait_for_turn()

    def _count_idle(self, count: int) -> None:
        bounds = self.runtime.bounds
        if bounds.control_per_s <= 0:
            return
        self._idle_frames_from, wait_s = draw(
            self._idle_frames_from, self.runtime.clock.now, count, bounds.control_burst, bounds.control_per_s
        )
        if wait_s:
            self.end(
                close_codes.POLICY.code,
                f"over the limit of {bounds.control_burst:g} control frames and empty fragments at once "
                f"and {bounds.control_per_s:g} a second",
            )

    def _wait_for_turn(self) -> None:
        """Read and handle no more of this client before the others had their turn."""
        if self._waits or self.state == CLOSED:
            return
        self._waits = True
        self._transport.pause_reading()
        self.runtime.turns.add(self)

    def turn(self) -> None:
        """It is this client's turn again: handle more of what came, or read on."""
        self._waits = False
        if self.state == CLOSED or not self._reading:
            return
        if self.reader.left:
            self.data_received(b"")
        if self._reading and not self._waits and self.state != CLOSED:
            self._transport.resume_reading()

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.PING:
            if self.state == OPEN:
                self.send_bytes(frames.pong(payload))
        elif opcode == frames.CLOSE:
            code, reason = frames.read_close(payload)
            if self.state == OPEN:
                self.send_bytes(frames.close(code))
                self.close_code, self.close_reason = code, reason
            if self._moved(Event.CLOSE_RECEIVED):
                self._finish()

    def _moved(self, event: Event) -> bool:
        """Go to the state after `event`; False when the table refuses it."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    def _finish(self) -> None:
        """The closing handshake is complete: close once everything is written."""
        if self.corked:
            cork, self.corked = self.corked, None
            self._put(b"".join(cork))
        if not self._moved(Event.FINISHED):
            return
        outbox, self._outbox = self._outbox, None
        if outbox:
            self._transport.write(outbox.take(1 << 62))
        self._owner.caught_up(self)
        self.fd = -1
        self._transport.close()
        # A client that does not take its last bytes is cut off.
        self._close_in_time()

    def _close_in_time(self) -> None:
        self.runtime.wheel.schedule(self, self.runtime.clock.now + self.runtime.bounds.close_timeout_s)

    def pause_reading(self) -> None:
        """Take no more from this client until `resume_reading`; TCP holds it back."""
        if self._reading and self.state != CLOSED and not isinstance(self._transport, EndedTransport):
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._reading and self.state != CLOSED and not self.handler.held_back:
            self._read_on()

    def _read_on(self) -> None:
        """Take back `pause_reading`; what came before it is handled first."""
        self._reading = True
        if self._waits:
            return
        if self.reader.left:
            self._wait_for_turn()
        else:
            self._transport.resume_reading()

    def send_message(self, message: msgspec.Struct) -> None:
        """Send a message of the protocol; it is never dropped."""
        self.send_bytes(frames.text(_encode(message)))
        self.runtime.meter.messages_sent += 1

    def send_bytes(self, data: bytes) -> None:
        """Send whole frames; they are never dropped. Nothing follows a close frame (RFC 6455 section 5.5.1)."""
        if self.state != OPEN:
            return
        if self.corked is not None:
            self.corked.append(data)
        else:
            self._put(data)

    def _put(self, data: bytes) -> None:
        size = len(data)
        self.bytes_out += size
        self.runtime.meter.bytes_sent += size
        if not self.blocked:
            # The same as _send_now, without the call: this is where answers leave.
            if self.fd >= 0:
                try:
                    sent = _write(self.fd, data)
                except OSError as error:
                    self._write_failed(error, data)
                    return
                if sent != size:
                    self._transport.write(data[sent:])
                return
            self._transport.write(data)
            return
        outbox = self._outbox
        if outbox is None:
            outbox = self._new_outbox()
        if not outbox.put(data, self._transport.get_write_buffer_size(), self.runtime.clock.now):
            self._too_slow()
        elif outbox.size > READ_PAUSE_BYTES or outbox.over_since is not None:
            self.pause_reading()

    def push(self, data: bytes, channel: Followed, prev: int | None, last: int | None) -> bool:
        """Write publications of one channel, `prev` being the offset before the first, `last` that of the last.

        Returns False when they were dropped because the client is slow.
        """
        if self.state != OPEN:
            return False
        if self.corked:
            # Its own read is being handled: the answers so far go first.
            cork, self.corked = self.corked, []
            self._put(b"".join(cork))
        if not self.blocked:
            self.bytes_out += len(data)
            self._send_now(data)
            return True
        outbox = self._outbox
        if outbox is None:
            outbox = self._new_outbox()
        in_flight = self._transport.get_write_buffer_size()
        now = self.runtime.clock.now
        if outbox.put_publications(data, channel.name, channel.epoch, prev, last, in_flight, now):
            self.bytes_out += len(data)
            return True
        return False

    def _send_now(self, data: bytes) -> None:
        if self.fd < 0:
            self._transport.write(data)
            return
        try:
            sent = _write(self.fd, data)
        except OSError as error:
            self._write_failed(error, data)
            return
        if sent != len(data):
            # The transport's high-water mark is 0, so this calls pause_writing at once.
            self._transport.write(data[sent:])

    def _write_failed(self, error: OSError, data: bytes) -> None:
        if isinstance(error, BlockingIOError):
            self._transport.write(data)
            return
        # The peer is gone: connection_lost comes from the loop, outside of whatever is iterating over us now.
        self.abort()

    def hand_over(self, rest: bytes) -> None:
        """Leave to the transport what the kernel did not take of a write."""
        self._transport.write(rest)

    def _new_outbox(self) -> Outbox:
        outbox = self._outbox = Outbox(self.outbox_bytes, self.runtime.bounds.outbox_grace_s)
        self._owner.fell_behind(self)
        return outbox

    def pause_writing(self) -> None:
        """The transport holds bytes that the kernel did not take."""
        self.blocked = True
        if self._transport.get_write_buffer_size() > self.outbox_bytes:
            outbox = self._outbox or self._new_outbox()
            if outbox.over_since is None:
                outbox.over_since = self.runtime.clock.now
            self.pause_reading()

    def resume_writing(self) -> None:
        """The kernel took everything the transport held; write what waited."""
        self.blocked = False
        outbox = self._outbox
        if outbox is None:
            self._caught_up()
            return
        while not self.blocked:
            for gap in outbox.gaps_due(0):
                announced = frames.text(_encode(self._gap(gap)))
                outbox.put(announced, 0, self.runtime.clock.now)
                self.bytes_out += len(announced)
                self.runtime.meter.bytes_sent += len(announced)
                self.runtime.meter.messages_sent += 1
            data = outbox.take(FLUSH_BYTES)
            if not data:
                self._outbox = None
                self._caught_up()
                return
            self._send_now(data)
            if self.state == CLOSED:
                return

    def _caught_up(self) -> None:
        self._owner.caught_up(self)
        self.resume_reading()

    def _gap(self, gap: Dropped) -> wire.Gap:
        self.runtime.meter.gaps += 1
        return wire.Gap(gap.channel, gap.epoch, gap.after, gap.before, "slow_client", self.runtime.clock.wall_ms)

    def widen_gap(self, channel: str, epoch: str | None, last: int | None) -> bool:
        """Let a gap that waits to be announced reach over offset `last` of `channel`; False when none waits."""
        return self._outbox is not None and self._outbox.widen(channel, epoch, last)

    def announce_gap(self, channel: str) -> None:
        """Send a gap that waits in `channel` now, before anything else about the channel is sent."""
        gap = self._outbox.forget(channel) if self._outbox is not None else None
        if gap is not None:
            self.send_message(self._gap(gap))

    def forget(self, channel: str) -> None:
        """The client left `channel`: no gap of it need be announced."""
        if self._outbox is not None:
            self._outbox.forget(channel)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that this client has not taken yet."""
        return self._transport.get_write_buffer_size() + (self._outbox.size if self._outbox is not None else 0)

    def on_time(self, now: float) -> float | None:
        """A time-out is due; returns when the next one is, in seconds of the node's clock, None for never."""
        runtime = self.runtime
        if self.state != OPEN:
            self.abort()
            return None
        token = self.token
        if token is not None and now >= token.due:
            if now >= token.ends_at:
                self.end(close_codes.TOKEN_EXPIRED.code, close_codes.TOKEN_EXPIRED.reason)
                return now + runtime.bounds.close_timeout_s
            self.handler.expiring(token.warned(now))
        if self.handler.held_back:
            # It is not silent: it is not being read from.
            self.last_seen = now
        idle_at = self.last_seen + runtime.bounds.connection_timeout_s
        if now >= idle_at:
            self.end(close_codes.IDLE.code, close_codes.IDLE.reason)
            return now + runtime.bounds.close_timeout_s
        if now >= self.beat_at:
            self.beat_at = now + runtime.bounds.heartbeat_s
            self.handler.beat()
        if self.state != OPEN:
            # It was too slow for what it has just been sent.
            return now + runtime.bounds.close_timeout_s
        return self.next_due()

    def next_due(self) -> float:
        """When the next time-out is due: a heartbeat, silence, or what the token's end asks for."""
        due = min(self.beat_at, self.last_seen + self.runtime.bounds.connection_timeout_s)
        return due if self.token is None else min(due, self.token.due)

    def renew(self, identity: ClientIdentity, token: TokenLife | None) -> None:
        """A fresh token is in use, of the same client."""
        self.identity = identity
        self.token = token
        self.runtime.wheel.schedule(self, self.next_due())

    def check_slow(self, now: float) -> None:
        """Close the client if its grace time is over."""
        outbox = self._outbox
        if outbox is not None and self.state == OPEN and outbox.too_slow(now):
            self._too_slow()

    def _too_slow(self) -> None:
        if self.state != OPEN:
            return
        self.runtime.meter.slow_clients_disconnected += 1
        if self._outbox is not None:
            self._outbox.clear()
        self.end(close_codes.TOO_SLOW.code, close_codes.TOO_SLOW.reason)

    def end(self, code: int, reason: str, reconnect_after_ms: int | None = None) -> None:
        """Send a goodbye and a close frame, and wait for the client's; the wheel ends the wait.

        At most 123 bytes of the `reason` reach the client; it should come back after `reconnect_after_ms`, if the code
        lets it.
        """
        if self.state != OPEN:
            return
        if self._outbox is not None:
            # Now: nothing may follow the close frame.
            for gap in self._outbox.all_gaps():
                self.send_message(self._gap(gap))
        farewell = self.handler.farewell(code, reason, reconnect_after_ms)
        self.send_bytes(farewell + frames.close(code, reason))
        if self.ended_by_us:
            # The close frame did not fit in the outbox: the client was closed as too slow meanwhile.
            return
        self.ended_by_us = True
        self.close_code, self.close_reason = code, reason
        if self._moved(Event.CLOSE_SENT) and not self._reading:
            # Its close frame has to be read, whatever it was held back for; nothing else is looked at any more.
            self._read_on()
        self._owner.closing(self)
        self._close_in_time()

    def abort(self) -> None:
        """Cut the TCP connection; `connection_lost` follows."""
        self._moved(Event.LOST)
        self.fd = -1
        self._transport.abort()

    def eof_received(self) -> bool:
        """The client will send no more; without a close frame that is the end."""
        if not self.reader.left and self._moved(Event.EOF):
            self._close_in_time()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection has ended; unless it was cut off, what came before its end is handled first, in turn."""
        self.fd = -1
        if exc is not None or not self.reader.left or self.state != OPEN:
            self._lost()
            return
        self._transport = EndedTransport(self._lost)
        self.blocked = False
        self._outbox = None
        self._owner.caught_up(self)
        self._read_on()

    def _lost(self) -> None:
        self._moved(Event.LOST)
        self.runtime.wheel.cancel(self)
        self._outbox = None
        self._owner.lost(self)
        self.handler.ended()
        # The handler knows its connection too: without this, only the garbage collector could free the two.
        del self.handler
