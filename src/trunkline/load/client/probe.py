"""The first connection: does the target answer, does it speak WebSocket, and which protocol?

It costs one connection and turns what would be ten thousand equal errors into one line. A server that greets with
`connection_established` speaks the feed if it takes a subscription; one that sends nothing and returns a text unchanged
is an echo.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

import msgspec

from trunkline.errors import StartError
from trunkline.load.client.conversation import ConnectionEnded, Conversation
from trunkline.load.client.dial import Dialer, DialError, shown_url
from trunkline.load.client.protocols.feed import channel_name
from trunkline.load.model.expectations import message_type
from trunkline.load.model.plan import Protocol, Target
from trunkline.protocol import wire

_GREETING_S: Final = 0.5
_ANSWER_S: Final = 3.0
_TEXT: Final = b"trunkline load: is this an echo?"


class Probed(msgspec.Struct, frozen=True):
    """What the first connection found: the protocol, never `auto`, and what the server takes from one client."""

    protocol: Protocol
    limits: wire.ClientLimits | None = None


async def probe(target: Target, protocol: Protocol) -> Probed:
    """Open one connection and find out how to talk on it.

    A protocol other than `auto` is verified as far as it can be. Raises StartError when the target cannot be loaded
    like this, with what is wrong and what to do.
    """
    shown = shown_url(target.url)
    dialer = await Dialer.prepare(target)
    peer: Conversation | None = None
    try:
        peer = await Conversation.open(dialer, target.token)
        return await _find_out(peer, protocol, max(_GREETING_S, 5 * peer.tcp_s), shown)
    except DialError as error:
        raise StartError(f"{shown}: {error.reason}", step_after(error)) from None
    except ConnectionEnded as ended:
        raise StartError(
            f"{shown}: the server closed the first connection at once with {ended}",
            "Look at its log; perhaps it wants a token (--header) or a subprotocol (--subprotocol).",
        ) from None
    finally:
        if peer is not None:
            await peer.close()


def step_after(error: DialError) -> str:
    """What to do when no connection can be opened."""
    return next((step for part, step in _STEPS if part in error.reason), _OTHER_STEP)


async def _find_out(peer: Conversation, protocol: Protocol, greeting_s: float, shown: str) -> Probed:
    if protocol == "echo":
        return await _echo(peer, shown)
    first = await peer.next(greeting_s if protocol != "feed" else _ANSWER_S)
    greeting: wire.ConnectionEstablished | None = None
    if message_type(first or b"") == "goodbye":
        # It says what is wrong with its close, which follows.
        raise ConnectionEnded(await peer.closed)
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
        return await _echo(peer, shown)
    channel = channel_name("probe", 0)
    peer.send(wire.Subscribe([channel], 1))
    until = time.monotonic() + _ANSWER_S
    kind = None
    while kind not in ("subscription_ack", "error") and (left := until - time.monotonic()) > 0:
        kind = message_type(await peer.next(left) or b"")
    if kind != "subscription_ack":
        raise StartError(
            f"{shown} takes no subscription to {channel}",
            "Name the feed's path (/ws on a Trunkline node), or write this endpoint's messages in a scenario file.",
        )
    return Probed("feed", greeting.limits)


async def _echo(peer: Conversation, shown: str) -> Probed:
    peer.send(_TEXT)
    answer = await peer.next(_ANSWER_S)
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
