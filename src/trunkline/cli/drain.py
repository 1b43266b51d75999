"""`trunkline drain` and `trunkline undrain`: empty one node, through its admin port, and let it take clients again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.settings import ConfigFile, loaded
from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.cli.local_nodes import AdminPort
    from trunkline.protocol.control import DrainState

FAILED = 1
LOOK_EVERY_S = 0.5

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="Its name, or its admin address such as http://10.0.0.1:3002.")
]
Token = Annotated[
    str | None, typer.Option(envvar="TRUNKLINE_ADMIN_TOKEN", help="Admin token; default: the file the node keeps.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def drain(
    node: NodeName,
    over: Annotated[
        str | None, typer.Option(help="Time to spread the clients over, such as 30s; default: server.drain_ms.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when no client is left.")] = False,
    token: Token = None,
    config_file: ConfigFile = None,
    json_output: AsJson = False,
) -> None:
    """Take no new clients on a node, and ask those that it has to move to others.

    The node goes on until `trunkline undrain`, or until it is stopped.
    """
    import asyncio

    asyncio.run(_drain(node, _over_ms(over), token, config_file, wait=wait, json_output=json_output))


def undrain(node: NodeName, token: Token = None, config_file: ConfigFile = None, json_output: AsJson = False) -> None:
    """End the drain of a node: it takes clients again; those already asked to move do so."""
    import asyncio

    asyncio.run(_undrain(node, token, config_file, json_output=json_output))


async def _drain(
    name: str, over_ms: int | None, token: str | None, config_file: ConfigFile, *, wait: bool, json_output: bool
) -> None:
    import asyncio

    from trunkline.cli.local_nodes import drain_through

    node = await _found(name, token, config_file)
    state = await drain_through(node, "POST", over_ms)
    over_s = (state.over_ms or 0) / 1000
    _show(state, f"{state.node}: draining, asks {_clients(state)} to move within {over_s:g} s", json_output)
    while wait and state.connections:
        await asyncio.sleep(LOOK_EVERY_S)
        before, state = state, await drain_through(node, "GET")
        if state.state == "up":
            typer.echo(f"{state.node}: the drain was ended; {_clients(state)} are there", err=True)
            raise typer.Exit(FAILED)
        if before.connections != state.connections:
            _show(state, f"{state.node}: {_clients(state)} left", json_output)


async def _undrain(name: str, token: str | None, config_file: ConfigFile, *, json_output: bool) -> None:
    from trunkline.cli.local_nodes import drain_through

    state = await drain_through(await _found(name, token, config_file), "DELETE")
    if state.state != "up":
        typer.echo(f"{state.node}: it is {state.state} and takes no clients; a node that stops stays so", err=True)
        raise typer.Exit(FAILED)
    _show(state, f"{state.node}: takes clients again; {_clients(state)} are there", json_output)


async def _found(name: str, token: str | None, config_file: ConfigFile) -> AdminPort:
    from trunkline.cli.local_nodes import candidates, named

    settings = loaded(config_file).settings
    if "://" in name:
        return candidates(name, token, settings, "read", "operate")[0]
    return await named(candidates(None, token, settings, "read", "operate"), name)


def _over_ms(text: str | None) -> int | None:
    from trunkline.protocol.control import LONGEST_DRAIN_MS
    from trunkline.settings.quantities import milliseconds

    if text is None:
        return None
    found = milliseconds(text)
    if found is None or found > LONGEST_DRAIN_MS:
        raise SettingsError("--over", value=text, allowed='allowed: text such as "30s" or "5m", at most 24h')
    return round(found)


def _clients(state: DrainState) -> str:
    return "1 client" if state.connections == 1 else f"{state.connections:,} clients"


def _show(state: DrainState, text: str, json_output: bool) -> None:
    import msgspec

    sys.stdout.write((msgspec.json.encode(state).decode() if json_output else text) + "\n")
    sys.stdout.flush()
