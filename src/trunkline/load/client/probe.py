"""The first connection: does the target answer, does it speak WebSocket, and which protocol?

It costs one connection and turns what would be ten thousand equal errors into one line. A server that greets with
`connection_established` speaks the feed if it takes a subscription; one that sends nothing and returns a text unchanged
is an echo.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any, Final

import msgspec

from trunkline.errors import StartError
from trunkline.load.client.dial import Dialer, DialError, shown_url
from trunkline.load.client.link import WebSocket
from trunkline.load.client.protocols.feed import channel_name
from trunkline.load.client.session import Session, Shared
from trunkline.load.model.expectations import message_type
from trunkline.load.model.messages import Job
from trunkline.load.model.plan import Protocol, Scenario, Stage, Target
from trunkline.load.model.tally import Tally
from trunkline.protocol import wire

_GREETING_S: Final = 0.5
_ANSWER_S: Final = 3.0
_TEXT: Final = b"trunkline load: is this an echo?"


class Probed(msgspec.Struct, frozen=True):
    """What the first connection found: the protocol, never `auto`, and what the server takes from one client."""

    protocol: Protocol
    limits: wire.ClientLimits | None = None


class _Curious(Session):
    __slots__ = ("closed", "messages")

    def __init__(self, shared: Shared) -> None:
        super().__init__(0, shared)
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def message(self, payload: bytes, binary: bool) -> None:
        self.messages.put_nowait(payload)

    async def next(self, timeout_s: float) -> bytes | None:
        """The next message, or None when none comes; raises _Closed when the connection ends before."""
        getting = asyncio.ensure_future(self.messages.get())
        either: set[asyncio.Future[Any]] = {getting, self.closed}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            return getting.result()
        getting.cancel()
        if self.closed.done():
            raise _Closed(self.closed.result())
        return None


class _Closed(Exception):
    pass


async def probe(target: Target, protocol: Protocol) -> Probed:
    """Open one connection and find out how to talk on it.

    A protocol other than `auto` is verified as far as it can be. Raises StartError when the target cannot be loaded
    like this, with what is wrong and what to do.
    """
    shown = shown_url(target.url)
    dialer = await Dialer.prepare(target)
    tally = Tally()
    job = Job("probe", target, Scenario("probe", (Stage(0, 1),)), 0, 1, 0)
    session = _Curious(Shared(job, tally, time.monotonic, random.Random(0)))  # noqa: S311  # no secrets here
    took: list[float] = []

    def up(link: WebSocket) -> None:
        session.link = link

    def down(_: WebSocket, code: int, reason: str) -> None:
        if not session.closed.done():
            session.closed.set_result(f"{code} {reason}".rstrip())

    try:
        await dialer.open(lambda: WebSocket(session, tally, up, down), took.append, target.token)
        return await _find_out(session, protocol, max(_GREETING_S, 5 * took[0]), shown)
    except DialError as error:
        step = next((step for part, step in _STEPS if part in error.reason), _OTHER_STEP)
        raise StartError(f"{shown}: {error.reason}", step) from None
    except _Closed as closed:
        raise StartError(
            f"{shown}: the server closed the first connection at once with {closed}",
            "Look at its log; perhaps it wants a token (--header) or a subprotocol (--subprotocol).",
        ) from None
    finally:
        if session.link is not None:
            session.link.close()
            await asyncio.wait({session.closed}, timeout=1.0)
            session.link.abort()


async def _find_out(session: _Curious, protocol: Protocol, greeting_s: float, shown: str) -> Probed:
    if protocol == "echo":
        return await _echo(session, shown)
    first = await session.next(greeting_s if protocol != "feed" else _ANSWER_S)
    greeting: wire.ConnectionEstablished | None = None
    if message_type(first or b"") == "goodbye":
        # It says what is wrong with its close, which follows.
        raise _Closed(await session.closed)
    with contextlib.suppress(msgspec.MsgspecError):
        greeting = msgspec.json.decode(first or b"", type=wire.ConnectionEstablished)
    if protocol in ("steps", "python"):
        return Probed(protocol, greeting.limits if greeting else None)
    if greeting is None:
        if protocol == "feed" or first is not None:
            raise StartError(
                f"{shown} does not greet as a Trunkline feed does",
                "Use --protocol echo for a server that returns what it gets, or a scenario file with steps.",
            )
        return await _echo(session, shown)
    channel = channel_name("probe", 0)
    if session.link is not None:
        session.link.send(msgspec.json.encode(wire.Subscribe([channel], 1)))
    until = time.monotonic() + _ANSWER_S
    kind = None
    while kind not in ("subscription_ack", "error") and (left := until - time.monotonic()) > 0:
        kind = message_type(await session.next(left) or b"")
    if kind != "subscription_ack":
        raise StartError(
            f"{shown} takes no subscription to {channel}",
            "Name the feed's path (/ws on a Trunkline node), or write this endpoint's messages in a scenario file.",
        )
    return Probed("feed", greeting.limits)


async def _echo(session: _Curious, shown: str) -> Probed:
    if session.link is not None:
        session.link.send(_TEXT)
    answer = await session.next(_ANSWER_S)
    if answer == _TEXT:
        return Probed("echo")
    found = "returned something else" if answer is not None else f"returned nothing within {_ANSWER_S:g} s"
    raise StartError(
        f"{shown} is no echo: it was sent a text and {found}",
        "Name the feed of a Trunkline node (--protocol feed), or write this server's messages in a scenario file.",
    )


_STEPS: Final = (
    ("certificate", "Name its CA with --ca FILE; --insecure takes any certificate."),
    ("TLS", "Does the server speak TLS on this port? For plain WebSockets write ws:// instead of wss://."),
    ("refused, nobody", "Is the server running, and is the port right?"),
    ("timed out", "Is it reachable from here? --connect-timeout waits longer."),
    ("answered 401", 'Give what it asks for, e.g. --header "Authorization: Bearer …".'),
    ("answered 403", "It may want a token (--header) or another origin (--header 'Origin: …')."),
    ("answered 404", "Check the path."),
    ("answered 30", "Name the address that it redirects to."),
    ("answered 429", "It limits handshakes by address; take this address out of the limit, or load it more slowly."),
    ("answered 503", "It is full, draining or starting; try again when it is ready."),
    ("answered", "Is this the path of a WebSocket?"),
)
_OTHER_STEP: Final = "Check the URL, and whether the server is well."
