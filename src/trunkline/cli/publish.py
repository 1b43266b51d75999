"""`trunkline publish`: put one message into a channel, through a node's admin port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from trunkline import config
from trunkline.admin_token import kept_ports, token_path
from trunkline.errors import SettingsError, StartError


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
    settings = config.load(config_file, os.environ, {}).settings
    port = settings.admin.port or settings.server.port + 1
    known = token or (settings.admin.token.reveal() if settings.admin.token else None)
    address, secret = (admin, known) if admin and known else _find(admin, known, port)
    answer = asyncio.run(_post(address.rstrip("/"), secret, channel, data))
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


def _find(admin: str | None, token: str | None, port: int) -> tuple[str, str]:
    """The admin port to use and its token: the one that was named, else the settings' own, else any on this machine."""
    if admin:
        ports = [int(admin.rstrip("/").rpartition(":")[2])] if admin.rstrip("/").rpartition(":")[2].isdigit() else []
    else:
        ports = [port, *sorted(kept_ports() - {port})]
    for candidate in ports:
        address = admin or f"http://127.0.0.1:{candidate}"
        if token is not None and _listens(candidate):
            return address, token
        try:
            kept = token_path(candidate).read_text().strip()
        except OSError:
            continue
        # A node that was killed leaves its token behind.
        if admin or _listens(candidate):
            return address, kept
    raise StartError(
        f"no node's admin port found on this machine (looked at port {', '.join(map(str, ports)) or admin})",
        "Is a node running? Name its admin port with --admin and its token with --token.",
    )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


async def _post(address: str, token: str, channel: str, data: str) -> Answer:
    body = b'{"channel":%b,"data":%b}' % (msgspec.json.encode(channel), data.encode())
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{address}/api/publish", data=body, headers=headers) as response,
        ):
            answer = msgspec.json.decode(await response.read(), type=Answer)
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        raise StartError(f"no admin port at {address}: {error}", "Is the node running? Name it with --admin.") from None
    if answer.message is not None:
        raise StartError(f"not published: {answer.message}", "See `trunkline publish --help`.")
    return answer
