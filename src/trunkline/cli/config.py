"""`trunkline config`: are the settings usable, and where does each come from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.settings import ExaminedFile, loaded

if TYPE_CHECKING:
    from trunkline.settings.load import Loaded, ShownSetting
    from trunkline.settings.sections import Settings

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")


@app.command()
def check(config_file: ExaminedFile = None) -> None:
    """Say whether the settings can be used; exit code 2 when they cannot."""
    found = _checked(config_file)
    _rendered(found.settings)
    where = str(found.file) if found.file is not None else "no settings file"
    changed = sum(source != "default" for source in found.sources.values())
    typer.echo(f"settings are usable ({where}; {changed} of {len(found.sources)} not at their default)")


@app.command()
def show(
    config_file: ExaminedFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and where it comes from; secrets are masked."""
    import msgspec

    rows = _checked(config_file).rows()
    if json_output:
        shown = [{name: value for name, value in row._asdict().items() if name != "note" or value} for row in rows]
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("setting", "value", "source", box=None, pad_edge=False)
        for row in rows:
            # Markup is off: a value may hold square brackets.
            style = None if row.source == "default" else "bold"
            table.add_row(row.key, _text(row.value), _source(row), style=style)
        Console(markup=False, highlight=False).print(table)
    else:
        for row in rows:
            typer.echo(f"{row.key} = {_text(row.value)}  # {_source(row)}")


def _source(row: ShownSetting) -> str:
    return f"{row.source}; {row.note}" if row.note else row.source


def _checked(config_file: Path | None) -> Loaded:
    from trunkline.server.channels.rules import RuleSet

    found = loaded(config_file)
    # What only a node finds out: patterns that do not compile, key files that cannot be read or do not fit.
    RuleSet.of(found.settings)
    if found.settings.auth.algorithms:
        from trunkline.server.http.tokens import Verifier

        Verifier(found.settings.auth)
    return found


def _rendered(settings: Settings) -> None:
    """Render what is rendered from settings: whatever cannot be is found here, not by the command that writes it."""
    from trunkline.monitor.files.bundle import files
    from trunkline.traefik.render.dynamic import file_dynamic
    from trunkline.traefik.render.static import static_text

    files(settings, dashboards=False)
    # Without a balancer that Traefik could ask, or else a list of backends, Traefik is not what they are for.
    asked = settings.balancer.port or settings.traefik.balancer_url
    if asked if settings.traefik.steer else settings.balancer.backends:
        file_dynamic(settings)
        static_text(settings, Path("dynamic.yml"))


def _text(value: object) -> str:
    import msgspec

    return "-" if value is None else msgspec.json.encode(value).decode()
