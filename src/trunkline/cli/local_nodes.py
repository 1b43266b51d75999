"""Reaches nodes of this machine through their admin ports, with the tokens that they keep for this user."""

from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import msgspec

from trunkline.errors import StartError
from trunkline.net.admin.kept import kept_ports, kept_token
from trunkline.net.admin.tokens import token_for, token_for_all
from trunkline.protocol.control import DrainOrder, DrainState

if TYPE_CHECKING:
    from trunkline.settings.admin import Scope
    from trunkline.settings.sections import Settings

TIMEOUT = aiohttp.ClientTimeout(total=10)


class Answer(msgspec.Struct):
    """What the admin port answers to a publication."""

    channel: str = ""
    epoch: str | None = None
    offset: int | None = None
    message: str | None = None


class AdminPort(NamedTuple):
    """Address and token of what may be a node."""

    address: str
    token: str

    def url(self, path: str) -> str:
        """Where it answers for `path`."""
        return f"{self.address.rstrip('/')}{path}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}


def candidates(admin: str | None, token: str | None, settings: Settings, *scopes: Scope) -> list[AdminPort]:
    """What may be a node: the one at `admin`, else at the port of the settings, then those with tokens kept here.

    Without `token` it is that of the settings, else the one kept on this machine, else one of `admin.tokens` that has
    the `scopes`. Raises StartError when there is no node.
    """
    token = token or token_for_all(settings.admin)
    spare = token_for(settings.admin, *scopes)
    if admin:
        named = admin.rstrip("/").rpartition(":")[2]
        ports = [int(named)] if named.isdigit() else []
        secret = token or (kept_token(ports[0]) if ports else None) or spare
        found = [AdminPort(admin, secret)] if secret else []
    else:
        port = settings.admin.port or settings.server.port + 1
        ports = [port, *sorted(kept_ports() - {port})]
        known = ((port, token or kept_token(port) or spare) for port in ports)
        # A node that was killed leaves its token behind.
        found = [AdminPort(f"http://127.0.0.1:{port}", secret) for port, secret in known if secret and _listens(port)]
    if not found:
        looked = admin or f"port {', '.join(map(str, ports))}"
        raise StartError(
            f"no node's admin port found on this machine (looked at {looked})",
            "Is a node running? Name its admin address, and with --token its token.",
        )
    return found


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def publish_through(nodes: list[AdminPort], channel: str, data: str) -> Answer:
    """Publish JSON text through the first of these that is a node.

    In a fleet on this machine the edge's own admin port comes first, which does not publish.

    Raises:
        StartError: none of them is a node, or it did not publish.
    """
    body = b'{"channel":%b,"data":%b}' % (msgspec.json.encode(channel), data.encode())
    why = ""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for node in nodes:
            try:
                async with session.post(node.url("/api/publish"), data=body, headers=node.headers) as response:
                    if response.status == HTTPStatus.NOT_FOUND:
                        reason = "it does not publish; perhaps it is a balancer's"
                        why = why or f"no node's admin port at {node.address}: {reason}"
                        continue
                    answer = msgspec.json.decode(await response.read(), type=Answer)
            except aiohttp.ClientConnectorError as error:
                why = why or f"no node's admin port at {node.address}: {error}"
                continue
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
                # It may have been published: trying the next one could do it twice.
                raise _no_answer(node, error) from None
            if answer.message is not None:
                raise StartError(f"not published: {answer.message}", "See `trunkline publish --help`.")
            return answer
    raise StartError(why, "Is the node running? Name it with --admin.")


async def named(nodes: list[AdminPort], name: str) -> AdminPort:
    """The one of these that is the node called `name`; raises StartError when none is."""
    seen = []
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        for node in nodes:
            # What does not answer, or not so, is no node: a balancer, or one that has just ended.
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
                async with session.get(node.url("/api/drain"), headers=node.headers) as response:
                    state = msgspec.json.decode(await response.read(), type=DrainState)
                if state.node == name:
                    return node
                seen.append(state.node)
    found = f"there are {', '.join(sorted(seen))}" if seen else "no node answers here"
    raise StartError(
        f"no node is called {name!r} on this machine; {found}", "Name it by its admin address, as http://…"
    )


async def drain_through(node: AdminPort, method: str, over_ms: int | None = None) -> DrainState:
    """Begin a drain (POST), end it (DELETE) or look at it (GET); raises StartError when the node does not do so."""
    body = msgspec.json.encode(DrainOrder(over_ms)) if method == "POST" else None
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.request(method, node.url("/api/drain"), data=body, headers=node.headers) as response,
        ):
            text = await response.read()
            if response.status != HTTPStatus.OK:
                raise StartError(
                    f"{node.address} answered {response.status}: {text[:200].decode(errors='replace').strip()}",
                    "Name the node's admin port, and its token with --token.",
                )
            return msgspec.json.decode(text, type=DrainState)
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        raise _no_answer(node, error) from None


def _no_answer(node: AdminPort, error: Exception) -> StartError:
    return StartError(f"no answer from {node.address}: {error}", "Look at the node's log.")
