"""The control socket of `trunkline up`: requests of this user's other commands, one answer each.

Rules:

- A request that was taken is carried out, whether or not its sender waits for the answer.
- A connection carries any number of requests, one after another. What is no request is refused, and the connection
  stays; only a stream that is out of step is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec

from trunkline.errors import TrunklineError
from trunkline.process.bounds import end_tasks
from trunkline.process.control.messages import (
    CONTROL_SOCKET,
    LONGEST,
    ControlAnswer,
    ControlRequest,
    Refusal,
)
from trunkline.process.framing import Framing, head
from trunkline.process.sockets.private import PrivateSocket, connect_in, is_own

CONNECT_S: Final = 5.0
_CHUNK: Final = 65_536

Handler = Callable[[ControlRequest], Coroutine[Any, Any, ControlAnswer]]

_requests: Final = msgspec.json.Decoder[ControlRequest](ControlRequest)
_answers: Final = msgspec.json.Decoder[ControlAnswer](ControlAnswer)


class ControlFailed(TrunklineError):
    """There is no `trunkline up` to ask, it ended before it answered, or it refused; the text says which."""


class ControlSocket:
    """Listens in `folder` and answers with what `handle` returns."""

    def __init__(self, folder: Path, handle: Handler) -> None:
        self._folder = folder
        self._handle = handle
        self._private: PrivateSocket | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._works: set[asyncio.Task[ControlAnswer]] = set()

    def start(self) -> None:
        """Listen; a name left by a killed process is taken. Raises OSError."""
        self._private = PrivateSocket(CONTROL_SOCKET, self._folder)
        asyncio.get_running_loop().add_reader(self._private.sock, self._on_ready, self._private.sock)

    async def close(self) -> None:
        """Listen no more, and drop what is under way."""
        if self._private is not None:
            asyncio.get_running_loop().remove_reader(self._private.sock)
            self._private.close()
            self._private = None
        await end_tasks([*self._talks, *self._works])

    def _on_ready(self, listening: socket.socket) -> None:
        try:
            peer, _ = listening.accept()
        except OSError:
            return
        peer.setblocking(False)
        if not is_own(peer):
            peer.close()
            return
        task = asyncio.get_running_loop().create_task(self._talk(peer))
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _talk(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        framing = Framing(LONGEST)
        with contextlib.closing(peer), contextlib.suppress(OSError):
            while framing.too_long is None and (data := await loop.sock_recv(peer, _CHUNK)):
                for message in framing.feed(data):
                    answer = msgspec.json.encode(await self._answer(message))
                    await loop.sock_sendall(peer, head(len(answer)) + answer)

    async def _answer(self, message: bytes) -> ControlAnswer:
        try:
            request = _requests.decode(message)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return Refusal(f"no request that this release knows: {error}", "Use the release that runs `trunkline up`.")
        work = asyncio.get_running_loop().create_task(self._handle(request))
        self._works.add(work)
        work.add_done_callback(self._works.discard)
        # Not with the connection: what was begun is brought to its end.
        return await asyncio.shield(work)


class ControlClient:
    """Asks the `trunkline up` whose control socket is in `folder`; a connection for each request."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONTROL_SOCKET
        self._folder = folder

    async def ask(self, request: ControlRequest, within_s: float) -> ControlAnswer:
        """Send a request; raises ControlFailed, also for a `Refusal` and after `within_s` seconds."""
        loop = asyncio.get_running_loop()
        try:
            peer = await asyncio.to_thread(connect_in, self._folder, CONTROL_SOCKET, CONNECT_S)
        except OSError as error:
            raise ControlFailed(
                f"no `trunkline up` answers at {self.path} ({error.strerror or error}); "
                "is it running, with this data directory?"
            ) from None
        peer.setblocking(False)
        framing = Framing(LONGEST)
        message = msgspec.json.encode(request)
        with contextlib.closing(peer):
            try:
                async with asyncio.timeout(within_s):
                    await loop.sock_sendall(peer, head(len(message)) + message)
                    while not (whole := framing.feed(data := await loop.sock_recv(peer, _CHUNK))):
                        if not data or framing.too_long is not None:
                            raise ControlFailed("`trunkline up` ended before it answered")
                answer = _answers.decode(whole[0])
            except TimeoutError:
                raise ControlFailed(f"`trunkline up` did not answer within {within_s:g} s") from None
            except OSError as error:
                raise ControlFailed(f"`trunkline up` ended before it answered: {error}") from None
            except msgspec.MsgspecError as error:
                raise ControlFailed(f"`trunkline up` is of another release: {error}") from None
        if isinstance(answer, Refusal):
            raise ControlFailed(f"{answer.why}. {answer.next_step}" if answer.next_step else answer.why)
        return answer
