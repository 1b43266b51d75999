"""`trunkline monitor`: write the files of the monitoring, and check whether those of a directory are still the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trunkline.cli.settings import ConfigFile, ExaminedFile, loaded
from trunkline.monitor.local.ports import PROMETHEUS, SPAN

app = typer.Typer(no_args_is_help=True, help="Prometheus, Alertmanager and Grafana for a fleet.")

_Directory = Annotated[Path, typer.Argument(help="Directory of the files.", file_okay=False)]
_Dashboards = Annotated[bool, typer.Option("--dashboards/--no-dashboards", help="Grafana's dashboards too.")]


@app.command()
def up(
    fleet: Annotated[str, typer.Option(help="Admin address of the fleet's balancer.")] = "http://127.0.0.1:8081",
    port: Annotated[
        int, typer.Option(help="Port of Prometheus; Alertmanager is 3 above it, node_exporter 10. 0: any free ones.")
    ] = PROMETHEUS,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory for files and samples; default: monitor in up.data_dir.")
    ] = None,
    config_file: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell the addresses as a line of JSON.")] = False,
) -> None:
    """Watch a fleet on this machine until Ctrl-C: what it renders is what `monitor render` would, at this fleet."""
    from trunkline.fleet.monitoring import run_stack
    from trunkline.fleet.plan.ports import free_first_port
    from trunkline.process import lifecycle

    settings = loaded(config_file).settings
    directory = (data_dir or settings.up.data_dir / "monitor").absolute()
    first_port = port or free_first_port(SPAN)
    raise typer.Exit(lifecycle.run(lambda: run_stack(settings, directory, fleet, first_port, as_json)))


@app.command()
def render(
    directory: _Directory,
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; name what differs and exit with 1 when anything does.")
    ] = False,
    dashboards: _Dashboards = True,
    config_file: ExaminedFile = None,
) -> None:
    """Write the files of Prometheus, Alertmanager and Grafana; no secret is among them."""
    from trunkline.monitor.files import bundle

    if check_only:
        _check(directory, dashboards, config_file)
    texts = bundle.files(loaded(config_file).settings, dashboards=dashboards)
    written = bundle.write(directory, texts)
    left = bundle.drift(directory, texts)
    for path in written:
        typer.echo(f"wrote {directory / path}")
    typer.echo(f"{len(texts)} files, {len(written)} written")
    for path, _ in left:
        typer.echo(f"trunkline: {directory / path} is not rendered any more; remove it", err=True)


@app.command()
def check(directory: _Directory, dashboards: _Dashboards = True, config_file: ExaminedFile = None) -> None:
    """Name every file that is missing, changed or extra; exit code 0 when there is none, else 1."""
    _check(directory, dashboards, config_file)


@app.command("credentials")
def keep_credentials(directory: _Directory, config_file: ExaminedFile = None) -> None:
    """Keep Grafana's admin user and password, from files or Vault, in files that only this user can read."""
    from trunkline.monitor.files import credentials

    def warn(text: str) -> None:
        typer.echo(f"trunkline: {text}", err=True)

    for path in credentials.keep(directory, loaded(config_file).settings.monitor, os.environ, warn):
        typer.echo(f"kept {path}")


def _check(directory: Path, dashboards: bool, config_file: Path | None) -> None:
    from trunkline.monitor.files import bundle

    texts = bundle.files(loaded(config_file).settings, dashboards=dashboards)
    found = bundle.drift(directory, texts)
    for path, kind in found:
        typer.echo(f"{kind:8} {directory / path}")
    if found:
        typer.echo(f"{len(found)} of {len(texts)} files differ; trunkline monitor render {directory}")
        raise typer.Exit(1)
    typer.echo(f"{len(texts)} files as rendered")
    raise typer.Exit(0)
