"""Whether this machine can watch a deploy through the edge, found out before anything is started.

It costs one connection through the edge, over which a publication is made: what stops a witness later stops it here.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from trunkline.errors import StartError
from trunkline.load.client.conversation import ConnectionEnded, Conversation, Refusal, Unanswered
from trunkline.load.client.dial import Dialer, DialError, shown_url
from trunkline.load.client.generator import SPARE_FILES
from trunkline.load.client.probe import step_after
from trunkline.load.client.protocols.feed import channel_name
from trunkline.load.deploys.witnesses import EACH_PER_S
from trunkline.load.model.plan import Target
from trunkline.process import open_files
from trunkline.protocol import wire

ANSWER_S: Final = 5.0
_SMOKE_FILES: Final = 100  # the connects of a smoke run, and what it exchanges
_HINT: Final = "name the feed's path, give a token that may use it, or do without witnesses (--witnesses 0)"


async def preflight(url: str, witnesses: int, *, token: str = "", verify_tls: bool = True, ca_file: str = "") -> str:
    """Why witnesses cannot be run from here through the edge at `url`; empty when nothing speaks against it.

    Without witnesses the edge is not asked. The text names what to do.
    """
    needed, limit = witnesses + _SMOKE_FILES + SPARE_FILES, open_files.limit()
    if needed > limit:
        return f"{witnesses} witnesses need {needed} open files and this process may have {limit}: raise it (ulimit -n)"
    if not witnesses:
        return ""
    target = Target(url, token=token, verify_tls=verify_tls, ca_file=ca_file, connect_timeout_s=ANSWER_S)
    shown = shown_url(url)
    try:
        dialer = await Dialer.prepare(target)
        peer = await Conversation.open(dialer, token)
    except StartError as error:
        return str(error)
    except DialError as error:
        return f"the edge at {shown}: {error.reason}. {step_after(error)}"
    try:
        return await _speaks(peer, shown)
    except Refusal as error:
        return f"{shown}, to a witness: {error}; {_HINT}"
    except Unanswered as error:
        return f"{shown} does not speak as a Trunkline feed does: {error}; {_HINT}"
    except ConnectionEnded as ended:
        return f"{shown} closed the connection of a witness with {ended}; {_HINT}"
    finally:
        await peer.close()


async def _speaks(peer: Conversation, shown: str) -> str:
    greeting = await peer.expect(wire.ConnectionEstablished, ANSWER_S)
    if 0 < greeting.limits.rate_per_s < EACH_PER_S:
        return (
            f"a witness publishes {EACH_PER_S:g} message/s, and {shown} takes {greeting.limits.rate_per_s:g}/s of a "
            "client: raise limits.rate_per_s, or do without witnesses (--witnesses 0)"
        )
    channel = channel_name(f"witness-{secrets.token_hex(6)}", 0)
    peer.send(wire.Subscribe([channel], 1))
    ack = await peer.expect(wire.SubscriptionAck, ANSWER_S)
    if channel not in ack.positions:
        return f"{shown} does not subscribe {channel}: {_HINT}"
    peer.send(wire.Publish(channel, msgspec.Raw(b"{}"), 2))
    await peer.expect(wire.PublishAck, ANSWER_S, channel)
    if ack.positions[channel].epoch is None:
        return (
            f"the channel rules keep no history of {channel}, so that no witness could recover what it misses while "
            "it moves: allow history for public.load.**, or do without witnesses (--witnesses 0)"
        )
    return ""
