"""`trunkline monitor up`: Prometheus, Alertmanager and node_exporter beside a fleet on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from trunkline.fleet.fleet import free_first_port
from trunkline.monitor.local.local_ports import PROMETHEUS, SPAN
from trunkline.monitor.local.local_stack import Addresses, Ended, LocalStack
from trunkline.process import lifecycle
from trunkline.settings.load import load
from trunkline.settings.sections import Settings

FAILED = 1


def monitor_up(
    fleet: Annotated[str, typer.Option(help="Admin address of the fleet's balancer.")] = "http://127.0.0.1:8081",
    port: Annotated[
        int, typer.Option(help="Port of Prometheus; Alertmanager is 3 above it, node_exporter 10. 0: any free ones.")
    ] = PROMETHEUS,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory for files and samples; default: monitor in up.data_dir.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file; default: trunkline.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell the addresses as a line of JSON.")] = False,
) -> None:
    """Watch a fleet on this machine until Ctrl-C: what it renders is what `monitor render` would, at this fleet."""
    settings = load(config_file, os.environ, {}).settings
    directory = (data_dir or settings.up.data_dir / "monitor").absolute()
    first_port = port or free_first_port(SPAN)
    raise typer.Exit(lifecycle.run(lambda: run_stack(settings, directory, fleet, first_port, as_json)))


async def run_stack(settings: Settings, directory: Path, fleet: str, first_port: int, as_json: bool) -> int:
    """Run the stack until a signal comes or one of its programs ends."""
    signals = lifecycle.Signals()
    starting = asyncio.ensure_future(LocalStack.start(settings, directory, fleet, first_port))
    either: set[asyncio.Future[Any]] = {starting, signals.first}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    stack = starting.result()
    _tell(stack.addresses, as_json)
    if stack.silence:
        print(f"trunkline: {fleet} tells no nodes: {stack.silence}; it is asked again and again", file=sys.stderr)
    watching = asyncio.ensure_future(stack.watch())
    await asyncio.wait({watching, signals.first}, return_when=asyncio.FIRST_COMPLETED)
    failed = watching.done()
    watching.cancel()
    stopping = asyncio.ensure_future(stack.stop())
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    if failed:
        try:
            watching.result()
        except Ended as error:
            print(f"trunkline: {error}", file=sys.stderr)
        return FAILED
    return 0


def _tell(addresses: Addresses, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(addresses).decode(), flush=True)
        return
    print(f"prometheus     {addresses.prometheus}")
    print(f"alertmanager   {addresses.alertmanager}")
    print(f"node_exporter  {addresses.node_exporter}")
    print(f"files          {addresses.files}", flush=True)
