"""Whether a new node serves as the others do, before any client is sent there, and how many handshakes it takes.

Rules:

- The node is asked directly, at its own URL. A fault of a node of the old colour is no fault of the new one: it is
  named in the check's note, and the next old node is asked.
- Checks come in order, and the first that fails is the last.
- What the application does not have, an echo endpoint or history, is not required: the check's note says so.
- 429 limits this address and says nothing about the node: it is waited for, and a rate measured beside it is unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from trunkline.errors import StartError
from trunkline.load.client.conversation import ConnectionEnded, Conversation, Unanswered
from trunkline.load.client.dial import Dialer, DialError, split_url
from trunkline.load.deploys.exchange import NodeTalk
from trunkline.load.model.expectations import message_type
from trunkline.load.model.plan import Target
from trunkline.net.addresses import is_loopback
from trunkline.protocol import wire

CheckName = Literal["handshake", "echo", "publish", "recover", "connects"]

ANSWER_S: Final = 5.0
"""How long each answer may take; a node that is well answers within milliseconds."""

ECHO_PATH: Final = "/echo"
"""Below the feed's path: where the stock application returns every message."""

SHARE: Final = 0.95
"""Share of the connects that has to succeed."""

_ECHO_TEXT: Final = "trunkline deploy: does this come back? Grüße".encode()
_NO_ECHO: Final = "the application has no echo endpoint"
_CONNECT_S: Final = 5.0
_AT_ONCE: Final = 16
_SOURCES: Final = 500  # addresses of loopback, so that limits by address are not what is measured
_TRIES: Final = 4
_LONGEST_WAIT_S: Final = 5.0


class SmokeTarget(msgspec.Struct, frozen=True):
    """A node.

    Attributes:
        name: its node name, which its greeting has to name; empty when that is not known.
        url: of its feed, at the node itself: ws://host:port/path.
        feed: whether it speaks the protocol of a Trunkline node; of another server only handshakes are checked.
        verify_tls: whether its certificate has to be valid.
        ca_file: certificates to trust instead of the system's.
    """

    name: str
    url: str
    feed: bool = True
    verify_tls: bool = True
    ca_file: str = ""


class Check(msgspec.Struct, frozen=True):
    """One check: `note` is why it failed, or what of it could not be done."""

    name: CheckName
    passed: bool
    note: str = ""


class Smoked(msgspec.Struct, frozen=True):
    """What smoking a node found.

    Attributes:
        passed: all checks did.
        why: what failed, in words; empty when nothing did.
        accepts_per_s: handshakes that it accepted a second; None when that could not be measured.
        tool_bound: this machine could not open connections faster, so the node may take more.
    """

    node: str
    passed: bool
    why: str
    checks: tuple[Check, ...]
    accepts_per_s: float | None = None
    tool_bound: bool = False


async def smoke(
    node: SmokeTarget, others: Sequence[SmokeTarget], *, token: str = "", connects: int = 50, measure_s: float = 2.0
) -> Smoked:
    """Check a new node, and measure how many handshakes a second it accepts.

    Args:
        node: the new one.
        others: nodes of the old colour, which publications are exchanged with; none where the old colour is dead.
        token: bearer token for all of them.
        connects: how many connections are opened, of which `SHARE` has to succeed.
        measure_s: how long handshakes are measured, seconds; 0: not at all.
    """
    smoking = _Smoking(node, others, token)
    checks: list[Check] = []
    steps: list[tuple[CheckName, Callable[[], Awaitable[str]]]] = [("handshake", smoking.handshake)]
    if node.feed:
        steps += [("echo", smoking.echo), ("publish", smoking.publish), ("recover", smoking.recover)]
    steps.append(("connects", lambda: smoking.connects(connects)))
    for name, step in steps:
        try:
            checks.append(Check(name, True, await step()))
        except (_Failed, DialError, ConnectionEnded, Unanswered, StartError) as error:
            text = f"the connection ended with {error}" if isinstance(error, ConnectionEnded) else str(error)
            checks.append(Check(name, False, text))
            return Smoked(node.name, False, f"{name}: {text.removeprefix(f'{name}: ')}", tuple(checks))
    rate, tool_bound = await smoking.measure(measure_s) if measure_s > 0 else (None, False)
    return Smoked(node.name, True, "", tuple(checks), rate, tool_bound)


class _Failed(Exception):
    pass


