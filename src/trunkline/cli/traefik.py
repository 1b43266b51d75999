"""`trunkline traefik`: write Traefik's configuration, and name the mistakes in one that is there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.settings import ExaminedFile, loaded
from trunkline.errors import StartError

if TYPE_CHECKING:
    from trunkline.traefik.check.report import Report

app = typer.Typer(no_args_is_help=True, help="Write and check Traefik's configuration.")

_COMMENT = "{} configuration of Traefik 3.7, read {}. Written by: trunkline traefik render"


@app.command()
def render(
    static: Annotated[Path | None, typer.Option("--static", help="File for the static configuration.")] = None,
    dynamic: Annotated[Path | None, typer.Option("--dynamic", help="File for the dynamic configuration.")] = None,
    config_file: ExaminedFile = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print both, also when files are given.")] = False,
) -> None:
    """Write the static and the dynamic configuration; without files both are printed as two YAML documents."""
    from trunkline.process.whole_files import replace_file
    from trunkline.traefik.render.dynamic import file_dynamic
    from trunkline.traefik.render.dynamic_model import Dynamic
    from trunkline.traefik.render.static import dynamic_text, static_text

    settings = loaded(config_file).settings
    dynamic_model = file_dynamic(settings)
    # Traefik looks for it from its own directory, so the name in the static file is absolute when we know it.
    named = dynamic.absolute() if dynamic is not None else Path("dynamic.yml")
    rendered = static_text(settings, named, _COMMENT.format("Static", "once at its start"))
    comments = [_COMMENT.format("Dynamic", "again when it changes")]
    if settings.traefik.steer:
        comments.append("Routes and servers come from the balancer, over HTTP.")
    if dynamic_model == Dynamic():
        comments.append("Nothing is needed here.")
    routing = dynamic_text(dynamic_model, *comments)
    for path, text in ((static, rendered), (dynamic, routing)):
        if path is not None:
            try:
                # Whole and in one step, because Traefik may be watching it; private, because it holds password hashes.
                replace_file(path, text.encode())
            except OSError as error:
                what = f"{path} cannot be written: {error.strerror}"
                raise StartError(what, "Name a directory that can be written.") from None
            typer.echo(f"wrote {path}", err=True)
    if stdout or (static is None and dynamic is None):
        typer.echo(f"{rendered}---\n{routing}", nl=False)


@app.command()
def check(
    # Hidden from the table of arguments, where its type would stand as Python spells it.
    files: Annotated[list[Path], typer.Argument(metavar="FILES", hidden=True)],
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    with_traefik: Annotated[
        bool, typer.Option("--with-traefik", help="Ask the installed Traefik too: on loopback, with ports of its own.")
    ] = False,
) -> None:
    """Name mistakes in Traefik's configuration; files that belong together are given together.

    FILES are static and dynamic files, Compose files, dashboards, scripts and Markdown.

    Exit code 0 without errors, 1 with, 2 when a file could not be read.
    """
    import msgspec

    from trunkline.traefik.check.report import check_files

    report = check_files(files, with_traefik)
    if json_output:
        typer.echo(msgspec.json.format(msgspec.json.encode(report.findings), indent=2).decode())
    else:
        _show(report, len(files))
    raise typer.Exit(report.exit_code)


def _show(report: Report, files: int) -> None:
    from rich.console import Console
    from rich.text import Text

    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    # Without a terminal a line stays a line, however long.
    console = Console(no_color=plain, highlight=False, markup=False, soft_wrap=True)
    for finding in report.findings:
        where = f"{finding.file}:{finding.line}" if finding.line else finding.file
        line = Text(f"{where}: ")
        line.append(finding.severity, style="bold red" if finding.severity == "error" else "yellow")
        line.append(f" [{finding.rule}] {_printable(finding.message)}")
        console.print(line)
        console.print(Text(f"    instead: {_printable(finding.instead)}"))
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    console.print(Text(f"{files} file{'s' * (files != 1)}: {_count(errors, 'error')}, {_count(warnings, 'warning')}"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _printable(text: str) -> str:
    """Without control characters, which a checked file could smuggle to the terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
