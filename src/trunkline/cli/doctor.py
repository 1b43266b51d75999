"""`trunkline doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trunkline.cli.settings import ExaminedFile, loaded

if TYPE_CHECKING:
    from trunkline.doctor.finding import State
    from trunkline.doctor.words import Line
    from trunkline.settings.sections import Settings

_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "error": "bold red", "unknown": "dim"}


def doctor(
    connections: Annotated[
        int | None,
        typer.Option(
            "--connections", "-n", min=1, help="Connections to hold; default: server.max_connections, or 10000."
        ),
    ] = None,
    # The type in the table of options would be Python's.
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role", metavar="ROLE", help="node, balancer or load; may be given again. Default: node, balancer."
        ),
    ] = None,
    backends: Annotated[
        int | None,
        typer.Option("--backends", min=1, help="Backends of the balancer; default: balancer.backends, or 1."),
    ] = None,
    nats: Annotated[str, typer.Option("--nats", help="NATS to ask; default: bus.url.")] = "",
    redis: Annotated[str, typer.Option("--redis", help="Redis to ask, as redis://HOST:6379.")] = "",
    traefik: Annotated[str, typer.Option("--traefik", help="API of a Traefik to ask, as http://HOST:8080.")] = "",
    store: Annotated[
        Path | None, typer.Option("--store", help="Directory of NATS's store; default: that of `trunkline up`.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option("--pid", min=1, help="A running server whose limits count, instead of this shell's.")
    ] = None,
    config_file: ExaminedFile = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make the exit code 1 too.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether this machine is ready for so many connections; each line says what to do. Nothing is changed.

    Exit code 0 ready, 1 not ready, 2 bad usage or settings.
    """
    import msgspec

    from trunkline.doctor.asking import ask_services
    from trunkline.doctor.examine import examine
    from trunkline.doctor.finding import exit_code
    from trunkline.doctor.reading import read_machine
    from trunkline.doctor.wanted import ROLES, wanted
    from trunkline.doctor.words import Line, foot, head, lines
    from trunkline.errors import SettingsError

    settings = loaded(config_file).settings
    for role in roles or ():
        if role not in ROLES:
            raise SettingsError("--role", value=role, allowed=f"it must be one of {', '.join(ROLES)}")
    if pid is not None and not Path(f"/proc/{pid}").exists():
        raise SettingsError("--pid", value=str(pid), allowed="there is no such process here")
    chosen = tuple(role for role in ROLES if role in (roles or ("node", "balancer")))
    asked = wanted(settings, connections=connections, roles=chosen, backends=backends)
    machine = read_machine(store or settings.up.data_dir / "nats", pid=pid)
    ca_file = settings.bus.tls_ca_file
    answers = asyncio.run(
        ask_services(nats or _nats(settings), redis, traefik, nats_ca_file=str(ca_file) if ca_file else None)
    )
    machine = msgspec.structs.replace(machine, services=answers)
    findings = examine(machine, asked)
    code = exit_code(findings, strict=strict)
    if json_output:
        report = {"ready": code == 0, "wanted": asked, "machine": machine, "findings": findings}
        typer.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show([Line("ok", "", head(machine, asked)), *lines(findings), Line("ok", "", foot(findings))])
    raise typer.Exit(code)


def _nats(settings: Settings) -> str:
    return settings.bus.url if settings.bus.url.startswith(("nats://", "tls://")) else ""


def _show(shown: list[Line]) -> None:
    from rich.console import Console
    from rich.text import Text

    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    # Without a terminal a line stays a line, however long.
    console = Console(no_color=plain, highlight=False, markup=False, soft_wrap=True)
    for line in shown:
        text = Text(line.label, style=_STYLES[line.state] if line.label.strip() else "")
        console.print(text.append(f" {line.text}" if line.label else line.text, style=""))
