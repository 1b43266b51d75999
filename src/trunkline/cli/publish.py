"""`trunkline publish`: put one message into a channel, through a node's admin port."""

from __future__ import annotations

from typing import Annotated

import typer

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import SettingsError


def publish(
    channel: Annotated[str, typer.Argument(help="The channel.")],
    data: Annotated[str, typer.Argument(metavar="JSON", help="The message as JSON text.")],
    admin: Annotated[
        str | None, typer.Option(help="Admin address of a node; default: this machine's by the settings.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="TRUNKLINE_ADMIN_TOKEN", help="Admin token; default: the file the node keeps.")
    ] = None,
    config_file: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Publish JSON to a channel; prints its position."""
    import asyncio

    import msgspec

    from trunkline.cli.local_nodes import candidates, publish_through

    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise SettingsError("JSON", value=data[:200], allowed=f"it must be JSON text: {error}") from None
    nodes = candidates(admin, token, loaded(config_file).settings, "publish")
    answer = asyncio.run(publish_through(nodes, channel, data))
    if json_output:
        typer.echo(msgspec.json.encode(answer))
    else:
        typer.echo(f"{channel}: offset {answer.offset}, epoch {answer.epoch}")
