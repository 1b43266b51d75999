"""`trunkline publish`: put one message into a channel, through a node's admin port."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer

from trunkline import config
from trunkline.errors import SettingsError, StartError
from trunkline.server.admin import token_path


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
    address = (admin or f"http://127.0.0.1:{port}").rstrip("/")
    secret = token or (settings.admin.token.reveal() if settings.admin.token else None) or _kept_token(address)
    answer = asyncio.run(_post(address, secret, channel, data))
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


def _kept_token(address: str) -> str:
    port = address.rpartition(":")[2].strip("/")
    path = token_path(int(port)) if port.isdigit() else None
    try:
        return path.read_text().strip() if path is not None else ""
    except OSError:
        raise StartError(
            f"no admin token for {address}: {path} is not there",
            "Is a node running? Name its admin port with --admin, or give --token.",
        ) from None


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
