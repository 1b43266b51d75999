"""`trunkline publish`: put one message into a channel, through a node's admin port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from trunkline.errors import SettingsError, StartError
from trunkline.net.admin_token import kept_ports, token_path
from trunkline.settings.load import load


def publish(
    channel: Annotated[str, typer.Argument(help="The channel.")],
    data: Annotated[str, typer.Argument(metavar="JSON", help="The message as JSON text.")],
    admin: Annotated[
        str | None, typer.Option(help="Admin address of a node; default: this machine's by the settings.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="TRUNKLINE_ADMIN_TOKEN", help="Admin token; default: the file the node keeps.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file; default: trunkline.toml.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Publish JSON to a channel; prints its position."""
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise SettingsError("JSON", value=data[:200], allowed=f"it must be JSON text: {error}") from None
    settings = load(config_file, os.environ, {}).settings
    port = settings.admin.port or settings.server.port + 1
    known = token or (settings.admin.token.reveal() if settings.admin.token else None)
    doors = [(admin, known)] if admin and known else _doors(admin, known, port)
    answer = asyncio.run(_post_to_first(doors, channel, data))
    if json_output:
        typer.echo(msgspec.json.encode(answer))
    else:
        typer.echo(f"{channel}: offset {answer.offset}, epoch {answer.epoch}")


class Answer(msgspec.Struct):
    """What the admin port says."""

    channel: str = ""
    epoch: str | None = None
    offset: int | None = None
    message: str | None = None


class _NoNode(Exception):
    """What listens there is not the admin port of a node; says why."""


def _doors(admin: str | None, token: str | None, port: int) -> list[tuple[str, str]]:
    """Addresses and tokens of what may be a node: the named one, else the settings' own, then those kept here."""
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


async def _post_to_first(doors: list[tuple[str, str]], channel: str, data: str) -> Answer:
    """Publish through the first of these that is a node; in a fleet on this machine the edge's own port comes first."""
    why = ""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        for address, token in doors:
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
