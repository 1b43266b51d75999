"""`trunkline up`: a whole fleet on this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import structlog
import typer
from structlog.typing import EventDict

from trunkline.fleet.fleet import Fleet, free_first_port
from trunkline.fleet.plan import FleetPlan, make_plan, ports_needed
from trunkline.fleet.status import Event, status_text
from trunkline.fleet.traefik import prepare
from trunkline.fleet.view import View, make_view
from trunkline.monitor.local.local_ports import PROMETHEUS, SPAN
from trunkline.process import lifecycle
from trunkline.settings.load import load

KILLED = 1
"""Exit code when the fleet was ended without a drain."""


def up(
    nodes: Annotated[int | None, typer.Option(help="How many nodes; default: 2.")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port that clients connect to, by default 8080; the other parts follow. 0: any free ones."),
    ] = None,
    edge: Annotated[str | None, typer.Option(help="relay: our own balancer; traefik: a real Traefik, steered.")] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Run Prometheus, Alertmanager and node_exporter beside it.")
    ] = False,
    app: Annotated[str | None, typer.Option(help="The application as module:attribute; else the stock app.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory for data and logs; default: .trunkline.")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Settings file; default: trunkline.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell events and addresses as lines of JSON.")] = False,
) -> None:
    """Run NATS, several nodes and their edge on this machine until Ctrl-C, which drains them; a second one ends all.

    It is meant for development and listens on 127.0.0.1 alone, unless HOST or server.host names another address for the
    edge. Admin ports are the port + 1. A part that dies is started again. Settings and environment reach every part.
    """
    flags = {"up.nodes": nodes, "up.port": port, "up.edge": edge, "up.data_dir": data_dir, "server.app": app}
    loaded = load(config_file, os.environ, flags)
    settings = loaded.settings
    monitor_port = 0
    if monitor:
        monitor_port = PROMETHEUS if settings.up.port else free_first_port(SPAN)
    first_port = settings.up.port or free_first_port(ports_needed(settings.up.nodes, settings.up.edge))
    plan = make_plan(loaded, first_port, monitor_port)
    plan = prepare(plan, os.environ)
    view = make_view(as_json)
    _hear_log(view)
    if loaded.sources["bus.url"] != "default":
        view.event(Event("note", "", "bus.url is left aside: this fleet brings a NATS of its own"))
    try:
        code = lifecycle.run(lambda: run_fleet(plan, view))
    finally:
        view.close()
    raise typer.Exit(code)


async def run_fleet(plan: FleetPlan, view: View) -> int:
    """Run a fleet in child processes of this one until it is told to stop.

    Raises:
        StartError: it cannot be started; nothing is left running.
    """
    signals = lifecycle.Signals()

    def say(event: Event) -> None:
        view.event(event)
        show_status()

    def show_status() -> None:
        view.status(lambda: status_text(fleet.statuses, [*fleet.edge_statuses, fleet.nats.status], fleet.draining))

    fleet = Fleet(plan, os.environ, say, view.ready, show_status)
    running = asyncio.ensure_future(fleet.run())
    await asyncio.wait({running, signals.first}, return_when=asyncio.FIRST_COMPLETED)
    failed = running.done()
    if failed:
        # The rest of the fleet serves nobody yet, or we have a fault: either way there is nothing to wait for.
        fleet.kill()
    else:
        running.cancel()
        await asyncio.wait({running})
    stopping = asyncio.ensure_future(fleet.stop())
    await asyncio.wait({stopping, signals.second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        fleet.kill()
    await stopping
    if failed:
        running.result()
    view.event(Event("stopped", "", "ended at once" if fleet.killed else "stopped"))
    return KILLED if fleet.killed else 0


def _hear_log(view: View) -> None:
    """What the parts of this process log is told as events, as anything else would tear the status line."""

    def tell(_logger: object, method: str, event: EventDict) -> EventDict:
        text = str(event.pop("event", ""))
        details = ", ".join(str(value) for value in event.values())
        view.event(Event("log", "nats", f"{text}: {details}" if details else text))
        raise structlog.DropEvent

    structlog.configure(
        processors=[tell], wrapper_class=structlog.make_filtering_bound_logger(30), cache_logger_on_first_use=False
    )
