"""`trunkline config`: are the settings usable, and where does each come from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.errors import SettingsError

if TYPE_CHECKING:
    from trunkline.settings.load import Loaded

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default: TRUNKLINE_CONFIG, or trunkline.toml.")
]


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Say whether the settings can be used; exit code 2 when they cannot."""
    loaded = _load(config_file)
    where = str(loaded.file) if loaded.file is not None else "no settings file"
    changed = sum(source != "default" for source in loaded.sources.values())
    typer.echo(f"settings are usable ({where}; {changed} of {len(loaded.sources)} not at their default)")


@app.command()
def show(
    config_file: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and where it comes from; secrets are masked."""
    import msgspec

    rows = _load(config_file).rows()
    if json_output:
        typer.echo(msgspec.json.format(msgspec.json.encode([row._asdict() for row in rows]), indent=2).decode())
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("setting", "value", "source", box=None, pad_edge=False)
        for row in rows:
            # Markup is off: a value may hold square brackets.
            style = None if row.source == "default" else "bold"
            table.add_row(row.key, _text(row.value), row.source, style=style)
        Console(markup=False, highlight=False).print(table)
    else:
        for row in rows:
            typer.echo(f"{row.key} = {_text(row.value)}  # {row.source}")


def _load(config_file: Path | None) -> Loaded:
    from trunkline.server.channels.rules import RuleSet
    from trunkline.settings.load import load

    try:
        loaded = load(config_file, os.environ, {})
        # What only a node finds out: patterns that do not compile, key files that cannot be read or do not fit.
        RuleSet.of(loaded.settings)
        if loaded.settings.auth.algorithms:
            from trunkline.server.http.tokens import Verifier

            Verifier(loaded.settings.auth)
    except SettingsError as error:
        typer.echo(f"trunkline: {error}", err=True)
        raise typer.Exit(2) from None
    return loaded


def _text(value: object) -> str:
    import msgspec

    return "-" if value is None else msgspec.json.encode(value).decode()
