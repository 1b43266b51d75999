"""`trunkline serve`: one node."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trunkline.cli.settings import ConfigFile


def serve(
    app: Annotated[
        str | None, typer.Argument(help="The application as module:attribute; without it, the stock app.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any free one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of this node.")] = None,
    colour: Annotated[str | None, typer.Option(help="Deploy group: blue, green, …")] = None,
    bus: Annotated[str | None, typer.Option(help="memory, nats://… or tls://…")] = None,
    config_file: ConfigFile = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a source file changes; for development.")
    ] = False,
) -> None:
    """Run one node until SIGTERM or Ctrl-C, which drain it; a second one ends it at once."""
    if reload:
        from trunkline.cli.reload import run_reloading

        raise typer.Exit(run_reloading(sys.argv))
    from trunkline.cli import node

    flags = {
        "server.app": app, "server.host": host, "server.port": port, "server.name": name, "server.colour": colour,
        "bus.url": bus,
    }  # fmt: skip
    raise typer.Exit(node.run(flags, config_file))
