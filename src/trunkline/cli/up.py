"""`trunkline up`: a whole fleet on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.settings import ConfigFile, loaded


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
    config_file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell events and addresses as lines of JSON.")] = False,
) -> None:
    """Run NATS, several nodes and their edge on this machine until Ctrl-C, which drains them; a second one ends all.

    It is meant for development and listens on 127.0.0.1 alone, unless HOST or server.host names another address for the
    edge. Admin ports are the port + 1. A part that dies is started again. Settings and environment reach every part.
    """
    from trunkline.fleet.plan.layout import make_plan, ports_needed
    from trunkline.fleet.plan.ports import free_first_port
    from trunkline.fleet.run import run_fleet
    from trunkline.fleet.status import Event
    from trunkline.fleet.view.output import make_view
    from trunkline.monitor.local.ports import PROMETHEUS, SPAN
    from trunkline.process import lifecycle

    flags = {"up.nodes": nodes, "up.port": port, "up.edge": edge, "up.data_dir": data_dir, "server.app": app}
    found = loaded(config_file, flags)
    settings = found.settings
    monitor_port = 0
    if monitor:
        monitor_port = PROMETHEUS if settings.up.port else free_first_port(SPAN)
    first_port = settings.up.port or free_first_port(ports_needed(settings.up.nodes, settings.up.edge))
    plan = make_plan(found, first_port, monitor_port)
    if plan.traefik is not None:
        from trunkline.fleet.plan.traefik import prepare

        plan = prepare(plan, os.environ)
    view = make_view(as_json)
    if found.sources["bus.url"] != "default":
        view.event(Event("note", "", "bus.url is left aside: this fleet brings a NATS of its own"))
    try:
        code = lifecycle.run(lambda: run_fleet(plan, view, lambda: loaded(found.file or config_file, flags)))
    finally:
        view.close()
    raise typer.Exit(code)
