"""Reaches a node of this machine through its admin port, with the token that the node keeps for this user."""

from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus

import aiohttp
import msgspec

from trunkline.errors import StartError
from trunkline.net.admin_token import kept_ports, kept_token


class Answer(msgspec.Struct):
    """What the admin port answers."""

    channel: str = ""
    epoch: str | None = None
    offset: int | None = None
    message: str | None = None


def candidates(admin: str | None, token: str | None, port: int) -> list[tuple[str, str]]:
    """Addresses and tokens of what may be a node: the one at `admin`, else at `port`, then those with tokens kept here.

    Without `token` it is the one kept on this machine. Raises StartError when there is no node.
    """
    if admin:
        named = admin.rstrip("/").rpartition(":")[2]
        ports = [int(named)] if named.isdigit() else []
    else:
        ports = [port, *sorted(kept_ports() - {port})]
    found = []
    for candidate in ports:
        secret = token or kept_token(candidate)
        # A node that was killed leaves its token behind.
        if secret is not None and (admin or _listens(candidate)):
            found.append((admin or f"http://127.0.0.1:{candidate}", secret))
    if not found:
        raise StartError(
            f"no node's admin port found on this machine (looked at port {', '.join(map(str, ports)) or admin})",
            "Is a node running? Name its admin port with --admin and its token with --token.",
        )
    return found


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def publish_through(nodes: list[tuple[str, str]], channel: str, data: str) -> Answer:
    """Publish JSON text through the first of these that is a node, by address and token.

    In a fleet on this machine the edge's own admin port comes first, which does not publish.

    Raises:
        StartError: none of them is a node, or it did not publish.
    """
    body = b'{"channel":%b,"data":%b}' % (msgspec.json.encode(channel), data.encode())
    why = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for address, token in nodes:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            url = f"{address.rstrip('/')}/api/publish"
            try:
                async with session.post(url, data=body, headers=headers) as response:
                    if response.status == HTTPStatus.NOT_FOUND:
                        reason = "it does not publish; perhaps it is a balancer's"
                        why = why or f"no node's admin port at {address}: {reason}"
                        continue
                    answer = msgspec.json.decode(await response.read(), type=Answer)
            except aiohttp.ClientConnectorError as error:
                why = why or f"no node's admin port at {address}: {error}"
                continue
            except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
                # It may have been published: trying the next one could do it twice.
                raise StartError(f"no answer from {address}: {error}", "Look at the node's log.") from None
            if answer.message is not None:
                raise StartError(f"not published: {answer.message}", "See `trunkline publish --help`.")
            return answer
    raise StartError(why, "Is the node running? Name it with --admin.")
