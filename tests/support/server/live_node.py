"""What tests of a live node share: settings for it, and a client of another implementation.

It stands apart from conftest.py because every directory of tests has a module of that name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection

from tests.support.patience import patient
from trunkline.server.node.node import Node
from trunkline.settings.sections import Settings


def settings_with(**changes: Any) -> Settings:
    """Default settings for a test's node; `server__port=0` changes `port` of section `server`."""
    given = {
        "server__host": "127.0.0.1",
        "server__port": 0,
        "admin__port": 0,
        "server__drain_ms": 0,
        "log__access": False,
        # Tests share the node's loop, and may hold it up on a busy machine.
        "limits__loop_lag_shed_ms": 60_000,
    }
    settings = Settings()
    for key, value in {**given, **changes}.items():
        section, _, name = key.partition("__")
        changed = msgspec.structs.replace(getattr(settings, section), **{name: value})
        settings = msgspec.structs.replace(settings, **{section: changed})
    return settings


class Peer:
    """A client that speaks the protocol's JSON through another implementation of WebSockets."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def send(self, message: Any) -> None:
        """Send one message; text and bytes go out as they are."""
        await self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    async def next(self, timeout: float = 5.0) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), patient(timeout)))
        self.seen.append(message)
        return message

    async def expect(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next message of a type; heartbeats are passed over, anything else fails the test."""
        while True:
            message = await self.next(timeout)
            if message["type"] == kind:
                return message
            assert message["type"] == "heartbeat", f"wanted {kind}, got {message}"

    async def skip_to(self, kind: str, timeout: float = 5.0) -> dict[str, Any]:
        """The next message of a type, whatever comes before it."""
        while True:
            message = await self.next(timeout)
            if message["type"] == kind:
                return message

    async def ask(self, message: dict[str, Any], kind: str) -> dict[str, Any]:
        """Send a message and wait for its answer."""
        await self.send(message)
        return await self.expect(kind)

    async def closed(self, timeout: float = 5.0) -> tuple[int, str]:
        """Wait for the end; returns the close code and reason."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(patient(timeout)):
                while True:
                    message = await self.socket.recv()
                    if isinstance(message, str):
                        self.seen.append(json.loads(message))
        assert self.socket.close_code is not None, "the connection did not end in time"
        return self.socket.close_code, self.socket.close_reason or ""


StartNode = Callable[..., Coroutine[Any, Any, Node]]
OpenPeer = Callable[..., Coroutine[Any, Any, Peer]]
