"""`trunkline config`: are the settings usable, and where does each come from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from trunkline.errors import SettingsError
from trunkline.server.channels.rules import RuleSet
from trunkline.settings.load import Loaded, load

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default: TRUNKLINE_CONFIG, or trunkline.toml.")
]


@app.command()
def check(config_file: ConfigFile = None) -> None:
    """Say whether the settings can be used; exit code 2 when they cannot."""
    loaded = _load(config_file, os.environ)
    where = str(loaded.file) if loaded.file is not None else "no settings file"
    changed = sum(source != "default" for source in loaded.sources.values())
    typer.echo(f"settings are usable ({where}; {changed} of {len(loaded.sources)} not at their default)")


@app.command()
def show(
    config_file: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and where it comes from; secrets are masked."""
    rows = _load(config_file, os.environ).rows()
    if json_output:
        answer: list[dict[str, Any]] = [row._asdict() for row in rows]
        typer.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    elif sys.stdout.isatty():
        table = Table("setting", "value", "source", box=None, pad_edge=False)
        for row in rows:
            # Markup is off: a value may hold square brackets.
            style = None if row.source == "default" else "bold"
            table.add_row(row.key, _text(row.value), row.source, style=style)
        Console(markup=False, highlight=False).print(table)
    else:
        for row in rows:
            typer.echo(f"{row.key} = {_text(row.value)}  # {row.source}")


def _load(config_file: Path | None, environ: Mapping[str, str]) -> Loaded:
    try:
        loaded = load(config_file, environ, {})
        # What only their users can tell: patterns that compile, key files that can be read and fit.
        RuleSet.of(loaded.settings)
        if loaded.settings.auth.algorithms:
            from trunkline.server.http.tokens import Verifier

            Verifier(loaded.settings.auth)
    except SettingsError as error:
        typer.echo(f"trunkline: {error}", err=True)
        raise typer.Exit(2) from None
    return loaded


def _text(value: object) -> str:
    return "-" if value is None else msgspec.json.encode(value).decode()
