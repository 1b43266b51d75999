"""`trunkline health`: whether a server answers, for the health checks of container engines and for scripts."""

from __future__ import annotations

from typing import Annotated

import typer


def health(
    rest: typer.Context,
    command: Annotated[
        str, typer.Argument(help="What serves, with its options, such as `serve --port 3002`; default: process 1.")
    ] = "",
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it wants connections, instead of whether it is alive.")
    ] = False,
) -> None:
    """Ask the node or balancer of a command line whether it is alive; without one, that of this container.

    Exit code 1 when it is not, or does not answer.
    """
    from trunkline.cli import probe

    line = (command, *rest.args) if command else ()
    raise typer.Exit(probe.run(probe.Question(ready, line)))
