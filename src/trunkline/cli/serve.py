"""`trunkline serve`: one node."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trunkline.settings.sections import Settings


def serve(
    app: Annotated[
        str | None, typer.Argument(help="The application as module:attribute; without it, the stock app.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any free one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of this node.")] = None,
    colour: Annotated[str | None, typer.Option(help="Deploy group: blue, green, …")] = None,
    bus: Annotated[str | None, typer.Option(help="memory, nats://… or tls://…")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file; default: trunkline.toml.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a source file changes; for development.")
    ] = False,
) -> None:
    """Run one node until SIGTERM or Ctrl-C, which drain it; a second one ends it at once."""
    if reload:
        from trunkline.cli.reload import run_reloading

        raise typer.Exit(run_reloading(sys.argv))
    from trunkline.logs import configure as log_setup
    from trunkline.process import lifecycle
    from trunkline.settings.load import load

    flags = {
        "server.app": app, "server.host": host, "server.port": port, "server.name": name, "server.colour": colour,
        "bus.url": bus,
    }  # fmt: skip
    settings = load(config_file, os.environ, flags).settings
    log_setup.configure(settings.log, service="trunkline-node", node=settings.server.name or "")
    raise typer.Exit(lifecycle.run(lambda: run_node(settings)))


async def run_node(settings: Settings) -> int:
    """Run a node in this process until it is told to stop."""
    from trunkline.process import lifecycle
    from trunkline.server.app.load_app import load_app
    from trunkline.server.node.node import Node

    signals = lifecycle.Signals()
    node = Node(settings, load_app(settings.server.app))
    await node.start()
    lifecycle.spare_collector()
    await lifecycle.serve_until_stopped(signals, node.stop)
    return 0