class _Smoking:
    def __init__(self, node: SmokeTarget, others: Sequence[SmokeTarget], token: str) -> None:
        self._node = node
        self._others = others
        self._token = token

    async def handshake(self) -> str:
        """It opens a WebSocket, greets as the node that it should be, and serves a first message."""
        peer = await Conversation.open(await _dialer(self._node), self._token)
        try:
            if self._node.feed:
                greeting = await peer.expect(wire.ConnectionEstablished, ANSWER_S)
                if self._node.name and greeting.node != self._node.name:
                    raise _Failed(f"{self._node.url} answers as the node {greeting.node}, not as {self._node.name}")
                # It is greeted before the application has seen it, whose fault would end it.
                peer.send(wire.Heartbeat(1))
                await peer.expect(wire.Pong, ANSWER_S)
        finally:
            await peer.close()
        return ""

    async def echo(self) -> str:
        """Its echo endpoint, if the application has one, returns a text unchanged."""
        url = _echo_url(self._node)
        try:
            peer = await Conversation.open(await Dialer.prepare(replace(_target(self._node), url=url)), self._token)
        except DialError as error:
            if "answered 404" in error.reason:
                return _NO_ECHO
            raise
        try:
            peer.send(_ECHO_TEXT)
            answer = await peer.next(ANSWER_S)
        finally:
            await peer.close()
        if answer == _ECHO_TEXT:
            return ""
        if answer is not None and message_type(answer) == "connection_established":
            return _NO_ECHO  # an endpoint whose path has a parameter
        raise _Failed(f"{url} returned {'another text than it was sent' if answer is not None else 'nothing'}")

    async def publish(self) -> str:
        """Publications reach its own subscribers, and go from and to a node of the old colour."""
        async with await self._talk(self._node) as new:
            await new.passes_to(new)
            old, notes = await self._old()
            if old is not None:
                async with old:
                    await old.passes_to(new)
                    await new.passes_to(old)
        return "; ".join(notes)

    async def recover(self) -> str:
        """A client of the old colour that comes to it gets what it missed, in order and once."""
        async with await self._talk(self._node) as new:
            old, _ = await self._old()
            async with old or await self._talk(self._node) as source:
                return await source.recovers_at(new)

    async def _old(self) -> tuple[NodeTalk | None, list[str]]:
        """The first node of the old colour that can be talked to, and why others could not."""
        notes: list[str] = []
        for other in self._others:
            try:
                return await self._talk(other), notes
            except (DialError, ConnectionEnded, Unanswered, StartError) as error:
                notes.append(f"{other.name} was not asked: {error}")
        return None, [*notes, "no node of the old colour could be asked"]

    async def _talk(self, node: SmokeTarget) -> NodeTalk:
        return await NodeTalk.open(await _dialer(node), node.name or node.url, self._token, ANSWER_S)

    async def connects(self, count: int) -> str:
        """Nearly all of many connects succeed."""
        dialer = await _dialer(self._node, _SOURCES)
        slots = asyncio.Semaphore(_AT_ONCE)
        peers: list[Conversation] = []
        failures: list[str] = []

        async def one() -> None:
            async with slots:
                try:
                    peers.append(await _open_patiently(dialer, self._token))
                except DialError as error:
                    failures.append(error.reason)

        try:
            await asyncio.gather(*(one() for _ in range(count)))
        finally:
            await asyncio.gather(*(peer.close() for peer in peers))
        if len(peers) < SHARE * count:
            most = max(set(failures), key=failures.count)
            raise _Failed(f"{len(peers)} of {count} connects succeeded, {SHARE:.0%} have to; most failed with {most}")
        return f"{len(failures)} of {count} failed: {failures[0]}" if failures else ""

    async def measure(self, seconds: float) -> tuple[float | None, bool]:
        """Handshakes accepted a second, and whether this process was what limited them."""
        dialer = await _dialer(self._node, _SOURCES)
        accepted = limited = 0
        began, cpu = time.monotonic(), time.process_time()
        until = began + seconds

        async def knock() -> None:
            nonlocal accepted, limited
            while time.monotonic() < until and not limited:
                try:
                    peer = await Conversation.open(dialer, self._token)
                except DialError as error:
                    limited += "answered 429" in error.reason
                    await asyncio.sleep(min(error.retry_after_s or 0.05, 0.05))
                    continue
                accepted += time.monotonic() <= until
                await peer.close()

        await asyncio.gather(*(knock() for _ in range(_AT_ONCE)))
        if limited or not accepted:
            return None, False
        return accepted / seconds, time.process_time() - cpu > 0.8 * (time.monotonic() - began)


async def _open_patiently(dialer: Dialer, token: str) -> Conversation:
    """Open a connection; where the limit of this address refuses it, wait as it says."""
    for _ in range(_TRIES - 1):
        try:
            return await Conversation.open(dialer, token)
        except DialError as error:
            if "answered 429" not in error.reason:
                raise
            await asyncio.sleep(min(error.retry_after_s or 1.0, _LONGEST_WAIT_S))
    return await Conversation.open(dialer, token)


def _echo_url(node: SmokeTarget) -> str:
    parts = split_url(node.url)
    return parts._replace(path=parts.path.rstrip("/") + ECHO_PATH).geturl()


def _target(node: SmokeTarget, sources: int = 0) -> Target:
    on_loopback = is_loopback(split_url(node.url).hostname or "")
    return Target(
        node.url, verify_tls=node.verify_tls, ca_file=node.ca_file, connect_timeout_s=_CONNECT_S,
        sources=sources if on_loopback else 0,
    )  # fmt: skip


async def _dialer(node: SmokeTarget, sources: int = 0) -> Dialer:
    return await Dialer.prepare(_target(node, sources))
