"""All commands, by typer; a command imports its room within its function, so that `--help` starts at once."""

from __future__ import annotations

import typer

from trunkline.cli.balance import balance
from trunkline.cli.bus import app as bus_app
from trunkline.cli.config import app as config_app
from trunkline.cli.deploy.commands import app as deploy_app
from trunkline.cli.doctor import doctor
from trunkline.cli.drain import drain, undrain
from trunkline.cli.health import health
from trunkline.cli.load import app as load_app
from trunkline.cli.monitor import app as monitor_app
from trunkline.cli.publish import publish
from trunkline.cli.serve import serve
from trunkline.cli.traefik import app as traefik_app
from trunkline.cli.up import up
from trunkline.version import __version__

app = typer.Typer(
    name="trunkline",
    help="Production WebSockets for Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(up)
app.command()(balance)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(health)
app.command()(publish)
app.command()(doctor)
app.command()(drain)
app.command()(undrain)
app.add_typer(deploy_app, name="deploy")
app.add_typer(load_app, name="load")
app.add_typer(config_app, name="config")
app.add_typer(bus_app, name="bus")
app.add_typer(traefik_app, name="traefik")
app.add_typer(monitor_app, name="monitor")


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
