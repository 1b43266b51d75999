"""Reaches a node of this machine through its admin port, with the token that the node keeps for this user."""

from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus

import aiohttp
import msgspec

from trunkline.errors import StartError
from trunkline.net.admin_token import kept_ports, token_path


class Answer(msgspec.Struct):
    """What the admin port answers."""

    channel: str = ""
    epoch: str | None = None
    offset: int | None = None
    message: str | None = None


class _NoNode(Exception):
    """What listens there is not the admin port of a node, and why."""


def candidates(admin: str | None, token: str | None, port: int) -> list[tuple[str, str]]:
    """Addresses and tokens of what may be a node: the one at `admin`, else at `port`, then those with tokens kept here.

    Args:
        admin: address of an admin port.
        token: its token; None for the one kept on this machine.
        port: the admin port by the settings.

    Raises:
        StartError: there is none.
    """
    if admin:
        ports = [int(admin.rstrip("/").rpartition(":")[2])] if admin.rstrip("/").rpartition(":")[2].isdigit() else []
    else:
        ports = [port, *sorted(kept_ports() - {port})]
    found = []
    for candidate in ports:
        address = admin or f"http://127.0.0.1:{candidate}"
        secret = token or _kept(candidate)
        # A node that was killed leaves its token behind.
        if secret is not None and (admin or _listens(candidate)):
            found.append((address, secret))
    if not found:
        raise StartError(
            f"no node's admin port found on this machine (looked at port {', '.join(map(str, ports)) or admin})",
            "Is a node running? Name its admin port with --admin and its token with --token.",
        )
    return found


def _kept(port: int) -> str | None:
    try:
        return token_path(port).read_text().strip()
    except OSError:
        return None


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def publish_through(nodes: list[tuple[str, str]], channel: str, data: str) -> Answer:
    """Publish through the first of these that is a node; in a fleet on this machine the edge's own port comes first.

    Args:
        nodes: addresses and tokens.
        channel: where to publish.
        data: the message as JSON text.

    Raises:
        StartError: none of them is a node, or it did not publish.
    """
    why = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for address, token in nodes:
            try:
                return await _post(session, address.rstrip("/"), token, channel, data)
            except _NoNode as reason:
                why = why or f"no node's admin port at {address}: {reason}"
    raise StartError(why, "Is the node running? Name it with --admin.")


async def _post(session: aiohttp.ClientSession, address: str, token: str, channel: str, data: str) -> Answer:
    body = b'{"channel":%b,"data":%b}' % (msgspec.json.encode(channel), data.encode())
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        async with session.post(f"{address}/api/publish", data=body, headers=headers) as response:
            if response.status == HTTPStatus.NOT_FOUND:
                raise _NoNode("it does not publish; perhaps it is a balancer's")
            answer = msgspec.json.decode(await response.read(), type=Answer)
    except aiohttp.ClientConnectorError as error:
        raise _NoNode(str(error)) from None
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        # It may have been published: trying the next one could do it twice.
        raise StartError(f"no answer from {address}: {error}", "Look at the node's log.") from None
    if answer.message is not None:
        raise StartError(f"not published: {answer.message}", "See `trunkline publish --help`.")
    return answer
